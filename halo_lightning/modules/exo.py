"""Efficient exact optimization."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from halo_lightning.losses import exo_loss
from halo_lightning.modules.paired import Lengths, PairedHalo, PairedLogps
from halo_lightning.ranges import Range


class EXO(PairedHalo):
    """EXO for pairs: the reverse KL to a smoothed preference, where DPO has the forward KL.

    Args:
        policy: The model to align: a Hugging Face folder, a hub id, or `embedded:base`.
        beta: β, how much reward a nat of log-ratio is.
        label_smoothing: ε of the smoothed preference, above 0.
        base: Arguments of `HaloModule`.
    """

    source = "arXiv 2402.00856"
    ranges: ClassVar = {**PairedHalo.ranges, "label_smoothing": Range(0, 1, open_low=True, open_high=True)}

    def __init__(self, policy: str, *, beta: float = 0.1, label_smoothing: float = 0.001, **base: Any) -> None:
        super().__init__(policy, **base)
        self.beta = beta
        self.label_smoothing = label_smoothing

    def losses(self, logps: PairedLogps, lengths: Lengths) -> Tensor:
        """ArXiv 2402.00856."""
        return exo_loss(*logps, beta=self.beta, label_smoothing=self.label_smoothing)
