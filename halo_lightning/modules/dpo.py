"""Direct Preference Optimization (section 3.1)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from halo_lightning.losses import dpo_loss
from halo_lightning.modules.paired import Lengths, PairedHalo, PairedLogps
from halo_lightning.values import DPOValue, ValueFunction


class DPO(PairedHalo):
    """Direct Preference Optimization: learns from pairs of a chosen and a rejected completion (eq. 4).

    Args:
        policy: The model to align: a Hugging Face folder, a hub id, or `embedded:base`.
        beta: β, how much reward a nat of log-ratio is.
        label_smoothing: Probability that a preference is the wrong way round (cDPO); 0 is eq. 4.
        base: Arguments of `HaloModule`.
    """

    source = "eq. 4; cDPO with `label_smoothing`"

    def __init__(self, policy: str, *, beta: float = 0.1, label_smoothing: float = 0.0, **base: Any) -> None:
        super().__init__(policy, **base)
        self.beta = beta
        self.label_smoothing = label_smoothing

    @property
    def human_value(self) -> ValueFunction | None:
        """The value function that the loss imputes to humans (section 4); none with `label_smoothing`."""
        return None if self.label_smoothing else DPOValue()

    def losses(self, logps: PairedLogps, lengths: Lengths) -> Tensor:
        """Eq. 4."""
        return dpo_loss(*logps, beta=self.beta, label_smoothing=self.label_smoothing)
