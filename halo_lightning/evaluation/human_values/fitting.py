"""Estimating a human value function by maximum likelihood from answers on outcomes whose rewards are known.

What can be known, and what cannot (see `observations` for the model):

- **The unit of value is the noise.** Answers depend on h/τ alone. Equation 6 fixes the unit of h by h(z_ref + 1) = 1,
  so that its α, λ and τ are all identified. If rewards are measured in another unit, c·z, then τ becomes c^α·τ, and α
  and λ stay as they are: the β of an implicit reward need not be right. The logistic form's steepness k becomes k/c.
- **The reference point of thumbs** is where up is as likely as down. A habit of giving thumbs up (or a public that only
  clicks when annoyed) moves it, and nothing but a guess at the bend could tell the two apart: here it *is* that point.
- **The reference point of pairs and ratings** shows in the bend alone: with α = λ = 1 there is none, and the interval
  says so by being as wide as the rewards. Fix it where it is known.
- **λ** compares slopes on both sides at the same distance: it takes outcomes on both sides. **α** takes outcomes at
  several distances. The logistic form's k and τ take outcomes far enough out to see it level off: nearer, only the
  slope k/(4τ) is known.
- **The shape is that of h within logistic noise.** Only P = F(h/τ) is seen; the F assumed is logistic, equally noisy
  everywhere. Were F another one, h would be bent by the difference. Every statement on a shape is conditional on that.
- **Rewards count as known.** An implicit reward β·log(π/π_ref) is an estimate, and lacks β·log Z(x), which differs from
  prompt to prompt. Errors in z flatten what is fitted, most at the reference point. Pairs are of one prompt, so that
  the missing term moves both by the same amount; in thumbs it is noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from halo_lightning.errors import DataError
from halo_lightning.evaluation.human_values.annotators import SimulatedAnnotator
from halo_lightning.evaluation.human_values.intervals import (
    inverse_information,
    normal_quantile,
    profile_intervals,
    with_own_noise,
)
from halo_lightning.evaluation.human_values.likelihood import (
    FAR,
    NOISE,
    REFERENCE_POINT,
    STEP,
    Likelihood,
    Point,
    Vector,
    highest,
    steps,
)
from halo_lightning.evaluation.human_values.observations import Observations
from halo_lightning.evaluation.human_values.shapes import KAHNEMAN_TVERSKY, Shape, as_config
from halo_lightning.values import HumanValue

SIMULATIONS = 25
"""Enough for a mean: what is wanted is its order of size, and not a tail."""

Intervals = Literal["profile", "wald", "none"]


class Estimate(NamedTuple):
    """An estimated number with its interval; an end that the data do not limit is 0 or infinite."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"

    def as_json(self) -> dict[str, float | None]:
        """Value, low and high; null where there is no end."""
        return {name: number if math.isfinite(number) else None for name, number in self._asdict().items()}


@dataclass(frozen=True)
class FittedValue:
    """What `fit_value` found.

    Attributes:
        likelihood: What was maximized.
        maximum: Where, unconstrained, `[d]`.
        point: Log-likelihood, score and information there.
        estimates: Each parameter, with its interval, by name: those of the shape, `reference_point` and `noise`.
        confidence: Of the intervals.
    """

    likelihood: Likelihood
    maximum: Vector
    point: Point
    estimates: dict[str, Estimate]
    confidence: float

    @property
    def shape(self) -> Shape:
        """The family of value functions."""
        return self.likelihood.shape

    @property
    def value_function(self) -> HumanValue:
        """H as estimated, for `KTO(value_function=…)`."""
        return self.shape.make(**{name: self.estimates[name].value for name in self.shape.parameters})

    @property
    def reference_point(self) -> float:
        """z_ref, estimated or given."""
        fixed = self.likelihood.fixed_reference_point
        return self.estimates[REFERENCE_POINT].value if fixed is None else fixed

    @property
    def noise(self) -> float:
        """τ, in the unit of h."""
        return self.estimates[NOISE].value

    @property
    def annotator(self) -> SimulatedAnnotator:
        """Somebody with this value function."""
        return SimulatedAnnotator(self.value_function, self.reference_point, self.noise)

    @property
    def log_likelihood(self) -> float:
        """Log-probability of all answers."""
        return self.point.log_likelihood

    @property
    def aic(self) -> float:
        """Akaike's criterion, 2 d − 2 log L: the smaller, the better."""
        return 2 * len(self.maximum) - 2 * self.log_likelihood

    def as_config(self) -> dict[str, Any]:
        """The `value_function` of a KTO configuration: `class_path` and `init_args`."""
        return as_config(self.value_function)

    def draws(self, number: int, *, seed: int = 1) -> list[SimulatedAnnotator]:
        """Annotators from the (normal) distribution of the estimate: what may be true, given the data."""
        covariance = inverse_information(self.point.information)
        width = np.minimum(np.sqrt(np.diag(covariance)), FAR)
        correlation = covariance / np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
        generator = np.random.default_rng(seed)
        rows = self.maximum + generator.multivariate_normal(np.zeros(len(width)), correlation, number) * width
        annotators = []
        for row in rows:
            drawn = self.likelihood.unpack(row)
            shape = dict(zip(self.shape.parameters, np.exp(row).tolist(), strict=False))
            annotators.append(
                SimulatedAnnotator(self.shape.make(**shape), float(drawn.reference_point), float(drawn.noise))
            )
        return annotators

    def band(self, relative: Tensor, *, draws: int = 500, seed: int = 1) -> tuple[Tensor, Tensor]:
        """Pointwise interval of h(z_ref + x, z_ref) for relative gains x, `[P]`, from draws of the estimate."""
        zero = torch.zeros_like(relative)
        curves = torch.stack([one.value_function(relative, zero) for one in self.draws(draws, seed=seed)])
        tail = (1 - self.confidence) / 2
        low, high = curves.quantile(torch.tensor([tail, 1 - tail], dtype=curves.dtype), dim=0)
        return low, high


