"""Noise contrastive alignment."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from halo_lightning.losses import nca_loss
from halo_lightning.modules.paired import Lengths, PairedHalo, PairedLogps


class NCA(PairedHalo):
    """NCA for pairs: raises the chosen reward in absolute terms, and not only above the rejected one.

    Args:
        policy: The model to align: a Hugging Face folder, a hub id, or `embedded:base`.
        beta: β, how much reward a nat of log-ratio is.
        base: Arguments of `HaloModule`.
    """

    source = "arXiv 2402.05369"

    def __init__(self, policy: str, *, beta: float = 0.01, **base: Any) -> None:
        super().__init__(policy, **base)
        self.beta = beta

    def losses(self, logps: PairedLogps, lengths: Lengths) -> Tensor:
        """ArXiv 2402.05369."""
        return nca_loss(*logps, beta=self.beta)
