"""The marginal likelihood against a dense grid, and what is found of a population."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from halo_lightning.errors import ConfigError
from halo_lightning.evaluation.human_values import KAHNEMAN_TVERSKY, STRAIGHT, Population, Thumbs, fit_population
from halo_lightning.evaluation.human_values.crowd import Crowd
from halo_lightning.evaluation.human_values.likelihood import Likelihood
from halo_lightning.evaluation.human_values.observations import some
from halo_lightning.evaluation.human_values.population import _centred, _climb, _described
from halo_lightning.evaluation.human_values.recovery import many_annotators


def simulated(annotators: int, answers: int, population: Population, seed: int = 3) -> list[Thumbs]:
    generator = torch.Generator().manual_seed(seed)
    return [
        one.thumbs(2 * torch.randn(answers, generator=generator, dtype=torch.float64), seed=100 + number)
        for number, one in enumerate(population.annotators(annotators, seed=seed))
    ]


def quadrature_of(crowd: Crowd, mean: np.ndarray, spread: np.ndarray):
    return _centred(crowd, np.tile(mean, (len(crowd), 1)), mean, np.log(spread))[1]


@pytest.mark.parametrize("answers", [8, 120])
def test_the_marginal_likelihood_is_the_integral(answers: int) -> None:
    """By summing over a grid of 31³ places, for few answers and for many."""
    mean, spread = np.log([0.88, 2.25, 1.0]), np.array([0.3, 0.6, 0.4])
    thumbs = simulated(2, answers, Population())
    quadrature = quadrature_of(Crowd(thumbs, KAHNEMAN_TVERSKY, 0.0), mean, spread)
    marginal, probability = quadrature.posterior(mean, spread)
    axes = [np.linspace(m - 5 * s, m + 5 * s, 31) for m, s in zip(mean, spread, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    prior = -0.5 * (((grid - mean) / spread) ** 2).sum(1) - np.log(spread).sum() - 1.5 * np.log(2 * np.pi)
    cell = np.log(np.prod([axis[1] - axis[0] for axis in axes]))
    for number, one in enumerate(thumbs):
        likelihood = Likelihood(one, KAHNEMAN_TVERSKY, 0.0, relative_noise=False)
        terms = prior + cell
        terms += np.concatenate([likelihood.log_likelihoods(part) for part in np.array_split(grid, 40)])
        expected = terms.max() + np.log(np.exp(terms - terms.max()).sum())
        assert marginal[number] == pytest.approx(expected, abs=0.03)
    assert probability.sum(1) == pytest.approx(np.ones(2))


@pytest.mark.parametrize("reference_point", [None, 0.5])
def test_everybody_at_one_time_is_each_alone(reference_point: float | None) -> None:
    thumbs = [some(one, range(number)) for one, number in zip(simulated(3, 30, Population()), (30, 1, 12), strict=True)]
    crowd = Crowd(thumbs, KAHNEMAN_TVERSKY, reference_point)
    generator = np.random.default_rng(1)
    places = generator.normal(size=(3, len(crowd.likelihood.names))) / 2
    values, scores, information = crowd.points(places)
    assert crowd.log_likelihoods(places[None])[0] == pytest.approx(values)
    for number, one in enumerate(thumbs):
        alone = Likelihood(one, KAHNEMAN_TVERSKY, reference_point, relative_noise=False).point(places[number])
        assert values[number] == pytest.approx(alone.log_likelihood)
        assert scores[number] == pytest.approx(alone.score)
        assert information[number] == pytest.approx(alone.information)
    # The modes: where the score of likelihood and population together is 0.
    mean, spread = np.zeros(places.shape[1]), np.full(places.shape[1], 0.5)
    modes, _ = crowd.modes(places, mean, spread)
    assert np.abs(crowd.points(modes)[1] - (modes - mean) / spread**2).max() < 0.02


def test_the_gradient_is_that_of_the_value() -> None:
    mean, spread = np.log([0.9, 2.0, 1.0]), np.full(3, 0.4)
    quadrature = quadrature_of(Crowd(simulated(4, 30, Population()), KAHNEMAN_TVERSKY, 0.0), mean, spread)
    place = np.concatenate([mean + 0.1, np.log(spread) - 0.1])
    _, gradient = quadrature.negative(place)
    moves = 1e-5 * np.eye(6)
    numeric = [(quadrature.negative(place + m)[0] - quadrature.negative(place - m)[0]) / 2e-5 for m in moves]
    assert gradient == pytest.approx(numeric, rel=1e-3, abs=1e-3)


def test_where_everybody_is_known_it_is_the_textbook() -> None:
    """Of n known numbers: the standard deviation that is divided by n − 1, and Student's interval of the mean."""
    known = np.random.default_rng(3).normal(1.0, 0.4, size=12)

    class Known(Crowd):
        """Normal likelihoods, so narrow that everybody's parameter is known."""

        def __init__(self) -> None:
            super().__init__(simulated(12, 5, Population()), STRAIGHT, 0.0)

        def points(self, parameters):  # type: ignore[no-untyped-def]
            away = parameters - np.stack([known, np.zeros(12)], -1)
            number = len(parameters)
            return -5e3 * (away**2).sum(-1), -1e4 * away, np.tile(1e4 * np.eye(2), (number, 1, 1))

        def log_likelihoods(self, parameters):  # type: ignore[no-untyped-def]
            return np.array([self.points(row)[0] for row in parameters])

    crowd = Known()
    region = np.full(2, math.log(0.02)), np.full(2, math.log(20.0))
    start = np.concatenate([np.zeros(2), np.full(2, math.log(0.5))])
    peak = _climb(crowd, start, np.zeros((12, 2)), region)
    fitted = _described(crowd, peak, region, 0.95)
    name = crowd.likelihood.names[0]
    assert fitted.spreads[name].value == pytest.approx(np.std(known, ddof=1), rel=0.02)
    low, high = scipy.stats.t.interval(0.95, 11, np.mean(known), scipy.stats.sem(known))
    found = fitted.medians[name]
    assert np.log(found[:3]).tolist() == pytest.approx([np.mean(known), low, high], abs=0.01)
    # The ratio of the restricted likelihoods, by hand: (n − 1) (log(σ²/s²) + s²/σ² − 1).
    for end in fitted.spreads[name][1:]:
        ratio = np.var(known, ddof=1) / end**2
        assert 11 * (ratio - 1 - math.log(ratio)) == pytest.approx(scipy.stats.chi2.ppf(0.95, 1), abs=0.25)
    assert fitted.spreads[crowd.likelihood.names[1]].low == 0.0  # where all are the same


