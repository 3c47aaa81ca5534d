"""Reading: which kind of feedback a source holds, what can be made of it, and what is left out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from halo_lightning.data.feedback import (
    Demonstration,
    Example,
    Feedback,
    Paired,
    Unary,
    UnusableRowError,
    parse_demonstration,
    parse_paired,
    parse_unary,
)
from halo_lightning.data.sources import Row, read_rows
from halo_lightning.errors import DataError

_PARSERS: dict[Feedback, Callable[[Row], Example]] = {
    "sft": parse_demonstration,
    "paired": parse_paired,
    "unary": parse_unary,
}


_DESCRIPTION: dict[Feedback, str] = {
    "sft": "demonstrations (prompt and completion, or messages)",
    "paired": "preference pairs (prompt, chosen, rejected)",
    "unary": "unary feedback (prompt, completion, label)",
}
_READ_BY: dict[Feedback, str] = {
    "sft": "SFTDataModule reads demonstrations",
    "paired": "PairedDataModule (for DPO and its like) reads preference pairs, UnaryDataModule (for KTO) turns them"
    " into unary feedback, and SFTDataModule imitates the chosen completions",
    "unary": "UnaryDataModule (for KTO) reads unary feedback, and SFTDataModule imitates its desirable completions",
}
READABLE: dict[Feedback, tuple[Feedback, ...]] = {
    "sft": ("sft", "paired", "unary"),
    "paired": ("paired",),
    "unary": ("unary", "paired"),
}
"""The kinds of rows that each kind of feedback can be read from."""


class LeftOut:
    """Counts the rows of one source that are left out, by reason, with the line of the first of each.

    Attributes:
        rows: How many rows have been read.
        reasons: For each reason, how many rows and the line of the first.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.reasons: dict[str, tuple[int, int]] = {}

    def add(self, reason: str, line: int) -> None:
        """Counts one row."""
        count, first = self.reasons.get(reason, (0, line))
        self.reasons[reason] = count + 1, first

    def __len__(self) -> int:
        return sum(count for count, _ in self.reasons.values())

    def __str__(self) -> str:
        if not self:
            return "left out none"
        parts = [f"{count} {reason} (first: line {first})" for reason, (count, first) in self.reasons.items()]
        return f"left out {len(self)} of {self.rows} rows: {', '.join(parts)}"


def read_feedback(source: str, feedback: Feedback, left_out: LeftOut | None = None) -> Iterator[Example]:
    """Reads a source as one kind of feedback, converting rows of another kind where that is possible.

    Pairs become unary feedback (the chosen completion desirable, then the rejected one undesirable) and
    demonstrations (the chosen completion); unary feedback becomes demonstrations (its desirable completions).

    Args:
        source: See `read_rows`.
        feedback: The kind of feedback that is wanted.
        left_out: Counts the rows that give no example.

    Yields:
        `Unary`, `Paired` or `Demonstration`, in the order of the file.

    Raises:
        DataError: A row is malformed, or of a kind that cannot be converted into the one that is wanted.
    """
    left_out = LeftOut() if left_out is None else left_out
    for row in read_rows(source):
        left_out.rows += 1
        kind = _sniff(row, feedback)
        try:
            example = _PARSERS[kind](row)
        except UnusableRowError as error:
            left_out.add(error.reason, row.line)
            continue
        if feedback == "sft" and isinstance(example, Unary) and not example.desirable:
            left_out.add("whose completion is undesirable, so not imitated", row.line)
        yield from _convert(example, feedback)


def sniff(values: dict[str, Any]) -> Feedback | None:
    """The kind of feedback that a row's keys say it is; None where they say nothing."""
    keys = values.keys()
    if "chosen" in keys and "rejected" in keys:
        return "paired"
    if "completion" in keys and "label" in keys:
        return "unary"
    if "messages" in keys or ("prompt" in keys and "completion" in keys):
        return "sft"
    return None


def _sniff(row: Row, wanted: Feedback) -> Feedback:
    found = sniff(row.values)
    if found in READABLE[wanted]:
        return found
    if found is None:
        keys = ", ".join(map(repr, row.values)) or "no keys"
        expected = ", or ".join(_DESCRIPTION[kind] for kind in READABLE[wanted])
        raise DataError(f"found the keys {keys}, expected {expected}", file=row.file, line=row.line)
    hint = ""
    if wanted == "unary":
        hint = "; if it is meant to be unary feedback, its key 'label' (true or false) is missing"
    elif wanted == "paired" and found == "unary":
        hint = "; unary feedback cannot be turned into pairs"
    raise DataError(
        f"found {_DESCRIPTION[found]}, expected {_DESCRIPTION[wanted]}: {_READ_BY[found]}{hint}",
        file=row.file,
        line=row.line,
    )


def _convert(example: Example, wanted: Feedback) -> Iterator[Example]:
    prompt, weight, place = example.prompt, example.weight, (example.file, example.line)
    if isinstance(example, Paired) and wanted == "unary":
        yield Unary(prompt, example.chosen, True, weight, *place)
        yield Unary(prompt, example.rejected, False, weight, *place)
    elif isinstance(example, Paired) and wanted == "sft":
        yield Demonstration(prompt, example.chosen, weight, *place)
    elif isinstance(example, Unary) and wanted == "sft":
        if example.desirable:
            yield Demonstration(prompt, example.completion, weight, *place)
    else:
        yield example
