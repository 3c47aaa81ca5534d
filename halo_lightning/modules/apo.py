"""Anchored preference optimization."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from halo_lightning.losses import apo_down_loss, apo_zero_loss, apo_zero_unpaired_loss
from halo_lightning.modules.paired import Lengths, PairedHalo, PairedLogps
from halo_lightning.modules.unary import UnaryHalo


class APOZero(PairedHalo):
    """APO-zero: raises the chosen completion and lowers the rejected one; for data better than the policy.

    Args:
        policy: The model to align: a Hugging Face folder, a hub id, or `embedded:base`.
        beta: β, how much reward a nat of log-ratio is.
        base: Arguments of `HaloModule`.
    """

    source = "arXiv 2408.06266"

    def __init__(self, policy: str, *, beta: float = 0.1, **base: Any) -> None:
        super().__init__(policy, **base)
        self.beta = beta

    def losses(self, logps: PairedLogps, lengths: Lengths) -> Tensor:
        """APO-zero of arXiv 2408.06266."""
        return apo_zero_loss(*logps, beta=self.beta)


class APODown(PairedHalo):
    """APO-down: lowers the chosen completion, and the rejected one more; for a policy better than the data.

    Args:
        policy: The model to align: a Hugging Face folder, a hub id, or `embedded:base`.
        beta: β, how much reward a nat of log-ratio is.
        base: Arguments of `HaloModule`.
    """

    source = "arXiv 2408.06266"

    def __init__(self, policy: str, *, beta: float = 0.1, **base: Any) -> None:
        super().__init__(policy, **base)
        self.beta = beta

    def losses(self, logps: PairedLogps, lengths: Lengths) -> Tensor:
        """APO-down of arXiv 2408.06266."""
        return apo_down_loss(*logps, beta=self.beta)


class APOZeroUnpaired(UnaryHalo):
    """APO-zero for single completions: KTO with the reference itself as reference point.

    Args:
        policy: The model to align: a Hugging Face folder, a hub id, or `embedded:base`.
        beta: β, how much reward a nat of log-ratio is.
        desirable_weight: Weight of desirable examples in the loss.
        undesirable_weight: Weight of undesirable examples in the loss.
        base: Arguments of `HaloModule`.
    """

    source = "arXiv 2408.06266"

    def __init__(
        self,
        policy: str,
        *,
        beta: float = 0.1,
        desirable_weight: float = 1.0,
        undesirable_weight: float = 1.0,
        **base: Any,
    ) -> None:
        super().__init__(policy, **base)
        self.beta = beta
        self.desirable_weight, self.undesirable_weight = desirable_weight, undesirable_weight

    def losses(self, policy_logps: Tensor, reference_logps: Tensor, desirable: Tensor, kl: Tensor) -> Tensor:
        """APO-zero of arXiv 2408.06266, unpaired."""
        return apo_zero_unpaired_loss(
            policy_logps,
            reference_logps,
            desirable,
            beta=self.beta,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
        )
