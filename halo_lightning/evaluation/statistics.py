"""Intervals, paired comparisons of two models, and corrections for many of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np


def proportion_interval(
    wins: int, decided: int, *, confidence: float = 0.75, method: Literal["exact", "wilson"] = "exact"
) -> tuple[float, float]:
    """An interval of a proportion: `exact` (Clopper and Pearson 1934), or Wilson's (1927), both from scipy.

    Args:
        wins: How often it was so.
        decided: Of how many.
        confidence: Of the interval.
        method: `exact` covers at least as often as it says; `wilson` does so on average, and is shorter.

    Returns:
        Lower and upper end; NaN where nothing was decided.
    """
    from scipy.stats import binomtest

    if not decided:
        return float("nan"), float("nan")
    interval = binomtest(wins, decided).proportion_ci(confidence, method=method)
    return float(interval.low), float(interval.high)


class Paired(NamedTuple):
    """Two models on the same prompts.

    Attributes:
        better: Prompts on which the first one does better.
        worse: Prompts on which it does worse.
        same: Prompts on which both do as well.
        p: How likely a difference at least as large is if both are as good, two-sided.
    """

    better: int
    worse: int
    same: int
    p: float


def paired_test(first: Mapping[str, float], second: Mapping[str, float]) -> Paired:
    """Compares two models on the prompts that both have, by the exact sign test.

    Where each score is 1 (win) or 0 (loss) this is McNemar's exact test: only prompts on which the models differ say
    anything, and under the hypothesis each of them is a fair coin. Scores in between (ties, means over runs) keep their
    order.

    Args:
        first: The score of each prompt.
        second: Those of the other model.
    """
    from scipy.stats import binomtest

    differences = np.array([first[prompt] - second[prompt] for prompt in first.keys() & second.keys()])
    better, worse = int((differences > 1e-12).sum()), int((differences < -1e-12).sum())
    p = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    return Paired(better, worse, len(differences) - better - worse, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979): below 0.05, the chance that any of them errs is at most 5 %.

    Args:
        p_values: Those of all tests that were made.
    """
    order = np.argsort(p_values, kind="stable")
    count = len(p_values)
    steps = [(count - rank) * p_values[index] for rank, index in enumerate(order)]
    corrected = np.empty(count)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if count else []
    return [float(value) for value in corrected]


def false_discovery_rate(p_values: Sequence[float]) -> list[float]:
    """P-values corrected by Benjamini and Hochberg (1995): of those below 0.05, about 5 % err. From scipy."""
    from scipy.stats import false_discovery_control

    return [float(value) for value in false_discovery_control(list(p_values))] if p_values else []


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float]:
    """Student's interval of a mean, for a few independent values such as those of several seeds.

    Args:
        values: Two or more; of one, there is no interval.
        confidence: Of the interval.

    Returns:
        Lower and upper end; NaN where there is none.
    """
    from scipy.stats import sem, t

    if len(values) < 2 or not np.isfinite(values).all():
        return float("nan"), float("nan")
    mean = float(np.mean(values))
    width = float(t.ppf(0.5 + confidence / 2, len(values) - 1) * sem(values))
    return mean - width, mean + width
