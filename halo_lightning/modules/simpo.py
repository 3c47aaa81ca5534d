"""Simple preference optimization."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from halo_lightning.losses import simpo_loss
from halo_lightning.modules.paired import Lengths, PairedHalo, PairedLogps


class SimPO(PairedHalo):
    """SimPO: the reward is the mean log-probability of a token, with a target margin and no reference.

    Args:
        policy: The model to align: a Hugging Face folder, a hub id, or `embedded:base`.
        beta: β, how much reward a nat per token is.
        margin: γ, the margin of reward that is aimed at.
        base: Arguments of `HaloModule`.
    """

    source = "arXiv 2405.14734"
    needs_reference = False

    def __init__(self, policy: str, *, beta: float = 2.0, margin: float = 1.0, **base: Any) -> None:
        super().__init__(policy, **base)
        self.beta = beta
        self.margin = margin

    def losses(self, logps: PairedLogps, lengths: Lengths) -> Tensor:
        """ArXiv 2405.14734."""
        return simpo_loss(*logps[:2], *lengths, beta=self.beta, margin=self.margin)

    def rewards(self, logps: Tensor, reference_logps: Tensor, lengths: Tensor) -> Tensor:
        """β times the mean log-probability of a token."""
        return self.beta * logps / lengths
