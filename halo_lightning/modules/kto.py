"""Kahneman-Tversky Optimization (section 5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from halo_lightning.losses import kl_from_halves, kto_loss
from halo_lightning.modules.unary import UnaryHalo


class KTO(UnaryHalo):
    """Kahneman-Tversky Optimization: learns from completions known to be desirable or undesirable (eq. 7).

    The KL term of a desirable example is estimated from the undesirable half of the batch and vice versa (section 5),
    over the micro-batches of all processes together. With gradient accumulation it is estimated in each micro-batch,
    so k accumulated micro-batches are not quite the same as one batch of k times the size.

    Args:
        policy: The model to align: a Hugging Face folder, a hub id, or `embedded:base`.
        beta: β, how much reward a nat of log-ratio is.
        desirable_weight: λ_D, weight of desirable examples in the loss.
        undesirable_weight: λ_U, weight of undesirable examples in the loss.
        value_function: Human value function h(z, z_ref); None is the logistic function of eq. 7.
        kl: How KL(π_θ‖π_ref) is estimated: `halves`, each half of the batch from the other half (the report), or
            `none`, which takes it to be 0.
        kl_over: Whose examples it is estimated from: those of all `processes`, or of this `device` alone (the code
            released with the report).
        kl_gradient: Whether the gradient passes through the estimate (it does in the code released with the report).
        base: Arguments of `HaloModule`.
    """

    source = "eq. 7"

    def __init__(
        self,
        policy: str,
        *,
        beta: float = 0.1,
        desirable_weight: float = 1.0,
        undesirable_weight: float = 1.0,
        value_function: Callable[[Tensor, Tensor], Tensor] | None = None,
        kl: Literal["halves", "none"] = "halves",
        kl_over: Literal["processes", "device"] = "processes",
        kl_gradient: bool = False,
        **base: Any,
    ) -> None:
        super().__init__(policy, **base)
        self.beta = beta
        self.desirable_weight, self.undesirable_weight = desirable_weight, undesirable_weight
        self.value_function = value_function
        self.kl, self.kl_over, self.kl_gradient = kl, kl_over, kl_gradient

    def losses(self, policy_logps: Tensor, reference_logps: Tensor, desirable: Tensor, kl: Tensor) -> Tensor:
        """Eq. 7: m examples, m losses."""
        return kto_loss(
            policy_logps,
            reference_logps,
            desirable,
            kl,
            beta=self.beta,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
            value_function=self.value_function,
        )

    def estimate_kl(self, policy_logps: Tensor, reference_logps: Tensor, desirable: Tensor) -> Tensor:
        """KL(π_θ‖π_ref) as each example sees it, `[N]`, in nats (section 5)."""
        if self.kl == "none":
            return torch.zeros_like(policy_logps)
        detach = not self.kl_gradient
        if self.kl_over == "device":
            return kl_from_halves(policy_logps, reference_logps, desirable, detach=detach)
        everyone = kl_from_halves(
            self.of_all_processes(policy_logps, gradient=self.kl_gradient),
            self.of_all_processes(reference_logps),
            self.of_all_processes(desirable),
            detach=detach,
        )
        # Gathered in the order of the ranks, each with as many examples as this one.
        return everyone[self.global_rank * len(desirable) :][: len(desirable)]
