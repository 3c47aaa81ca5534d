"""Columns: the user's columns under the keys that this package knows, and labels as booleans."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from halo_lightning.data.sources.config import Label, label_key
from halo_lightning.data.sources.rows import Row, UnusableRowError, describe, found_keys, problem, require

_NUMBERS = ("weight", "score", "score_chosen", "score_rejected")
_OBJECTS = ("completions", "tools", "chat_template_kwargs")
_OPTIONAL = ("weight", "tools", "chat_template_kwargs", "score", "score_chosen", "score_rejected")
_FORMS = ({"completion"}, {"messages"}, {"chosen", "rejected"}, {"completions"}, {"text"})
"""Keys that say which kind of row it is: to name a column for one form is to say that it is no other."""
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


def named(row: Row, columns: Mapping[str, str]) -> Row:
    """The row with the columns that the user named under the keys that this package knows.

    Example:
        >>> named(Row({"question": "Hi", "id": 3}, "rows.csv", 2), {"prompt": "question"}).values
        {'prompt': 'Hi', 'id': 3}

    Raises:
        DataError: There is no such column.
    """
    values = row.values
    if columns:
        taken = set(columns.values()) | columns.keys()
        if any(form & columns.keys() for form in _FORMS):
            taken = taken.union(*(form for form in _FORMS if not form & columns.keys()))
        values = {key: value for key, value in values.items() if key not in taken}
        for key, column in columns.items():
            if column not in row.values:
                close = difflib.get_close_matches(column, row.values, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise problem(
                    row,
                    key,
                    f"found the columns {found_keys(row)}, expected the column {column!r} that is named for it in"
                    f" columns{hint}",
                )
            values[key] = row.values[column]
    if row.kind == "text":
        values = {key: _from_text(row, key, value) for key, value in values.items() if not _absent(key, value)}
    elif row.kind == "table":  # in a table every row has every column, so null is how it says that there is none
        values = {key: value for key, value in values.items() if value is not None or key not in _OPTIONAL}
    return row if values is row.values else row._replace(values=values)


def _absent(key: str, value: Any) -> bool:
    return key in _OPTIONAL and value == ""


def _from_text(row: Row, key: str, text: str) -> Any:
    """What a CSV value is where its key says that it is no text; anything else stays a text."""
    if key in _NUMBERS:
        return _number(text)
    if key == "label":
        return _BOOLEANS.get(text, text)
    if key in _OBJECTS or (key in ("messages", "prompt", "chosen", "rejected", "completion") and _is_messages(text)):
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise problem(row, key, f"found {describe(text)}, which is not JSON ({error}), expected a list") from error
    return text


def _is_messages(text: str) -> bool:
    """Whether a text can only be meant as a list of messages."""
    if not text.lstrip().startswith("["):
        return False
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, list) and bool(value) and all(isinstance(m, dict) and "role" in m for m in value)


def _number(text: str) -> Any:
    """The number that a text is; the text itself, to be refused later, where it is none."""
    try:
        return float(text)
    except ValueError:
        return text


def labelled(row: Row, label: Label) -> Row:
    """The row with a boolean under `label`, as its source says what the values mean.

    Raises:
        DataError: The value means nothing.
        UnusableRowError: The mapping leaves it out.
    """
    if label.quantile is not None:
        raise ValueError("a quantile has to be turned into a threshold first")
    if label.threshold is not None:
        return _with_label(row, score_of(row) >= label.threshold)
    value = require(row, "label", "the label that its source describes")
    if label.mapping is not None:
        meaning = _mapped(row, value, label.mapping)
        if meaning is None:
            raise UnusableRowError(f"whose label is {label_key(value)!r}, which label.mapping leaves out", row)
        return _with_label(row, meaning)
    if label.numbers:
        number = _number(value) if row.kind == "text" and isinstance(value, str) else value
        if isinstance(number, bool) or not isinstance(number, (int, float)) or number not in (0, 1):
            raise problem(row, "label", f"found {describe(value)}, expected 1 (desirable) or 0 (undesirable)")
        return _with_label(row, number == 1)
    return row


def _mapped(row: Row, value: Any, mapping: Mapping[str, bool | None]) -> bool | None:
    key = label_key(value)
    meanings = {label_key(name): meaning for name, meaning in mapping.items()}
    if key is None or key not in meanings:
        raise problem(
            row,
            "label",
            f"found {describe(value)}, expected one of {', '.join(map(repr, meanings))}, the values in label.mapping",
        )
    return meanings[key]


def _with_label(row: Row, desirable: bool) -> Row:
    return row._replace(values={**row.values, "label": desirable})


def score_of(row: Row) -> float:
    """The number under `label`, or else under `score`.

    Raises:
        DataError: There is none.
    """
    key = "label" if "label" in row.values else "score"
    return as_number(row, key, require(row, key, "a number, since its source labels by a threshold"))


def as_number(row: Row, key: str, value: Any) -> float:
    """A finite number; in a CSV file, one that is written as text.

    Raises:
        DataError: It is something else.
    """
    number = _number(value) if row.kind == "text" and isinstance(value, str) else value
    try:
        if not isinstance(number, bool) and isinstance(number, (int, float, Decimal)) and math.isfinite(number):
            return float(number)
    except OverflowError:  # an integer beyond every float
        pass
    raise problem(row, key, f"found {describe(value)}, expected a finite number")
