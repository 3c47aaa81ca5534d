"""A report in a terminal, with colours where it has them; marks say the same without."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO

from rich.console import Console
from rich.text import Text

from halo_lightning.inspection.examples import Shown, Span, harmless
from halo_lightning.inspection.findings import Lengths
from halo_lightning.inspection.report import Report
from halo_lightning.inspection.wording import Row, bins, counts_of, finding_rows, lengths_line, places, title_of

Line = Callable[..., None]
"""Prints the parts of a line: texts, or texts with their style."""

LEARNED, NOT_LEARNED = "▌", "│"
"""What stands before text that the loss is on, and before text that it is not on."""

BAR = 40
GROUPS = 3
"""How many groups of examples are listed of a finding; the page and the JSON have a few more."""


def print_report(
    report: Report, place_of: dict[str, dict[int, str]], *, tokens: bool = False, file: IO[str] | None = None
) -> None:
    """Prints a report.

    Args:
        report: The report.
        place_of: File and line of the examples that it lists, by split and number.
        tokens: Whether to show the tokens of the examples one by one.
        file: Where to; None is the standard output.
    """
    console = Console(file=file, highlight=False, soft_wrap=True)

    def line(*parts: str | tuple[str, str]) -> None:
        console.print(
            Text.assemble(*((harmless(p), "") if isinstance(p, str) else (harmless(p[0]), p[1]) for p in parts))
        )

    line((report.title, "bold"))
    for label, text in [("data", str(report.summary)), ("labels", report.labels), *report.settings.items()]:
        for number, part in enumerate(text.splitlines()):
            line(("  " + (label if number == 0 else "").ljust(12), "cyan"), part)
    for name, rows in finding_rows(report).items():
        line()
        split = report.splits[name]
        line(
            (f"{name}: ", "bold"),
            f"{split.examples:,} examples of {split.prompts:,} prompts",
            _most(split.most_per_prompt),
        )
        for row in rows:
            _print_finding(line, row, place_of.get(name, {}))
        for what, lengths in split.lengths.items():
            line(("  " + what, "cyan"), f", tokens: {lengths_line(lengths)}")
            if name == "training":
                _print_histogram(line, lengths)
    for example in report.shown:
        line()
        _print_example(line, example, tokens)
    if report.shown:
        line()
        line(f"{LEARNED} learned   {NOT_LEARNED} not learned   ↵ line break")


def _most(count: int) -> str:
    return f", up to {count:,} of one" if count > 1 else ""


def _print_finding(line: Line, row: Row, place_of: dict[int, str]) -> None:
    style = "" if not row.examples else "bold red" if row.serious else "yellow"
    line((f"  {row.examples:>9,} ", style), row.text)
    texts = places(row, place_of)
    for text in texts[:GROUPS]:
        line((f"            {text}", "dim"))
    if texts and row.examples > sum(map(len, row.groups[:GROUPS])):
        line(("            …", "dim"))


def _print_histogram(line: Line, lengths: Lengths) -> None:
    most, named = max(lengths.counts), bins(lengths)
    width = max(len(name) for name, _ in named)
    for name, count in named:
        bar = "█" * round(BAR * count / most) or ("▏" if count else "")
        line(f"    {name:>{width}}  ", (bar, "blue"), f" {count:,}")


def _print_example(line: Line, example: Shown, tokens: bool) -> None:
    line((title_of(example), "bold"))
    for number, sequence in enumerate(example.sequences):
        good = sequence.name == "chosen" or (sequence.name == "completion" and example.label is not False)
        if len(example.sequences) > 1:
            line((f"  {sequence.name}, ", "cyan"), counts_of(sequence))
        else:
            line((f"  {counts_of(sequence)}", "cyan"))
        same_prompt = number > 0 and sequence.prompt_ids == example.sequences[0].prompt_ids
        for span in sequence.spans:
            if same_prompt and not span.learned:
                line((f"  {NOT_LEARNED} … the same prompt", "dim"))
                continue
            _print_span(line, span, "green" if good else "red", tokens)


def _print_span(line: Line, span: Span, colour: str, tokens: bool) -> None:
    mark, style = (LEARNED, colour) if span.learned else (NOT_LEARNED, "dim")
    if span.ends:
        line((f"  {mark} ", style), (f"[end: {span.text}]", "bold reverse"))
    else:
        *parts, last = span.text.split("\n")
        for part in parts:
            line((f"  {mark} {part}↵", style))
        if last:
            line((f"  {mark} {last}", style))
    if tokens:
        line((f"      {' '.join(span.tokens)}", "dim italic"))
