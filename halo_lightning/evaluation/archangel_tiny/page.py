"""The page of the miniature: the report's figures, and beside each of its findings whether they show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isnan
from pathlib import Path

from halo_lightning.evaluation.archangel_tiny.findings import CONFIDENCE, MARGIN, Shown, look_for_all
from halo_lightning.evaluation.archangel_tiny.grid import METHODS, PRETRAINED, Cell
from halo_lightning.evaluation.grids import read_settings
from halo_lightning.evaluation.markdown import markdown_table
from halo_lightning.evaluation.report import Report
from halo_lightning.evaluation.report_figures import draw_lengths, draw_win_rates
from halo_lightning.figures import save_figure
from halo_lightning.files import write_text

FIGURES = {
    "2": [PRETRAINED, "SFT", "SLiC", "DPO", "SFT+DPO", "PPO", "SFT+PPO"],
    "3": [PRETRAINED, *METHODS],
    "5": ["SFT", "DPO", "SFT+DPO", "KTO", "SFT+KTO"],
}
"""Which models each of the report's figures shows."""


def write_page(report: Report, cells: Sequence[Cell], out: Path, *, command: str, minutes: float) -> None:
    """Writes the page, and its pictures into the folder `images` beside it.

    Args:
        report: Of all models, sizes as groups.
        cells: The models.
        out: The Markdown file.
        command: The command line that made it.
        minutes: What the models took of the processor.
    """
    pictures = {number: f"images/{path.name}" for number, path in draw_figures(report, out).items()}
    text = f"""\
# Archangel in miniature

Everything on this page is written by

```bash
{command}
```

{introduction(report, cells, minutes)}

## The report's findings

{reading_aid(len({cell.seed for cell in cells}))}

{findings_table(report)}

These are models with less than a million weights in a world of simple questions and simulated people. What shows here
shows that the package does what the report describes, and not that it is so elsewhere; what does not show here says
nothing about the report's scales. Each method has the settings of its configuration, chosen on the largest of the three
sizes ([below](#settings)): unlike in the report, learning rate and β differ between methods.

## Figures

Figure 2, win rate − 0.5 with the {report.confidence:.0%} binomial interval over all prompts and seeds (dots: seeds):

![win rates of the existing methods]({pictures["2"]})

Figure 3, the length of completions:

![lengths of completions]({pictures["3"]})

Figure 5, KTO beside DPO:

![win rates of KTO and DPO]({pictures["5"]})

## Every model

{models_table(report)}

Win rates of the criteria: helpful, harmless, concise. Length-controlled: the win rate at equal lengths
([how](evaluation.md#what-the-report-says)).

## Settings

{settings_table()}
"""
    write_text(out, text)


def introduction(report: Report, cells: Sequence[Cell], minutes: float) -> str:
    """What was trained, and how it was judged."""
    seeds = ", ".join(map(str, sorted({cell.seed for cell in cells})))
    sizes = ", ".join(f"{size} ({weights_of(size):,} weights)" for size in report.groups)
    return f"""\
It trains the report's {len(METHODS)} methods on the embedded model in {len(report.groups)} sizes, {sizes}, with
seeds {seeds}: {len(cells)} models with the pretrained ones. Each seed has feedback, training, prompts and samples of
its own. {cells[0].prompts} held-out prompts a seed are answered, and judged by the embedded rules against the
human-chosen completion. It took {minutes:.0f} minutes of one processor core: on two cores, about half as long."""


def reading_aid(seeds: int) -> str:
    """What the table of the findings says."""
    return f"""\
Beside each of them: a number that is above or below 0 if it holds, as the mean over the seeds with Student's
{CONFIDENCE:.0%} interval (of {seeds} seeds), and what that says. "Shown", "the opposite": the whole interval is on that
side; a model is "no better", or "as good", if the whole interval is below {MARGIN}. The intervals are not corrected for
their number."""


def weights_of(size: str) -> int:
    """The number of weights of a size of the embedded model."""
    from halo_lightning.pretrained import load_model

    return int(load_model(f"embedded:{size}").num_parameters())


def draw_figures(report: Report, out: Path) -> dict[str, Path]:
    """Draws the report's figures; the file of each by its number."""
    made = {}
    for number, names in FIGURES.items():
        part = replace(report, cells=[cell for cell in report.cells if cell.name in names])
        made[number] = out.parent / "images" / f"{out.stem}_figure_{number}.png"
        figure = draw_lengths(part, whole=report) if number == "3" else draw_win_rates(part, whole=report)
        save_figure(figure, str(made[number]))
    return made


def findings_table(report: Report) -> str:
    """One row for each finding, with a column for each size."""
    rows = [
        [finding.said, finding.quantity, *(in_words(shown[size], finding.measure) for size in report.groups)]
        for finding, shown in look_for_all(report)
    ]
    return markdown_table(["the report says", "the number", *report.groups], rows, left=2)


def in_words(shown: Shown, measure: str) -> str:
    """A number, its interval, and what that says."""
    if isnan(shown.value):
        return shown.verdict
    digits = 1 if measure == "tokens" else 2
    value, low, high = (f"{number:+.{digits}f}".replace("-", "−") for number in shown[:3])
    return f"{value} ({low} to {high}): **{shown.verdict}**" if not isnan(shown.low) else f"{value}: {shown.verdict}"


def models_table(report: Report) -> str:
    """One row for each model: its numbers over all seeds."""
    criteria = [name for name in report.criteria if name != "overall"]
    rows = []
    for cell in report.cells:
        rate, controlled = cell.win_rate(), cell.length_controlled()
        guess = "*" * controlled.extrapolated
        rows.append(
            [
                cell.group,
                cell.name,
                f"{rate.rate:.2f} ({rate.low:.2f}–{rate.high:.2f})",
                f"{controlled.rate:.2f}{guess}",
                *(f"{cell.win_rate(name).rate:.2f}" for name in criteria),
                f"{cell.tokens():.1f}",
            ]
        )
    return markdown_table(["size", "method", "win rate", "length-controlled", *criteria, "tokens"], rows, left=2)


def settings_table() -> str:
    """One row for each method: its configuration, and what in it differs from the others'."""
    rows = []
    for method, name in METHODS.items():
        settings = read_settings(Cell("base", method, 1, 1).config)
        model, data = settings["model"]["init_args"], settings["data"]["init_args"]
        rows.append(
            [
                method,
                f"`configs/{name}.yaml`",
                str(model["optimizer"]["init_args"]["lr"]),
                str(model.get("beta", "–")),
                str(data["train"]).removeprefix("embedded:"),
                str(data["batch_size"]),
            ]
        )
    return markdown_table(["method", "configuration", "learning rate", "β", "feedback", "batch"], rows, left=2)
