"""The report as tables: on the terminal, and as one HTML page with its pictures in it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from math import isnan
from pathlib import Path

from halo_lightning.evaluation.report import Report

NONE = "–"

STYLE = """\
body { font-family: system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.85rem; }
th, td { padding: 0.25rem 0.5rem; border-bottom: 1px solid #ddd; text-align: right; }
th { vertical-align: bottom; }
td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; }
.scroll { overflow-x: auto; }
"""


def models_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Header and rows: the numbers of each model."""
    percent = f"{100 * report.confidence:.0f} %"
    header = ["model", "runs", "win rate", f"{percent} exact", f"{percent} Wilson", "wins", "losses", "ties"]
    header += ["length-controlled", percent, *(f"{name}" for name in report.criteria if name != "overall")]
    header += ["tokens", "other tokens"]
    rows = []
    for cell in report.cells:
        rate, controlled = cell.win_rate(), cell.length_controlled()
        row = [cell.label, str(len(cell.runs)), number(rate.rate), interval(rate.low, rate.high)]
        row += [interval(*cell.wilson()), str(rate.wins), str(rate.losses), str(rate.ties)]
        row += [number(controlled.rate) + "*" * controlled.extrapolated, interval(controlled.low, controlled.high)]
        row += [number(cell.win_rate(name).rate) for name in report.criteria if name != "overall"]
        rows.append([*row, f"{cell.tokens():.1f}", f"{cell.other_tokens():.1f}"])
    return header, rows


def differences_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Header and rows: each two models of a group on the same prompts."""
    header = ["models", "first better", "second better", "same", "p", "p (Holm)", "p (Benjamini-Hochberg)"]
    rows = [
        [
            f"{one.first.label} – {one.second.label}",
            *(str(count) for count in one.paired[:3]),
            *(f"{value:.2g}" for value in (one.paired.p, one.holm, one.false_discovery_rate)),
        ]
        for one in report.differences
    ]
    return header, rows


def number(value: float) -> str:
    """Three decimals, or a dash."""
    return NONE if isnan(value) else f"{value:.3f}"


def interval(low: float, high: float) -> str:
    """Both ends, or a dash."""
    return NONE if isnan(low) else f"{low:.3f}–{high:.3f}"


def print_report(report: Report) -> None:
    """Prints the table of the models and what a reader has to know."""
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    header, rows = models_table(report)
    table = Table()
    for column in header:
        table.add_column(column, justify="left" if column == "model" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    wide = Console(width=10_000)
    Console(width=Measurement.get(wide, wide.options, table).maximum).print(table)  # no number is cut off
    for note in report.notes:
        print(f"note: {note}")


def write_page(report: Report, pictures: Sequence[tuple[str, Path]], out: Path, *, title: str) -> None:
    """Writes the page; nothing in it is loaded from elsewhere.

    Args:
        report: What it says.
        pictures: A caption and a PNG each.
        out: The file.
        title: Its heading.
    """
    from halo_lightning.files import write_text

    settings = report.cells[0].runs[0].settings
    judge = settings["judge"]
    against = settings["against"]
    other = "the human-chosen completion" if against is None else f"the completion of {against['name']}"
    named = " ".join(str(judge[key]) for key in ("judge", "model") if key in judge)
    notes = "".join(f"<li>{escape(note)}</li>\n" for note in report.notes)
    shown = "".join(
        f'<h2>{escape(caption)}</h2>\n<p><img alt="{escape(caption)}" src="data:image/png;base64,'
        f'{base64.b64encode(path.read_bytes()).decode()}"></p>\n'
        for caption, path in pictures
    )
    guessed = "; * an extrapolation" if any(cell.length_controlled().extrapolated for cell in report.cells) else ""
    text = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<style>
{STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p>Each model's completion against {escape(other)}, as {escape(named)} judges it (order of the two:
{escape(settings["order"])}; completions cut at their last full stop: {escape(settings["cut"])}).</p>
{"<ul>" + notes + "</ul>" if notes else ""}
<h2>Models</h2>
{html_table(*models_table(report))}
<p>The win rate is wins among the comparisons that are decided; ties count for neither side. The exact interval is
Clopper and Pearson's. The length-controlled win rate is what a logistic regression on the difference of lengths
predicts at equal lengths (after Dubois et al. 2024, arXiv 2404.04475){guessed}.
Tokens are means of a completion's length. Intervals over several runs take each comparison for itself: how much
trainings with other seeds differ is seen from the dots in the figures.</p>
{shown}
<h2>Each two models on the same prompts</h2>
{html_table(*differences_table(report)) if report.differences else "<p>There are no two models of one group.</p>"}
<p>Exact sign test of the prompts on which the two do not do the same (without ties: McNemar's exact test), two-sided.
Both corrections are for all {len(report.differences)} comparisons of this table.</p>
</body></html>
"""
    write_text(out, text)


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in HTML."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'
