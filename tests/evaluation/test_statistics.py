"""Intervals, tests and corrections against their definitions, and by simulation."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import binom

from halo_lightning.evaluation.length_control import firth_logistic, length_controlled
from halo_lightning.evaluation.statistics import false_discovery_rate, holm, paired_test, proportion_interval


@pytest.mark.parametrize(("wins", "decided"), [(13, 20), (0, 7), (7, 7), (256, 512)])
@pytest.mark.parametrize("confidence", [0.75, 0.95])
def test_intervals_are_what_their_authors_say(wins: int, decided: int, confidence: float) -> None:
    tail = (1 - confidence) / 2
    low, high = proportion_interval(wins, decided, confidence=confidence)
    # Clopper and Pearson: the count has the probability `tail` of being reached, at each end.
    assert low == 0 if wins == 0 else binom.sf(wins - 1, decided, low) == pytest.approx(tail, abs=1e-6)
    assert high == 1 if wins == decided else binom.cdf(wins, decided, high) == pytest.approx(tail, abs=1e-6)
    # Wilson: the ends are where the score test has this p-value.
    low, high = proportion_interval(wins, decided, confidence=confidence, method="wilson")
    z = -math.sqrt(2) * _inverse_erf(2 * tail - 1)
    for end in {low, high} - {0.0, 1.0}:
        assert abs(wins / decided - end) == pytest.approx(z * math.sqrt(end * (1 - end) / decided), rel=1e-6)


def _inverse_erf(value: float) -> float:
    low, high = -6.0, 6.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if math.erf(middle) < value else (low, middle)
    return low


def test_no_interval_of_nothing() -> None:
    assert all(math.isnan(end) for end in proportion_interval(0, 0))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_intervals_cover_as_often_as_they_say(rate: float) -> None:
    weights = [binom.pmf(wins, 60, rate) for wins in range(61)]
    covered = {
        method: sum(
            weight
            for wins, weight in enumerate(weights)
            if (ends := proportion_interval(wins, 60, method=method))[0] <= rate <= ends[1]
        )
        for method in ("exact", "wilson")
    }
    assert 0.75 <= covered["exact"] < 0.88
    assert 0.65 < covered["wilson"] < 0.85


def mcnemar(better: int, worse: int) -> float:
    """The exact two-sided p-value, in fractions."""
    number = better + worse
    tail = sum(Fraction(math.comb(number, k), 2**number) for k in range(min(better, worse) + 1))
    return float(min(2 * tail, Fraction(1)))


def test_two_models_on_the_same_prompts() -> None:
    dice = random.Random(1)
    first = {str(n): float(dice.random() < 0.7) for n in range(120)}
    second = {str(n): float(dice.random() < 0.5) for n in range(20, 140)}
    result = paired_test(first, second)
    both = first.keys() & second.keys()
    assert result.better == sum(first[n] > second[n] for n in both)
    assert result.worse == sum(first[n] < second[n] for n in both)
    assert sum(result[:3]) == 100
    assert result.p == pytest.approx(mcnemar(result.better, result.worse))
    assert paired_test(second, first)[:2] == (result.worse, result.better)
    assert paired_test(first, first)[:] == (0, 0, 120, 1.0)
    assert paired_test({"a": 1.0, "b": 0.5, "c": 0.5}, {"a": 0.5, "b": 0.0, "c": 0.5})[:] == (2, 0, 1, 0.5)


def test_no_difference_is_found_where_there_is_none() -> None:
    dice = random.Random(2)
    values = []
    for _ in range(400):
        first, second = ({str(n): float(dice.random() < 0.6) for n in range(60)} for _ in range(2))
        values.append(paired_test(first, second).p)
    assert sum(value < 0.05 for value in values) <= 26  # at most 5 %, and some chance
    assert sum(value < 0.5 for value in values) > 120


def test_corrections() -> None:
    values = [0.01, 0.04, 0.03, 0.005]
    # Holm by hand: 0.005·4, 0.01·3, 0.03·2, then 0.04·1, which may not be below the one before.
    assert holm(values) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    # Benjamini and Hochberg by hand: 0.005·4/1, 0.01·4/2, 0.03·4/3, 0.04·4/4, each at most the one after it.
    assert false_discovery_rate(values) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == false_discovery_rate([]) == []


def test_holm_errs_at_most_as_often_as_it_says() -> None:
    dice = np.random.default_rng(3)
    families = dice.random((2000, 10))
    wrong = sum(min(holm(family.tolist())) < 0.05 for family in families)
    assert 60 <= wrong <= 140  # 5 % of 2,000


def simulated(number: int, rate: float, effect: float, seed: int) -> tuple[list[bool], list[float]]:
    """Comparisons whose winner depends on the model and on the length, with the model's completions longer."""
    dice = np.random.default_rng(seed)
    deltas = dice.normal(80, 120, number)
    logits = math.log(rate / (1 - rate)) + effect * np.tanh(deltas / deltas.std())
    return (dice.random(number) < 1 / (1 + np.exp(-logits))).tolist(), deltas.tolist()


