"""What the methods that learn from single completions, each desirable or undesirable, share."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor
from torchmetrics import MetricCollection

from halo_lightning.data.batches import UnaryBatch
from halo_lightning.metrics import ImplicitRewards, MeanKL, MeanLoss, UnaryRewardAccuracy
from halo_lightning.modules.base import HaloModule, metric_collection


class UnaryHalo(HaloModule):
    """A method that learns from completions known to be desirable or undesirable: a subclass gives its `losses`."""

    feedback = ("unary",)
    beta: float

    @abstractmethod
    def losses(self, policy_logps: Tensor, reference_logps: Tensor, desirable: Tensor, kl: Tensor) -> Tensor:
        """The losses of N examples, `[N]`."""

    def estimate_kl(self, batch: UnaryBatch, policy_logps: Tensor, reference_logps: Tensor) -> Tensor:
        """KL(π_θ‖π_ref) as each example sees it, `[N]`, in nats.

        Here it is each example's log-ratio, for the mean that is logged: the loss has no KL in it.
        """
        return (policy_logps - reference_logps).detach()

    def loss_and_metrics(self, batch: UnaryBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """N examples, N losses, and their mean."""
        policy_logps, reference_logps = self.logps(batch.sequences)
        kl = self.estimate_kl(batch, policy_logps, reference_logps)
        losses = batch.weight * self.losses(policy_logps, reference_logps, batch.desirable, kl)
        return losses.mean(), {
            "losses": losses,
            "rewards": self.beta * (policy_logps - reference_logps).detach(),
            "logps": policy_logps.detach(),
            "desirable": batch.desirable,
            "kl": kl,
        }

    def metrics(self) -> MetricCollection:
        """Loss, implicit rewards, log-probabilities, reward accuracy and KL."""
        return metric_collection(
            {
                "loss": MeanLoss(),
                "rewards": ImplicitRewards(),
                "rewards/accuracies": UnaryRewardAccuracy(),
                "kl": MeanKL(),
            }
        )
