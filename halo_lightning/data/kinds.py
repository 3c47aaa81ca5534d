"""Kinds of rows: which kind a row's keys say it is, and what can be read from which."""

from __future__ import annotations

from typing import Any, Literal, NoReturn

from halo_lightning.data.feedback import Feedback, is_text
from halo_lightning.data.sources.rows import Row, found_keys
from halo_lightning.errors import DataError

_DESCRIPTION: dict[str, str] = {
    "sft": "demonstrations (prompt and completion, or messages, or text)",
    "paired": "preference pairs (prompt, chosen, rejected)",
    "unary": "unary feedback (prompt, completion, label)",
}
_READ_BY: dict[str, str] = {
    "sft": "SFTDataModule reads demonstrations",
}
READABLE: dict[Feedback, tuple[Feedback, ...]] = {
    "sft": ("sft", "paired", "unary"),
    "paired": ("paired", "unary"),
    "unary": ("unary", "paired"),
}
"""The kinds of rows that each kind of feedback can be read from."""


def sniff(values: dict[str, Any], *, scores_are_labels: bool = False) -> Feedback | Literal["rated"] | None:
    """The kind of feedback that a row's keys say it is; None where they say nothing.

    Args:
        values: The row.
        scores_are_labels: Whether a `score` says as much as a `label`.
    """
    keys = values.keys()
    if "chosen" in keys and "rejected" in keys:
        return "paired"
    if "completions" in keys:
        return "rated"
    whole = "messages" in keys
    if (whole or "completion" in keys) and ("label" in keys or (scores_are_labels and "score" in keys)):
        return "unary"
    return "sft" if whole or ("prompt" in keys and "completion" in keys) or is_text(values) else None


def check_kind(row: Row, found: str | None, wanted: Feedback) -> NoReturn:
    """Says what a row is, what it should be, and who reads it as it is.

    Raises:
        DataError: Always.
    """
    expected = ", or ".join(_DESCRIPTION[kind] for kind in READABLE[wanted])
    if found is None:
        raise DataError(f"found the keys {found_keys(row)}, expected {expected}", file=row.file, line=row.line)
    hint = ""
    if wanted == "unary":
        hint = "; if it is meant to be unary feedback, its key 'label' (true or false) is missing"
        if "score" in row.values:
            hint += ", or its source has to say from which score on a completion is desirable (label.threshold)"
    raise DataError(
        f"found {_DESCRIPTION[found]}, expected {expected}: {_READ_BY[found]}{hint}", file=row.file, line=row.line
    )
