"""What the data can tell apart is told apart, and what they cannot is not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from halo_lightning.evaluation.human_values import LOGISTIC, SYMMETRIC, SimulatedAnnotator, tell_apart
from halo_lightning.values import KahnemanTversky


def thumbs(value, noise: float, number: int, spread: float, seed: int = 1):
    rewards = spread * torch.randn(number, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return SimulatedAnnotator(value, 0.0, noise).thumbs(rewards, seed=seed)


def test_many_answers_tell() -> None:
    # Loss aversion, which the logistic form has none of.
    averse = tell_apart(thumbs(KahnemanTversky(0.88, 4.0), 1.0, 1500, 2.0), simulations=60)
    assert averse.verdict == "first"
    assert averse.difference > 5
    assert "speak for Kahneman-Tversky (eq. 6) and against logistic" in str(averse)


def test_few_answers_do_not() -> None:
    comparison = tell_apart(thumbs(KahnemanTversky(0.88, 2.25), 1.0, 80, 2.0), simulations=40)
    assert comparison.verdict == "cannot tell"
    assert "cannot tell" in str(comparison)
    # Each shape's parameters are counted.
    assert comparison.first.aic == pytest.approx(8 - 2 * comparison.first.log_likelihood)
    assert comparison.second.aic == pytest.approx(6 - 2 * comparison.second.log_likelihood)


def test_shapes_that_coincide_are_never_told_apart() -> None:
    """Both are straight lines here, so that either is rejected as often as the other one, and by chance alone."""
    straight = thumbs(KahnemanTversky(1.0, 1.0), 1.0, 300, 1.0)
    assert tell_apart(straight, SYMMETRIC, LOGISTIC, simulations=40).verdict == "cannot tell"


def test_verdicts_follow_the_simulations() -> None:
    comparison = tell_apart(thumbs(KahnemanTversky(), 1.0, 60, 2.0), simulations=1)
    at = comparison.difference

    def verdict(if_first: float, if_second: float) -> str:
        simulated = [np.full(99, at + shift) + np.linspace(-0.5, 0.5, 99) for shift in (if_first, if_second)]
        return dataclasses.replace(comparison, if_first=simulated[0], if_second=simulated[1]).verdict

    assert verdict(0.0, 0.0) == "cannot tell"
    assert verdict(0.0, -20.0) == "first"
    assert verdict(20.0, 0.0) == "second"
    assert verdict(20.0, -20.0) == "neither"
    assert verdict(-20.0, 20.0) == "cannot tell"  # more than enough for the one, and for the other
    # As large a difference is rare even if the first is true, and beyond all that the second one made.
    assert verdict(-0.49, -20.0) == "first"
    assert verdict(-0.49, -0.49) == "cannot tell"
