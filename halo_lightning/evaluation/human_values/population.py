"""How a value function varies across annotators: medians and spreads by marginal likelihood.

Each annotator i has parameters φ_i of its own: log α, log λ (or those of another shape), z_ref unless it is given, and
log τ. They are taken to be normal and independent in the population, with means μ and standard deviations σ. What is
maximized is the marginal likelihood,

    Σ_i log ∫ p(answers of i | φ) N(φ; μ, σ²) dφ,

each integral by adaptive Gauss-Hermite quadrature around the annotator's own posterior mode. So annotators with few
answers count for what they say: nobody's estimate is taken for the truth, as in a two-stage analysis, which finds too
much spread (the noise of the estimates is added to it) and falters where somebody's answers alone have no maximum.

With few annotators, such as ten, spreads are underestimated, as those of few numbers are by maximum likelihood, and the
intervals are too narrow: the command `recover-value` counts how often they cover.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from halo_lightning.errors import ConfigError, DataError
from halo_lightning.evaluation.human_values.fitting import Estimate
from halo_lightning.evaluation.human_values.likelihood import REFERENCE_POINT, Likelihood, Point, Vector, maximize
from halo_lightning.evaluation.human_values.observations import Observations
from halo_lightning.evaluation.human_values.shapes import KAHNEMAN_TVERSKY, Shape

NODES = 5
"""Of the quadrature, in each dimension."""

ROUNDS = 20
"""Most times that the quadrature is centred anew."""

NARROWEST = 0.02
"""Spreads below this (2 %) are not looked for: the data could not tell them from 0."""


@dataclass(frozen=True)
class FittedPopulation:
    """What `fit_population` found.

    Attributes:
        shape: The family of value functions.
        medians: The median of each parameter, with its interval, by name: α, λ (or those of the shape),
            `reference_point` if it was estimated, and `noise`.
        spreads: The standard deviation across annotators of each one's logarithm (of the reference point: of itself),
            with its interval, from 0 where the data do not show any spread.
        individuals: For each annotator the parameters as the population and its own answers suggest (the posterior
            mean), by name. They are drawn towards the medians: their own spread is smaller than the population's.
        reliability: How much of the spread of a parameter the answers of an annotator determine, from 0 (its estimate
            is the population's median) to 1 (it is known), on average over the annotators.
        log_likelihood: The marginal one.
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

    places: NDArray[np.float64]
    weights: NDArray[np.float64]

    def posterior(self, mean: Vector, spread: Vector) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Marginal log-likelihood of each annotator, `[A]`, and the probability of each node, `[A, K]`."""
        standard = (self.places - mean) / spread
        prior = -0.5 * (standard**2).sum(-1) - np.log(spread).sum() - 0.5 * len(mean) * math.log(2 * math.pi)
        terms = self.weights + prior
        top = terms.max(1, keepdims=True)
        marginal = top[:, 0] + np.log(np.exp(terms - top).sum(1))
        return marginal, np.exp(terms - marginal[:, None])

    def negative(self, parameters: Vector) -> tuple[float, Vector]:
        """−log-likelihood and its gradient at (μ, log σ), `[2 d]`."""
        mean, spread = np.split(parameters, 2)
        spread = np.exp(spread)
        marginal, probability = self.posterior(mean, spread)
        standard = (self.places - mean) / spread
        by_mean = np.einsum("ak,akd->d", probability, standard / spread)
        by_spread = np.einsum("ak,akd->d", probability, standard**2 - 1)
        return -float(marginal.sum()), -np.concatenate([by_mean, by_spread])


def fit_population(
    answers: Sequence[Observations],
    shape: Shape = KAHNEMAN_TVERSKY,
    *,
    reference_point: float | None = None,
    confidence: float = 0.95,
) -> FittedPopulation:
    """Estimates the medians and the spreads of a value function's parameters across annotators.

    Args:
        answers: The `Thumbs` or `Pairs` of each annotator.
        shape: The family of value functions.
        reference_point: z_ref where it is known, and the same for everybody; None lets it vary, too.
        confidence: Of the intervals (Wald's, from the observed information; of spreads on the logarithmic scale).

    Raises:
        ConfigError: There are fewer than three annotators, or the answers are ratings.
        DataError: The annotators together do not say enough for a maximum.
    """
    from scipy.optimize import minimize

    if len(answers) < 3:
        raise ConfigError(f"found {len(answers)} annotator(s): expected 3 or more, to see how they differ")
    if any(one.thresholds for one in answers):
        raise ConfigError("found ratings: expected thumbs or pairs (each annotator's thresholds would have to vary)")
    likelihoods = [Likelihood(one, shape, reference_point, relative_noise=False) for one in answers]
    names = likelihoods[0].names
    mean = np.median([one.starts[len(one.starts) // 2] for one in likelihoods], axis=0)
    spread = np.full(len(mean), 0.5)
    if REFERENCE_POINT in names:
        place = names.index(REFERENCE_POINT)
        spread[place] = 0.5 * float(np.median([one.spread for one in likelihoods]))
    low = np.log(NARROWEST * spread / 0.5)
    modes = [mean] * len(likelihoods)
    bounds = [(None, None)] * len(mean) + [(least, 3.0) for least in low]
    for _ in range(ROUNDS):
        modes, quadrature = _centred(likelihoods, modes, mean, spread)
        start = np.concatenate([mean, np.log(spread)])
        found = minimize(quadrature.negative, start, jac=True, method="L-BFGS-B", bounds=bounds)
        mean, spread = found.x[: len(mean)], np.exp(found.x[len(mean) :])
        if np.abs(found.x - start).max() < 1e-3:
            break
    if not np.isfinite(found.fun) or np.abs(mean[np.array(names) != REFERENCE_POINT]).max() > 10:
        raise DataError("the annotators together do not say enough: there is no most likely population")
    return _described(shape, names, quadrature, found.x, np.log(spread) <= low + 1e-6, confidence)


def _centred(
    likelihoods: list[Likelihood], modes: list[Vector], mean: Vector, spread: Vector
) -> tuple[list[Vector], _Quadrature]:
    """Modes of the annotators' posteriors, and the quadrature around them."""
    roots, weights = np.polynomial.hermite_e.hermegauss(NODES)
    grid = np.array(list(product(roots, repeat=len(mean))))
    log_weights = np.log(np.array(list(product(weights, repeat=len(mean))))).sum(1) + 0.5 * (grid**2).sum(1)
    places, terms, found = [], [], []
    for likelihood, begin in zip(likelihoods, modes, strict=True):

        def posterior(parameters: Vector, one: Likelihood = likelihood) -> Point:
            point, away = one.point(parameters), (parameters - mean) / spread
            return Point(
                point.log_likelihood - 0.5 * float(away @ away),
                point.score - away / spread,
                point.information + np.diag(1 / spread**2),
            )

        mode = maximize(posterior, begin)
        root = np.linalg.cholesky(np.linalg.inv(posterior(mode).information))
        nodes = mode + grid @ root.T
        found.append(mode)
        places.append(nodes)
        terms.append(likelihood.log_likelihoods(nodes) + log_weights + np.log(np.diag(root)).sum())
    return found, _Quadrature(np.array(places), np.array(terms))


def _described(
    shape: Shape, names: list[str], quadrature: _Quadrature, maximum: Vector, flat: NDArray[np.bool_], confidence: float
) -> FittedPopulation:
    """Intervals, individuals and reliability at the maximum."""
    from scipy.stats import norm

    number = len(names)
    mean, spread = maximum[:number], np.exp(maximum[number:])
    step = 1e-4
    moves = step * np.eye(2 * number)
    hessian = np.array(
        [(quadrature.negative(maximum + m)[1] - quadrature.negative(maximum - m)[1]) / (2 * step) for m in moves]
    )
    free = np.concatenate([np.ones(number, dtype=bool), ~flat])  # no spread, no interval around it
    covariance = np.zeros_like(hessian)
    covariance[np.ix_(free, free)] = np.linalg.pinv(hessian[np.ix_(free, free)], hermitian=True)
    width = float(norm.ppf(0.5 + confidence / 2)) * np.sqrt(np.maximum(np.diag(covariance), 0))
    marginal, probability = quadrature.posterior(mean, spread)
    expected = np.einsum("ak,akd->ad", probability, quadrature.places)
    variance = np.einsum("ak,akd->ad", probability, (quadrature.places - expected[:, None]) ** 2)
    medians, spreads = {}, {}
    for place, name in enumerate(names):
        unit = float if name == REFERENCE_POINT else math.exp
        ends = (mean[place], mean[place] - width[place], mean[place] + width[place])
        medians[name] = Estimate(*(unit(end) for end in ends))
        reach = width[number + place]
        low = 0.0 if flat[place] else float(spread[place] * math.exp(-reach))
        spreads[name] = Estimate(
            0.0 if flat[place] else float(spread[place]), low, float(spread[place] * math.exp(reach))
        )
    individuals = [
        {
            name: float(row[place]) if name == REFERENCE_POINT else math.exp(row[place])
            for place, name in enumerate(names)
        }
        for row in expected
    ]
    reliability = {name: float(max(0.0, 1 - (variance[:, i] / spread[i] ** 2).mean())) for i, name in enumerate(names)}
    return FittedPopulation(shape, medians, spreads, individuals, reliability, float(marginal.sum()))
