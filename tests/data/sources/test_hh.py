"""Anthropic HH: all subsets in a folder."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from halo_lightning.data.feedback import Demonstration, Paired
from halo_lightning.data.reading import read_feedback
from halo_lightning.data.sources import Source
from tests.data.sources.published import (
    user,
)


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
