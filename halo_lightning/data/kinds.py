"""Kinds of rows: which kind a row's keys say it is, and what can be read from which."""

from __future__ import annotations

from typing import Any, Literal, NoReturn

from halo_lightning.data.feedback import Feedback, is_text
from halo_lightning.data.sources.rows import Row, found_keys, problem

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
        return None if _is_stepwise(values) else "rated"
    whole = "messages" in keys
    if (whole or "completion" in keys) and ("label" in keys or (scores_are_labels and "score" in keys)):
        return "unary"
    return "sft" if whole or ("prompt" in keys and "completion" in keys) or is_text(values) else None


def _is_stepwise(values: dict[str, Any]) -> bool:
    """Whether a row is of TRL's stepwise supervision: the steps of one completion, each with a label."""
    steps, labels = values.get("completions"), values.get("labels")
    return isinstance(labels, list) and isinstance(steps, list) and not any(isinstance(step, dict) for step in steps)


def _lacking(values: dict[str, Any]) -> str:
    """What a row of no kind of feedback lacks, where it is clear what else it is."""
    if _is_stepwise(values):
        return "; it is stepwise supervision, whose steps have to be joined into one completion with one label"
    if "prompt" in values and not values.keys() & {"chosen", "rejected", "completion", "completions", "messages"}:
        return "; it is a prompt alone, and nothing that answers it is there to learn from"
    return ""


def check_kind(row: Row, found: str | None, wanted: Feedback) -> NoReturn:
    """Says what a row is, what it should be, and who reads it as it is.

    Raises:
        DataError: Always.
    """
    expected = ", or ".join(_DESCRIPTION[kind] for kind in READABLE[wanted])
    if found is None:
        raise problem(row, None, f"found the keys {found_keys(row)}, expected {expected}{_lacking(row.values)}")
    hint = ""
    if wanted == "unary":
        hint = "; if it is meant to be unary feedback, its key 'label' (true or false) is missing"
        if "score" in row.values:
            hint += ", or its source has to say from which score on a completion is desirable (label.threshold)"
    raise problem(row, None, f"found {_DESCRIPTION[found]}, expected {expected}: {_READ_BY[found]}{hint}")
