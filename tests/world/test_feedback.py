"""Rows of feedback: their formats, that they are always the same, and the statistics of the annotator."""

import hashlib
import json
import math
import random
import subprocess
import sys
from statistics import mean

import pytest

from halo_lightning.world import Annotator, Flaws, compare, held_out_prompts, judge, rows
from halo_lightning.world.chance import chance, pick, shuffled, stream
from halo_lightning.world.language import complete, is_held_out, prompts

KEYS = {
    "sft": {"prompt": str, "completion": str},
    "pairs": {"prompt": str, "chosen": str, "rejected": str},
    "thumbs": {"prompt": str, "completion": str, "label": bool},
}


@pytest.mark.parametrize("kind", KEYS)
def test_format(kind: str) -> None:
    made = rows(kind, examples=101, seed=0)
    assert len(made) == 101
    for row in made:
        assert {key: type(value) for key, value in row.items()} == KEYS[kind]
        assert all(value.strip() == value != "" for value in row.values() if isinstance(value, str))


@pytest.mark.parametrize("kind", KEYS)
def test_same_seed_same_rows(kind: str) -> None:
    made = rows(kind, examples=200, seed=3)
    assert made == rows(kind, examples=200, seed=3)
    assert made[:51] == rows(kind, examples=51, seed=3), "fewer examples are the beginning of more"
    assert made != rows(kind, examples=200, seed=4)


def test_rows_are_the_same_in_every_process_and_on_every_machine() -> None:
    script = (
        "import hashlib, json; from halo_lightning.world import held_out_prompts, rows;"
        "made = [rows(k, examples=60, seed=1) for k in ('sft', 'pairs', 'thumbs')] + [held_out_prompts(60, 1)];"
        "print(hashlib.sha256(json.dumps(made).encode()).hexdigest())"
    )
    made = [rows(kind, examples=60, seed=1) for kind in KEYS] + [held_out_prompts(60, 1)]
    here = hashlib.sha256(json.dumps(made).encode()).hexdigest()
    there = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == here
    # The figure changes only when the world does: then the base model must be built anew.
    assert here == "b29bfac022ed3b951b3b5582159160939d5dcb0ef223bd5f4bbb94190b7f5666"


def test_the_kinds_are_views_of_the_same_feedback() -> None:
    pairs = rows("pairs", examples=50, seed=2)
    sft = rows("sft", examples=50, seed=2)
    thumbs = rows("thumbs", examples=100, seed=2)
    assert sft == [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs]
    for row, *both in zip(pairs, thumbs[::2], thumbs[1::2], strict=True):
        assert {one["prompt"] for one in both} == {row["prompt"]}
        assert {one["completion"] for one in both} == {row["chosen"], row["rejected"]}


def test_unknown_kind() -> None:
    with pytest.raises(ValueError, match="found 'pear', expected one of 'sft', 'pairs', 'thumbs'"):
        rows("pear", examples=1, seed=0)


def test_held_out_prompts_are_in_no_feedback() -> None:
    held_out = held_out_prompts(300, seed=0)
    assert len({row["prompt"] for row in held_out}) == 300
    assert all(set(row) == {"prompt", "chosen"} for row in held_out)
    for seed in range(3):
        for kind in KEYS:
            used = {row["prompt"] for row in rows(kind, examples=2000, seed=seed)}
            assert used.isdisjoint(row["prompt"] for row in held_out)


def test_held_out_prompts_are_the_same_for_a_seed() -> None:
    assert held_out_prompts(200, seed=5) == held_out_prompts(200, seed=5)
    assert held_out_prompts(200, seed=5) != held_out_prompts(200, seed=6)
    with pytest.raises(ValueError, match="fewer than the 100000 asked for"):
        held_out_prompts(100_000, seed=0)


def test_the_split_has_every_family_on_both_sides() -> None:
    for training, held_out in zip(prompts(held_out=False), prompts(held_out=True), strict=True):
        assert len(training) >= 40
        assert len(held_out) >= 15
        assert all(map(is_held_out, held_out))
        assert not any(map(is_held_out, training))


def test_chosen_is_better_but_not_perfect() -> None:
    pairs = rows("pairs", examples=1500, seed=0)
    chosen = [judge(row["prompt"], row["chosen"]) for row in pairs]
    rejected = [judge(row["prompt"], row["rejected"]) for row in pairs]
    for name in ("helpful", "harmless", "concise"):
        rate = mean(getattr(verdict, name) for verdict in chosen)
        assert 0.6 < rate < 0.9
        assert rate - mean(getattr(verdict, name) for verdict in rejected) > 0.2
    assert 0.02 < mean(compare(row["prompt"], row["chosen"], row["rejected"]) == "second" for row in pairs) < 0.08
    assert all(row["chosen"] != row["rejected"] for row in pairs)


def test_thumbs_are_mixed_and_informative() -> None:
    thumbs = rows("thumbs", examples=2000, seed=0)
    assert 0.4 < mean(row["label"] for row in thumbs) < 0.55
    liked = [judge(row["prompt"], row["completion"]).score for row in thumbs if row["label"]]
    disliked = [judge(row["prompt"], row["completion"]).score for row in thumbs if not row["label"]]
    assert mean(liked) - mean(disliked) > 0.8
    assert min(liked) < 2, "noise: some bad completion is liked"
    assert max(disliked) == 3, "noise: some perfect completion is disliked"


def test_annotator_follows_bradley_terry() -> None:
    prompt, texts = "What is 3 plus 4?", ["8, you fool. " + "Oh well. " * 3, "8, you fool.", "8.", "7."]
    assert [judge(prompt, text).score for text in texts] == [0, 1, 2, 3]
    annotator = Annotator(random.Random(0), sharpness=1.5, bar=2.0)
    for first in range(4):
        liked = mean(annotator.likes(prompt, texts[first]) for _ in range(2000))
        assert liked == pytest.approx(1 / (1 + math.exp(-1.5 * (first - 2))), abs=0.04)
        for second in range(4):
            preferred = mean(annotator.prefers_first(prompt, texts[first], texts[second]) for _ in range(2000))
            assert preferred == pytest.approx(1 / (1 + math.exp(-1.5 * (first - second))), abs=0.04)


def test_flaws_are_as_common_as_said() -> None:
    rng, flaws = stream("rates"), Flaws(evasive=0.1, wrong=0.2, rude=0.4, rambling=0.25)
    every = [prompt for family in prompts(held_out=False) for prompt in family]
    verdicts = [judge(prompt, complete(prompt, rng, flaws)) for prompt in every * 3]
    assert mean(verdict.helpful for verdict in verdicts) == pytest.approx(0.7, abs=0.04)
    assert mean(verdict.harmless for verdict in verdicts) == pytest.approx(0.6, abs=0.04)
    assert mean(verdict.concise for verdict in verdicts) == pytest.approx(0.75, abs=0.04)


def test_chance() -> None:
    rng = stream("chance")
    assert stream("chance").random() == stream("chance").random() != stream("other").random()
    assert sorted(shuffled(rng, range(20))) == list(range(20))
    assert {pick(rng, "abc") for _ in range(100)} == set("abc")
    assert mean(chance(rng, 0.3) for _ in range(3000)) == pytest.approx(0.3, abs=0.03)


def test_the_light_part_imports_no_torch() -> None:
    script = "import sys; from halo_lightning.world import rows, judge; rows('sft', examples=3, seed=0);" + (
        "print([m for m in ('torch', 'transformers', 'tokenizers', 'lightning') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