def fit_value(
    observations: Observations,
    shape: Shape = KAHNEMAN_TVERSKY,
    *,
    reference_point: float | None = None,
    confidence: float = 0.95,
    intervals: Intervals = "profile",
    start: Vector | None = None,
    simulations: int = SIMULATIONS,
    seed: int = 1,
) -> FittedValue:
    """Estimates a human value function by maximum likelihood.

    Args:
        observations: `Thumbs`, `Pairs` or `Ratings`.
        shape: The family of value functions.
        reference_point: z_ref where it is known, in the unit of the rewards; None estimates it.
        confidence: Of the intervals.
        intervals: `profile` inverts the likelihood-ratio test, and is right also where the data say little (see
            `intervals`); `wald` is the quick one, from the expected information, on the logarithmic scale; `none`
            leaves them out.
        start: Where to begin the search, unconstrained; None tries several places.
        simulations: From the fit, to calibrate profile intervals where the reference point shows in the bend of the
            curve alone (pairs and ratings, `reference_point` None); 0 leaves them too narrow there.
        seed: Of the simulations.

    Returns:
        The estimates. What the data do not determine has an interval that is open on one side or both.

    Raises:
        DataError: The answers are all the same, or do not rise with the rewards, or are separated by them without
            exception, so that there is no maximum.
    """
    if len(observations.answers.unique()) < 2 and len(observations.rewards_seen) == len(observations):
        raise DataError(f"all {len(observations)} answers are the same: there is nothing to estimate from")
    likelihood = Likelihood(observations, shape, reference_point)
    if float(observations.rewards_seen.std(correction=0)) == 0:
        raise DataError("all rewards are the same: there is nothing to estimate from")
    maximum = highest(likelihood.penalized, likelihood.starts if start is None else [start])
    point = likelihood.point(maximum)
    _check(likelihood, maximum, point)
    estimates = _estimates(likelihood, maximum, point, confidence, intervals, simulations, seed)
    return FittedValue(likelihood, maximum, point, estimates, confidence)


def _check(likelihood: Likelihood, maximum: Vector, point: Point) -> None:
    place = likelihood.names.index(NOISE)
    low = likelihood.region[0][place]
    shares = likelihood.observations.answers.bincount().double() / len(likelihood.observations)
    # Of answers at random: as often as they come, or, in pairs, by the toss of a coin.
    at_random = math.log(0.5) if len(shares) == 1 else float((shares * shares.clamp(min=1e-300).log()).sum())
    if point.log_likelihood <= at_random * len(likelihood.observations):
        raise DataError("the answers do not rise with the rewards: a value function, which does, says nothing of them")
    if maximum[place] < low + 1e-3 or point.log_likelihood > -1:
        raise DataError("the rewards separate the answers without exception: noise and shape cannot be estimated")


def _estimates(
    likelihood: Likelihood,
    maximum: Vector,
    point: Point,
    confidence: float,
    intervals: Intervals,
    simulations: int,
    seed: int,
) -> dict[str, Estimate]:
    """Each parameter in its own unit, with its interval."""
    own, place = with_own_noise(likelihood, maximum)
    if intervals == "profile":
        ends = profile_intervals(own, place, confidence, simulations=simulations, seed=seed)
    else:
        to_own = np.array([with_own_noise(likelihood, maximum + step)[1] for step in steps(len(maximum))[1:]])
        jacobian = (to_own - place).T / STEP
        variance = np.diag(jacobian @ inverse_information(point.information) @ jacobian.T)
        width = normal_quantile(confidence) * np.sqrt(variance) * (math.nan if intervals == "none" else 1)
        ends = list(zip(place - width, place + width, strict=True))
    names = [name for name in own.names if not name.startswith("threshold")]
    found = zip(names, place.tolist(), ends, strict=False)
    return {name: Estimate(*(own_unit(name, at) for at in (middle, *low_high))) for name, middle, low_high in found}


def own_unit(name: str, parameter: float) -> float:
    """A parameter as it is, from an unconstrained one: the reference point is itself, others are logarithms."""
    if name == REFERENCE_POINT:
        return float(parameter)
    return math.inf if parameter > 700 else math.exp(parameter)
