"""A report in a terminal, with colours where it has them; marks say the same without."""

from __future__ import annotations

from typing import IO

from rich.console import Console
from rich.text import Text

from halo_lightning.inspection.examples import Sequence, Shown, Span, harmless
from halo_lightning.inspection.report import Report
from halo_lightning.inspection.wording import Row, bins, counts_of, finding_rows, lengths_line, places, title_of

LEARNED, NOT_LEARNED = "▌", "│"
"""What stands before text that the loss is on, and before text that it is not on."""

BAR = 40


def print_report(report: Report, place_of: dict[str, dict[int, str]], *, tokens: bool = False, file: IO[str] | None = None) -> None:
    """Prints a report.

    Args:
        report: The report.
        place_of: File and line of the examples that it lists, by split and number.
        tokens: Whether to show the tokens of the examples one by one.
        file: Where to; None is the standard output.
    """
    console = Console(file=file, highlight=False, soft_wrap=True)

    def line(*parts: str | tuple[str, str]) -> None:
        console.print(Text.assemble(*((harmless(p), "") if isinstance(p, str) else (harmless(p[0]), p[1]) for p in parts)))

    line((report.title, "bold"))
    for label, text in [("data", str(report.summary)), ("labels", report.labels), *report.settings.items()]:
        for number, part in enumerate(text.splitlines()):
            line(("  " + (label if number == 0 else "").ljust(12), "cyan"), part)
    for name, rows in finding_rows(report).items():
        line()
        split = report.splits[name]
        line((f"{name}: ", "bold"), f"{split.examples:,} examples of {split.prompts:,} prompts", _most(split.most_per_prompt))
        for row in rows:
            _print_finding(line, row, place_of.get(name, {}))
        for what, lengths in split.lengths.items():
            line(("  " + what, "cyan"), f", tokens: {lengths_line(lengths)}")
            most = max(lengths.counts)
            width = max(len(bin_name) for bin_name, _ in bins(lengths))
            for bin_name, count in bins(lengths):
                bar = "█" * round(BAR * count / most) or ("▏" if count else "")
                line(f"    {bin_name:>{width}}  ", (bar, "blue"), f" {count:,}")
    for example in report.shown:
        line()
        _print_example(line, example, tokens)
    if report.shown:
        line()
        line(f"{LEARNED} learned   {NOT_LEARNED} not learned   ↵ line break")


def _most(count: int) -> str:
    return f", up to {count:,} of one" if count > 1 else ""


def _print_finding(line, row: Row, place_of: dict[int, str]) -> None:  # type: ignore[no-untyped-def]
    style = "" if not row.count else "bold red" if row.serious else "yellow"
    line((f"  {row.count:>9,} ", style), row.text)
    for text in places(row, place_of):
        line((f"            {text}", "dim"))
    hidden = row.count - sum(map(len, row.groups))
    if row.groups and hidden > 0:
        line(("            …", "dim"))


def _print_example(line, example: Shown, tokens: bool) -> None:  # type: ignore[no-untyped-def]
    line((title_of(example), "bold"))
    for number, sequence in enumerate(example.sequences):
        good = sequence.name == "chosen" or (sequence.name == "completion" and example.label is not False)
        if len(example.sequences) > 1:
            line((f"  {sequence.name}, ", "cyan"), counts_of(sequence))
        else:
            line((f"  {counts_of(sequence)}", "cyan"))
        same_prompt = number > 0 and _prompt(sequence) == _prompt(example.sequences[0])
        for span in sequence.spans:
            if same_prompt and not span.learned:
                line((f"  {NOT_LEARNED} … the same prompt", "dim"))
                continue
            _print_span(line, span, "green" if good else "red", tokens)


def _prompt(sequence: Sequence) -> list[int]:
    return sequence.token_ids[: sequence.prompt_tokens]


def _print_span(line, span: Span, colour: str, tokens: bool) -> None:  # type: ignore[no-untyped-def]
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
