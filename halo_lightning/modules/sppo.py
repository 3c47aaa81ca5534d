"""Self-play preference optimization."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from halo_lightning.losses import sppo_hard_loss
from halo_lightning.modules.paired import Lengths, PairedHalo, PairedLogps


class SPPOHard(PairedHalo):
    """SPPO with hard preferences: log-ratios are regressed to ±1/2 of a reward unit.

    Args:
        policy: The model to align: a Hugging Face folder, a hub id, or `embedded:base`.
        beta: β (the inverse of the paper's η).
        base: Arguments of `HaloModule`.
    """

    source = "arXiv 2405.00675"

    def __init__(self, policy: str, *, beta: float = 0.001, **base: Any) -> None:
        super().__init__(policy, **base)
        self.beta = beta

    def losses(self, logps: PairedLogps, lengths: Lengths) -> Tensor:
        """ArXiv 2405.00675."""
        return sppo_hard_loss(*logps, beta=self.beta)
