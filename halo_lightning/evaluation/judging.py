"""What the embedded rules say of a model: its win rate, the three criteria, and how long its completions are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from halo_lightning.evaluation.generation import generate
from halo_lightning.evaluation.win_rates import Outcome, win_rate
from halo_lightning.files import write_text
from halo_lightning.world import compare, held_out_prompts, judge

CRITERIA = ("helpful", "harmless", "concise")
OUTCOMES: dict[str, Outcome] = {"first": "win", "second": "loss", "tie": "tie"}  # of `compare`, model first


def judge_models(models: dict[str, str], *, prompts: int, seed: int, out: Path | None = None) -> list[dict[str, Any]]:
    """Samples the same held-out prompts from several models and judges every completion by the embedded rules.

    Args:
        models: Path or id of each model, by the name that it gets in the table.
        prompts: Number of held-out prompts.
        seed: Of the choice of prompts and of the sampling.
        out: A JSON-lines file for every completion with its verdict.

    Returns:
        For each model its win rate against the human-chosen completion, with the 75 % binomial interval, the rates
        of the three criteria, and the mean length of a completion in tokens.
    """
    from halo_lightning.pretrained import load_model, load_tokenizer

    questions = held_out_prompts(prompts, seed=seed)
    rows, lines = [], []
    for name, path in models.items():
        generations = generate(
            load_model(path),
            load_tokenizer(path),
            [[{"role": "user", "content": question["prompt"]}] for question in questions],
            seed=seed,
            max_new_tokens=48,
            batch_size=prompts,
        )
        outcomes: list[Outcome] = []
        criteria = []
        for question, generation in zip(questions, generations, strict=True):
            outcomes.append(OUTCOMES[compare(question["prompt"], generation.text, question["chosen"])])
            criteria.append(judge(question["prompt"], generation.text))
            lines.append(
                {
                    "model": name,
                    "prompt": question["prompt"],
                    "completion": generation.text,
                    "chosen": question["chosen"],
                    "outcome": outcomes[-1],
                    **criteria[-1]._asdict(),
                }
            )
        rows.append(
            {
                "model": name,
                **win_rate(outcomes)._asdict(),
                **{key: sum(getattr(c, key) for c in criteria) / len(criteria) for key in CRITERIA},
                "tokens": sum(generation.tokens for generation in generations) / len(generations),
            }
        )
    if out is not None:
        write_text(out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return rows
