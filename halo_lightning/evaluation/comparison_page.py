"""The table of a comparison of methods, on the terminal and as a Markdown page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from halo_lightning.evaluation.judging import CRITERIA
from halo_lightning.evaluation.markdown import markdown_table
from halo_lightning.files import write_text

Cell = dict[str, Any]

ROW = ("configuration", "module", "starts from")
NONE = "–"


def by_name(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """The cells of each row, one per seed, in the order in which the rows first come."""
    rows: dict[str, list[Cell]] = {}
    for cell in cells:
        rows.setdefault(cell["name"], []).append(cell)
    return rows


def mean_judged(cells: list[Cell], key: str, digits: int = 2) -> str:
    """Mean over the seeds of what the rules said, or a dash."""
    return f"{mean(cell['judged'][key] for cell in cells):.{digits}f}" if cells[0]["judged"] else NONE


def mean_held_out(cells: list[Cell], name: str) -> str:
    """Means over the seeds before and after training, or a dash."""
    if name not in cells[0]["held_out"]:
        return NONE
    first, last = (mean(cell["held_out"][name][end] for cell in cells) for end in (0, 1))
    return f"{number(first)} → {number(last)}"


def number(value: float) -> str:
    """Three decimals, and none for a large number."""
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"


def head(cells: list[Cell]) -> list[str]:
    """What names a row."""
    return [cells[0]["name"], cells[0]["module"] or NONE, cells[0]["starts_from"] or NONE]


def win_rates(cells: Sequence[Cell]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the first table: win rates, criteria, lengths."""
    seeds = sorted({cell["seed"] for cell in cells})
    header = [*ROW, "win rate", *(f"seed {seed}" for seed in seeds), *CRITERIA, "tokens"]
    rows = []
    for group in by_name(cells).values():
        each = [
            f"{c['judged']['rate']:.2f} ({c['judged']['low']:.2f}–{c['judged']['high']:.2f})" if c["judged"] else NONE
            for c in sorted(group, key=lambda cell: cell["seed"])
        ]
        criteria = [mean_judged(group, key) for key in CRITERIA]
        rows.append([*head(group), mean_judged(group, "rate"), *each, *criteria, mean_judged(group, "tokens", 1)])
    return header, rows


def own_criteria(cells: Sequence[Cell]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the second table: what each method itself optimises, on held-out feedback."""
    header = [*ROW, "loss", "accuracy of rewards", "margin of rewards"]
    names = ("loss", "rewards/accuracies", "rewards/margins")
    rows = [
        [*head(group), *(mean_held_out(group, name) for name in names)]
        for group in by_name(cells).values()
        if group[0]["held_out"]
    ]
    return header, rows


def print_rows(cells: Sequence[Cell]) -> None:
    """Prints one table with a row per method: means over the seeds."""
    from rich.console import Console
    from rich.table import Table

    seeds = sorted({cell["seed"] for cell in cells})
    table = Table(title=f"means over seeds {', '.join(map(str, seeds))}; held-out feedback before → after training")
    columns = [*ROW, "win rate", *CRITERIA, "tokens", "loss", "accuracy"]
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position < len(ROW) else "right", no_wrap=True)
    for group in by_name(cells).values():
        judged = [mean_judged(group, key) for key in ("rate", *CRITERIA)]
        own = [mean_held_out(group, name) for name in ("loss", "rewards/accuracies")]
        table.add_row(*head(group), *judged, mean_judged(group, "tokens", 1), *own)
    Console(width=max(160, Console().width)).print(table)


def write_page(cells: Sequence[Cell], out: Path, *, command: str) -> None:
    """Writes the page: both tables, what their columns are, and the command that made them.

    Args:
        cells: What `halo_lightning.evaluation.comparison.compare` found.
        out: The Markdown file.
        command: The command line that made it.
    """
    prompts = cells[0]["prompts"]
    text = f"""\
# The methods on the embedded world

Every line of this page is written by

```bash
{command}
```

Each configuration (`configs/`) trains the embedded model on the embedded feedback, one training a seed. Every number is
the mean over the seeds, unless it says its seed.

## Win rates

{prompts} held-out prompts a seed, one sampled completion each, judged by the embedded rules against the human-chosen
completion: wins among the comparisons that are decided, with the 75 % binomial interval; the rates of the three
criteria; and the mean length of a completion. These settings are small and chosen for this world alone: the table
shows that each method works, and not which of them is best elsewhere.

{markdown_table(*win_rates(cells), left=len(ROW))}

## What each method optimises

On held-out feedback, before the first step → after the last one: the method's own loss, and the accuracy and margin
of its rewards. Losses and margins of different methods are not in the same unit.

{markdown_table(*own_criteria(cells), left=len(ROW))}
"""
    write_text(out, text)
