"""The probabilities of answers against plain Python, and simulated answers against their probabilities."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from halo_lightning.errors import ConfigError, DataError
from halo_lightning.evaluation.human_values import Pairs, Population, Ratings, SimulatedAnnotator, Thumbs
from halo_lightning.values import DPOValue, KahnemanTversky, Logistic

NONE = torch.zeros(0, dtype=torch.float64)
REWARDS = [-3.0, -0.2, 0.5, 0.9, 4.0]


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def feeling(z: float, alpha: float = 0.8, lam: float = 2.5, ref: float = 0.5, noise: float = 1.5) -> float:
    """u(z) of the annotator below, by hand."""
    x = z - ref
    return (x**alpha if x > 0 else -lam * (-x) ** alpha) / noise if x else 0.0


ANNOTATOR = SimulatedAnnotator(KahnemanTversky(alpha=0.8, lam=2.5), reference_point=0.5, noise=1.5)


def table(observations: Thumbs | Pairs | Ratings, thresholds: torch.Tensor = NONE) -> list[list[float]]:
    return observations.log_probabilities(ANNOTATOR.utility, thresholds).exp().tolist()


def test_thumbs() -> None:
    rows = table(Thumbs(REWARDS, [True] * 5))
    assert rows == [pytest.approx([1 - sigma(feeling(z)), sigma(feeling(z))]) for z in REWARDS]
    assert rows[2] == [0.5, 0.5]  # the reference point


def test_pairs() -> None:
    rows = table(Pairs(REWARDS[:4], REWARDS[1:]))
    for row, first, second in zip(rows, REWARDS[:4], REWARDS[1:], strict=True):
        assert row[0] == pytest.approx(sigma(feeling(first) - feeling(second)))
        assert sum(row) == pytest.approx(1)


def test_ratings() -> None:
    thresholds = [-1.0, 0.25, 2.0]
    rows = table(Ratings(REWARDS, [0, 1, 2, 3, 3]), torch.tensor(thresholds, dtype=torch.float64))
    for row, z in zip(rows, REWARDS, strict=True):
        below = [0.0, *(sigma(bound - feeling(z)) for bound in thresholds), 1.0]
        assert row == pytest.approx([high - low for low, high in itertools.pairwise(below)])


def test_a_value_function_that_is_not_0_at_its_reference_point() -> None:
    for value, at in ((Logistic(2.0), lambda x: sigma(2 * x) - 0.5), (DPOValue(), lambda x: math.log(2 * sigma(x)))):
        rows = SimulatedAnnotator(value, 1.0, 0.5).utility(torch.tensor(REWARDS, dtype=torch.float64)).tolist()
        assert rows == pytest.approx([at(z - 1.0) / 0.5 for z in REWARDS])


def test_answers_come_as_often_as_they_are_likely() -> None:
    rewards = torch.full((20_000,), 1.7)
    low = torch.full((20_000,), -0.3)
    up = ANNOTATOR.thumbs(rewards, seed=1).up.double().mean().item()
    assert up == pytest.approx(sigma(feeling(1.7)), abs=0.012)  # three standard errors are 0.011
    chosen = (ANNOTATOR.pairs(rewards, low, seed=2).chosen > 0).double().mean().item()
    assert chosen == pytest.approx(sigma(feeling(1.7) - feeling(-0.3)), abs=0.012)
    ratings = ANNOTATOR.ratings(rewards, thresholds=[0.0, 1.0], seed=3)
    assert ratings.levels == 3
    assert (ratings.ratings == 0).double().mean().item() == pytest.approx(sigma(-feeling(1.7)), abs=0.012)
    assert ANNOTATOR.thumbs(rewards, seed=1).up.equal(ANNOTATOR.thumbs(rewards, seed=1).up)
    assert not ANNOTATOR.thumbs(rewards, seed=1).up.equal(ANNOTATOR.thumbs(rewards, seed=4).up)


def test_a_population_has_the_medians_and_spreads_that_it_says() -> None:
    population = Population(alpha=0.7, lam=3.0, reference_point=1.0, reference_point_spread=0.4, noise_spread=0.3)
    drawn = population.annotators(4000, seed=1)
    values = torch.tensor([[a.value_function.alpha, a.value_function.lam, a.noise] for a in drawn]).double()  # type: ignore[attr-defined]
    assert values.median(0).values.tolist() == pytest.approx([0.7, 3.0, 1.0], rel=0.05)
    assert values.log().std(0).tolist() == pytest.approx([0.2, 0.5, 0.3], rel=0.05)
    points = torch.tensor([annotator.reference_point for annotator in drawn])
    assert points.mean().item() == pytest.approx(1.0, abs=0.03)
    assert points.std().item() == pytest.approx(0.4, rel=0.05)


def test_what_cannot_be() -> None:
    with pytest.raises(DataError, match="expected the same number"):
        Thumbs([1.0, 2.0], [True])
    with pytest.raises(DataError, match="finite"):
        Pairs([1.0, math.nan], [1.0, 2.0])
    with pytest.raises(DataError, match="from 0 to 2"):
        Ratings([1.0, 2.0], [0, 3], levels=3)
    with pytest.raises(ConfigError, match="noise is 0"):
        SimulatedAnnotator(noise=0.0)
    with pytest.raises(ConfigError, match="increasing"):
        ANNOTATOR.ratings(torch.ones(2), thresholds=[1.0, 0.0], seed=1)
