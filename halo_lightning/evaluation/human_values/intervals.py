"""Intervals of the parameters of a value function: by profile likelihood, calibrated where that is not enough.

A profile interval holds every value that the likelihood-ratio test does not reject,

    2 (max log L − max {log L : this parameter held}) ≤ the quantile of χ² with one degree of freedom,

from the outermost one on the left to the outermost one on the right: the likelihood may have several peaks.

Where the reference point has to be found in the bend of the curve alone (pairs and ratings), that ratio is larger than
χ² says: as with any change-point, fits with a bend at quite another place compete with the true one, and only many
thousands of answers silence them. There the ratio is divided by its mean over simulations from the fit, which is 1 for
χ² (Bartlett 1937; the mean by simulation: Rocke 1989, "Bootstrap Bartlett adjustment in seemingly unrelated
regression", Biometrika 76). `recover-value` counts how often the intervals cover.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np

from halo_lightning.evaluation.human_values.likelihood import (
    REFERENCE_POINT,
    Function,
    Likelihood,
    Point,
    Vector,
    highest,
    maximize,
)
from halo_lightning.evaluation.human_values.observations import Thumbs

End = tuple[float, float]

ROUGH = 0.02
"""To how much of twice the log-likelihood a maximum is found that a ratio is computed from."""

HOPELESS = 15.0
"""How far above its critical value the ratio says that no further value will be below it."""


def normal_quantile(confidence: float) -> float:
    """How many standard deviations an interval reaches to either side."""
    from scipy.stats import norm

    return float(norm.ppf(0.5 + confidence / 2))


def inverse_information(information: Vector) -> Vector:
    """The covariance, `[d, d]`; where the information is singular, the variance of what is not determined is huge."""
    scale = np.sqrt(np.maximum(np.diag(information), 1e-12))
    values, vectors = np.linalg.eigh(information / np.outer(scale, scale))
    inverse: Vector = (vectors / np.maximum(values, 1e-10)) @ vectors.T / np.outer(scale, scale)
    return inverse


def needs_calibration(likelihood: Likelihood) -> bool:
    """Whether the reference point is estimated from the bend of the curve alone."""
    return likelihood.fixed_reference_point is None and not isinstance(likelihood.observations, Thumbs)


def with_own_noise(likelihood: Likelihood, parameters: Vector) -> tuple[Likelihood, Vector]:
    """The same likelihood and place with the noise as it is, and not relative to the value of a usual gain."""
    own = replace(likelihood, relative_noise=False)
    place = likelihood.names.index("noise")
    moved = parameters.copy()
    moved[place] = math.log(float(likelihood.unpack(parameters).noise))
    return own, moved


def profile_intervals(
    likelihood: Likelihood, maximum: Vector, confidence: float, *, simulations: int, seed: int
) -> list[End]:
    """The unconstrained ends of every parameter's interval, thresholds left out; infinite where there is no end.

    Args:
        likelihood: With the noise as it is (see `with_own_noise`).
        maximum: Where it is highest, `[d]`.
        confidence: Of the intervals.
        simulations: For the calibration, where it is needed.
        seed: Of the simulations.
    """
    from scipy.stats import chi2

    kept = [place for place, name in enumerate(likelihood.names) if not name.startswith("threshold")]
    critical = np.full(len(kept), float(chi2.ppf(confidence, 1)))
    if simulations and needs_calibration(likelihood):
        critical *= np.maximum(mean_ratios(likelihood, maximum, kept, simulations, seed), 1.0)
    width = np.sqrt(np.diag(inverse_information(likelihood.point(maximum).information)))
    return [
        (
            _profile_end(likelihood, maximum, place, -width[place], critical[number]),
            _profile_end(likelihood, maximum, place, width[place], critical[number]),
        )
        for number, place in enumerate(kept)
    ]


def mean_ratios(likelihood: Likelihood, maximum: Vector, kept: list[int], simulations: int, seed: int) -> Vector:
    """The mean likelihood ratio of each parameter, `[len(kept)]`, where the fitted annotator answers once more."""
    fitted = likelihood.unpack(maximum)
    ratios = []
    for number in range(simulations):
        answers = likelihood.observations.simulated(fitted.utility, fitted.thresholds, seed=seed + number)
        again = replace(likelihood, observations=answers).penalized
        top = highest(again, [maximum, *_elsewhere(likelihood, maximum)], ROUGH)
        height = again(top).log_likelihood
        lower = []
        for place in kept:
            others = _holding(again, place, maximum[place])
            starts = [np.delete(maximum, place), np.delete(top, place)]
            start = starts[int(np.argmax([others(one).log_likelihood for one in starts]))]
            lower.append(others(maximize(others, start, ROUGH)).log_likelihood)
        ratios.append(2 * (max(height, *lower) - np.array(lower)))
    mean: Vector = np.mean(ratios, axis=0)
    return mean


def _elsewhere(likelihood: Likelihood, maximum: Vector) -> list[Vector]:
    """Places with other reference points, where the likelihood may have other peaks."""
    if not needs_calibration(likelihood):
        return []
    place, ends = likelihood.names.index(REFERENCE_POINT), (likelihood.starts[0], likelihood.starts[-1])
    moved = [maximum.copy() for _ in ends]
    for one, start in zip(moved, ends, strict=True):
        one[place] = start[place]
    return moved


def _holding(function: Function, place: int, value: float) -> Function:
    """A function of the other parameters, with one of them held."""

    def of_others(others: Vector) -> Point:
        whole = function(np.insert(others, place, value))
        information = np.delete(np.delete(whole.information, place, 0), place, 1)
        return Point(whole.log_likelihood, np.delete(whole.score, place), information)

    return of_others


def _profile_end(likelihood: Likelihood, maximum: Vector, place: int, step: float, critical: float) -> float:
    """The outermost value in the direction of a step with a ratio that is not above the critical one."""
    from scipy.optimize import brentq

    top = likelihood.penalized(maximum).log_likelihood
    middle, edge = float(maximum[place]), float(likelihood.region[int(step > 0)][place])
    elsewhere = [np.delete(one, place) for one in _elsewhere(likelihood, maximum)]
    peaks = {middle: [np.delete(maximum, place)]}

    @cache  # which also makes the ends of a bracket what they were when it was found
    def excess(value: float) -> float:
        if value == middle:  # known, and a search that begins far away need not find it
            return -critical
        of_others = _holding(likelihood.penalized, place, value)
        nearest = min(peaks, key=lambda other: abs(other - value))
        found = [maximize(of_others, start, ROUGH) for start in (*peaks[nearest], *elsewhere)]
        heights = [of_others(one).log_likelihood for one in found]
        best, *others = (found[index] for index in np.argsort(heights)[::-1])
        # The best two that differ are followed: which of them is higher may change on the way.
        peaks[value] = [best, *[one for one in others if np.abs(one - best).max() > 0.05][:1]]
        return 2 * (top - max(heights)) - critical

    if abs(edge - middle) < 1e-3:
        return math.copysign(math.inf, step)
    step = math.copysign(min(abs(step), abs(edge - middle) / 4), step)
    end, inside, value = None, middle, middle + step
    while True:
        above = excess(value)
        if above <= 0:
            end, inside = None, value
        elif end is None:
            end = (inside, value)
        if value == edge or above > HOPELESS:
            break
        reach = 1.6 * (value - middle)
        value = edge if abs(reach) >= abs(edge - middle) else middle + reach
    if end is None:
        return math.copysign(math.inf, step)
    elsewhere.clear()  # between the ends of the bracket the peaks are known
    return float(brentq(excess, *end, xtol=0.02 * max(abs(step), abs(end[0] - middle))))
