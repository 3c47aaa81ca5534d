"""OpenAssistant, as published: messages, and trees of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from halo_lightning.data.feedback import Demonstration, Paired
from halo_lightning.data.reading import LeftOut, read_feedback
from halo_lightning.data.sources import OASST, BadRows, Source
from halo_lightning.errors import DataError
from tests.data.helpers import write_rows
from tests.data.sources.published import (
    TREE,
    assistant,
    user,
    write_oasst,
)


@pytest.mark.parametrize("order", [1, -1])
def test_oasst_pairs_are_neighbours_in_the_ranking(tmp_path: Path, order: int) -> None:
    source = Source(write_oasst(tmp_path, TREE[::order]), split="train")
    left_out = LeftOut()
    examples = list(read_feedback(source, "paired", left_out))
    second = (user("Hi"), assistant("good"), user("More?"))
    pairs = [((user("Hi"),), "good", "bad"), (second, "first", "second"), (second, "second", "third")]
    found = [(e.prompt, e.chosen, e.rejected) for e in examples if isinstance(e, Paired)]
    assert len(found) == len(pairs)
    assert all(pair in found for pair in pairs)
    assert {example.keep_prompt for example in examples} == {"start"}
    rows = {TREE[::order][int(example.line) - 1]["text"] for example in examples}
    assert rows == {"bad", "second", "third"}  # a pair has the place of its worse reply
    assert "left out 5 of 12 rows: 4 whose language is not en" in str(left_out)
    assert "1 that are replies without a neighbour in the ranking" in str(left_out)


def test_oasst_languages(tmp_path: Path) -> None:
    path = write_oasst(tmp_path, TREE)

    def chosen(*languages: str) -> set[tuple[str, str]]:
        source = Source(path, split="train", oasst=OASST(languages=list(languages)))
        return {(e.chosen, e.rejected) for e in read_feedback(source, "paired") if isinstance(e, Paired)}

    assert chosen("de") == {("gut", "böse")}
    assert chosen("de", "en") == chosen() == chosen("en") | {("gut", "böse"), ("bad", "schlecht")}


def test_oasst_demonstrations_are_the_best_replies(tmp_path: Path) -> None:
    left_out = LeftOut()
    examples = list(read_feedback(Source(write_oasst(tmp_path, TREE), split="train"), "sft", left_out))
    assert sorted(e.completion for e in examples if isinstance(e, Demonstration)) == ["first", "good"]
    assert "4 that are not the best-ranked reply to their prompt" in str(left_out)


@pytest.mark.parametrize(
    ("number", "change", "says"),
    [
        (1, {"parent_id": "nobody"}, "row 2, key 'parent_id': found a string .* expected the message_id of another"),
        (1, {"parent_id": None}, "row 2, key 'role': found 'assistant' for a message that replies to none"),
        (1, {"role": "bot"}, r"row 2, key 'role': found a string \(\"bot\"\), expected 'prompter' or 'assistant'"),
        (2, {"role": "assistant"}, "key 'role': found 'assistant' in reply to 'assistant', expected them to alternate"),
        (1, {"rank": -1}, "row 2, key 'rank': found an integer .-1., expected a whole number from 0"),
        (1, {"message_id": "p1"}, "row 2, key 'message_id': found a string .* a second time"),
        (1, {"text": None}, "row 2, key 'text': found null"),
        (0, {"parent_id": "a1"}, "key 'parent_id': found a circle"),
    ],
)
def test_a_bad_row_of_oasst(tmp_path: Path, number: int, change: dict[str, Any], says: str) -> None:
    rows = [{**row, **change} if index == number else row for index, row in enumerate(TREE)]
    with pytest.raises(DataError, match=says):
        list(read_feedback(Source(write_oasst(tmp_path, rows), split="train"), "paired"))


def test_oasst_files_of_messages_and_of_trees(tmp_path: Path) -> None:
    """As in `2023-04-12_oasst_ready.messages.jsonl.gz` and `….trees.jsonl.gz`: a key without value is not there."""
    messages = [{key: value for key, value in row.items() if value is not None} for row in TREE]
    nested = {row["message_id"]: {**row, "replies": []} for row in messages}
    for row in messages:
        if "parent_id" in row:
            nested[row["parent_id"]]["replies"].append(nested[row["message_id"]])
    for row in nested.values():
        row.pop("parent_id", None)
    trees = [
        {"message_tree_id": root, "tree_state": "ready_for_export", "prompt": nested[root]} for root in ("p1", "p3")
    ]
    expected = {("good", "bad"), ("first", "second"), ("second", "third")}
    for rows in (messages, trees):
        found = list(read_feedback(write_rows(tmp_path / "a.jsonl", rows), "paired"))
        assert {(e.chosen, e.rejected) for e in found if isinstance(e, Paired)} == expected
        assert {e.prompt[0]["content"] for e in found} == {"Hi"}
    nested["a2"]["text"] = 3
    with pytest.raises(DataError, match=r"line 1, key 'text': found an integer .3., expected a text"):
        list(read_feedback(write_rows(tmp_path / "a.jsonl", trees), "paired"))
    with pytest.raises(DataError, match=r"line 1, key 'role': this key is missing .found 'found', 'parent_id'"):
        list(read_feedback(write_rows(tmp_path / "a.jsonl", [{**trees[0], "prompt": "Hi"}]), "paired"))


def test_skipping_a_message_skips_the_replies_to_it(tmp_path: Path) -> None:
    rows = [{**row, "role": "bot"} if row["message_id"] == "p2" else row for row in TREE]
    bad, left_out = BadRows("skip"), LeftOut()
    source = Source(write_oasst(tmp_path, rows), split="train")
    examples = list(read_feedback(source, "paired", left_out, bad=bad))
    assert [(e.chosen, e.rejected) for e in examples if isinstance(e, Paired)] == [("good", "bad")]
    assert bad.count == 5
