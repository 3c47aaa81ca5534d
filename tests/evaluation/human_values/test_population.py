"""The marginal likelihood against a dense grid, and what is found of a population."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from halo_lightning.errors import ConfigError
from halo_lightning.evaluation.human_values import KAHNEMAN_TVERSKY, Population, fit_population
from halo_lightning.evaluation.human_values.likelihood import Likelihood
from halo_lightning.evaluation.human_values.population import _centred
from halo_lightning.evaluation.human_values.recovery import many_annotators


def simulated(annotators: int, answers: int, population: Population, seed: int = 3):
    generator = torch.Generator().manual_seed(seed)
    return [
        one.thumbs(2 * torch.randn(answers, generator=generator, dtype=torch.float64), seed=100 + number)
        for number, one in enumerate(population.annotators(annotators, seed=seed))
    ]


@pytest.mark.parametrize("answers", [8, 120])
def test_the_marginal_likelihood_is_the_integral(answers: int) -> None:
    """By summing over a grid of 31³ places, for few answers and for many."""
    mean, spread = np.log([0.88, 2.25, 1.0]), np.array([0.3, 0.6, 0.4])
    likelihoods = [
        Likelihood(one, KAHNEMAN_TVERSKY, 0.0, relative_noise=False) for one in simulated(2, answers, Population())
    ]
    _, quadrature = _centred(likelihoods, [mean] * 2, mean, spread)
    marginal, probability = quadrature.posterior(mean, spread)
    axes = [np.linspace(m - 5 * s, m + 5 * s, 31) for m, s in zip(mean, spread, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    prior = -0.5 * (((grid - mean) / spread) ** 2).sum(1) - np.log(spread).sum() - 1.5 * np.log(2 * np.pi)
    cell = np.log(np.prod([axis[1] - axis[0] for axis in axes]))
    for number, likelihood in enumerate(likelihoods):
        terms = prior + cell
        terms += np.concatenate([likelihood.log_likelihoods(part) for part in np.array_split(grid, 40)])
        expected = terms.max() + np.log(np.exp(terms - terms.max()).sum())
        assert marginal[number] == pytest.approx(expected, abs=0.03)
    assert probability.sum(1) == pytest.approx(np.ones(2))


def test_the_gradient_is_that_of_the_value() -> None:
    likelihoods = [
        Likelihood(one, KAHNEMAN_TVERSKY, 0.0, relative_noise=False) for one in simulated(4, 30, Population())
    ]
    mean, spread = np.log([0.9, 2.0, 1.0]), np.full(3, 0.4)
    _, quadrature = _centred(likelihoods, [mean] * 4, mean, spread)
    place = np.concatenate([mean + 0.1, np.log(spread) - 0.1])
    _, gradient = quadrature.negative(place)
    moves = 1e-6 * np.eye(6)
    numeric = [(quadrature.negative(place + m)[0] - quadrature.negative(place - m)[0]) / 2e-6 for m in moves]
    assert gradient == pytest.approx(numeric, rel=1e-5, abs=1e-6)


def test_medians_and_spreads_are_found() -> None:
    population = Population(alpha=0.8, lam=2.0, alpha_spread=0.2, lam_spread=0.6, noise_spread=0.3)
    fitted = fit_population(simulated(40, 150, population), reference_point=0.0)
    truth = {"alpha": (0.8, 0.2), "lam": (2.0, 0.6), "noise": (1.0, 0.3)}
    for name, (median, spread) in truth.items():
        assert fitted.medians[name].low < median < fitted.medians[name].high, name
        assert fitted.spreads[name].low < spread < fitted.spreads[name].high, name
    # Shrinkage: what is said of individuals varies less than the population, the more so the less is known of them.
    varied = np.std(np.log([one["lam"] for one in fitted.individuals]))
    assert varied < fitted.spreads["lam"].value
    assert 0 < fitted.reliability["alpha"] < fitted.reliability["lam"] < 1
    assert len(fitted.individuals) == 40
    assert "lam: median" in str(fitted)


def test_people_who_are_alike_have_no_spread() -> None:
    alike = Population(alpha_spread=0.0, lam_spread=0.0)
    fitted = fit_population(simulated(25, 100, alike), reference_point=0.0)
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
def test_intervals_of_medians_and_spreads_cover() -> None:
    population = Population(noise_spread=0.3)
    found = [many_annotators(seed, annotators=30, answers=100, population=population) for seed in range(1, 51)]
    truth = {"alpha median": 0.88, "lam median": 2.25, "noise median": 1.0, "lam spread": 0.5}
    for name, value in truth.items():
        covered = sum(one[name].low <= value <= one[name].high for one in found)
        assert covered >= 42, name  # at 95 %, fewer has a probability of 0.3 %
