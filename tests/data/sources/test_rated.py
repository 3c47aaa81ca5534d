"""Rated completions as UltraFeedback publishes them, and completions with a score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from halo_lightning.data.feedback import Demonstration, Paired, Unary
from halo_lightning.data.reading import LeftOut, read_feedback
from halo_lightning.data.sources import Label, Rated, Source
from halo_lightning.errors import DataError
from tests.data.helpers import write_rows
from tests.data.sources.published import (
    BINARIZED,
    ultrafeedback,
    user,
)


def pairs(path: str, **settings: Any) -> list[tuple[str, str]]:
    examples = read_feedback(Source(path, rated=Rated(**settings)), "paired")
    return [(e.chosen[7:], e.rejected[7:]) for e in examples if isinstance(e, Paired)]


def test_rated_completions_as_pairs(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [ultrafeedback(5, 8.5, 7, 5)])
    assert pairs(path) == [("1", "3")]
    assert pairs(path, pairs="neighbours") == [("1", "2"), ("2", "0")]
    assert pairs(path, pairs="all") == [("1", "2"), ("1", "0"), ("1", "3"), ("2", "0"), ("2", "3")]
    assert pairs(path, pairs="all", min_margin=2) == [("1", "0"), ("1", "3"), ("2", "0"), ("2", "3")]
    assert pairs(path, score="annotations.helpfulness.Rating") == [("3", "0")]


def test_rated_completions_one_by_one(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [ultrafeedback(5, 8.5, 7, 4), ultrafeedback(9, 1)])

    def labels(label: Label) -> list[tuple[str, bool]]:
        examples = read_feedback(Source(path, label=label), "unary")
        return [(e.completion[7:], e.desirable) for e in examples if isinstance(e, Unary)]

    assert labels(Label(threshold=7)) == [
        ("1", True), ("2", True), ("0", False), ("3", False), ("0", True), ("1", False),
    ]  # fmt: skip
    assert labels(Label(quantile=0.5)) == labels(Label(threshold=7))
    assert [e.completion for e in read_feedback(path, "sft") if isinstance(e, Demonstration)] == [
        "answer 1",
        "answer 0",
    ]
    with pytest.raises(DataError, match="line 1, key 'completions': found rated completions, expected to be told"):
        next(read_feedback(path, "unary"))


def test_prompts_whose_completions_are_equally_good_are_counted(tmp_path: Path) -> None:
    left_out = LeftOut()
    path = write_rows(tmp_path / "a.jsonl", [ultrafeedback(5, 5), ultrafeedback(3), ultrafeedback(1, 2)])
    assert len(list(read_feedback(path, "paired", left_out))) == 1
    assert str(left_out) == (
        "left out 2 of 3 rows: 2 whose prompt has no two completions with scores that differ (first: line 1)"
    )


@pytest.mark.parametrize(
    ("completions", "says"),
    [
        ("text", "found a string"),
        ([], "found a list"),
        (["text"], "found a string .* as completion 1, expected an object"),
        ([{"score": 1}], "found the keys 'score' in completion 1, expected a text under response"),
        ([{"response": " ", "score": 1}], "found a string .* in completion 1, expected a text"),
        ([{"response": "a"}], "found no score in completion 1 .* expected a number under overall_score"),
        ([{"response": "a", "score": "N/A"}], "found a string .* as a score of completion 1"),
        ([{"response": "a", "ratings": [4, None]}], "found null as a score of completion 1"),
        ([{"response": "a", "score": float("inf")}], "found a number .Infinity. as a score"),
    ],
)
def test_rated_completions_that_are_wrong(tmp_path: Path, completions: Any, says: str) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"prompt": "Hi", "completions": completions}])
    with pytest.raises(DataError, match=f"line 1, key 'completions': {says}"):
        list(read_feedback(path, "paired"))


def test_several_ratings_of_a_completion_are_averaged(tmp_path: Path) -> None:
    row = {
        "prompt": "Hi",
        "completions": [
            {"text": "answer 0", "ratings": {"helpful": 5, "honest": 1}},
            {"text": "answer 1", "ratings": [3, 4]},
        ],
    }
    assert pairs(write_rows(tmp_path / "a.jsonl", [row])) == [("1", "0")]


def test_binarized_ultrafeedback(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [BINARIZED])
    hi = (user("Hi"),)
    assert list(read_feedback(path, "paired")) == [Paired(hi, "Yes", "No", 1.0, path, 1)]
    assert list(read_feedback(path, "sft")) == [Demonstration(hi, "Yes", 1.0, path, 1)]
    for threshold, labels in ((7, [True, False]), (6, [True, True]), (9, [False, False])):
        examples = read_feedback(Source(path, label=Label(threshold=threshold)), "unary")
        assert [e.desirable for e in examples if isinstance(e, Unary)] == labels
    left_out = LeftOut()
    assert not list(read_feedback(Source(path, rated=Rated(min_margin=2)), "paired", left_out))
    assert "1 whose scores differ by less than 2" in str(left_out)


def test_scored_rows_are_compared_with_others_of_their_prompt(tmp_path: Path) -> None:
    rows = [
        {"prompt": prompt, "completion": f"answer {number}", "score": score}
        for number, (prompt, score) in enumerate([("a", 1), ("b", 5), ("a", 3), ("a", 2), ("c", 1), ("b", 5)])
    ]
    path = write_rows(tmp_path / "a.jsonl", rows)
    assert pairs(path) == [("2", "0")]
    assert pairs(path, pairs="neighbours") == [("2", "3"), ("3", "0")]
    left_out = LeftOut()
    list(read_feedback(path, "paired", left_out))
    assert len(left_out) == 4
    with pytest.raises(DataError, match="line 7, key 'score': found null"):
        list(read_feedback(write_rows(tmp_path / "a.jsonl", [*rows, {**rows[0], "score": None}]), "paired"))
