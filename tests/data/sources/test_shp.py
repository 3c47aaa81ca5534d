"""Stanford Human Preferences, as published."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from halo_lightning.data.feedback import Demonstration, Paired, Unary
from halo_lightning.data.reading import LeftOut, read_feedback
from halo_lightning.data.sources import SHP, Source
from halo_lightning.errors import DataError
from tests.data.helpers import write_rows
from tests.data.sources.published import (
    shp_row,
    user,
    write_shp,
)


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
