"""DPO with a supervised term."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from halo_lightning.losses import rpo_loss
from halo_lightning.modules.paired import Lengths, PairedHalo, PairedLogps


class RPO(PairedHalo):
    """DPO plus the mean negative log-likelihood of the chosen completion, so that its probability does not fall.

    Args:
        policy: The model to align: a Hugging Face folder, a hub id, or `embedded:base`.
        beta: β, how much reward a nat of log-ratio is.
        regularization: α, weight of the supervised term.
        base: Arguments of `HaloModule`.
    """

    source = "arXiv 2404.19733"

    def __init__(self, policy: str, *, beta: float = 0.1, regularization: float = 1.0, **base: Any) -> None:
        super().__init__(policy, **base)
        self.beta = beta
        self.regularization = regularization

    def losses(self, logps: PairedLogps, lengths: Lengths) -> Tensor:
        """ArXiv 2404.19733."""
        return rpo_loss(
            *logps, -logps.policy_chosen / lengths.chosen, beta=self.beta, regularization=self.regularization
        )
