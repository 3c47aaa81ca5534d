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
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from halo_lightning.errors import DataError
from halo_lightning.evaluation.human_values.annotators import SimulatedAnnotator
from halo_lightning.evaluation.human_values.likelihood import (
    FAR,
    NOISE,
    REFERENCE_POINT,
    Likelihood,
    Point,
    Vector,
    highest,
    maximize,
)
from halo_lightning.evaluation.human_values.observations import Observations
from halo_lightning.evaluation.human_values.shapes import KAHNEMAN_TVERSKY, Shape, as_config
from halo_lightning.values import HumanValue

Intervals = Literal["profile", "wald", "none"]


class Estimate(NamedTuple):
    """An estimated number with its interval; an end that the data do not limit is 0 or infinite."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"


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
        covariance = _covariance(self.point.information)
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
) -> FittedValue:
    """Estimates a human value function by maximum likelihood.

    Args:
        observations: `Thumbs`, `Pairs` or `Ratings`.
        shape: The family of value functions.
        reference_point: z_ref where it is known, in the unit of the rewards; None estimates it.
        confidence: Of the intervals.
        intervals: `profile` inverts the likelihood-ratio test, and is right also where the data say little (that of the
            noise is a Wald interval all the same); `wald` is the quick one, from the expected information, on the
            logarithmic scale; `none` leaves them out.
        start: Where to begin the search, unconstrained; None tries several places.

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
    ends = _ends(likelihood, maximum, point, confidence, intervals)
    names = [name for name in likelihood.names if not name.startswith("threshold")]
    estimates = {
        name: Estimate(*(_own_unit(name, end) for end in (maximum[place], *ends[place])))
        for place, name in enumerate(names)
        if name != NOISE
    }
    estimates[NOISE] = _noise(likelihood, maximum, point, math.nan if intervals == "none" else confidence)
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


def _own_unit(name: str, parameter: float) -> float:
    return float(parameter) if name == REFERENCE_POINT else _exponential(parameter)


def _exponential(logarithm: float) -> float:
    return math.inf if logarithm > 700 else math.exp(logarithm)


def _noise(likelihood: Likelihood, maximum: Vector, point: Point, confidence: float) -> Estimate:
    """τ with the interval of the delta method on the logarithmic scale: it is a function of all parameters."""
    from scipy.optimize import approx_fprime

    def logarithm(parameters: Vector) -> float:
        return math.log(float(likelihood.unpack(parameters).noise))

    middle, slope = logarithm(maximum), approx_fprime(maximum, logarithm)
    width = _normal(confidence) * math.sqrt(slope @ _covariance(point.information) @ slope)
    return Estimate(*(_exponential(end) for end in (middle, middle - width, middle + width)))


def _normal(confidence: float) -> float:
    """How many standard deviations an interval reaches to either side."""
    from scipy.stats import norm

    return float(norm.ppf(0.5 + confidence / 2))


def _covariance(information: Vector) -> Vector:
    """The inverse information; where it is singular, the variance of what is not determined is huge."""
    scale = np.sqrt(np.maximum(np.diag(information), 1e-12))
    values, vectors = np.linalg.eigh(information / np.outer(scale, scale))
    inverse: Vector = (vectors / np.maximum(values, 1e-10)) @ vectors.T / np.outer(scale, scale)
    return inverse


def _ends(
    likelihood: Likelihood, maximum: Vector, point: Point, confidence: float, intervals: Intervals
) -> list[tuple[float, float]]:
    """The unconstrained ends of each parameter's interval."""
    if intervals == "none":
        return [(math.nan, math.nan)] * len(maximum)
    width = _normal(confidence) * np.sqrt(np.diag(_covariance(point.information)))
    if intervals == "wald":
        return list(zip(maximum - width, maximum + width, strict=True))
    return [
        (
            _profile_end(likelihood, maximum, place, -width[place], confidence),
            _profile_end(likelihood, maximum, place, width[place], confidence),
        )
        for place in range(likelihood.names.index(NOISE))
    ]


def _profile_end(likelihood: Likelihood, maximum: Vector, place: int, step: float, confidence: float) -> float:
    """Where the likelihood-ratio test begins to reject, in the direction of a first step; infinite if nowhere."""
    from scipy.optimize import brentq
    from scipy.stats import chi2

    top = likelihood.penalized(maximum).log_likelihood
    critical = float(chi2.ppf(confidence, 1))
    others = np.delete(maximum, place)

    @cache  # which also makes the ends of a bracket what they were when it was found
    def excess(value: float) -> float:
        nonlocal others
        if value == maximum[place]:  # known, and a search that begins far away need not find it
            return -critical

        def of_others(parameters: Vector) -> Point:
            whole = likelihood.penalized(np.insert(parameters, place, value))
            information = np.delete(np.delete(whole.information, place, 0), place, 1)
            return Point(whole.log_likelihood, np.delete(whole.score, place), information)

        others = maximize(of_others, others)
        return 2 * (top - of_others(others).log_likelihood) - critical

    edge = likelihood.region[int(step > 0)][place]
    inside, outside = maximum[place], maximum[place] + step
    while abs(outside - maximum[place]) < abs(edge - maximum[place]):
        if excess(outside) > 0:
            found: float = brentq(excess, inside, outside, xtol=0.005 * abs(step))
            return found
        inside, outside = outside, outside + 0.6 * (outside - maximum[place])
    return math.copysign(math.inf, step)
