"""What the methods that learn from preference pairs share."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from halo_lightning.data.batches import PairedBatch
from halo_lightning.metrics import ImplicitRewards, MeanKL, MeanLoss, PairedRewardAccuracy
from halo_lightning.modules.base import HaloModule, metric_collection


class PairedLogps(NamedTuple):
    """Log-probabilities of N pairs, in nats, float32 `[N]` each; those of the reference are 0 where there is none.

    Attributes:
        policy_chosen: log π_θ(y_w|x).
        policy_rejected: log π_θ(y_l|x).
        reference_chosen: log π_ref(y_w|x).
        reference_rejected: log π_ref(y_l|x).
    """

    policy_chosen: Tensor
    policy_rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor


class Lengths(NamedTuple):
    """Number of tokens of N pairs of completions, end-of-sequence included, int64 `[N]` each."""

    chosen: Tensor
    rejected: Tensor


class PairedHalo(HaloModule):
    """A method that learns from pairs of a chosen and a rejected completion: a subclass gives its `losses`.

    Args:
        policy: The model to align: a Hugging Face folder, a hub id, or `embedded:base`.
        beta: β, how much reward a nat of log-ratio is.
        base: Arguments of `HaloModule`.
    """

    feedback = ("paired",)
    beta: float

    @abstractmethod
    def losses(self, logps: PairedLogps, lengths: Lengths) -> Tensor:
        """The losses of N pairs, `[N]`."""

    def rewards(self, logps: Tensor, reference_logps: Tensor, lengths: Tensor) -> Tensor:
        """The implicit rewards that are logged, of 2N completions: β log(π_θ/π_ref), π_ref = 1 without a reference."""
        return self.beta * (logps - reference_logps)

    def loss_and_metrics(self, batch: PairedBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """N pairs, N losses, and their mean."""
        policy_logps, reference_logps = self.logps(batch.sequences)
        lengths = batch.sequences.lengths
        losses = batch.weight * self.losses(
            PairedLogps(*policy_logps.chunk(2), *reference_logps.chunk(2)), Lengths(*lengths.chunk(2))
        )
        detached = policy_logps.detach()
        values = {
            "losses": losses,
            "rewards": self.rewards(detached, reference_logps, lengths),
            "logps": detached,
            "desirable": batch.desirable,
        }
        if self.needs_reference:
            values["kl"] = detached - reference_logps
        return losses.mean(), values

    def metrics(self) -> MetricCollection:
        """Loss, implicit rewards, log-probabilities, reward accuracy, and KL where there is a reference.

        The KL is the mean log-ratio of the completions, clamped at 0, as it is in KTO (section 5).
        """
        metrics: dict[str, torch.nn.Module] = {
            "loss": MeanLoss(),
            "rewards": ImplicitRewards(),
            "rewards/accuracies": PairedRewardAccuracy(),
        }
        if self.needs_reference:
            metrics["kl"] = MeanKL()
        return metric_collection(metrics)
