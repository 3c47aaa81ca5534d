"""The page of the laboratory: where the value function matters, and where KTO is better than DPO."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isnan
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING

from halo_lightning.evaluation.grids import Finished
from halo_lightning.evaluation.markdown import markdown_table
from halo_lightning.evaluation.statistics import mean_interval
from halo_lightning.evaluation.value_lab.feedback import ALPHA, BAR, Situation
from halo_lightning.evaluation.value_lab.grid import PANELS, VALUE_SITUATIONS, LabCell, Method
from halo_lightning.figures import new_figure, save_figure
from halo_lightning.files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFIDENCE = 0.95

LINES: dict[Method, tuple[str, str, float]] = {"logistic": ("KTO", "C0", -0.06), "DPO": ("DPO", "C1", 0.06)}
"""Name and colour of each method in the figure, and how far it is moved to the side."""

Cells = dict[LabCell, Finished]


def of(cells: Cells, situation: Situation, method: Method) -> list[Finished]:
    """What was found with each seed, in the order of the seeds."""
    found = [cell for cell in cells if cell.situation == situation and cell.method == method]
    return [cells[cell] for cell in sorted(found, key=lambda cell: cell.seed)]


def rates(found: Iterable[Finished]) -> list[float]:
    """The win rate with each seed."""
    return [float(one.result["judged"]["rate"]) for one in found]


def difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """Mean over the seeds of the difference, with Student's interval."""
    gaps = [one - other for one, other in zip(first, second, strict=True)]
    return (fmean(gaps), *mean_interval(gaps, confidence=CONFIDENCE))


def signed(numbers: tuple[float, float, float]) -> str:
    """A difference with its interval; bold where that excludes 0."""
    value, low, high = (f"{number:+.2f}".replace("-", "−") for number in numbers)
    if isnan(numbers[1]):
        return value
    text = f"{value} ({low} to {high})"
    return f"**{text}**" if numbers[1] > 0 or numbers[2] < 0 else text


def values_table(cells: Cells) -> str:
    """One row for each situation: KTO with the logistic, the true and the fitted value function."""
    rows = []
    for situation in VALUE_SITUATIONS:
        logistic, true, fitted = (rates(of(cells, situation, name)) for name in ("logistic", "true", "fitted"))
        estimates = [one.result["estimates"] for one in of(cells, situation, "fitted")]
        rows.append(
            [
                situation.name,
                *(f"{fmean(found):.2f}" for found in (logistic, true, fitted)),
                signed(difference(true, logistic)),
                signed(difference(fitted, logistic)),
                *(f"{median(one[name][0] for one in estimates):.2f}" for name in ("alpha", "lam")),
            ]
        )
    header = ["situation", "logistic", "true", "fitted", "true − logistic", "fitted − logistic", "fitted α", "fitted λ"]
    return markdown_table(header, rows)


def methods_table(cells: Cells) -> str:
    """One row for each place of the figure: KTO and DPO, and how much feedback each had."""
    rows = []
    for panel, places in PANELS.items():
        for label, situation in places:
            kto, dpo = of(cells, situation, "logistic"), of(cells, situation, "DPO")
            counts = [f"{fmean(one.result[kind] for one in kto):,.0f}" for kind in ("thumbs", "pairs")]
            means = [f"{fmean(rates(found)):.2f}" for found in (kto, dpo)]
            rows.append([panel, label, *counts, *means, signed(difference(rates(kto), rates(dpo)))])
    header = ["what is changed", "to", "thumbs for KTO", "pairs for DPO", "KTO", "DPO", "KTO − DPO"]
    return markdown_table(header, rows, left=2)


