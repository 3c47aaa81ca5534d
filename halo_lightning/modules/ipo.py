"""Identity preference optimization."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from halo_lightning.losses import ipo_loss
from halo_lightning.modules.paired import Lengths, PairedHalo, PairedLogps


class IPO(PairedHalo):
    """Identity preference optimization: the difference of the log-ratios is regressed to 1/(2β).

    Args:
        policy: The model to align: a Hugging Face folder, a hub id, or `embedded:base`.
        beta: β (the paper's τ): the smaller, the larger the margin that is aimed at.
        base: Arguments of `HaloModule`.
    """

    source = "arXiv 2310.12036"

    def __init__(self, policy: str, *, beta: float = 0.1, **base: Any) -> None:
        super().__init__(policy, **base)
        self.beta = beta

    def losses(self, logps: PairedLogps, lengths: Lengths) -> Tensor:
        """ArXiv 2310.12036."""
        return ipo_loss(*logps, beta=self.beta)