@pytest.mark.parametrize(("number", "rate", "effect"), [(60, 0.5, 2.0), (300, 0.3, 1.0), (300, 0.8, 0.0)])
def test_length_control_finds_the_rate_at_equal_lengths(number: int, rate: float, effect: float) -> None:
    results = [length_controlled(*simulated(number, rate, effect, seed)) for seed in range(300)]
    covered = sum(result.low <= rate <= result.high for result in results)
    assert 195 <= covered <= 255  # 75 % of 300, give or take four standard deviations
    assert np.mean([result.rate for result in results]) == pytest.approx(rate, abs=0.02)
    assert np.mean([result.effect for result in results]) == pytest.approx(effect, abs=0.15)
    raw = np.mean([np.mean(simulated(number, rate, effect, seed)[0]) for seed in range(300)])
    assert abs(raw - rate) > 0.05 or effect == 0  # which the raw win rate does not


def test_the_penalised_likelihood_is_at_its_maximum() -> None:
    dice = np.random.default_rng(0)
    design = np.stack([np.ones(40), dice.normal(size=40)], axis=1)
    outcome = (dice.random(40) < 0.4).astype(float)

    def objective(beta: np.ndarray) -> float:
        total, information = 0.0, np.zeros((2, 2))
        for row, won in zip(design, outcome, strict=True):
            mean = 1 / (1 + math.exp(-float(row @ beta)))
            total += math.log(mean if won else 1 - mean)
            information += mean * (1 - mean) * np.outer(row, row)
        return -(total + math.log(np.linalg.det(information)) / 2)

    found, covariance = firth_logistic(design, outcome)
    expected = minimize(objective, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
    assert found == pytest.approx(expected.x, abs=1e-5)
    assert np.all(np.linalg.eigvalsh(covariance) > 0)


def test_the_extremes_of_length_control() -> None:
    everything = length_controlled([True] * 20, list(range(-10, 10)))
    assert 0.8 < everything.low < everything.rate < everything.high < 1
    same = length_controlled([True] * 6 + [False] * 4, [0.0] * 10)
    assert same.rate == pytest.approx(6.5 / 11)  # Jeffreys' prior adds half a win and half a loss
    assert same.effect == 0
    for deltas in ([5.0] * 10, [1000.0 + n for n in range(10)]):
        unknown = length_controlled([True] * 6 + [False] * 4, deltas)
        assert math.isnan(unknown.rate)
        assert unknown.extrapolated
    assert not everything.extrapolated
    assert math.isnan(length_controlled([], []).rate)
    separated = length_controlled([False] * 10 + [True] * 10, [-50.0] * 10 + [50.0] * 10)
    assert math.isfinite(separated.effect)
    assert separated.rate == pytest.approx(0.5)
