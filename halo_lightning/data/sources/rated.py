"""Rated completions, as UltraFeedback publishes them, and completions with a score: to pairs, or one by one.

A row has `prompt` (or `instruction`) and `completions`, a list of objects with the text under `response` (or
`completion`, `text`, `content`) and a score under `overall_score` (or `score`, `rating`, `ratings`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from halo_lightning.data.sources.columns import as_number
from halo_lightning.data.sources.config import Pairing, Rated
from halo_lightning.data.sources.left_out import LeftOut
from halo_lightning.data.sources.rows import Row, UnusableRowError, describe, problem, require

TEXTS = ("response", "completion", "text", "content")
SCORES = ("overall_score", "score", "rating", "ratings")
_KEPT = ("weight", "tools")


class Scored(NamedTuple):
    """A completion with its score, and the row that it came from."""

    completion: Any
    score: float
    row: Row


def rated_completions(row: Row, settings: Rated) -> list[Scored]:
    """The completions of a row, best first; those with the same score in the order of the row.

    Raises:
        DataError: The list, a text or a score is not what is expected.
    """
    completions = require(row, "completions", "a list of rated completions")
    if not isinstance(completions, list) or not completions:
        raise problem(row, "completions", f"found {describe(completions)}, expected a list of rated completions")
    rated = []
    for number, completion in enumerate(completions, start=1):
        if not isinstance(completion, dict):
            raise problem(
                row, "completions", f"found {describe(completion)} as completion {number}, expected an object"
            )
        key = next((key for key in TEXTS if key in completion), None)
        if key is None or not isinstance(completion[key], str) or not completion[key].strip():
            found = f"the keys {', '.join(map(repr, completion))}" if key is None else describe(completion[key])
            raise problem(
                row, "completions", f"found {found} in completion {number}, expected a text under {', '.join(TEXTS)}"
            )
        rated.append(Scored(completion[key], _score(row, completion, number, settings), row))
    return sorted(rated, key=lambda scored: -scored.score)


def _score(row: Row, completion: dict[str, Any], number: int, settings: Rated) -> float:
    path = settings.score.split(".") if settings.score else None
    if path is None:
        path = next(([key] for key in SCORES if completion.get(key) is not None), None)
    value: Any = completion
    for key in path or []:
        value = value.get(key) if isinstance(value, dict) else None
    if path is None or value is None:
        expected = settings.score or " or ".join(SCORES)
        raise problem(
            row,
            "completions",
            f"found no score in completion {number} (its keys are {', '.join(map(repr, completion))}), expected a"
            f" number under {expected}",
        )
    values = list(value.values()) if isinstance(value, dict) else value
    if isinstance(values, list) and values:
        numbers = [_number(row, number, one) for one in values]
        return sum(numbers) / len(numbers)
    return _number(row, number, value)


def _number(row: Row, number: int, value: Any) -> float:
    """A number, or the text of one (UltraFeedback's `Rating` is a text)."""
    if isinstance(value, str):
        row = row._replace(kind="text")
    try:
        return as_number(row, "completions", value)
    except ValueError:
        raise problem(
            row, "completions", f"found {describe(value)} as a score of completion {number}, expected a finite number"
        ) from None


def prompt_of(row: Row) -> Any:
    """The prompt of a row with rated completions; UltraFeedback calls it `instruction`."""
    key = "prompt" if "prompt" in row.values or "instruction" not in row.values else "instruction"
    return require(row, key, "a string or a list of messages")


def one_by_one(row: Row, settings: Rated) -> list[Row]:
    """A row for each of the rated completions, with its `score`."""
    shared = _shared(row)
    return [
        row._replace(values={**shared, "completion": scored.completion, "score": scored.score})
        for scored in rated_completions(row, settings)
    ]


def best(row: Row, settings: Rated) -> Row:
    """The best-rated completion alone; the first of several."""
    return row._replace(values={**_shared(row), "completion": rated_completions(row, settings)[0].completion})


def pairs_of(row: Row, settings: Rated) -> list[Row]:
    """The pairs of a row.

    Raises:
        UnusableRowError: It gives none.
    """
    rated = rated_completions(row, settings)
    pairs = [_pair(_shared(row), better, worse) for better, worse in _choose(rated, settings)]
    if not pairs:
        raise UnusableRowError(_no_pair(settings), row)
    return pairs


def _shared(row: Row) -> dict[str, Any]:
    return {"prompt": prompt_of(row), **{key: row.values[key] for key in _KEPT if key in row.values}}


def _pair(shared: dict[str, Any], better: Scored, worse: Scored) -> Row:
    values = {**shared, "chosen": better.completion, "rejected": worse.completion}
    return worse.row._replace(values={**values, "score_chosen": better.score, "score_rejected": worse.score})


def _choose(rated: list[Scored], settings: Rated) -> Iterator[tuple[Scored, Scored]]:
    """The pairs of completions that are sorted from best to worst."""
    last = len(rated) - 1
    numbers: dict[Pairing, list[tuple[int, int]]] = {
        "best_worst": [(0, last)] if last > 0 else [],
        "neighbours": [(i, i + 1) for i in range(last)],
        "all": [(i, j) for i in range(last) for j in range(i + 1, last + 1)],
    }
    for i, j in numbers[settings.pairs]:
        margin = rated[i].score - rated[j].score
        if margin > 0 and margin >= settings.min_margin:
            yield rated[i], rated[j]


def _no_pair(settings: Rated) -> str:
    margin = f" by {settings.min_margin:g} or more" if settings.min_margin > 0 else ""
    return f"whose prompt has no two completions with scores that differ{margin}"


def pairs_of_scored_rows(rows: Iterable[Row], settings: Rated, left_out: LeftOut) -> Iterator[Row]:
    """Pairs from rows with one scored completion each: those of the same prompt are compared, wherever they are.

    Memory holds all of them.
    """
    prompts: dict[str, list[Scored]] = {}
    for row in rows:
        key = json.dumps(row.values.get("prompt"), sort_keys=True, default=str)
        prompts.setdefault(key, []).append(Scored(row.values["completion"], row.values["score"], row))
    for scored in prompts.values():
        scored.sort(key=lambda one: -one.score)
        used: set[int] = set()
        for better, worse in _choose(scored, settings):
            used |= {id(better), id(worse)}
            yield _pair(_shared(worse.row), better, worse)
        for one in scored:
            if id(one) not in used:
                left_out.add(_no_pair(settings) if not used else "that are in no pair of their prompt", one.row)
