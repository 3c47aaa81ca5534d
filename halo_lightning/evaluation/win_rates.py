"""How often one answer is better than another, and how sure one can be of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

Outcome = Literal["win", "loss", "tie"]


class WinRate(NamedTuple):
    """A win rate with its binomial interval.

    Attributes:
        rate: Wins among the comparisons that were decided.
        low: Lower end of the interval.
        high: Upper end of the interval.
        wins: Number of wins.
        losses: Number of losses.
        ties: Number of comparisons that were not decided; they count for neither side.
    """

    rate: float
    low: float
    high: float
    wins: int
    losses: int
    ties: int


def win_rate(outcomes: Iterable[Outcome], *, confidence: float = 0.75) -> WinRate:
    """The win rate of figures 2 and 5, with the exact (Clopper-Pearson) binomial interval.

    Args:
        outcomes: One per comparison. A tie counts for neither side, as an unclear verdict does in the report.
        confidence: Of the interval; the report's figures have 75 %.

    Returns:
        The win rate; all NaN where nothing was decided.
    """
    from scipy.stats import binomtest

    listed = list(outcomes)
    wins, losses, ties = (listed.count(kind) for kind in ("win", "loss", "tie"))
    if not wins + losses:
        return WinRate(float("nan"), float("nan"), float("nan"), wins, losses, ties)
    test = binomtest(wins, wins + losses)
    interval = test.proportion_ci(confidence, method="exact")
    return WinRate(wins / (wins + losses), float(interval.low), float(interval.high), wins, losses, ties)