def draw(cells: Cells) -> Figure:
    """KTO and DPO against noise, contradictions, imbalance and unpaired feedback; dots are single seeds."""
    figure = new_figure(12, 3.8)
    axes = figure.subplots(1, len(PANELS), sharey=True)
    for axis, (panel, places) in zip(axes, PANELS.items(), strict=True):
        for method, (label, colour, shift) in LINES.items():
            found = [rates(of(cells, situation, method)) for _, situation in places]
            middles = [place + shift for place in range(len(places))]
            axis.plot(middles, [fmean(one) for one in found], "-", color=colour, label=label, linewidth=2)
            for middle, one in zip(middles, found, strict=True):
                axis.plot([middle] * len(one), one, "o", color=colour, markersize=4, alpha=0.6)
        axis.axhline(0.5, color="black", linewidth=0.8)
        axis.set_xticks(range(len(places)), [name for name, _ in places])
        axis.set_xlim(-0.4, len(places) - 0.6)
        axis.set_xlabel(panel, fontsize="medium")
        axis.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("win rate against the human-chosen")
    axes[0].legend()
    return figure


def conclusion(cells: Cells) -> str:
    """In which situations an interval excludes 0, in words."""
    lines = []
    compared: tuple[Method, ...] = ("true", "fitted")
    for name in compared:
        better, worse = [], []
        for situation in VALUE_SITUATIONS:
            _, low, high = difference(
                rates(of(cells, situation, name)),
                rates(of(cells, situation, "logistic")),
            )
            better += [situation.name] * (low > 0)
            worse += [situation.name] * (high < 0)
        lines.append(
            f"- KTO with the **{name}** value function is better than with the logistic one in"
            f" {len(better)} of {len(VALUE_SITUATIONS)} situations{listed(better)}, and worse in"
            f" {len(worse)}{listed(worse)}; elsewhere the seeds cannot tell."
        )
    return "\n".join(lines)


def listed(names: Sequence[str]) -> str:
    """Names in brackets, or nothing."""
    return f" ({'; '.join(names)})" if names else ""


def write_page(cells: Cells, out: Path, *, command: str) -> None:
    """Writes the page, and its picture into the folder `images` beside it.

    Args:
        cells: What was found.
        out: The Markdown file.
        command: The command line that made it.
    """
    picture = out.parent / "images" / f"{out.stem}_kto_dpo.png"
    save_figure(draw(cells), str(picture))
    text = f"""\
# Which value function, and when KTO

Everything on this page is written by

```bash
{command}
```

{introduction(cells)}

## Does a better value function make a better model?

KTO with its logistic value function, with the people's own (`KahnemanTversky` with the true α and λ), and with the one
that `fit_value` finds in their thumbs and the true rewards (all of the thumbs, those, too, that are left out to make an
imbalance). The people's α is hardly seen, since the number of criteria has only four values.

{values_table(cells)}

{conclusion(cells)}

A value function is about people, and a loss is about training. The logistic one is bounded: an example that is learned
stops to pull. Kahneman and Tversky's is not, and pulls on: what describes the people better need not train better.

## When is KTO better than DPO?

Both learn from the same people and the same completions: KTO from their thumbs, DPO from their choices between the two
of a prompt, where both are rated. The value function is the logistic one; the settings are those of
`configs/tiny_sft_kto.yaml` and `configs/tiny_sft_dpo.yaml`.

![KTO and DPO](images/{picture.name})

{methods_table(cells)}
"""
    write_text(out, text)


def introduction(cells: Cells) -> str:
    """What was trained, on what, and how it was judged."""
    usual, some = VALUE_SITUATIONS[0], next(iter(cells))
    seeds = ", ".join(map(str, sorted({cell.seed for cell in cells})))
    minutes = sum(one.cpu_seconds for one in cells.values()) / 60
    sft = fmean(rates(of(cells, usual, "SFT")))
    people = f"λ = {usual.loss_aversion} and noise τ = {usual.noise:g}"
    return f"""\
{len(cells)} trainings of `embedded:{some.size}`, each after the same SFT stage, on the feedback of simulated people.
They see how many of the three criteria a completion meets, and answer by a Kahneman-Tversky value function of that
number: α = {ALPHA}, reference point {BAR:g} and, where nothing else is said, {people}. There are
two completions of each of {usual.prompts:,} prompts.

Win rates are against the human-chosen completion on {some.prompts} held-out prompts, as the embedded rules judge,
in the mean over seeds {seeds}; after SFT alone it is {sft:.2f}. Differences have Student's {CONFIDENCE:.0%} interval
over the seeds, and are **bold** where that excludes 0; the intervals are not corrected for their number. It took
{minutes:.0f} minutes of one processor core."""
