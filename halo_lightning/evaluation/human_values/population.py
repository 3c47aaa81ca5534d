"""How a value function varies across annotators: medians and spreads by restricted marginal likelihood.

Each annotator i has parameters φ_i of its own: log α, log λ (or those of another shape), z_ref unless it is given, and
log τ. They are taken to be normal and independent in the population, with means μ and standard deviations σ. The
marginal likelihood of the answers is

    log L(μ, σ) = Σ_i log ∫ p(answers of i | φ) N(φ; μ, σ²) dφ,

each integral by adaptive Gauss-Hermite quadrature around the annotator's own posterior mode. So annotators with few
answers count for what they say: nobody's estimate is taken for the truth, as in a two-stage analysis, which finds too
much spread (the noise of the estimates is added to it) and falters where somebody's answers alone have no maximum.

By maximum likelihood the spread of few people comes out too small, like a variance that is divided by n. So what is
maximized is the adjusted likelihood log L − ½ log det J, where J is the observed information on μ (Cox and Reid 1987;
for normal answers it is REML, restricted maximum likelihood).

- **Spreads** have profile intervals of the adjusted likelihood, from 0 where no spread at all explains the answers as
  well, which is where Wald's intervals fail.
- **Medians** have the interval μ ± t·se, se² from J⁻¹, t from Student's distribution with as many degrees of freedom as
  there are annotators but one (as Knapp and Hartung 2003 do in random-effects meta-analysis).

The command `recover-value` counts how often they cover.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

from halo_lightning.errors import ConfigError, DataError
from halo_lightning.evaluation.human_values.crowd import Array, Crowd
from halo_lightning.evaluation.human_values.fitting import Estimate, own_unit
from halo_lightning.evaluation.human_values.intervals import inverse_information
from halo_lightning.evaluation.human_values.likelihood import FAR, REFERENCE_POINT, Vector
from halo_lightning.evaluation.human_values.observations import Pairs, Ratings, Thumbs
from halo_lightning.evaluation.human_values.shapes import KAHNEMAN_TVERSKY, Shape

NODES = 5
"""Of the quadrature, in each dimension."""

ROUNDS = 20
"""Most times that the quadrature is centred anew."""

OPTIONS = {"ftol": 1e-6, "maxiter": 30}
"""Of the search between two of these times: where it is to end is moved then."""

SETTLED = 0.01
"""By how much the adjusted log-likelihood may still change then."""

NARROWEST, WIDEST = 0.02, 20.0
"""Between these, spreads are looked for: data could not tell 2 % from 0. That of z_ref, in units of the rewards'."""


@dataclass(frozen=True)
class FittedPopulation:
    """What `fit_population` found.

    Attributes:
        shape: The family of value functions.
        medians: The median of each parameter, with its interval, by name: α, λ (or those of the shape),
            `reference_point` if it was estimated, and `noise`; from 0 to infinity where the annotators do not limit it.
        spreads: The standard deviation across annotators of each one's logarithm (of the reference point: of itself),
            with its interval, from 0 where the data do not show any spread.
        individuals: For each annotator the parameters as the population and its own answers suggest (the posterior
            mean), by name. They are drawn towards the medians: their own spread is smaller than the population's.
        reliability: How much of the spread of a parameter the answers of an annotator determine, from 0 (its estimate
            is the population's median) to 1 (it is known), on average over the annotators.
        log_likelihood: The marginal one, adjusted.
    """

    shape: Shape
    medians: dict[str, Estimate]
    spreads: dict[str, Estimate]
    individuals: list[dict[str, float]]
    reliability: dict[str, float]
    log_likelihood: float

    def __str__(self) -> str:
        return "\n".join(
            f"{name}: median {self.medians[name]}, spread {self.spreads[name]}, reliability {reliability:.2f}"
            for name, reliability in self.reliability.items()
        )


