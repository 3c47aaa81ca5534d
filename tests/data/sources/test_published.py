"""Published data sets, written by the tests in exactly their published form."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from halo_lightning.data.feedback import Demonstration, Paired, Unary
from halo_lightning.data.reading import LeftOut, read_feedback
from halo_lightning.data.sources import OASST, SHP, BadRows, Label, Rated, Source
from halo_lightning.errors import DataError
from tests.data.helpers import write_rows


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


# --- Anthropic HH --------------------------------------------------------------------------------------------------


def test_all_subsets_of_hh(tmp_path: Path) -> None:
    for number, subset in enumerate(("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled")):
        (tmp_path / subset).mkdir()
        for split in ("train", "test"):
            start = f"\n\nHuman: {subset}\n\nAssistant: Hm?\n\nHuman: {split} {number}\n\nAssistant:"
            content = json.dumps({"chosen": f"{start} Good.", "rejected": f"{start} Bad."}) + "\n"
            (tmp_path / subset / f"{split}.jsonl.gz").write_bytes(gzip.compress(content.encode()))
    (tmp_path / "red-team-attempts").mkdir()
    (tmp_path / "red-team-attempts" / "red_team_attempts.jsonl.gz").write_bytes(gzip.compress(b"[]"))
    examples = list(read_feedback(Source(str(tmp_path), split="train"), "paired"))
    assert [example.prompt[0]["content"] for example in examples] == [
        "harmless-base",
        "helpful-base",
        "helpful-online",
        "helpful-rejection-sampled",
    ]
    assert {(e.chosen, e.rejected) for e in examples if isinstance(e, Paired)} == {("Good.", "Bad.")}
    assert all(example.prompt[-1] == user(f"train {number}") for number, example in enumerate(examples))
    assert {example.keep_prompt for example in examples} == {"end"}
    (one,) = read_feedback(Source(str(tmp_path), split="test", data_dir="helpful-online"), "sft")
    assert isinstance(one, Demonstration)
    assert (one.prompt[-1], one.completion) == (user("test 2"), "Good.")


# --- SHP -----------------------------------------------------------------------------------------------------------


def shp_row(post: str, a: str, b: str, *, labels: int = 1, ratio: float = 2.0, **more: Any) -> dict[str, Any]:
    return {
        "post_id": f"id of {post}",
        "domain": "askculinary_train",
        "upvote_ratio": 0.98,
        "history": post,
        "c_root_id_A": "hi5gk3a",
        "c_root_id_B": "hi5q8zq",
        "created_at_utc_A": 1635531000,
        "created_at_utc_B": 1635535000,
        "score_A": 340,
        "score_B": 166,
        "human_ref_A": a,
        "human_ref_B": b,
        "labels": labels,
        "seconds_difference": 3991.0,
        "score_ratio": ratio,
        **more,
    }


def write_shp(folder: Path, rows: list[dict[str, Any]]) -> str:
    """As published: a folder for each subreddit, JSON Lines in files that end in .json."""
    (folder / "askculinary").mkdir(exist_ok=True)
    for split in ("train", "validation", "test"):
        write_rows(folder / "askculinary" / f"{split}.json", rows if split == "train" else rows[:1])
    return str(folder)


def test_shp(tmp_path: Path) -> None:
    rows = [
        shp_row("Salt?", "Yes.", "No.", labels=1, ratio=2.0),
        shp_row("Salt?", "A bit.", "A lot.", labels=0, ratio=7.5),
        shp_row("Pepper?", "Yes.", "No.", labels=1, ratio=1.99),
        shp_row("Pepper?", "", "No.", labels=0, ratio=3.0),
    ]
    source = Source(write_shp(tmp_path, rows), split="train")
    file = f"{tmp_path}/askculinary/train.json"
    left_out = LeftOut()
    assert list(read_feedback(source, "paired", left_out)) == [
        Paired((user("Salt?"),), "Yes.", "No.", 1.0, file, 1, keep_prompt="start"),
        Paired((user("Salt?"),), "A lot.", "A bit.", 1.0, file, 2, keep_prompt="start"),
    ]
    assert str(left_out) == (
        "left out 2 of 4 rows: 1 whose score ratio is below 2 (first: line 3),"
        " 1 with an empty post or comment (first: line 4)"
    )
    assert list(read_feedback(source, "unary"))[2:] == [
        Unary((user("Salt?"),), "A lot.", True, 1.0, file, 2, keep_prompt="start"),
        Unary((user("Salt?"),), "A bit.", False, 1.0, file, 2, keep_prompt="start"),
    ]


def test_shp_demonstrations_are_the_first_response_to_each_post(tmp_path: Path) -> None:
    rows = [
        shp_row("Salt?", "first, but worse", "better", labels=0),
        shp_row("Pepper?", "other", "x"),
        shp_row("Salt?", "best", "worst"),
    ]
    left_out = LeftOut()
    source = Source(write_shp(tmp_path, rows), split="train")
    examples = list(read_feedback(source, "sft", left_out))
    assert [(e.prompt[0]["content"], e.completion) for e in examples if isinstance(e, Demonstration)] == [
        ("Salt?", "first, but worse"),
        ("Pepper?", "other"),
    ]
    assert str(left_out) == "left out 1 of 3 rows: 1 whose post has its demonstration already (first: line 3)"


def test_shp_has_five_pairs_of_a_post_drawn_by_the_seed(tmp_path: Path) -> None:
    rows = [shp_row(f"Post {i % 3}", f"a{i}", f"b{i}", ratio=3.0) for i in range(60)]
    path = write_shp(tmp_path, [*rows, *(shp_row("Post 1", "low", "low", ratio=1.5) for _ in range(5))])

    def read(seed: int = 1, **settings: Any) -> list[str]:
        examples = read_feedback(Source(path, split="train", shp=SHP(**settings)), "paired", left_out, seed=seed)
        return [e.chosen for e in examples if isinstance(e, Paired)]

    left_out = LeftOut()
    chosen = read()
    assert Counter(int(name[1:]) % 3 for name in chosen) == {0: 5, 1: 5, 2: 5}
    assert "45 beyond 5 pairs of a post" in str(left_out)
    assert chosen == read() != read(seed=2)
    assert chosen[:5] != [f"a{i}" for i in range(5)]  # drawn, not the first ones
    assert len(read(max_pairs_per_prompt=None)) == 60
    assert len(read(max_pairs_per_prompt=None, min_score_ratio=1)) == 65


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labels": 2}, "key 'labels': found an integer .2., expected 1 .A is preferred. or 0"),
        ({"labels": True}, "key 'labels': found a boolean"),
        ({"labels": None}, "key 'labels': found null"),
        ({"score_ratio": "3"}, "key 'score_ratio': found a string .* expected a finite number"),
        ({"score_ratio": float("nan")}, "key 'score_ratio'"),
        ({"history": None}, "key 'history': found null, expected a text"),
        ({"human_ref_B": ["x"]}, "key 'human_ref_B': found a list"),
    ],
)
def test_a_bad_row_of_shp(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = write_rows(tmp_path / "a.jsonl", [shp_row("p", "a", "b"), {**shp_row("p", "a", "b"), **change}])
    with pytest.raises(DataError, match=f"a.jsonl, line 2, {says}"):
        list(read_feedback(path, "paired"))


# --- OpenAssistant -------------------------------------------------------------------------------------------------


def message(identifier: str, parent: str | None, text: str, rank: int | None = None, **more: Any) -> dict[str, Any]:
    """A row as published; the role follows from the identifier."""
    return {
        "message_id": identifier,
        "parent_id": parent,
        "user_id": "2c96e467-66f0-4be7-9693-bda51356a424",
        "created_date": "2023-02-06T18:48:49.391686+00:00",
        "text": text,
        "role": "assistant" if identifier.startswith("a") else "prompter",
        "lang": "en",
        "review_count": 3,
        "review_result": True,
        "deleted": False,
        "rank": rank,
        "synthetic": False,
        "model_name": None,
        "detoxify": {"toxicity": 0.01, "severe_toxicity": 0.0},
        "message_tree_id": "p1",
        "tree_state": "ready_for_export",
        "emojis": {"name": ["+1"], "count": [3]},
        "labels": {"name": ["spam"], "value": [0.0], "count": [3]},
        **more,
    }


TREE = [
    message("p1", None, "Hi"),
    message("a1", "p1", "good", 0),
    message("p2", "a1", "More?", 1),
    message("a2", "p2", "second", 1),
    message("a3", "p2", "third", 2),
    message("a4", "p2", "first", 0),
    message("a5", "p2", "nobody ranked it"),
    message("a6", "p1", "bad", 1),
    message("a7", "p1", "schlecht", 2, lang="de"),
    message("p3", None, "Hallo", lang="de"),
    message("a8", "p3", "gut", 0, lang="de"),
    message("a9", "p3", "böse", 1, lang="de"),
]


def write_oasst(folder: Path, rows: list[dict[str, Any]]) -> str:
    """As published: Parquet files with their split in the name."""
    (folder / "data").mkdir(exist_ok=True)
    for split in ("train", "validation"):
        table = pa.Table.from_pylist(rows if split == "train" else rows[:2])
        pa.parquet.write_table(table, folder / "data" / f"{split}-00000-of-00001-b42a775f407cee45.parquet")
    return str(folder)


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


# --- UltraFeedback -------------------------------------------------------------------------------------------------


def ultrafeedback(*scores: Any, **more: Any) -> dict[str, Any]:
    return {
        "source": "evol_instruct",
        "instruction": "Hi",
        "models": ["alpaca-7b", "bard"],
        "completions": [
            {
                "model": "bard",
                "custom_system_prompt": "…",
                "response": f"answer {number}",
                "overall_score": score,
                "fine-grained_score": 4.0,
                "critique": "…",
                "annotations": {"helpfulness": {"Rating": str(number), "Rationale": "…"}},
            }
            for number, score in enumerate(scores)
        ],
        "correct_answers": ["None"],
        **more,
    }


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


BINARIZED = {
    "prompt": "Hi",
    "prompt_id": "f0e37e9f7800261167ce91143f98f511f768847236f133f2d0aed60b444ebe57",
    "chosen": [user("Hi"), assistant("Yes")],
    "rejected": [user("Hi"), assistant("No")],
    "messages": [user("Hi"), assistant("Yes")],
    "score_chosen": 8.0,
    "score_rejected": 6.5,
}


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
