"""The report's figures 2, 3 and 5, drawn from verdicts."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING

import numpy as np

from halo_lightning.evaluation.report import Cell, Report
from halo_lightning.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


WIDTH = 0.85
"""Of a bar, where the next one is 1 away."""


def draw_win_rates(report: Report, criterion: str = "overall", *, whole: Report | None = None) -> Figure:
    """Win rate − 0.5 of each model with its interval (figures 2 and 5); dots are single runs of several.

    Args:
        report: What is drawn.
        criterion: Of the verdicts.
        whole: The report that this one is a part of: a name has the same colour in all of its figures.
    """
    figure, axis, places = _bars(report, whole)
    for cell, place, colour in places:
        rate = cell.win_rate(criterion)
        if isnan(rate.rate):
            axis.annotate("–", (place, 0), ha="center", va="bottom")
            continue
        error = [[rate.rate - rate.low], [rate.high - rate.rate]]
        axis.bar(place, rate.rate - 0.5, WIDTH, color=colour, alpha=0.75)
        axis.errorbar(place, rate.rate - 0.5, yerr=error, color="black", capsize=3, linewidth=1)
        if len(cell.runs) > 1:
            dots = [value - 0.5 for value in cell.rates_of_runs(criterion)]
            offsets = np.linspace(-0.25, 0.25, len(dots)) * WIDTH
            axis.plot(place + offsets, dots, "o", color="black", markersize=2.5, alpha=0.6)
    axis.axhline(0, color="black", linewidth=0.8)
    percent = f"{100 * report.confidence:.0f} %"
    axis.set_ylabel("win rate − 0.5")
    axis.set_title(f"{'Win rate' if criterion == 'overall' else f'Win rate, {criterion}'} − 0.5, {percent} interval")
    axis.set_ylim(-0.55, 0.55)
    return figure


def draw_lengths(report: Report, *, whole: Report | None = None) -> Figure:
    """Mean length of a completion in tokens (figure 3); the lines are what the completions are compared with.

    Args:
        report: What is drawn.
        whole: As in `draw_win_rates`.
    """
    figure, axis, places = _bars(report, whole)
    for cell, place, colour in places:
        axis.bar(place, cell.tokens(), WIDTH, color=colour, alpha=0.75)
        label = "what it is compared with" if cell is report.cells[0] else None
        ends = [place - WIDTH / 2, place + WIDTH / 2]
        axis.plot(ends, [cell.other_tokens()] * 2, color="black", linestyle="--", linewidth=1, label=label)
    axis.set_ylabel("tokens")
    axis.set_title("Mean length of a completion")
    _legend(axis)
    return figure


def _bars(report: Report, whole: Report | None) -> tuple[Figure, Axes, list[tuple[Cell, float, str]]]:
    """A figure with a place for a bar of each model, groups side by side, the same colour for the same name."""
    names = list(dict.fromkeys(cell.name for cell in report.cells))
    every_name = dict.fromkeys(cell.name for cell in (whole or report).cells)
    colours = {name: f"C{number % 10}" for number, name in enumerate(every_name)}
    groups = report.groups
    figure = new_figure(max(6.0, 2.5 + 0.55 * len(report.cells) + 0.4 * len(groups)), 4.5)
    axis: Axes = figure.subplots()
    places: list[tuple[Cell, float, str]] = []
    start, ticks = 0.0, []
    for group in groups:
        cells = [cell for cell in report.cells if cell.group == group]
        for number, cell in enumerate(cells):
            places.append((cell, start + number, colours[cell.name]))
        ticks.append(start + (len(cells) - 1) / 2)
        start += len(cells) + 1
    if len(groups) > 1:
        axis.set_xticks(ticks, groups)
        for name in names:
            axis.bar(0, 0, 0, color=colours[name], alpha=0.75, label=name)
        _legend(axis)
    else:
        axis.set_xticks(
            [place for _, place, _ in places], [cell.name for cell in report.cells], rotation=30, ha="right"
        )
        if groups[0]:
            axis.set_xlabel(groups[0])
    axis.set_xlim(-0.8, places[-1][1] + 0.8)  # also where there is no bar, since no verdict could be read
    axis.grid(axis="y", alpha=0.3)
    return figure, axis, places


def _legend(axis: Axes) -> None:
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
