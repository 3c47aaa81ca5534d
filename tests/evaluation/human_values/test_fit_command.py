"""`fit-value`: rewards as a plain forward pass gives them, and files that a KTO configuration takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from halo_lightning.cli import main
from halo_lightning.errors import ConfigError
from halo_lightning.evaluation.human_values import Pairs, Thumbs
from halo_lightning.evaluation.human_values.implicit_rewards import observe
from halo_lightning.pretrained import load_model, load_tokenizer
from halo_lightning.values import KahnemanTversky
from halo_lightning.world import rows
from tests.test_cli import printed_config

SMALL, MEDIUM = "embedded:small", "embedded:medium"


@torch.no_grad()
def plain_logp(model, tokenizer, prompt: str, completion: str) -> float:
    """log π(y|x) of one completion, from the logits of one whole sequence."""
    messages = [{"role": "user", "content": prompt}]
    begun = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": completion}], tokenize=False)
    ids = tokenizer(whole, add_special_tokens=False, return_tensors="pt")["input_ids"]
    first = len(tokenizer(begun, add_special_tokens=False)["input_ids"])
    logps = model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
    return float(logps.gather(1, ids[0, 1:, None])[first - 1 :].sum())


@pytest.mark.parametrize("kind", ["thumbs", "pairs"])
def test_rewards_are_those_of_plain_forward_passes_in_the_order_of_the_file(kind: str) -> None:
    found = observe(f"embedded:{kind}?examples=20&seed=4", SMALL, MEDIUM, beta=0.3)
    models, tokenizer = [load_model(name).eval() for name in (SMALL, MEDIUM)], load_tokenizer(SMALL)

    def reward(prompt: str, completion: str) -> float:
        policy, reference = (plain_logp(model, tokenizer, prompt, completion) for model in models)
        return 0.3 * (policy - reference)

    examples = rows(kind, examples=20, seed=4)
    if kind == "pairs":
        assert isinstance(found, Pairs)
        for name in ("chosen", "rejected"):
            expected = [reward(row["prompt"], row[name]) for row in examples]
            assert getattr(found, name).tolist() == pytest.approx(expected, abs=1e-4)
    else:
        assert isinstance(found, Thumbs)
        assert found.up.tolist() == [row["label"] for row in examples]
        expected = [reward(row["prompt"], row["completion"]) for row in examples]
        assert found.rewards.tolist() == pytest.approx(expected, abs=1e-4)


def test_what_it_refuses() -> None:
    with pytest.raises(ConfigError, match="all implicit rewards are 0"):
        observe("embedded:thumbs?examples=20", SMALL, SMALL)
    with pytest.raises(ConfigError, match="found demonstrations"):
        observe("embedded:sft?examples=20", SMALL, MEDIUM)


def test_the_command_prints_draws_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The larger model against the smaller one knows better what is right, so that its rewards say something.
    arguments = ["--feedback=embedded:thumbs?examples=600&seed=5", "--policy=embedded:base", f"--reference={SMALL}"]
    assert main(["fit-value", *arguments, "--beta=1.0", "--simulations=50", f"--out={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    estimates = json.loads((tmp_path / "estimates.json").read_text())
    fit = estimates["fits"][0]["estimates"]
    for name in ("alpha", "lam", "reference_point", "noise"):
        assert f"{fit[name]['value']:.3g}" in printed
    assert estimates["comparison"]["in_words"] in printed
    assert all(f"note: {note}" in printed for note in estimates["notes"])
    assert "usual gains" in " ".join(estimates["notes"])
    assert estimates["comparison"]["verdict"] in ("first", "second", "cannot tell", "neither")
    assert (tmp_path / "value_function.png").read_bytes().startswith(b"\x89PNG")
    made = (tmp_path / "value_function.json").read_text()
    value = json.loads(made)["init_args"]
    assert value["alpha"] == fit["alpha"]["value"]
    # A KTO configuration takes it as it is.
    settings = printed_config(capsys, "--config=configs/tiny_kto.yaml", f"--model.value_function={made}")
    assert settings["model"]["init_args"]["value_function"] == json.loads(made)
    KahnemanTversky(**value)


def test_too_few_simulations(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit-value", "--feedback=x", "--policy=y", "--simulations=10"]) == 2
    assert "expected 50 or more" in capsys.readouterr().err
