"""Simulated annotators, alone and as a population, with a human value function of any form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from halo_lightning.errors import ConfigError
from halo_lightning.evaluation.human_values.observations import Pairs, Ratings, Thumbs, Utility, utility
from halo_lightning.values import KahnemanTversky, ValueFunction

_MEDIAN = KahnemanTversky()


@dataclass(frozen=True)
class SimulatedAnnotator:
    """Somebody who gives feedback on completions whose rewards are known, as `observations` says.

    Attributes:
        value_function: h, any of `halo_lightning.values` or any callable on two tensors.
        reference_point: z_ref, in the unit of the rewards: a completion there gets a thumb up every second time.
        noise: τ, in the unit of the values; the smaller, the more consistent.

    Example:
        `SimulatedAnnotator(KahnemanTversky(alpha=0.88, lam=2.25)).thumbs(torch.randn(100), seed=1)`
    """

    value_function: ValueFunction = _MEDIAN
    reference_point: float = 0.0
    noise: float = 1.0

    def __post_init__(self) -> None:
        if not self.noise > 0:
            raise ConfigError(f"noise is {self.noise}: expected a number above 0")

    @property
    def utility(self) -> Utility:
        """u, what the annotator's answers follow."""
        return utility(self.value_function, self.reference_point, self.noise)

    def thumbs(self, rewards: Tensor, *, seed: int) -> Thumbs:
        """A thumb for each reward, `[N]`."""
        return Thumbs(rewards, torch.zeros(len(rewards), dtype=torch.bool)).simulated(self.utility, seed=seed)

    def pairs(self, first: Tensor, second: Tensor, *, seed: int) -> Pairs:
        """A choice between the two of each pair, `[N]` rewards each."""
        return Pairs(first, second).simulated(self.utility, seed=seed)

    def ratings(self, rewards: Tensor, *, thresholds: Sequence[float], seed: int) -> Ratings:
        """A rating for each reward, `[N]`, on a scale whose neighbouring steps these K − 1 thresholds divide."""
        scale = torch.tensor(thresholds, dtype=torch.float64)
        if not len(scale) or not (scale.diff() > 0).all():
            raise ConfigError(f"thresholds are {list(thresholds)}: expected one or more increasing numbers")
        blank = Ratings(rewards, torch.zeros(len(rewards), dtype=torch.long), len(scale) + 1)
        return blank.simulated(self.utility, scale, seed=seed)


@dataclass(frozen=True)
class Population:
    """Annotators with the value function of equation 6, each with parameters of their own.

    α, λ and τ are lognormal across annotators, z_ref is normal.

    Attributes:
        alpha: Median of α.
        lam: Median of λ.
        reference_point: Median (and mean) of z_ref.
        noise: Median of τ.
        alpha_spread: Standard deviation of log α.
        lam_spread: Standard deviation of log λ.
        reference_point_spread: Standard deviation of z_ref.
        noise_spread: Standard deviation of log τ.
    """

    alpha: float = 0.88
    lam: float = 2.25
    reference_point: float = 0.0
    noise: float = 1.0
    alpha_spread: float = 0.2
    lam_spread: float = 0.5
    reference_point_spread: float = 0.0
    noise_spread: float = 0.0

    def annotators(self, number: int, *, seed: int) -> list[SimulatedAnnotator]:
        """Some annotators, drawn at random."""
        generator = torch.Generator().manual_seed(seed)
        draws = torch.randn(number, 4, generator=generator, dtype=torch.float64).tolist()
        return [
            SimulatedAnnotator(
                KahnemanTversky(
                    alpha=self.alpha * math.exp(self.alpha_spread * a), lam=self.lam * math.exp(self.lam_spread * b)
                ),
                reference_point=self.reference_point + self.reference_point_spread * c,
                noise=self.noise * math.exp(self.noise_spread * d),
            )
            for a, b, c, d in draws
        ]
