"""The win rate that a model would have if its completions were as long as those that it is compared with.

Judges tend to like longer answers. As in AlpacaEval 2 (Dubois et al. 2024, arXiv 2404.04475) a logistic regression
explains who wins by the model and by the difference of lengths, and the prediction at difference 0 is the
length-controlled win rate::

    P(win) = σ(θ + φ · tanh(Δ / sd(Δ))),        controlled rate = σ(θ)

with Δ the length of the model's completion minus that of the other one, in characters. What AlpacaEval has beside this
is left out: how hard each instruction is (a term that is fitted over many models), and the penalty whose strength is
found by cross-validation. Instead the likelihood is penalised by Jeffreys' prior (Firth 1993), which has nothing to
choose, removes the first-order bias, and is finite where one side wins everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

STEPS = 200

LEAST_SPREAD = 1e-3
"""Lengths whose term in the regression varies less than this explain nothing."""


class LengthControlled(NamedTuple):
    """A length-controlled win rate.

    Attributes:
        rate: The predicted win rate at equal lengths.
        low: Lower end of its interval.
        high: Upper end.
        effect: φ, in log-odds: how much longer completions are liked more.
        extrapolated: Whether no completion is as short (or as long) as the other one, so that the rate at equal lengths
            is a guess outside of what was seen.
    """

    rate: float
    low: float
    high: float
    effect: float
    extrapolated: bool


def length_controlled(
    wins: Sequence[bool], differences: Sequence[float], *, confidence: float = 0.75
) -> LengthControlled:
    """Fits the regression to comparisons that were decided.

    Args:
        wins: Whether the model won, one per comparison.
        differences: Length of its completion minus that of the other one.
        confidence: Of the interval (of θ, by its standard error).

    Returns:
        The rate; all NaN where there is no comparison, or where all completions are longer (or shorter) by so much and
        so evenly that nothing can be said of equal lengths.
    """
    from scipy.special import expit
    from scipy.stats import norm

    nan = float("nan")
    if not len(wins):
        return LengthControlled(nan, nan, nan, nan, False)
    outcome, delta = np.asarray(wins, dtype=float), np.asarray(differences, dtype=float)
    extrapolated = bool(delta.min() > 0 or delta.max() < 0)
    longer = np.tanh(delta / delta.std()) if delta.std() > 0 else np.sign(delta)
    varies = bool(longer.std() > LEAST_SPREAD)
    if extrapolated and not varies:
        return LengthControlled(nan, nan, nan, nan, True)
    design = np.stack([np.ones_like(outcome)] + [longer] * varies, axis=1)
    coefficients, covariance = firth_logistic(design, outcome)
    theta, error = coefficients[0], float(np.sqrt(covariance[0, 0]))
    margin = float(norm.ppf(0.5 + confidence / 2)) * error
    rate, low, high = (float(expit(value)) for value in (theta, theta - margin, theta + margin))
    return LengthControlled(rate, low, high, float(coefficients[1]) if varies else 0.0, extrapolated)


def firth_logistic(
    design: NDArray[np.float64], outcome: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logistic regression penalised by Jeffreys' prior: maximises log-likelihood + ½ log det(Xᵀ W X).

    Args:
        design: X, `[N, K]`, of full rank.
        outcome: 0 or 1, `[N]`.

    Returns:
        The coefficients `[K]`, and their covariance `[K, K]` (the inverse information).
    """

    def parts(beta: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        linear = design @ beta
        mean = 1 / (1 + np.exp(-linear))
        information = design.T @ (design * (mean * (1 - mean))[:, None])
        likelihood = float((outcome * linear - np.logaddexp(0, linear)).sum())
        sign, determinant = np.linalg.slogdet(information)
        return mean, information, likelihood + determinant / 2 if sign > 0 else -np.inf

    beta = np.zeros(design.shape[1])
    mean, information, objective = parts(beta)
    for _ in range(STEPS):
        weighted = design * np.sqrt(mean * (1 - mean))[:, None]
        leverage = np.einsum("nk,nk->n", weighted @ np.linalg.pinv(information), weighted)
        score = design.T @ (outcome - mean + leverage * (0.5 - mean))
        step = np.clip(np.linalg.solve(information, score), -5, 5)
        while True:  # halved until it does not lead downhill
            found = parts(beta + step)
            if found[2] >= objective - 1e-12 or np.abs(step).max() < 1e-10:
                break
            step /= 2
        beta = beta + step
        mean, information, objective = found
        if np.abs(step).max() < 1e-9:
            break
    return beta, np.asarray(np.linalg.inv(information), dtype=np.float64)
