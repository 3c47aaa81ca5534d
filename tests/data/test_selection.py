"""Which examples are kept, and mixtures that are the same row for row."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from halo_lightning.data.feedback import Example, Feedback, Paired, Unary
from halo_lightning.data.reading import LeftOut, read_feedback
from halo_lightning.data.selection import Mixture
from halo_lightning.data.sources import BadRows, Source
from halo_lightning.errors import ConfigError, DataError
from tests.data.helpers import pairs, thumbs, write_rows


def mix(*sources: str | Source, feedback: Feedback = "unary", seed: int = 1) -> list[Example]:
    return list(Mixture(sources, feedback, seed).examples(BadRows()))


def completions(examples: list[Example]) -> list[str]:
    return [example.completion for example in examples if not isinstance(example, Paired)]


def labels(examples: list[Example]) -> Counter[bool]:
    return Counter(example.desirable for example in examples if isinstance(example, Unary))


# --- unary feedback as pairs ---------------------------------------------------------------------------------------


def thumb(prompt: str, completion: str, label: bool, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion, "label": label, **more}


def test_unary_feedback_becomes_pairs_where_a_prompt_has_both_kinds(tmp_path: Path) -> None:
    rows = [
        thumb("a", "a up 1", True, weight=3),
        thumb("a", "a up 2", True),
        thumb("b", "b down 1", False),
        thumb("a", "a down 1", False),
        thumb("b", "b up 1", True),
        thumb("a", "a down 2", False),
        thumb("a", "a down 3", False),
        thumb("c", "c up 1", True),
        thumb("c", "c up 2", True),
    ]
    path = write_rows(tmp_path / "a.jsonl", rows)
    left_out = LeftOut()
    examples = [e for e in read_feedback(path, "paired", left_out) if isinstance(e, Paired)]
    assert [(e.chosen, e.rejected, e.weight, e.line) for e in examples] == [
        ("a up 1", "a down 1", 2.0, 4),
        ("b up 1", "b down 1", 1.0, 5),
        ("a up 2", "a down 2", 1.0, 6),
    ]
    assert "left out 3 of 9 rows: 1 undesirable without a desirable completion of the same prompt" in str(left_out)
    assert "(first: line 7), 2 desirable without an undesirable completion" in str(left_out)


def test_the_same_words_of_another_role_are_another_prompt(tmp_path: Path) -> None:
    rows = [thumb("a", "x", True), {**thumb("", "y", False), "prompt": [{"role": "system", "content": "a"}] * 1}]
    rows[1]["prompt"] += [{"role": "user", "content": "b"}]
    assert not list(read_feedback(write_rows(tmp_path / "a.jsonl", rows), "paired"))


# --- imbalance -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "desirable", "undesirable"),
    [
        ({"keep_desirable": 0.1}, 6, 40),
        ({"keep_undesirable": 0.25}, 60, 10),
        ({"keep_desirable": 0.5, "keep_undesirable": 0.5}, 30, 20),
        ({"keep_desirable": 0}, 0, 40),
        ({"keep_desirable": 1 / 3}, 20, 40),
    ],
)
def test_a_fraction_is_exact(tmp_path: Path, settings: dict[str, float], desirable: int, undesirable: int) -> None:
    source = Source(write_rows(tmp_path / "a.jsonl", thumbs(100, 60)), **settings)  # type: ignore[arg-type]
    examples = mix(source)
    assert labels(examples) == Counter({True: desirable, False: undesirable})
    assert mix(source) == examples
    if 0 < desirable < 60 or 0 < undesirable < 40:
        assert mix(source, seed=2) != examples
    assert [example.line for example in examples] == sorted(example.line for example in examples)


def test_what_the_selection_leaves_out_is_noted(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", thumbs(100, 60))
    mixture = Mixture([Source(path, keep_desirable=0.1, keep_undesirable=0.5)], "unary")
    assert len(list(mixture.examples(BadRows()))) == 26
    assert mixture.notes == [
        f"{path}: 26 of 100 examples are kept (keep_desirable=0.1 left out 54, keep_undesirable=0.5 left out 20)"
    ]


def test_one_output_of_each_prompt_of_either_kind(tmp_path: Path) -> None:
    rows = [{**row, "prompt": f"Question {number % 40}"} for number, row in enumerate(pairs(80))]
    path = write_rows(tmp_path / "a.jsonl", rows)
    examples = mix(Source(path, one_per_prompt=True))
    assert len(examples) == len({example.prompt[0]["content"] for example in examples}) == 40
    assert 10 <= labels(examples)[True] <= 30  # the first output of each prompt is always the chosen one
    assert any(example.line > 40 for example in examples)
    assert any(example.line <= 40 for example in examples)
    assert mix(Source(path, one_per_prompt=True)) == examples != mix(Source(path, one_per_prompt=True, seed=9))
    half = mix(Source(path, one_per_prompt=True, keep_desirable=0.5))
    assert labels(half)[False] == labels(examples)[False]
    assert labels(half)[True] == round(labels(examples)[True] / 2)


@pytest.mark.parametrize("feedback", ["paired", "sft"])
def test_fractions_of_pairs_mean_nothing(tmp_path: Path, feedback: Feedback) -> None:
    path = write_rows(tmp_path / "a.jsonl", pairs(3))
    with pytest.raises(
        ConfigError, match=f"keep_desirable and keep_undesirable are for unary feedback, and {feedback}"
    ):
        mix(Source(path, keep_desirable=0.5), feedback=feedback)


# --- mixtures ------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Three files with 60, 30 and 10 pairs, whose completions start with their name."""
    found = []
    for name, count in (("a", 60), ("b", 30), ("c", 10)):
        rows = [{"prompt": f"{name}{i}", "chosen": f"{name} yes {i}", "rejected": f"no {i}"} for i in range(count)]
        found.append(write_rows(tmp_path / f"{name}.jsonl", rows))
    return found


