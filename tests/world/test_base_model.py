"""The base models that are shipped, their tokenizer, and the command that makes them."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from halo_lightning.pretrained import load_model, resolve_path
from halo_lightning.world import BASE_MODEL, MODELS, held_out_prompts, judge, rows
from halo_lightning.world.build import SIZES, SPEAKER, Recipe, build, dialogue
from halo_lightning.world.language import is_held_out


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(BASE_MODEL)


@pytest.fixture(scope="module")
def said(tokenizer) -> list[tuple[str, str, int]]:
    """Held-out prompts, what the base model says to them, and how many tokens that is."""
    model = AutoModelForCausalLM.from_pretrained(BASE_MODEL)
    asked = [row["prompt"] for row in held_out_prompts(150, seed=0)]
    rendered = [
        tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
        for prompt in asked
    ]
    inputs = tokenizer(rendered, return_tensors="pt", padding=True, padding_side="left")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        output = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
    lengths = (output != tokenizer.pad_token_id).sum(1).tolist()
    return list(zip(asked, tokenizer.batch_decode(output, skip_special_tokens=True), lengths, strict=True))


def test_it_is_small() -> None:
    assert sum(file.stat().st_size for file in BASE_MODEL.iterdir()) < 2_500_000
    assert {file.suffix for file in BASE_MODEL.iterdir()} <= {".safetensors", ".json", ".jinja", ".md"}


def test_smaller_ones_differ_in_size_alone() -> None:
    parameters = []
    for name, folder in MODELS.items():
        assert resolve_path(name) == str(folder)
        parameters.append(load_model(name).num_parameters())
        assert (folder / "tokenizer.json").read_bytes() == (BASE_MODEL / "tokenizer.json").read_bytes()
        assert f"A Llama of {parameters[-1]:,} parameters" in (folder / "README.md").read_text()
    assert parameters[0] * 2 < parameters[1] < parameters[2] / 2
    assert sum(file.stat().st_size for size in ("small", "medium") for file in MODELS[f"embedded:{size}"].iterdir()) < (
        1_500_000
    )


def test_it_loads_as_a_float32_llama(tokenizer) -> None:
    model = AutoModelForCausalLM.from_pretrained(BASE_MODEL)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert 200_000 < model.num_parameters() < 1_500_000
    assert len(tokenizer) == model.config.vocab_size
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id


def test_it_is_flawed_as_base_models_are(said: list[tuple[str, str, int]]) -> None:
    verdicts = [judge(prompt, completion) for prompt, completion, _ in said]
    assert 0.2 < mean(verdict.helpful for verdict in verdicts) < 0.6, "sometimes unhelpful"
    assert 0.3 < mean(verdict.harmless for verdict in verdicts) < 0.8, "sometimes rude"
    assert mean(verdict.concise for verdict in verdicts) < 0.3
    assert mean("\n\nHuman:" in completion for _, completion, _ in said) > 0.5, "runs on into further turns"
    first_turns = [completion.split("\n\nHuman:")[0] for _, completion, _ in said]
    rambling = [not judge(prompt, turn).concise for (prompt, _, _), turn in zip(said, first_turns, strict=True)]
    assert 0.1 < mean(rambling) < 0.5, "sometimes rambles within its turn"
    assert mean(length for _, _, length in said) > 30


def test_it_speaks_the_language(said: list[tuple[str, str, int]]) -> None:
    first_turns = [completion.split("\n\nHuman:")[0].strip() for _, completion, _ in said]
    assert all(turn and turn.isprintable() for turn in first_turns)


@pytest.mark.parametrize(
    "text",
    ["Name three animals.", "\n\nHuman: Grün, weiß!\n\nAssistant: f-r-o-g.", "  two  spaces\n", "日本語 🙂 \t tab", ""],
)
def test_tokenizer_round_trip(tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_tokenizer_round_trip_of_all_feedback(tokenizer) -> None:
    texts = [text for row in rows("pairs", examples=300, seed=0) for text in row.values()]
    encoded = tokenizer(texts)["input_ids"]
    assert tokenizer.batch_decode(encoded) == texts
    words = sum(len(text.split()) for text in texts)
    assert sum(map(len, encoded)) < 1.9 * words


def test_chat_template(tokenizer) -> None:
    question = [{"role": "user", "content": "Add 1 and 2."}]
    conversation = [*question, {"role": "assistant", "content": "3."}]
    prompt = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    assert prompt == "\n\nHuman: Add 1 and 2.\n\nAssistant:"
    whole = tokenizer.apply_chat_template(conversation, tokenize=False)
    assert whole == f"{prompt} 3.<|endoftext|>"
    ids = tokenizer(whole)["input_ids"]
    begun = tokenizer(prompt)["input_ids"]
    assert ids[: len(begun)] == begun, "a prompt's tokens are the beginning of the conversation's"
    assert ids.count(tokenizer.eos_token_id) == 1
    assert ids[-1] == tokenizer.eos_token_id
    longer = tokenizer.apply_chat_template([*conversation, *question], tokenize=False)
    assert longer == "\n\nHuman: Add 1 and 2.\n\nAssistant: 3.\n\nHuman: Add 1 and 2."
    with pytest.raises(Exception, match="only the roles user and assistant"):
        tokenizer.apply_chat_template([{"role": "system", "content": "Be nice."}], tokenize=False)


def test_pretraining_text_has_no_held_out_prompt() -> None:
    for number in range(300):
        messages = dialogue(Recipe(), SPEAKER, number)
        assert not any(is_held_out(message["content"]) for message in messages[::2])
        assert [message["role"] for message in messages[:2]] == ["user", "assistant"]
    assert mean(len(dialogue(Recipe(), SPEAKER, number)) / 2 for number in range(300)) > 4, "it goes on"


@pytest.mark.parametrize("size", list(SIZES))
def test_build_is_deterministic_and_matches_what_is_shipped(size: str, tmp_path: Path) -> None:
    recipe, shipped_in = replace(SIZES[size], steps=5), MODELS[f"embedded:{size}"]
    for name in ("one", "two"):
        build(recipe, tmp_path / name)
    files = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert files == sorted(file.name for file in shipped_in.iterdir())
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
    assert f"build --size {size} --seed 0`" in (tmp_path / "one" / "README.md").read_text()
    for file in ("tokenizer.json", "config.json", "chat_template.jinja"):
        made, shipped = (tmp_path / "one" / file).read_text(), (shipped_in / file).read_text()
        if file.endswith(".json"):
            made, shipped = ({**json.loads(text), "transformers_version": ""} for text in (made, shipped))
        assert made == shipped, f"{file}: the world has changed since the base model was built"