def test_medians_and_spreads_are_found() -> None:
    population = Population(alpha=0.8, lam=2.0, alpha_spread=0.2, lam_spread=0.6, noise_spread=0.3)
    fitted = fit_population(simulated(16, 150, population), reference_point=0.0)
    truth = {"alpha": (0.8, 0.2), "lam": (2.0, 0.6), "noise": (1.0, 0.3)}
    for name, (median, spread) in truth.items():
        assert fitted.medians[name].low < median < fitted.medians[name].high, name
        assert fitted.spreads[name].low < spread < fitted.spreads[name].high, name
    # Shrinkage: what is said of individuals varies less than the population, the more so the less is known of them.
    varied = np.std(np.log([one["lam"] for one in fitted.individuals]))
    assert varied < fitted.spreads["lam"].value
    assert 0 < fitted.reliability["alpha"] < fitted.reliability["lam"] < 1
    assert len(fitted.individuals) == 16
    assert "lam: median" in str(fitted)


def test_people_who_are_alike_have_no_spread() -> None:
    alike = Population(alpha_spread=0.0, lam_spread=0.0)
    fitted = fit_population(simulated(8, 100, alike), reference_point=0.0)
    assert all(fitted.spreads[name].low < 0.1 for name in ("alpha", "lam", "noise"))
    assert fitted.spreads["lam"].value < 0.2


def test_what_it_refuses() -> None:
    with pytest.raises(ConfigError, match="3 or more"):
        fit_population(simulated(2, 10, Population()))
    ratings = [
        one.ratings(torch.randn(20), thresholds=[0.0, 1.0], seed=1) for one in Population().annotators(3, seed=1)
    ]
    with pytest.raises(ConfigError, match="found ratings"):
        fit_population(ratings)


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.0, 0.4])
def test_intervals_of_medians_and_spreads_cover(spread: float) -> None:
    population = Population(lam_spread=spread, noise_spread=0.3)
    found = [many_annotators(seed, annotators=10, answers=100, population=population) for seed in range(201, 251)]
    truth = {"alpha median": 0.88, "lam median": 2.25, "noise median": 1.0}
    truth |= {"alpha spread": 0.2, "lam spread": spread, "noise spread": 0.3}
    for name, value in truth.items():
        covered = sum(one[name].low <= value <= one[name].high for one in found)
        assert covered >= 42, name  # at 95 %, fewer has a probability of 0.3 %
