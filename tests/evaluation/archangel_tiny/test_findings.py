"""What numbers say of the report's findings."""

from __future__ import annotations

from math import nan

import pytest

from halo_lightning.evaluation.archangel_tiny.findings import FINDINGS, MARGIN, Finding, look_for
from halo_lightning.evaluation.archangel_tiny.grid import METHODS, PRETRAINED, waves
from halo_lightning.evaluation.statistics import mean_interval


class Model:
    """Stands for a cell of a report: its win rate and length with each seed."""

    def __init__(self, rates: list[float], tokens: list[float]) -> None:
        self.rates, self.tokens = rates, tokens

    def rates_of_runs(self) -> list[float]:
        return self.rates

    def tokens_of_runs(self) -> list[float]:
        return self.tokens


def test_a_finding_is_a_sum_over_each_seed() -> None:
    finding = Finding("more", ((1, "KTO"), (-1, "DPO")), "win rate", "above")
    models = {"KTO": Model([0.7, 0.8, 0.9], [1, 1, 1]), "DPO": Model([0.5, 0.7, 0.6], [1, 1, 1])}
    shown = look_for(finding, models)  # type: ignore[arg-type]
    assert shown.value == pytest.approx(0.2)
    assert (shown.low, shown.high) == pytest.approx(
        (0.2 - 4.3027 * 0.1 / 3**0.5, 0.2 + 4.3027 * 0.1 / 3**0.5), abs=1e-4
    )
    assert shown.verdict == "cannot tell"
    assert look_for(finding, {"KTO": models["KTO"]}).verdict == "not trained"  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("expected", "low", "high", "verdict"),
    [
        ("above", 0.01, 0.2, "shown"),
        ("above", -0.2, -0.01, "the opposite"),
        ("above", -0.01, 0.2, "cannot tell"),
        ("below", -0.2, -0.01, "shown"),
        ("below", 0.01, 0.2, "the opposite"),
        ("not above", -0.3, MARGIN - 0.01, "shown"),
        ("not above", -0.3, MARGIN + 0.01, "cannot tell"),
        ("not above", 0.01, MARGIN + 0.01, "the opposite"),
        ("above", nan, nan, "no interval"),
    ],
)
def test_what_an_interval_says(expected: str, low: float, high: float, verdict: str) -> None:
    finding = Finding("", ((1, "KTO"),), "win rate", expected)  # type: ignore[arg-type]
    assert finding.verdict(low, high) == verdict


def test_every_finding_is_about_what_is_trained() -> None:
    names = {name for finding in FINDINGS for _, name in finding.terms}
    assert names <= {PRETRAINED, *METHODS}
    trained = [cell for wave in waves(["small"], [1, 2], 10, []) for cell in wave]
    assert len(trained) == len({cell.place for cell in trained}) == 2 * 9


def test_one_seed_has_no_interval() -> None:
    assert str(mean_interval([0.5])) == "(nan, nan)"
    assert mean_interval([1.0, 3.0], confidence=0.5) == pytest.approx((1.0, 3.0))  # t = 1 at 50 % with one degree
