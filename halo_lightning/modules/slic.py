"""Sequence-likelihood calibration (section 3.2)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from halo_lightning.losses import slic_loss
from halo_lightning.modules.paired import Lengths, PairedHalo, PairedLogps
from halo_lightning.values import SLiCValue, ValueFunction


class SLiC(PairedHalo):
    """Sequence-likelihood calibration: the chosen completion is to be more likely than the rejected one by a margin.

    A single stage: the regulariser is the standard language-modelling loss on the SFT target, the chosen completion
    (the report assumes that the reference recovers the SFT distribution). An SFT stage before it would make two
    epochs of supervised finetuning of it, so the report has none, and neither has this package a `sft_slic`.

    Args:
        policy: The model to align: a Hugging Face folder, a hub id, or `embedded:base`.
        margin: The report's β of eq. 5, in nats of log-probability.
        regularization: λ_reg, weight of the language-modelling loss.
        base: Arguments of `HaloModule`.
    """

    source = "eq. 5"
    needs_reference = False

    def __init__(self, policy: str, *, margin: float = 1.0, regularization: float = 0.1, **base: Any) -> None:
        super().__init__(policy, **base)
        self.beta = 1.0  # the rewards that are logged are log-probabilities
        self.margin = margin
        self.regularization = regularization

    @property
    def human_value(self) -> ValueFunction:
        """The value function that the first term of the loss imputes to humans (section 4)."""
        return SLiCValue(margin=self.margin)

    def losses(self, logps: PairedLogps, lengths: Lengths) -> Tensor:
        """Eq. 5."""
        return slic_loss(*logps[:2], -logps.policy_chosen, margin=self.margin, regularization=self.regularization)
