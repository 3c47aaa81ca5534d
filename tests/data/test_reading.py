"""Kinds of feedback, their conversions, and the count of what is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from halo_lightning.data.feedback import Demonstration, Feedback, Paired, Unary
from halo_lightning.data.reading import LeftOut, read_feedback
from halo_lightning.errors import DataError
from tests.conftest import HH_FILE
from tests.data.helpers import write_rows

HI = ({"role": "user", "content": "Hi"},)
PAIR = {"prompt": "Hi", "chosen": "Yes", "rejected": "No", "weight": 3}
UP = {"prompt": "Hi", "completion": "Yes", "label": True, "weight": 3}
DOWN = {"prompt": "Hi", "completion": "No", "label": False}
DEMONSTRATION = {"prompt": "Hi", "completion": "Yes", "weight": 3}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


def test_pairs_become_unary_feedback(file: Path) -> None:
    name = write_rows(file, [PAIR])
    assert list(read_feedback(name, "unary")) == [
        Unary(HI, "Yes", desirable=True, weight=3.0, file=name, line=1),
        Unary(HI, "No", desirable=False, weight=3.0, file=name, line=1),
    ]


def test_pairs_become_demonstrations(file: Path) -> None:
    name = write_rows(file, [PAIR])
    assert list(read_feedback(name, "sft")) == [Demonstration(HI, "Yes", weight=3.0, file=name, line=1)]


def test_desirable_completions_become_demonstrations_and_the_others_are_counted(file: Path) -> None:
    name = write_rows(file, [UP, DOWN, UP, DOWN])
    left_out = LeftOut()
    assert list(read_feedback(name, "sft", left_out)) == [
        Demonstration(HI, "Yes", weight=3.0, file=name, line=1),
        Demonstration(HI, "Yes", weight=3.0, file=name, line=3),
    ]
    assert str(left_out) == ("left out 2 of 4 rows: 2 whose completion is undesirable, so not imitated (first: line 2)")


def test_what_needs_no_conversion_stays(file: Path) -> None:
    name = write_rows(file, [PAIR])
    assert list(read_feedback(name, "paired")) == [Paired(HI, "Yes", "No", weight=3.0, file=name, line=1)]
    name = write_rows(file, [DOWN])
    assert list(read_feedback(name, "unary")) == [Unary(HI, "No", desirable=False, weight=1.0, file=name, line=1)]
    name = write_rows(file, [DEMONSTRATION])
    assert list(read_feedback(name, "sft")) == [Demonstration(HI, "Yes", weight=3.0, file=name, line=1)]


@pytest.mark.parametrize(
    ("rows", "wanted", "says"),
    [
        ([DEMONSTRATION], "paired", ["found demonstrations", "SFTDataModule reads"]),
        ([DEMONSTRATION], "unary", ["found demonstrations", "expected unary feedback", "'label'"]),
        ([{"note": "Hi"}], "unary", ["found the keys 'note'", "prompt, completion, label", "prompt, chosen, rejected"]),
        ([{"text": "Hi"}], "paired", ["found demonstrations", "messages, or text"]),
        ([{}], "sft", ["no keys", "demonstrations"]),
        ([{"prompt": "Hi", "chosen": "Yes"}], "paired", ["'prompt', 'chosen'", "rejected"]),
    ],
)
def test_the_wrong_kind_says_what_it_is_and_who_reads_it(
    file: Path, rows: list[dict], wanted: Feedback, says: list[str]
) -> None:
    with pytest.raises(DataError) as error:
        list(read_feedback(write_rows(file, rows), wanted))
    assert (error.value.file, error.value.line) == (str(file), 1)
    for words in says:
        assert words in str(error.value)


def test_pairs_of_plain_texts_have_what_both_begin_with_as_their_prompt(file: Path) -> None:
    rows = [
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        {"chosen": "The sky is green.", "rejected": "The sky is gray."},
        {"chosen": "One\ntwo three", "rejected": "One\ntwo"},
    ]
    left_out = LeftOut()
    examples = list(read_feedback(write_rows(file, rows), "paired", left_out))
    assert [(e.prompt[0]["content"], e.chosen, e.rejected) for e in examples if isinstance(e, Paired)] == [
        ("The sky is", " blue.", " green."),
        ("The sky is", " green.", " gray."),
        ("One", "\ntwo three", "\ntwo"),
    ]
    assert left_out.implicit_prompts == 3
    with pytest.raises(DataError, match=r"line 4, key 'prompt': .* begin with no words in common"):
        list(read_feedback(write_rows(file, [*rows, {"chosen": "Yes, it is", "rejected": "No"}]), "paired"))


def test_a_prompt_that_is_missing_in_one_row_is_an_error(file: Path) -> None:
    rows = [PAIR, {"chosen": "The sky is blue.", "rejected": "The sky is green."}]
    with pytest.raises(DataError, match="line 2, key 'prompt': this key is missing"):
        list(read_feedback(write_rows(file, rows), "paired"))


def test_a_row_of_another_kind_further_down(file: Path) -> None:
    with pytest.raises(DataError, match="line 3: found demonstrations"):
        list(read_feedback(write_rows(file, [UP, DOWN, DEMONSTRATION]), "unary"))


def test_published_hh_rows_are_left_out_and_counted(file: Path) -> None:
    def dialogue(prompt: str, completion: str) -> str:
        return f"\n\nHuman: {prompt}\n\nAssistant: {completion}"

    name = write_rows(
        file,
        [
            {"chosen": dialogue("a", "x"), "rejected": dialogue("a", "y")},
            {"chosen": dialogue("a", ""), "rejected": dialogue("a", "y")},
            {"chosen": dialogue("a", "x"), "rejected": dialogue("b", "y")},
            {"chosen": dialogue("a", "x"), "rejected": dialogue("c", "y")},
        ],
    )
    left_out = LeftOut()
    assert [example.line for example in read_feedback(name, "paired", left_out)] == [1]
    assert str(left_out) == (
        "left out 3 of 4 rows: 1 with an empty completion (first: line 2),"
        " 2 whose two dialogues have different prompts (first: line 3)"
    )


@pytest.mark.skipif(not HH_FILE.exists(), reason="Anthropic's HH file is not here")
def test_the_real_hh_file() -> None:
    left_out = LeftOut()
    examples = list(read_feedback(str(HH_FILE), "paired", left_out))
    assert len(examples) == 2303
    assert str(left_out) == (
        "left out 9 of 2312 rows: 4 with an empty completion (first: line 87),"
        " 5 whose two dialogues have different prompts (first: line 1255)"
    )
    first = examples[0]
    assert isinstance(first, Paired)
    assert [message["role"] for message in first.prompt] == ["user", "assistant", "user", "assistant", "user"]
    assert first.prompt[0]["content"] == "what are some pranks with a pen i can do?"
    assert first.chosen.startswith("No, sorry!  All of these involve a pen")
    assert first.rejected.startswith("There are lots of funny things")
