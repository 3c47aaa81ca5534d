"""Robust direct preference optimization."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from halo_lightning.losses import robust_dpo_loss
from halo_lightning.modules.paired import Lengths, PairedHalo, PairedLogps
from halo_lightning.ranges import Range


class RobustDPO(PairedHalo):
    """Robust DPO: unbiased under preferences that are the wrong way round with a known probability.

    Args:
        policy: The model to align: a Hugging Face folder, a hub id, or `embedded:base`.
        beta: β, how much reward a nat of log-ratio is.
        label_smoothing: Probability that a preference is the wrong way round, below 0.5.
        base: Arguments of `HaloModule`.
    """

    source = "arXiv 2403.00409"
    ranges: ClassVar = {**PairedHalo.ranges, "label_smoothing": Range(0, 0.5, open_high=True)}

    def __init__(self, policy: str, *, beta: float = 0.1, label_smoothing: float = 0.1, **base: Any) -> None:
        super().__init__(policy, **base)
        self.beta = beta
        self.label_smoothing = label_smoothing

    def losses(self, logps: PairedLogps, lengths: Lengths) -> Tensor:
        """ArXiv 2403.00409."""
        return robust_dpo_loss(*logps, beta=self.beta, label_smoothing=self.label_smoothing)