def names(examples: list[Example]) -> str:
    return "".join(example.prompt[0]["content"][0] for example in examples)


def test_without_weights_sources_follow_each_other_whole(files: list[str]) -> None:
    assert names(mix(*files, feedback="paired")) == "a" * 60 + "b" * 30 + "c" * 10
    assert names(mix(files[2], files[0], feedback="paired")) == "c" * 10 + "a" * 60


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ((1, 1, 1), (10, 10, 10)),
        ((2, 1, None), (20, 10, 10)),
        ((6, 3, 1), (60, 30, 10)),
        ((0.5, 0.5, 0.1), (30, 30, 6)),
        ((1, 2, 0.5), (15, 30, 7)),
    ],
)
def test_the_largest_mixture_with_these_shares(
    files: list[str], weights: tuple[float, ...], expected: tuple[int, ...]
) -> None:
    sources = [Source(path, weight=weight) for path, weight in zip(files, weights, strict=True)]
    examples = mix(*sources, feedback="paired")
    assert tuple(names(examples).count(name) for name in "abc") == expected
    assert len({(e.file, e.line) for e in examples}) == len(examples)
    half = names(examples[: len(examples) // 2])
    assert all(abs(half.count(name) - count / 2) <= 1 for name, count in zip("abc", expected, strict=True))


def test_a_mixture_is_the_same_row_for_row(files: list[str]) -> None:
    sources = [Source(files[0], weight=1), Source(files[1], weight=2)]
    first = mix(*sources, feedback="paired")
    assert names(first[:6]) == "babbab"
    assert mix(*sources, feedback="paired") == first
    assert [e.line for e in mix(*sources, feedback="paired", seed=2)] != [e.line for e in first]
    fixed = [Source(files[0], weight=1, seed=5), Source(files[1], weight=2, seed=5)]
    assert mix(*fixed, feedback="paired", seed=2) == mix(*fixed, feedback="paired", seed=3)


def test_the_share_that_is_left_out_is_noted(files: list[str]) -> None:
    mixture = Mixture([Source(files[0], weight=1), files[1]], "paired")
    list(mixture.examples(BadRows()))
    assert mixture.notes == [f"{files[0]}: 30 of 60 examples are kept (its share (1 of 2) left out 30)"]
    assert list(mixture.left_out) == files[:2]


def test_the_same_source_twice_is_counted_twice(files: list[str]) -> None:
    mixture = Mixture([files[2], files[2]], "paired")
    assert len(list(mixture.examples(BadRows()))) == 20
    assert {name: left_out.rows for name, left_out in mixture.left_out.items()} == {files[2]: 10, f"{files[2]} (2)": 10}


def test_a_source_without_examples_cannot_be_mixed(files: list[str], tmp_path: Path) -> None:
    nothing = write_rows(tmp_path / "n.jsonl", thumbs(3, 0))
    with pytest.raises(DataError, match=r"n\.jsonl: found no example to mix"):
        mix(Source(files[0], weight=1), Source(nothing, weight=1), feedback="sft")


def test_a_bad_row_is_counted_once_however_often_a_source_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_rows(path, thumbs(10, 5))
    path.write_text(path.read_text() + "not json\n")
    bad = BadRows("skip", tmp_path / "bad.jsonl")
    examples = Mixture([Source(str(path), keep_desirable=0.2, one_per_prompt=True)], "unary").examples(bad)
    assert len(list(examples)) == 6
    assert bad.count == len((tmp_path / "bad.jsonl").read_text().splitlines()) == 1
