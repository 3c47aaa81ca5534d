"""Contrastive preference optimization."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from halo_lightning.losses import cpo_loss
from halo_lightning.modules.paired import Lengths, PairedHalo, PairedLogps


class CPO(PairedHalo):
    """CPO: DPO with a uniform reference, plus the negative log-likelihood of the chosen completion.

    Args:
        policy: The model to align: a Hugging Face folder, a hub id, or `embedded:base`.
        beta: β, how much reward a nat of log-ratio is.
        regularization: Weight of the supervised term.
        base: Arguments of `HaloModule`.
    """

    source = "arXiv 2401.08417"
    needs_reference = False

    def __init__(self, policy: str, *, beta: float = 0.1, regularization: float = 1.0, **base: Any) -> None:
        super().__init__(policy, **base)
        self.beta = beta
        self.regularization = regularization

    def losses(self, logps: PairedLogps, lengths: Lengths) -> Tensor:
        """ArXiv 2401.08417."""
        return cpo_loss(
            *logps[:2],
            -logps.policy_chosen / lengths.chosen,
            beta=self.beta,
            regularization=self.regularization,
        )
