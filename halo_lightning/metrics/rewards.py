"""Metrics of the implicit reward β·log(π_θ(y|x) / π_ref(y|x)) (eq. 3 without its partition function).

Each class stands alone: call `update` with plain tensors, `compute` when wanted. A `MetricCollection` of them takes
all their arguments at once, because torchmetrics hands each metric the ones that it names.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from halo_lightning.metrics.exact import ExactMetric


class _Mean(ExactMetric):
    """Mean of everything that was given, by sum and count; NaN stays NaN, and is seen."""

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0, dtype=torch.int64), dist_reduce_fx="sum")

    def _add(self, values: Tensor, counted: Tensor | None = None) -> None:
        values = values.detach() if counted is None else values.detach().masked_fill(~counted, 0)
        self.total += values.sum(dtype=self.total.dtype)
        self.count += values.numel() if counted is None else counted.sum()

    def compute(self) -> Tensor:
        """The mean, or NaN when nothing was given."""
        return self.total / self.count


class MeanLoss(_Mean):
    """Mean loss of an example."""

    higher_is_better = False

    def update(self, losses: Tensor) -> None:
        """Adds losses, `[N]`, one per example."""
        self._add(losses)


class MeanKL(_Mean):
    """Mean estimate of KL(π_θ‖π_ref), in nats; below 0, which no KL is, it is 0 (section 5)."""

    def update(self, kl: Tensor) -> None:
        """Adds estimates, or single log-ratios that are one each, `[N]`."""
        self._add(kl)

    def compute(self) -> Tensor:
        """The mean, at least 0, or NaN when nothing was given."""
        return super().compute().clamp(min=0)


class MeanLogps(_Mean):
    """Mean log-probability of a completion, in nats."""

    higher_is_better = True

    def update(self, logps: Tensor, desirable: Tensor | None = None) -> None:
        """Adds N completions.

        Args:
            logps: `[N]`, log-probabilities, in nats.
            desirable: bool `[N]`, which of them count; None is all.
        """
        self._add(logps, desirable)


class ImplicitRewards(ExactMetric):
    """Mean implicit rewards and log-probabilities of desirable and of undesirable completions.

    For pairs, *desirable* are the chosen ones and *undesirable* the rejected ones. The names are those that users of
    other alignment tools know: `rewards/chosen`, `rewards/rejected`, `rewards/margins` (the difference of the two),
    `logps/chosen`, `logps/rejected` (where log-probabilities are given). A mean over no example is NaN.

    Example:
        >>> import torch
        >>> metric = ImplicitRewards()
        >>> metric.update(
        ...     rewards=torch.tensor([0.5, -0.25]),
        ...     logps=torch.tensor([-7.0, -9.0]),
        ...     desirable=torch.tensor([True, False]),
        ... )
        >>> float(metric.compute()["rewards/margins"])
        0.75
    """

    totals: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.has_logps = True
        # Rows: desirable, undesirable. Columns: count, sum of rewards, sum of log-probabilities.
        self.add_state("totals", torch.zeros(2, 3, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, rewards: Tensor, desirable: Tensor, logps: Tensor | None = None) -> None:
        """Adds N completions.

        Args:
            rewards: `[N]`, implicit rewards.
            desirable: bool `[N]`.
            logps: `[N]`, log π_θ(y|x), in nats; None where there are none.
        """
        self.has_logps = logps is not None
        logps = torch.zeros_like(rewards) if logps is None else logps
        columns = torch.stack([torch.ones_like(rewards), rewards, logps], dim=-1).detach().to(self.totals)
        chosen = desirable.to(self.totals)
        self.totals += torch.stack([chosen, 1 - chosen]) @ columns

    def compute(self) -> dict[str, Tensor]:
        """The means by name."""
        counts, rewards, logps = self.totals.unbind(-1)
        chosen_reward, rejected_reward = (rewards / counts).unbind()
        chosen_logps, rejected_logps = (logps / counts).unbind()
        means = {
            "rewards/chosen": chosen_reward,
            "rewards/rejected": rejected_reward,
            "rewards/margins": chosen_reward - rejected_reward,
        }
        return means | ({"logps/chosen": chosen_logps, "logps/rejected": rejected_logps} if self.has_logps else {})


class PairedRewardAccuracy(_Mean):
    """Fraction of the pairs whose chosen completion has the higher implicit reward.

    A tie counts one half, so that a policy that equals its reference has 0.5, what chance gives, and not 0.

    Example:
        >>> import torch
        >>> metric = PairedRewardAccuracy()
        >>> metric.update(rewards=torch.tensor([1.0, 0.0, 0.5, 0.0]), desirable=torch.tensor([1, 1, 0, 0]).bool())
        >>> float(metric.compute())
        0.75
    """

    higher_is_better = True

    def update(self, rewards: Tensor, desirable: Tensor) -> None:
        """Adds N pairs.

        Args:
            rewards: `[2N]`, implicit rewards of chosen and rejected completions, pairs in the same order.
            desirable: bool `[2N]`, true for the N chosen ones; for any other number of them the accuracy is NaN.
        """
        # Sorted and not selected by a mask, whose true entries a GPU would have to count before it could go on.
        chosen, rejected = rewards[desirable.to(torch.uint8).argsort(descending=True, stable=True)].chunk(2)
        difference = torch.where(desirable.sum() == len(chosen), chosen - rejected, torch.nan)
        # NaN must not count as a tie.
        self._add(torch.where(difference.isnan(), difference, (difference.sign() + 1) / 2))


class UnaryRewardAccuracy(ExactMetric):
    """Probability that a desirable completion has a higher implicit reward than an undesirable one.

    Unary feedback has no pairs to compare within, so every desirable completion is compared with every undesirable
    one of all that were given: the area under the ROC curve, the Mann-Whitney statistic. A tie counts one half. It
    needs no threshold, so it does not fall to chance when all rewards drift together, and where each completion's
    counterpart is as good as any other, it is what `PairedRewardAccuracy` is for pairs. NaN while one kind is missing.

    Example:
        >>> import torch
        >>> metric = UnaryRewardAccuracy()
        >>> metric.update(rewards=torch.tensor([2.0, 0.0, 1.0]), desirable=torch.tensor([True, True, False]))
        >>> float(metric.compute())
        0.5
    """

    higher_is_better = True
    rewards: list[Tensor]
    desirable: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rewards", [], dist_reduce_fx="cat")
        self.add_state("desirable", [], dist_reduce_fx="cat")

    def update(self, rewards: Tensor, desirable: Tensor) -> None:
        """Adds N completions.

        Args:
            rewards: `[N]`, implicit rewards.
            desirable: bool `[N]`.
        """
        self.rewards.append(rewards.detach())
        self.desirable.append(desirable)

    def compute(self) -> Tensor:
        """The probability, float64."""
        rewards, desirable = dim_zero_cat(self.rewards).double(), dim_zero_cat(self.desirable).bool()
        chosen, rejected = rewards[desirable], rewards[~desirable].sort().values
        if not len(chosen) or not len(rejected) or rewards.isnan().any():
            return torch.full((), torch.nan, dtype=torch.float64, device=rewards.device)
        below = torch.searchsorted(rejected, chosen, right=False)
        not_above = torch.searchsorted(rejected, chosen, right=True)
        return (below + not_above).double().mean() / (2 * len(rejected))
