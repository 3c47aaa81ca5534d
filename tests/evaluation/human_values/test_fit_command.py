"""`fit-value`: rewards as a plain forward pass gives them, and files that a KTO configuration takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from halo_lightning.cli import main
from halo_lightning.errors import ConfigError, DataError
from halo_lightning.evaluation.human_values import Pairs, SimulatedAnnotator, Thumbs, fit_value
from halo_lightning.evaluation.human_values.annotator_fits import fit_annotators
from halo_lightning.evaluation.human_values.implicit_rewards import observe
from halo_lightning.evaluation.human_values.observations import joined, some
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
    found, names = observe(f"embedded:{kind}?examples=20&seed=4", SMALL, MEDIUM, beta=0.3)
    assert names is None
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


def with_annotators(path: Path, names: list[str | None], *, seed: int = 4) -> str:
    """A file of embedded thumbs, each row by the annotator that is next."""
    examples = rows("thumbs", examples=len(names), seed=seed)
    lines = [json.dumps({**row, "who": name}) for row, name in zip(examples, names, strict=True)]
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


def test_answers_are_those_of_their_annotators(tmp_path: Path) -> None:
    names: list[str | None] = ["ann", "ben", None, "ann", "cy"] * 4
    file = with_annotators(tmp_path / "thumbs.jsonl", names)
    found = observe(file, SMALL, MEDIUM, annotator="who")
    assert isinstance(found.answers, Thumbs)
    assert found.answers.up.tolist() == [row["label"] for row in rows("thumbs", examples=20, seed=4)]
    assert found.annotators == names
    with pytest.raises(DataError, match=r"thumbs.jsonl, line 1, key 'annotator': this key is missing .*'who'"):
        observe(file, SMALL, MEDIUM, annotator="annotator")
    with pytest.raises(DataError, match=r"line 1, key 'label': found a boolean .*expected the annotator"):
        observe(file, SMALL, MEDIUM, annotator="label")


def test_everybody_with_enough_answers_gets_a_fit() -> None:
    numbers = {"many": 150, "some": 120, "enough": 60, "few": 9, "happy": 25}
    generator = torch.Generator().manual_seed(2)
    parts, names = [], list[str | None]()
    for seed, (name, number) in enumerate(numbers.items()):
        rewards = 2 * torch.randn(number, generator=generator, dtype=torch.float64)
        thumbs = SimulatedAnnotator(KahnemanTversky()).thumbs(rewards, seed=seed)
        parts.append(Thumbs(rewards, torch.ones(number)) if name == "happy" else thumbs)
        names += [name] * number
    order = torch.randperm(len(names) + 1, generator=generator).tolist()
    answers = some(joined([*parts, Thumbs([0.5], [True])]), order)
    everybody = fit_annotators(answers, [[*names, None][place] for place in order], reference_point=0.0, fewest=20)
    by_name = {one.name: one for one in everybody.annotators}
    assert {name: one.answers for name, one in by_name.items()} == numbers
    assert (everybody.nameless, everybody.too_few) == (1, 1)
    for name, part in zip(numbers, parts, strict=True):
        if name in ("few", "happy"):
            assert by_name[name].own is None
        else:
            own, alone = by_name[name].own, fit_value(part, reference_point=0.0).estimates
            assert own is not None
            assert all(list(own[key]) == pytest.approx(list(alone[key]), rel=1e-3) for key in ("alpha", "lam", "noise"))
    assert by_name["few"].problem == "fewer than 20 answers"
    assert "the same" in str(by_name["happy"].problem)
    # Who says little is taken to be as most people are.
    middle = everybody.population.medians["lam"].value
    assert by_name["few"].shrunk["lam"] == pytest.approx(middle, rel=0.5)
    assert "with a fit of their own: 3; 1 have fewer than 20 answers, and 1 have answers without a maximum" in str(
        everybody
    )
    assert "1 answers do not say whose they are" in str(everybody)
    json.dumps(everybody.as_json(), allow_nan=False)
    with pytest.raises(ConfigError, match="3 or more"):
        fit_annotators(answers, ["one"] * len(answers), reference_point=0.0)
    with pytest.raises(ConfigError, match="fewest is 0"):
        fit_annotators(answers, ["one"] * len(answers), reference_point=0.0, fewest=0)


def test_the_command_prints_draws_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The larger model against the smaller one knows better what is right, so that its rewards say something.
    file = with_annotators(tmp_path / "thumbs.jsonl", ["ann", "ben", "cy", None] * 150, seed=5)
    arguments = [f"--feedback={file}", "--annotator=who", "--policy=embedded:base", f"--reference={SMALL}"]
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
    everybody = json.loads((tmp_path / "annotators.json").read_text())
    assert [one["answers"] for one in everybody["annotators"]] == [150, 150, 150]
    assert "3 annotators" in printed
    assert "150 answers do not say whose they are" in printed
    assert everybody["reference_point"] == fit["reference_point"]["value"]
    for name in ("alpha", "lam", "noise"):
        assert f"{name:<16} median {everybody['medians'][name]['value']:.3g} (" in printed
        assert everybody["annotators"][0]["shrunk"][name]
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
