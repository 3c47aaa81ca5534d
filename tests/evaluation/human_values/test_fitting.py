"""Fits against a second implementation, identifiability as the docstring states it, and coverage."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import chi2

from halo_lightning.errors import DataError
from halo_lightning.evaluation.human_values import (
    KAHNEMAN_TVERSKY,
    LOGISTIC,
    STRAIGHT,
    SYMMETRIC,
    Observations,
    Pairs,
    SimulatedAnnotator,
    Thumbs,
    fit_value,
)
from halo_lightning.evaluation.human_values.intervals import mean_ratios, with_own_noise
from halo_lightning.evaluation.human_values.likelihood import Likelihood
from halo_lightning.evaluation.human_values.recovery import one_annotator, recover
from halo_lightning.values import KahnemanTversky, Logistic

ANNOTATOR = SimulatedAnnotator(KahnemanTversky(alpha=0.88, lam=2.25), reference_point=0.5, noise=1.0)


@cache
def answers(kind: str, number: int = 800) -> Observations:
    generator = torch.Generator().manual_seed(7)
    first, second = 2 * torch.randn(2, number, generator=generator, dtype=torch.float64)
    if kind == "thumbs":
        return ANNOTATOR.thumbs(first, seed=1)
    if kind == "pairs":
        return ANNOTATOR.pairs(first, second, seed=1)
    return ANNOTATOR.ratings(first, thresholds=[-3.0, -1.0, 1.0, 2.0], seed=1)


def plain_log_likelihood(parameters: np.ndarray, observations: Observations, ref: float) -> float:
    """Equation 6 and the three likelihoods once more, in numpy; thresholds as they are."""
    alpha, lam, noise = np.exp(parameters[:3])

    def u(z: torch.Tensor) -> np.ndarray:
        x = z.numpy() - ref
        return np.where(x > 0, np.abs(x) ** alpha, -lam * np.abs(x) ** alpha) / noise

    if isinstance(observations, Thumbs):
        return float(-np.log1p(np.exp(np.where(observations.up.numpy(), -1, 1) * u(observations.rewards))).sum())
    if isinstance(observations, Pairs):
        return float(-np.log1p(np.exp(u(observations.rejected) - u(observations.chosen))).sum())
    bounds = np.concatenate([[-np.inf], np.sort(parameters[3:]), [np.inf]])
    value, rating = u(observations.rewards_seen), observations.answers.numpy()
    high, low = (1 / (1 + np.exp(value - bounds[rating + side])) for side in (1, 0))
    return float(np.log(np.maximum(high - low, 1e-300)).sum())


@pytest.mark.parametrize("kind", ["thumbs", "pairs", "ratings"])
def test_the_maximum_is_the_one_of_a_second_implementation(kind: str) -> None:
    observations = answers(kind)
    fit = fit_value(observations, reference_point=0.5, intervals="none")
    begin = np.array([0.0, 0.0, 0.0, *([-2.0, -1.0, 1.0, 2.0] if kind == "ratings" else [])])
    options = {"maxiter": 4000, "maxfev": 4000, "xatol": 1e-6, "fatol": 1e-9, "adaptive": True}
    found = minimize(
        lambda p: -plain_log_likelihood(p, observations, 0.5), begin, method="Nelder-Mead", options=options
    )
    assert fit.log_likelihood == pytest.approx(-found.fun, abs=1e-4)
    own = [fit.estimates[name].value for name in ("alpha", "lam", "noise")]
    assert own == pytest.approx(np.exp(found.x[:3]).tolist(), rel=2e-3)


def test_profile_intervals_are_where_the_second_implementation_drops_by_half_the_quantile() -> None:
    observations = answers("thumbs")
    fit = fit_value(observations, reference_point=0.5)
    for place, name in enumerate(("alpha", "lam")):
        for end in (fit.estimates[name].low, fit.estimates[name].high):
            others = minimize(
                lambda p, place=place, end=end: (
                    -plain_log_likelihood(np.insert(p, place, math.log(end)), observations, 0.5)
                ),
                [0.5, 0.0],
                method="Nelder-Mead",
            )
            assert 2 * (fit.log_likelihood + others.fun) == pytest.approx(chi2.ppf(0.95, 1), abs=0.05)


def test_the_information_is_the_mean_square_of_the_score() -> None:
    likelihood = Likelihood(answers("ratings", 150), KAHNEMAN_TVERSKY)
    place = likelihood.starts[2]
    true = likelihood.unpack(place)
    scores = []
    for seed in range(600):
        drawn = likelihood.observations.simulated(true.utility, true.thresholds, seed=seed)
        scores.append(Likelihood(drawn, KAHNEMAN_TVERSKY).point(place).score)
    simulated, expected = np.cov(np.array(scores).T), likelihood.point(place).information
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert np.abs(simulated - expected).max() < 0.2 * scale.max()
    assert (np.abs(simulated - expected) / scale).max() < 0.2
    assert np.abs(np.mean(scores, axis=0) / np.sqrt(np.diag(expected))).max() < 4 / math.sqrt(600)


def test_another_unit_of_the_rewards_changes_the_noise_and_nothing_else() -> None:
    thumbs = answers("thumbs")
    assert isinstance(thumbs, Thumbs)
    one, other = fit_value(thumbs), fit_value(Thumbs(10 * thumbs.rewards, thumbs.up))
    for name in ("alpha", "lam"):
        assert list(other.estimates[name]) == pytest.approx(list(one.estimates[name]), rel=0.01)
    assert other.reference_point == pytest.approx(10 * one.reference_point, rel=0.01)
    assert other.noise == pytest.approx(10 ** one.estimates["alpha"].value * one.noise, rel=0.02)


def test_nested_shapes_are_ordered_and_a_logistic_annotator_is_recovered() -> None:
    thumbs = answers("thumbs")
    full, symmetric, straight = (
        fit_value(thumbs, shape, intervals="none").log_likelihood for shape in (KAHNEMAN_TVERSKY, SYMMETRIC, STRAIGHT)
    )
    assert full >= symmetric - 1e-3
    assert full >= straight - 1e-3
    rewards = 3 * torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fit = fit_value(SimulatedAnnotator(Logistic(1.5), -0.5, 0.15).thumbs(rewards, seed=3), LOGISTIC)
    for name, truth in (("steepness", 1.5), ("reference_point", -0.5), ("noise", 0.15)):
        assert fit.estimates[name].low < truth < fit.estimates[name].high
    assert fit.estimates["steepness"].high < 3.5
    assert fit.as_config() == {
        "class_path": "halo_lightning.values.Logistic",
        "init_args": {"steepness": fit.estimates["steepness"].value},
    }


def test_gains_alone_say_nothing_of_losses() -> None:
    rewards = 2 * torch.rand(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.6
    fit = fit_value(ANNOTATOR.thumbs(rewards, seed=1), reference_point=0.5)
    assert fit.estimates["lam"].low == 0.0
    assert fit.estimates["lam"].high == math.inf
    assert fit.estimates["alpha"].high < 10


def test_answers_near_the_reference_point_do_not_limit_the_steepness() -> None:
    rewards = torch.rand(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5
    fit = fit_value(SimulatedAnnotator(Logistic(), 0.0, 0.1).thumbs(rewards, seed=1), LOGISTIC)
    assert fit.estimates["steepness"].low == 0.0


def test_what_cannot_be_estimated_is_said() -> None:
    z = torch.linspace(-2, 2, 60, dtype=torch.float64)
    with pytest.raises(DataError, match="are the same"):
        fit_value(Thumbs(z, torch.ones(60, dtype=torch.bool)))
    with pytest.raises(DataError, match="all rewards are the same"):
        fit_value(Thumbs(torch.ones(60), z > 0))
    with pytest.raises(DataError, match="separate the answers"):
        fit_value(Thumbs(z, z > 0.1), intervals="none")
    with pytest.raises(DataError, match="do not rise"):
        fit_value(Thumbs(z, z < 0.1), intervals="none")


def test_an_interval_reaches_from_the_maximum_though_the_search_lost_it() -> None:
    """Beyond the bend the others move to another peak, from which a search for the maximum does not come back."""
    found = one_annotator("pairs", 2, answers=150, known=False, annotator=ANNOTATOR, simulations=0)
    for name in ("alpha", "lam", "reference_point"):
        assert found[name].low < found[name].value < found[name].high, name


def profiled(observations: Pairs, value: float) -> float:
    """The highest log-likelihood with this reference point, by the second implementation."""
    starts = ([0.0, 0.0, 0.0], [0.0, 0.8, 0.0], [0.4, 0.4, 0.8])
    found = [minimize(lambda p: -plain_log_likelihood(p, observations, value), s, method="Nelder-Mead") for s in starts]
    return -min(one.fun for one in found)


def test_the_interval_of_a_reference_point_reaches_as_far_as_the_likelihood_does() -> None:
    """The likelihood has several peaks, small ones included: no value outside of the interval is well supported."""
    pairs = answers("pairs", 200)
    assert isinstance(pairs, Pairs)
    estimate = fit_value(pairs, simulations=0).estimates["reference_point"]
    top = max(profiled(pairs, value) for value in (estimate.value, *np.linspace(-3, 4, 15)))
    for value in np.linspace(-3, 4, 15):
        if 2 * (top - profiled(pairs, value)) < chi2.ppf(0.80, 1):
            assert estimate.low <= value <= estimate.high


def test_ratios_are_calibrated_where_the_reference_point_shows_in_the_bend_alone() -> None:
    pairs = answers("pairs", 200)
    plain, calibrated = (fit_value(pairs, simulations=number).estimates for number in (0, 3))
    assert calibrated["alpha"].value == plain["alpha"].value
    for name, one in plain.items():
        assert calibrated[name].low <= one.low
        assert calibrated[name].high >= one.high
    assert calibrated != plain
    known = [fit_value(pairs, reference_point=0.5, simulations=number).estimates for number in (0, 3)]
    assert known[0] == known[1]
    assert fit_value(pairs, simulations=3).estimates == calibrated  # by seed


def test_the_mean_ratio_of_a_regular_likelihood_is_one() -> None:
    own, maximum = with_own_noise(*(lambda fit: (fit.likelihood, fit.maximum))(fit_value(answers("thumbs", 400))))
    ratios = mean_ratios(own, maximum, [0, 1, 3], 40, 5)
    assert ratios == pytest.approx(np.ones(3), abs=0.75)  # a standard error is 0.22
    assert (ratios > 0).all()


def test_bands_and_draws_follow_the_uncertainty() -> None:
    few, many = (fit_value(ANNOTATOR.thumbs(2 * torch.randn(n).double(), seed=1)) for n in (300, 4800))
    x = torch.tensor([-3.0, 3.0], dtype=torch.float64)
    for fit in (few, many):
        low, high = fit.band(x)
        value = fit.value_function(x, torch.zeros_like(x))
        assert ((low < value) & (value < high)).all()
    widths = [(fit.band(x)[1] - fit.band(x)[0])[0].item() for fit in (few, many)]
    assert widths[1] < widths[0] / 2


def test_intervals_cover() -> None:
    def simulate(seed: int):
        return one_annotator("thumbs", seed, answers=400, known=False, annotator=ANNOTATOR, intervals="wald")

    for one in recover(simulate, {"alpha": 0.88, "lam": 2.25, "reference_point": 0.5, "noise": 1.0}, 40):
        assert one.covered >= 34, one.name  # at 95 %, fewer has a probability of 0.3 %
        assert one.quartiles[0] < one.truth < one.quartiles[1], one.name


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "known"), [("thumbs", False), ("pairs", False), ("pairs", True), ("ratings", True)])
def test_profile_intervals_cover_in_a_hundred_simulations(kind: str, known: bool) -> None:
    def simulate(seed: int):
        return one_annotator(kind, seed, answers=1000, known=known, annotator=ANNOTATOR)

    for one in recover(simulate, {"alpha": 0.88, "lam": 2.25, "noise": 1.0}, 100):
        assert one.covered >= 89, one.name  # at 95 %, fewer has a probability of 0.4 %
