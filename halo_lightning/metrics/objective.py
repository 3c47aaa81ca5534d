"""RLHF's own objective (eq. 2), estimated from samples."""

from __future__ import annotations

import torch
from torch import Tensor

from halo_lightning.metrics.exact import ExactMetric


class RLHFObjective(ExactMetric):
    """Expected reward minus β·KL(π_θ‖π_ref) on completions sampled from the policy (eq. 2).

    Each sampled completion y ~ π_θ(·|x) gives r(x, y) − β·(log π_θ(y|x) − log π_ref(y|x)), whose expectation is the
    objective. Its standard error is that of a mean of independent samples: sample one completion for each prompt.

    Args:
        beta: β.

    Example:
        >>> import torch
        >>> metric = RLHFObjective(beta=0.1)
        >>> metric.update(rewards=torch.tensor([1.0, 2.0]), log_ratios=torch.tensor([0.0, 10.0]))
        >>> {name: float(value) for name, value in metric.compute().items()}
        {'objective': 1.0, 'objective/standard_error': 0.0, 'reward': 1.5, 'kl': 5.0}
    """

    higher_is_better = True
    totals: Tensor

    def __init__(self, beta: float = 0.1) -> None:
        super().__init__()
        self.beta = beta
        # Count, sums of objective, its square, reward and log-ratio.
        self.add_state("totals", torch.zeros(5, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, rewards: Tensor, log_ratios: Tensor) -> None:
        """Adds N sampled completions.

        Args:
            rewards: `[N]`, r(x, y).
            log_ratios: `[N]`, log π_θ(y|x) − log π_ref(y|x), in nats.
        """
        rewards, log_ratios = rewards.detach().to(self.totals), log_ratios.detach().to(self.totals)
        objective = rewards - self.beta * log_ratios
        self.totals += torch.stack(
            [torch.ones_like(objective), objective, objective**2, rewards, log_ratios], dim=-1
        ).sum(0)

    def compute(self) -> dict[str, Tensor]:
        """The objective with its standard error (NaN below two samples), the mean reward and the KL estimate."""
        count, objective, squares, reward, log_ratio = self.totals.unbind()
        mean = objective / count
        variance = (squares - count * mean**2).clamp(min=0) / (count - 1)
        error = torch.where(count > 1, (variance / count).sqrt(), torch.nan)
        return {
            "objective": mean,
            "objective/standard_error": error,
            "reward": reward / count,
            "kl": log_ratio / count,
        }
