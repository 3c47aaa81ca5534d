"""Odds ratio preference optimization."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from halo_lightning.losses import orpo_loss
from halo_lightning.modules.paired import Lengths, PairedHalo, PairedLogps


class ORPO(PairedHalo):
    """ORPO: supervised finetuning on the chosen completion plus a log odds ratio, in one stage, with no reference.

    Args:
        policy: The model to align: a Hugging Face folder, a hub id, or `embedded:base`.
        regularization: λ, weight of the odds-ratio term; the rewards that are logged are λ times the mean
            log-probability of a token.
        base: Arguments of `HaloModule`.
    """

    source = "arXiv 2403.07691"
    needs_reference = False

    def __init__(self, policy: str, *, regularization: float = 0.1, **base: Any) -> None:
        super().__init__(policy, **base)
        self.regularization = self.beta = regularization

    def losses(self, logps: PairedLogps, lengths: Lengths) -> Tensor:
        """ArXiv 2403.07691."""
        return orpo_loss(*logps[:2], *lengths, regularization=self.regularization)

    def rewards(self, logps: Tensor, reference_logps: Tensor, lengths: Tensor) -> Tensor:
        """λ times the mean log-probability of a token."""
        return self.beta * logps / lengths
