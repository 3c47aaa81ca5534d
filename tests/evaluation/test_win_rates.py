"""Win rates and their intervals against the definition of the exact interval."""

from __future__ import annotations

import math

import pytest
from scipy.stats import binom

from halo_lightning.evaluation import win_rate


def test_ties_count_for_neither_side() -> None:
    result = win_rate(["win", "loss", "tie", "win", "tie"])
    assert (result.wins, result.losses, result.ties) == (2, 1, 2)
    assert result.rate == pytest.approx(2 / 3)


def test_the_interval_is_exact() -> None:
    result = win_rate(["win"] * 13 + ["loss"] * 7, confidence=0.75)
    # Clopper and Pearson: at each end the observed count has the probability 12.5 % of being reached or passed.
    assert binom.sf(12, 20, result.low) == pytest.approx(0.125, abs=1e-6)
    assert binom.cdf(13, 20, result.high) == pytest.approx(0.125, abs=1e-6)


def test_nothing_decided() -> None:
    assert math.isnan(win_rate(["tie"]).rate)
    assert math.isnan(win_rate([]).low)
