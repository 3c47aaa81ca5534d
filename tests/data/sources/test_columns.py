"""Columns under other names, labels of other kinds, and values that are texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from halo_lightning.data.feedback import Demonstration, Paired, Unary
from halo_lightning.data.reading import LeftOut, read_feedback
from halo_lightning.data.sources import SHP, BadRows, Label, Rated, Row, Source
from halo_lightning.data.sources.columns import labelled, named
from halo_lightning.errors import ConfigError, DataError, RowNumber
from tests.data.helpers import write_rows

HI = ({"role": "user", "content": "Hi"},)


def row(kind: Any = "json", **values: Any) -> Row:
    return Row(values, "rows.jsonl", 7, kind)


# --- columns -------------------------------------------------------------------------------------------------------


def test_named_columns_move(tmp_path: Path) -> None:
    before = row(question="Hi", answer="Yes", id=3)
    after = named(before, {"prompt": "question", "completion": "answer"})
    assert after.values == {"prompt": "Hi", "completion": "Yes", "id": 3}
    assert before.values == {"question": "Hi", "answer": "Yes", "id": 3}


def test_columns_may_change_places() -> None:
    assert named(row(chosen="a", rejected="b"), {"chosen": "rejected", "rejected": "chosen"}).values == {
        "chosen": "b",
        "rejected": "a",
    }


def test_a_named_column_wins_over_one_that_has_the_keys_name() -> None:
    assert named(row(prompt="system text", question="Hi"), {"prompt": "question"}).values == {"prompt": "Hi"}


def test_naming_one_form_of_a_row_says_that_it_is_no_other() -> None:
    whole = row(prompt="Hi", messages=[], chosen=1, rejected=2, completions=[], answer="Yes", label=True)
    assert named(whole, {"completion": "answer"}).values == {"prompt": "Hi", "completion": "Yes", "label": True}
    assert named(whole, {"label": "label"}).values == whole.values


def test_a_column_that_is_not_there_is_named_with_the_nearest_one() -> None:
    with pytest.raises(DataError, match=r"line 7, key 'prompt': found the columns 'question', 'answer', expected the"):
        named(row(question="Hi", answer="Yes"), {"prompt": "qestion"})
    with pytest.raises(DataError, match="did you mean 'question'"):
        named(row(question="Hi", answer="Yes"), {"prompt": "qestion"})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"columns": {"promt": "a"}}, "found the key 'promt', expected one of prompt, .*; did you mean 'prompt'"),
        ({"keep_desirable": 1.5}, "keep_desirable is 1.5"),
        ({"keep_undesirable": -0.1}, "keep_undesirable is -0.1"),
        ({"weight": 0}, "weight is 0"),
        ({"format": "shq"}, "format is 'shq'"),
        ({"keep_prompt": "middle"}, "keep_prompt is 'middle'"),
        ({"shp": SHP(max_pairs_per_prompt=0)}, "max_pairs_per_prompt is 0"),
        ({"rated": Rated(pairs="some")}, "rated.pairs is 'some'"),  # type: ignore[arg-type]
        ({"path": ""}, "path is ''"),
        ({"path": []}, "path is"),
    ],
)
def test_a_source_that_cannot_work_is_refused_at_once(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Source.of(Source(**{"path": "rows.jsonl", **settings}))


def test_a_source_as_plain_data() -> None:
    assert Source.of("a.jsonl").as_plain_data() == "a.jsonl"
    assert Source("a", split="b", label=Label(threshold=3), weight=2).as_plain_data() == {
        "path": "a",
        "split": "b",
        "label": {"numbers": False, "mapping": None, "threshold": 3, "quantile": None},
        "weight": 2,
    }


# --- labels --------------------------------------------------------------------------------------------------------

GOOD_BAD = Label(mapping={"good": True, "bad": False, "meh": None, "5": True, "1": False, "true": True})


@pytest.mark.parametrize(
    ("label", "value", "expected"),
    [
        (Label(), True, True),
        (Label(numbers=True), 1, True),
        (Label(numbers=True), 0, False),
        (Label(numbers=True), 1.0, True),
        (GOOD_BAD, "good", True),
        (GOOD_BAD, "bad", False),
        (GOOD_BAD, 5, True),
        (GOOD_BAD, 5.0, True),
        (GOOD_BAD, 1, False),
        (GOOD_BAD, True, True),
        (Label(mapping={1: True, 2.0: False}), "1", True),  # type: ignore[dict-item]
        (Label(mapping={5: True, 2.0: False}), 2, False),  # type: ignore[dict-item]
        (Label(threshold=3), 3, True),
        (Label(threshold=3), 2.99, False),
        (Label(threshold=-1), -2, False),
    ],
)
def test_labels(label: Label, value: Any, expected: bool) -> None:
    assert labelled(row(label=value), label).values["label"] is expected


@pytest.mark.parametrize(
    ("label", "value", "found"),
    [
        (Label(numbers=True), 2, r"found an integer \(2\), expected 1 \(desirable\) or 0"),
        (Label(numbers=True), 0.5, "found a number"),
        (Label(numbers=True), True, "found a boolean"),
        (Label(numbers=True), "1", "found a string"),
        (Label(numbers=True), None, "found null"),
        (GOOD_BAD, "Good", r'found a string \("Good"\), expected one of \'good\', \'bad\''),
        (GOOD_BAD, None, "found null"),
        (GOOD_BAD, ["good"], "found a list"),
        (GOOD_BAD, 2, "found an integer"),
        (Label(threshold=3), "4", "found a string .* expected a finite number"),
        (Label(threshold=3), True, "found a boolean"),
        (Label(threshold=3), None, "found null"),
        (Label(threshold=3), float("nan"), "found a number .NaN., expected a finite number"),
        (Label(threshold=3), 10**400, "found an integer"),
    ],
)
def test_a_label_that_means_nothing(label: Label, value: Any, found: str) -> None:
    with pytest.raises(DataError, match=f"rows.jsonl, line 7, key 'label': {found}"):
        labelled(row(label=value), label)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"threshold": 1.0, "quantile": 0.5}, "found threshold and quantile, expected one"),
        ({"numbers": True, "mapping": {"a": True}}, "found mapping and numbers"),
        ({"mapping": {"1": True, 1: False}}, "expected each value once"),
        ({"mapping": {"a": None}}, "expected some value to be true or false"),
        ({"quantile": 1.0}, "quantile is 1.0"),
    ],
)
def test_a_description_of_labels_that_cannot_work(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Source.of(Source("rows.jsonl", label=Label(**settings)))


def test_a_mapping_may_leave_rows_out(tmp_path: Path) -> None:
    rows = [{"prompt": "Hi", "completion": str(i), "label": label} for i, label in enumerate(["good", "meh", "bad"])]
    left_out = LeftOut()
    source = Source(write_rows(tmp_path / "a.jsonl", rows), label=GOOD_BAD)
    examples = list(read_feedback(source, "unary", left_out))
    assert [(e.completion, e.desirable) for e in examples if isinstance(e, Unary)] == [("0", True), ("2", False)]
    assert str(left_out) == (
        "left out 1 of 3 rows: 1 whose label is 'meh', which label.mapping leaves out (first: line 2)"
    )


def test_scores_by_threshold_and_by_quantile(tmp_path: Path) -> None:
    rows = [{"prompt": "Hi", "completion": str(i), "score": i / 10} for i in range(10)]
    path = write_rows(tmp_path / "a.jsonl", rows)
    for label, first in (
        (Label(threshold=0.4), 4),
        (Label(quantile=0.7), 7),
        (Label(quantile=0.01), 1),
        (Label(quantile=0.999), 9),
    ):
        examples = list(read_feedback(Source(path, label=label), "unary"))
        assert [e.desirable for e in examples if isinstance(e, Unary)] == [i >= first for i in range(10)]


def test_a_score_without_threshold_is_no_label(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"prompt": "Hi", "completion": "Yes", "score": 1}])
    with pytest.raises(DataError, match=r"found demonstrations.*label.threshold"):
        next(read_feedback(path, "unary"))


def test_a_thumbs_log(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d"},
    ]
    rows = [{"conversation": turns, "rating": "up"}, {"conversation": turns[:2], "rating": "down"}]
    path = write_rows(tmp_path / "log.jsonl", rows)
    source = Source(
        path,
        columns={"messages": "conversation", "label": "rating"},
        label=Label(mapping={"up": True, "down": False}),
    )
    assert list(read_feedback(source, "unary")) == [
        Unary(tuple(turns[:3]), "d", True, 1.0, path, 1),
        Unary(tuple(turns[:1]), "b", False, 1.0, path, 2),
    ]
    assert list(read_feedback(source, "sft")) == [Demonstration(tuple(turns[:3]), "d", 1.0, path, 1)]


# --- texts and tables ----------------------------------------------------------------------------------------------


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('prompt,completion,label,weight\nHi,Yes,true,2\nHi,"[No]",False,\nHi,Maybe,1,\n')
    bad = BadRows("skip")
    assert list(read_feedback(str(path), "unary", bad=bad)) == [
        Unary(HI, "Yes", True, 2.0, str(path), 2),
        Unary(HI, "[No]", False, 1.0, str(path), 3),
    ]
    assert bad.first == (
        f"{path}, line 4, key 'label': found a string (\"1\"), expected true (desirable) or false (undesirable);"
        " that 1 and 0 are meant, its source has to say (label.numbers)"
    )
    path.write_text("prompt,completion,label\nHi,Yes,1\nHi,No,0\n")
    examples = list(read_feedback(Source(str(path), label=Label(numbers=True)), "unary"))
    assert [e.desirable for e in examples if isinstance(e, Unary)] == [True, False]
    examples = list(read_feedback(Source(str(path), label=Label(threshold=0.5)), "unary"))
    assert [e.desirable for e in examples if isinstance(e, Unary)] == [True, False]


def test_csv_with_messages_as_json(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('prompt,chosen,rejected\n"[{""role"": ""user"", ""content"": ""Hi""}]",Yes,[1] No\n')
    assert list(read_feedback(str(path), "paired")) == [Paired(HI, "Yes", "[1] No", 1.0, str(path), 2)]


@pytest.mark.parametrize("weight", ["x", "0", "nan"])
def test_csv_with_a_bad_weight(tmp_path: Path, weight: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"prompt,completion,weight\nHi,Yes,{weight}\n")
    with pytest.raises(DataError, match=r"line 2, key 'weight': found .* expected a number above 0"):
        list(read_feedback(str(path), "sft"))


def test_null_in_a_table_is_no_weight_and_no_label(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = [{"prompt": "Hi", "completion": "Yes", "label": label, "weight": None} for label in (True, None)]
    pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    examples = read_feedback(str(path), "unary")
    assert next(examples) == Unary(HI, "Yes", True, 1.0, str(path), RowNumber(1))
    with pytest.raises(DataError, match=r"a.parquet, row 2, key 'label': found null, expected true"):
        next(examples)


def test_a_table_of_messages_has_null_where_a_message_has_no_tool(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    message = {"role": "user", "content": "Hi", "name": None, "tool_calls": None}
    rows = [{"messages": [message, {**message, "role": "assistant", "content": "Yes"}]}]
    pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    assert list(read_feedback(str(path), "sft")) == [Demonstration(HI, "Yes", 1.0, str(path), 1)]
