"""The report's findings as differences of numbers, and whether a report's numbers show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan
from statistics import fmean
from typing import Literal, NamedTuple

from halo_lightning.evaluation.archangel_tiny.grid import PRETRAINED
from halo_lightning.evaluation.report import Cell, Report
from halo_lightning.evaluation.statistics import mean_interval

CONFIDENCE = 0.95

MARGIN = 0.05
"""A win rate that is higher by less than this counts as no better."""


@dataclass(frozen=True)
class Finding:
    """One thing that the report says.

    Attributes:
        said: What, and where.
        terms: A sum that is about it: factors and methods.
        measure: Of the methods: their win rates, or the lengths of their completions.
        expected: Whether the sum is then above 0, below 0, or no more than `MARGIN` above 0.
        less: What is taken from the sum: 0.5 compares a win rate with the human-chosen completions'.
    """

    said: str
    terms: tuple[tuple[int, str], ...]
    measure: Literal["win rate", "tokens"]
    expected: Literal["above", "below", "not above"]
    less: float = 0.0

    @property
    def quantity(self) -> str:
        """The sum in words."""
        signs = {1: "+", -1: "−", 2: "+ 2·", -2: "− 2·"}
        text = " ".join(f"{signs[factor]} [{name}]" for factor, name in self.terms)
        less = f" − {self.less:g}" if self.less else ""
        return f"{text.removeprefix('+ ')}{less}, {self.measure}"

    def verdict(self, low: float, high: float) -> str:
        """What an interval of the sum says."""
        if isnan(low):
            return "no interval"
        if self.expected == "not above":
            return "shown" if high < MARGIN else "the opposite" if low > 0 else "cannot tell"
        right, wrong = (low > 0, high < 0) if self.expected == "above" else (high < 0, low > 0)
        return "shown" if right else "the opposite" if wrong else "cannot tell"


FINDINGS = (
    Finding(
        "SFT makes completions shorter (figure 3)",
        ((1, "SFT"), (-1, PRETRAINED)),
        "tokens",
        "below",
    ),
    Finding(
        "Most of what SFT+DPO gains comes from the SFT stage (section 3.4, 1)",
        ((2, "SFT"), (-1, PRETRAINED), (-1, "SFT+DPO")),
        "win rate",
        "above",
    ),
    Finding(
        "Below 7B, SFT+DPO is no better than SFT alone (section 3.4, 2)",
        ((1, "SFT+DPO"), (-1, "SFT")),
        "win rate",
        "not above",
    ),
    Finding(
        "Below 30B, dummy rewards suffice: SFT+DPO is no better than SFT+PPO (section 3.4, 3)",
        ((1, "SFT+DPO"), (-1, "SFT+PPO")),
        "win rate",
        "not above",
    ),
    Finding(
        "The same without SFT: DPO is no better than PPO (section 3.4, 3)",
        ((1, "DPO"), (-1, "PPO")),
        "win rate",
        "not above",
    ),
    Finding("SFT first helps DPO (section 3.4, 4)", ((1, "SFT+DPO"), (-1, "DPO")), "win rate", "above"),
    Finding("SFT first helps PPO (section 3.4, 4)", ((1, "SFT+PPO"), (-1, "PPO")), "win rate", "above"),
    Finding(
        "SFT first makes DPO's completions shorter (section 3.4, 4)",
        ((1, "SFT+DPO"), (-1, "DPO")),
        "tokens",
        "below",
    ),
    Finding(
        "KTO alone beats the human-chosen completions (section 5, 1: from 13B on)",
        ((1, "KTO"),),
        "win rate",
        "above",
        less=0.5,
    ),
    Finding("SFT+KTO is as good as SFT+DPO (section 5, 2)", ((1, "SFT+DPO"), (-1, "SFT+KTO")), "win rate", "not above"),
    Finding("KTO alone is better than DPO alone (section 5, 3)", ((1, "KTO"), (-1, "DPO")), "win rate", "above"),
    Finding(
        "KTO needs SFT less than DPO does (section 5, 3)",
        ((1, "SFT+DPO"), (-1, "DPO"), (-1, "SFT+KTO"), (1, "KTO")),
        "win rate",
        "above",
    ),
    Finding(
        "KTO alone is as good as SFT+KTO (section 5, 3: of the largest model)",
        ((1, "SFT+KTO"), (-1, "KTO")),
        "win rate",
        "not above",
    ),
)


class Shown(NamedTuple):
    """A finding at one size.

    Attributes:
        value: Mean of the sum over the seeds.
        low: Lower end of its interval.
        high: Upper end of it.
        verdict: What that says.
    """

    value: float
    low: float
    high: float
    verdict: str


def look_for(finding: Finding, cells: dict[str, Cell]) -> Shown:
    """What the models of one size say of a finding.

    Args:
        finding: What to look for.
        cells: The models by name, each with its runs in the order of the seeds.
    """
    if any(name not in cells for _, name in finding.terms):
        return Shown(nan, nan, nan, "not trained")
    columns = [[factor * value for value in of_runs(cells[name], finding.measure)] for factor, name in finding.terms]
    sums = [sum(row) - finding.less for row in zip(*columns, strict=True)]
    low, high = mean_interval(sums, confidence=CONFIDENCE)
    return Shown(fmean(sums), low, high, finding.verdict(low, high))


def of_runs(cell: Cell, measure: str) -> Sequence[float]:
    """Win rate, or mean number of tokens, of each run."""
    return cell.rates_of_runs() if measure == "win rate" else cell.tokens_of_runs()


def look_for_all(report: Report) -> list[tuple[Finding, dict[str, Shown]]]:
    """What the models of each size (the groups of the report) say of each finding."""
    groups = {group: {cell.name: cell for cell in report.cells if cell.group == group} for group in report.groups}
    return [(finding, {group: look_for(finding, cells) for group, cells in groups.items()}) for finding in FINDINGS]
