"""The prompts that models are compared on: which ones, and what a human chose."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from halo_lightning import PairedDataModule, SFTDataModule, UnaryDataModule
from halo_lightning.callbacks.samples import first_prompts
from halo_lightning.data.preparation import held_out_by_prompt
from halo_lightning.errors import ConfigError, DataError
from halo_lightning.evaluation.generation_job import GenerationJob
from halo_lightning.evaluation.prompts import held_out_questions, read_questions
from halo_lightning.evaluation.sampling import Sampling
from halo_lightning.pretrained import load_tokenizer


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def pairs(number: int) -> list[dict[str, Any]]:
    return [{"prompt": f"p{n}", "chosen": f" good {n} ", "rejected": f"bad {n}"} for n in range(number)]


def asked(questions: list[Any]) -> list[tuple[str, str]]:
    return [(question.prompt[-1]["content"], question.chosen) for question in questions]


@pytest.mark.parametrize(
    "rows",
    [
        pairs(2),
        [{"prompt": f"p{n}", "completion": f"good {n}"} for n in range(2)],
        [
            {"prompt": "p0", "completion": "bad 0", "label": False},
            {"prompt": "p0", "completion": "good 0", "label": True},
            {"prompt": "p1", "completion": "good 1", "label": True},
            {"prompt": "p2", "completion": "bad 2", "label": False},
            {"prompt": "p1", "completion": "second good", "label": True},
        ],
        [
            {
                "prompt": f"p{n}",
                "completions": [{"text": f"bad {n}", "score": 1}, {"text": f"good {n}", "score": 3}],
            }
            for n in range(2)
        ],
        [
            {
                "chosen": [{"role": "user", "content": f"p{n}"}, {"role": "assistant", "content": f"good {n}"}],
                "rejected": [{"role": "user", "content": f"p{n}"}, {"role": "assistant", "content": f"bad {n}"}],
            }
            for n in range(2)
        ],
        [{"chosen": f"\n\nHuman: p{n}\n\nAssistant: good {n}", "rejected": f"\n\nHuman: p{n}\n\nAssistant: bad"}
         for n in range(2)],
    ],
    ids=["pairs", "demonstrations", "thumbs", "rated", "conversations", "HH"],
)  # fmt: skip
def test_the_chosen_completion_of_every_kind_of_feedback(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    questions = read_questions([write(tmp_path / "rows.jsonl", rows)], 10, 1)
    assert asked(questions) == [("p0", "good 0"), ("p1", "good 1")]
    assert len({question.id for question in questions}) == 2


def test_sources_of_several_kinds(tmp_path: Path) -> None:
    one = write(tmp_path / "pairs.jsonl", pairs(2))
    two = write(tmp_path / "thumbs.jsonl", [{"prompt": "q", "completion": "yes", "label": True}])
    three = write(tmp_path / "sft.jsonl", [{"prompt": "r", "completion": "so"}])
    assert asked(read_questions([one, two], 10, 1)) == [("p0", "good 0"), ("p1", "good 1"), ("q", "yes")]
    assert [prompt for prompt, _ in asked(read_questions([one, two, three], 10, 1))] == ["p0", "p1", "q", "r"]


def test_shp_gives_the_preferred_response(tmp_path: Path) -> None:
    rows = [
        {"history": f"post {n}", "human_ref_A": "first", "human_ref_B": "second", "labels": n, "score_ratio": 3.0}
        for n in (0, 1)
    ]
    chosen = [question.chosen for question in read_questions([write(tmp_path / "shp.jsonl", rows)], 10, 1)]
    assert chosen == ["second", "first"]  # labels: 1 says that the first is preferred


def test_the_choice_depends_on_seed_and_prompt_alone(tmp_path: Path) -> None:
    rows = pairs(60)
    first = asked(read_questions([write(tmp_path / "a.jsonl", rows)], 12, 1))
    assert len(first) == 12
    assert [int(prompt[1:]) for prompt, _ in first] == sorted(int(prompt[1:]) for prompt, _ in first)
    shuffled = random.Random(0).sample(rows, 60) + rows[:30]
    assert set(asked(read_questions([write(tmp_path / "b.jsonl", shuffled)], 12, 1))) == set(first)
    assert set(asked(read_questions([write(tmp_path / "a.jsonl", rows)], 12, 2))) != set(first)
    fewer = asked(read_questions([write(tmp_path / "a.jsonl", rows)], 5, 1))
    assert set(fewer) < set(first)


@pytest.mark.parametrize("module", [SFTDataModule, PairedDataModule, UnaryDataModule])
def test_what_a_training_holds_out(module: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", pairs(200))
    questions = held_out_questions(module(path, validation_fraction=0.2, seed=3), 512, 1)
    held_out = held_out_by_prompt(0.2, 3)
    expected = [f"p{n}" for n in range(200) if held_out(({"role": "user", "content": f"p{n}"},))]
    assert [prompt for prompt, _ in asked(questions)] == expected
    assert 20 < len(expected) < 60
    other = write(tmp_path / "other.jsonl", [{"prompt": "v", "chosen": "yes", "rejected": "no"}])
    assert asked(held_out_questions(module(path, validation=other), 512, 1)) == [("v", "yes")]


def test_nothing_to_ask(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"prompt": "p", "completion": "no", "label": False}])
    with pytest.raises(DataError, match=r"rows.jsonl: found no prompt with a chosen completion"):
        read_questions([path], 10, 1)
    with pytest.raises(ConfigError, match="validation_fraction is 0"):
        held_out_questions(UnaryDataModule(path, validation_fraction=0.0), 10, 1)
    with pytest.raises(ConfigError, match="count is 0"):
        read_questions([path], 0, 1)


def test_the_embedded_prompts_for_evaluation() -> None:
    questions = read_questions(["embedded:held_out?examples=30&seed=4"], 512, 1)
    assert len(questions) == 30
    assert len(read_questions(["embedded:held_out"], 512, 1)) == 309
    trained = read_questions(["embedded:pairs?examples=500"], 512, 1)
    assert not {question.id for question in questions} & {question.id for question in trained}
    with pytest.raises(ConfigError, match="309"):
        read_questions(["embedded:held_out?examples=310"], 512, 1)


def test_a_prompt_is_read_as_training_has_read_it(tmp_path: Path) -> None:
    """With the tools of its row, and with what else the row gives the chat template."""
    tokenizer = load_tokenizer("embedded:base")
    told = "{% if effort %}{{ effort }} {% endif %}{% for tool in tools or [] %}{{ tool.name }} {% endfor %}"
    tokenizer.chat_template = told + tokenizer.chat_template
    extra: list[dict[str, Any]] = [
        {"chat_template_kwargs": {"effort": "low"}},
        {"tools": [{"name": "add"}]},
        {},
        {"tools": [{"name": "add"}], "chat_template_kwargs": {"effort": "high"}},
    ]
    path = write(
        tmp_path / "rows.jsonl", [{"prompt": f"p{n}", "completion": "yes", **more} for n, more in enumerate(extra)]
    )
    data = SFTDataModule(path, tokenizer=tokenizer, validation_fraction=0.0)
    data.setup()
    trained, _ = first_prompts(data.train_dataset, 4)
    job = GenerationJob("", "", "", read_questions([path], 10, 1), Sampling(), 4, "cpu", None, "transformers", {})
    read = job.read(tokenizer, None).tokens
    assert read == trained
    assert len({len(tokens) for tokens in read}) > 1