@dataclass
class _Quadrature:
    """The integrals over all annotators, with their nodes in place.

    Attributes:
        places: φ at the nodes, `[A, K, d]`.
        weights: Logarithms of the weights, with the answers' likelihoods in them, `[A, K]`.
    """

    places: Array
    weights: Array

    def posterior(self, mean: Vector, spread: Vector) -> tuple[Array, Array]:
        """Marginal log-likelihood of each annotator, `[A]`, and the probability of each node, `[A, K]`."""
        away = self.places - mean
        prior = -0.5 * (away**2 @ spread**-2.0) - np.log(spread).sum() - 0.5 * len(mean) * math.log(2 * math.pi)
        terms = self.weights + prior
        top = terms.max(1, keepdims=True)
        marginal = top[:, 0] + np.log(np.exp(terms - top).sum(1))
        return marginal, np.exp(terms - marginal[:, None])

    def moments(self, probability: Array) -> tuple[Array, Array]:
        """Means `[A, d]` and covariances `[A, d, d]` of the annotators' posteriors."""
        expected = (probability[:, None] @ self.places)[:, 0]
        away = self.places - expected[:, None]
        return expected, (away * probability[..., None]).swapaxes(1, 2) @ away

    def information(self, spread: Vector, probability: Array) -> Array:
        """The observed information on the means of the population, `[d, d]` (Louis 1982)."""
        _, covariance = self.moments(probability)
        inner = np.eye(len(spread)) * len(covariance) - covariance.sum(0) / np.outer(spread, spread)
        found: Array = inner / np.outer(spread, spread)
        return found

    def adjustment(self, parameters: Vector) -> float:
        """½ log det J at (μ, log σ), `[2 d]`."""
        mean, spread = parameters[: len(parameters) // 2], np.exp(parameters[len(parameters) // 2 :])
        return 0.5 * float(np.linalg.slogdet(self.information(spread, self.posterior(mean, spread)[1]))[1])

    def negative(self, parameters: Vector) -> tuple[float, Vector]:
        """−adjusted log-likelihood and its gradient at (μ, log σ), `[2 d]`."""
        from scipy.optimize import approx_fprime

        mean, spread = parameters[: len(parameters) // 2], np.exp(parameters[len(parameters) // 2 :])
        marginal, probability = self.posterior(mean, spread)
        expected, covariance = self.moments(probability)
        away = (expected - mean) / spread
        by_spread = np.einsum("add->d", covariance) / spread**2 + (away**2).sum(0) - len(away)
        gradient = np.concatenate([away.sum(0) / spread, by_spread])
        slope = approx_fprime(parameters, self.adjustment, 1e-4)
        return self.adjustment(parameters) - float(marginal.sum()), slope - gradient


@dataclass
class _Peak:
    """The highest adjusted likelihood, of all or with one spread held.

    Attributes:
        parameters: Where it is: (μ, log σ), `[2 d]`.
        modes: Of the annotators' posteriors there, `[A, d]`.
        quadrature: Around them.
        height: The adjusted log-likelihood.
    """

    parameters: Vector
    modes: Array
    quadrature: _Quadrature
    height: float


def fit_population(
    answers: Sequence[Thumbs | Pairs],
    shape: Shape = KAHNEMAN_TVERSKY,
    *,
    reference_point: float | None = None,
    confidence: float = 0.95,
) -> FittedPopulation:
    """Estimates the medians and the spreads of a value function's parameters across annotators.

    Args:
        answers: The `Thumbs` or `Pairs` of each annotator.
        shape: The family of value functions.
        reference_point: z_ref where it is known, and the same for everybody; None lets it vary, too,
            which takes far longer.
        confidence: Of the intervals.

    Raises:
        ConfigError: There are fewer than three annotators, or the answers are ratings.
        DataError: The annotators together do not say enough for a maximum.
    """
    if len(answers) < 3:
        raise ConfigError(f"found {len(answers)} annotator(s): expected 3 or more, to see how they differ")
    if any(isinstance(one, Ratings) for one in answers):
        raise ConfigError("found ratings: expected thumbs or pairs (each annotator's thresholds would have to vary)")
    crowd = Crowd(answers, shape, reference_point)
    names, unit = crowd.likelihood.names, np.ones(len(crowd.likelihood.names))
    if REFERENCE_POINT in names:
        unit[names.index(REFERENCE_POINT)] = crowd.likelihood.spread
    mean = crowd.likelihood.starts[len(crowd.likelihood.starts) // 2]
    start = np.concatenate([mean, np.log(0.5 * unit)])
    region = np.log(NARROWEST * unit), np.log(WIDEST * unit)
    peak = _climb(crowd, start, np.tile(mean, (len(crowd), 1)), region)
    middle = peak.parameters[: len(names)]
    if not np.isfinite(peak.height) or np.abs(middle[np.array(names) != REFERENCE_POINT]).max() > 10:
        raise DataError("the annotators together do not say enough: there is no most likely population")
    return _described(crowd, peak, region, confidence)


def _climb(crowd: Crowd, start: Vector, modes: Array, region: tuple[Vector, Vector], held: int | None = None) -> _Peak:
    """Maximizes the adjusted likelihood, with one spread held or none, and centres the quadrature until it settles."""
    from scipy.optimize import minimize

    number = len(start) // 2
    bounds: list[tuple[float | None, float | None]] = [(None, None)] * number + list(zip(*region, strict=True))
    free = np.array([place for place in range(2 * number) if held is None or place != number + held])
    parameters, height = start.copy(), -math.inf
    for _ in range(ROUNDS):
        modes, quadrature = _centred(crowd, modes, *np.split(parameters, 2))

        def negative(moved: Vector, quadrature: _Quadrature = quadrature) -> tuple[float, Vector]:
            whole = parameters.copy()
            whole[free] = moved
            value, gradient = quadrature.negative(whole)
            return value, gradient[free]

        within = [bounds[place] for place in free]
        found = minimize(negative, parameters[free], jac=True, method="L-BFGS-B", bounds=within, options=OPTIONS)
        parameters[free] = found.x
        if abs(-found.fun - height) < SETTLED:
            break
        height = -float(found.fun)
    return _Peak(parameters, modes, quadrature, -float(found.fun))


def _centred(crowd: Crowd, modes: Array, mean: Vector, log_spread: Vector) -> tuple[Array, _Quadrature]:
    """Modes of the annotators' posteriors, and the quadrature around them."""
    roots, weights = np.polynomial.hermite_e.hermegauss(NODES)
    grid = np.array(list(product(roots, repeat=len(mean))))
    log_weights = np.log(np.array(list(product(weights, repeat=len(mean))))).sum(1) + 0.5 * (grid**2).sum(1)
    modes, information = crowd.modes(modes, mean, np.exp(log_spread))
    root = np.linalg.cholesky(np.linalg.inv(information))  # [A, d, d]
    places = modes[:, None] + np.einsum("kd,aed->ake", grid, root)
    scale = np.log(np.einsum("add->ad", root)).sum(1)
    terms = crowd.log_likelihoods(places.swapaxes(0, 1)).T + log_weights + scale[:, None]
    return modes, _Quadrature(places, terms)


def _described(crowd: Crowd, peak: _Peak, region: tuple[Vector, Vector], confidence: float) -> FittedPopulation:
    """Intervals, individuals and reliability at the maximum."""
    from scipy.stats import t

    names = crowd.likelihood.names
    mean, log_spread = np.split(peak.parameters, 2)
    spread = np.where(log_spread <= region[0] + 1e-3, 0.0, np.exp(log_spread))
    _, probability = peak.quadrature.posterior(mean, np.exp(log_spread))
    covariance = inverse_information(peak.quadrature.information(np.exp(log_spread), probability))
    width = float(t.ppf(0.5 + confidence / 2, len(crowd) - 1)) * np.sqrt(np.diag(covariance))
    expected, variances = peak.quadrature.moments(probability)
    medians, spreads, reliability = {}, {}, {}
    for place, name in enumerate(names):
        reach = width[place] if width[place] < FAR * math.exp(region[0][place]) / NARROWEST else math.inf
        ends = (mean[place], mean[place] - reach, mean[place] + reach)
        medians[name] = Estimate(*(own_unit(name, end) for end in ends))
        spreads[name] = Estimate(float(spread[place]), *_spread_interval(crowd, peak, place, region, confidence))
        left_open = variances[:, place, place].mean() / math.exp(2 * log_spread[place])
        reliability[name] = float(max(0.0, 1 - left_open))
    individuals = [{name: own_unit(name, row[i]) for i, name in enumerate(names)} for row in expected]
    return FittedPopulation(crowd.likelihood.shape, medians, spreads, individuals, reliability, peak.height)


def _spread_interval(
    crowd: Crowd, peak: _Peak, place: int, region: tuple[Vector, Vector], confidence: float
) -> tuple[float, float]:
    """The profile interval of one spread; from 0 or to infinity where the data do not limit it."""
    from scipy.optimize import brentq
    from scipy.stats import chi2

    critical, number = float(chi2.ppf(confidence, 1)), len(region[0])
    lowest, highest, middle = region[0][place], region[1][place], peak.parameters[number + place]
    near = peak

    @cache  # which also makes the ends of a bracket what they were when it was found
    def excess(value: float) -> float:
        nonlocal near
        if value == middle:
            return -critical
        start = near.parameters.copy()
        start[number + place] = value
        near = _climb(crowd, start, near.modes, region, held=place)
        return 2 * (peak.height - near.height) - critical

    tolerance = {"xtol": 0.01}
    low = 0.0
    if middle > lowest + 1e-3 and excess(lowest) > 0:
        near = peak
        low = math.exp(brentq(excess, lowest, middle, **tolerance))
    near, inside, outside = peak, middle, max(middle, math.log(0.1) + lowest - math.log(NARROWEST)) + 0.4
    while excess(outside) <= 0:
        inside, outside = outside, outside + 0.6
        if outside > highest:
            return low, math.inf
    return low, math.exp(brentq(excess, inside, outside, **tolerance))
