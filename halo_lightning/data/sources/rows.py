"""Rows: objects that know which file and line they came from, and errors about them."""

from __future__ import annotations

import json
import re
from typing import Any, Literal, NamedTuple

from halo_lightning.errors import DataError

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ufeff]")

Kind = Literal["json", "text", "table"]

MOST_ROWS_ANYWAY = 2**20
"""So many rows are read however small a file is: with more rows than bytes it repeats itself, perhaps for days."""


def check_repeats(rows: int, size: int, name: str) -> None:
    """Refuses a file that has more rows than bytes.

    Args:
        rows: How many of them it has, as far as that is known.
        size: Its bytes.
        name: What messages call it.

    Raises:
        DataError: It is such a file.
    """
    most = max(size, MOST_ROWS_ANYWAY)
    if rows > most:
        raise DataError(
            f"found more than {most:,} rows in {size:,} bytes, which are the same rows again and again", file=name
        )


class Row(NamedTuple):
    """One object of a source.

    Attributes:
        values: The object.
        file: The file it came from, as the user named it (or as it was found in the folder that the user named).
        line: The number of its line, counted from 1; a `RowNumber` where the source has rows and no lines.
        kind: Of what its values are: `json`; `text` where every value is a text, as in CSV; `table` where every row
            has every column and null says that there is no value, as in Parquet.
    """

    values: dict[str, Any]
    file: str
    line: int
    kind: Kind = "json"


class UnusableRowError(DataError):
    """A well-formed row that gives no example of the kind that is wanted: it is counted by reason, not refused."""

    def __init__(self, reason: str, row: Row) -> None:
        super().__init__(reason, file=row.file, line=row.line)
        self.reason = reason


def problem(row: Row, key: str | None, message: str) -> DataError:
    """An error about one key of a row."""
    return DataError(message, file=row.file, line=row.line, key=key)


def require(row: Row, key: str, expected: str) -> Any:
    """The value of a key that has to be there."""
    if key not in row.values:
        raise problem(row, key, f"this key is missing (found {found_keys(row)}), expected {expected}")
    return row.values[key]


def found_keys(row: Row) -> str:
    """The keys of a row, short enough for an error message."""
    return excerpt(", ".join(map(repr, row.values)), 300) or "no keys"


def describe(value: Any) -> str:
    """What a value is, short enough for an error message."""
    kinds = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "a boolean",
        int: "an integer",
        float: "a number",
    }
    if value is None:
        return "null"
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a deeply nested list
        text = "…"
    return f"{kinds.get(type(value), type(value).__name__)} ({excerpt(text)})"


def excerpt(text: str, length: int = 60) -> str:
    """The beginning of a text, its control characters and line ends written out: a terminal would obey them."""
    text = _CONTROL.sub(lambda match: repr(match.group())[1:-1], text[: length + 200].strip())
    return text if len(text) <= length else text[: length - 1] + "…"
