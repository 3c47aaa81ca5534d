"""Samples during training: they are there, they are right, and training does not notice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from halo_lightning import DPO, KTO, SFT, PairedDataModule, RewardModel, SFTDataModule, UnaryDataModule
from halo_lightning.callbacks.samples import SampleCompletions, criteria
from halo_lightning.errors import ConfigError
from halo_lightning.evaluation.sampling import Sampling, sample_tokens
from halo_lightning.evaluation.streams import stream_key
from halo_lightning.pretrained import load_model
from tests.conftest import REPOSITORY


def data(kind: Any, examples: int = 60, **settings: Any) -> Any:
    names = {UnaryDataModule: "thumbs", PairedDataModule: "pairs", SFTDataModule: "sft"}
    return kind(f"embedded:{names[kind]}?examples={examples}", batch_size=8, validation_fraction=0.2, **settings)


def trained(folder: Path, module: Any, module_data: Any, *callbacks: Any, **settings: Any) -> Trainer:
    seed_everything(3, verbose=False)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=4,
        logger=TensorBoardLogger(str(folder), name="tensorboard"),
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=str(folder),
        **settings,
    )
    trainer.fit(module, datamodule=module_data)
    return trainer


def shown(folder: Path) -> dict[int, str]:
    """The text of each step."""
    events = EventAccumulator(str(next(folder.rglob("events.out.tfevents.*")).parent), size_guidance={"tensors": 0})
    events.Reload()
    tag = "samples/text_summary"
    if tag not in events.Tags()["tensors"]:
        return {}
    return {event.step: event.tensor_proto.string_val[0].decode() for event in events.Tensors(tag)}


def test_training_does_not_notice(tmp_path: Path) -> None:
    states, random = [], []
    for name, callbacks in (("with", [SampleCompletions(2, every_n_steps=1, max_new_tokens=4)]), ("without", [])):
        module = KTO("embedded:base")
        trained(tmp_path / name, module, data(UnaryDataModule), *callbacks, val_check_interval=2)
        states.append(module.state_dict())
        random.append(torch.random.get_rng_state())
        assert module.pair.policy.training
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert torch.equal(*random)


@pytest.mark.parametrize(
    ("module", "kind"), [(DPO, PairedDataModule), (SFT, SFTDataModule)], ids=["reference", "no reference"]
)
def test_what_is_shown_is_what_the_models_say(module: Any, kind: Any, tmp_path: Path) -> None:
    callback = SampleCompletions(2, max_new_tokens=6)
    made, module_data = module("embedded:base"), data(kind)
    trained(tmp_path, made, module_data, callback, val_check_interval=2)
    texts = shown(tmp_path)
    assert sorted(texts) == [0, 2, 4]
    dataset, tokenizer = module_data.validation_dataset, module_data.tokenizer
    prompt = dataset.tokens[: dataset.prompt_lengths[0]].tolist()
    human = dataset.tokens[dataset.prompt_lengths[0] : dataset.offsets[1]].tolist()
    keys = [stream_key(1, "sample 0")]
    for step, model in ((0, load_model("embedded:base")), (4, made.pair.policy)):
        (tokens,) = sample_tokens(model, [prompt], keys, Sampling(6), tokenizer)
        row = texts[step].splitlines()[2]
        said = row.split(" | ")[1]
        assert said.startswith(tokenizer.decode(tokens, skip_special_tokens=True).strip().replace("\n", " ⏎ "))
        assert "helpful" in said
        assert tokenizer.decode(human, skip_special_tokens=True).strip() in row.split(" | ")[3]
    columns = [line.split(" | ") for line in texts[0].splitlines()[2:]]
    assert all(column[1] == column[2] for column in columns)  # before training policy and reference are the same
    after = [line.split(" | ") for line in texts[4].splitlines()[2:]]
    assert [column[2] for column in after] == [column[2] for column in columns]


def test_adapters_and_other_references(tmp_path: Path) -> None:
    given = ["Name two animals.", "What | is\nthis?"]
    first = SampleCompletions(given, max_new_tokens=4, every_n_steps=3)
    trained(tmp_path / "a", KTO("embedded:base", lora={"rank": 2, "alpha": 4}), data(UnaryDataModule), first)
    second = SampleCompletions(given, max_new_tokens=4)
    other = KTO("embedded:base", reference="embedded:base", reference_mode="frozen")
    trained(tmp_path / "b", other, data(UnaryDataModule), second)
    assert first._reference == second._reference
    texts = shown(tmp_path / "a")
    assert sorted(texts) == [0, 3, 4]
    assert "What \\| is ⏎ this?" in texts[0]
    assert texts[0].splitlines()[2].endswith("| – |")  # there is no feedback for a prompt of one's own


def test_a_run_that_goes_on_needs_no_reference(tmp_path: Path) -> None:
    callback = SampleCompletions(2, max_new_tokens=4)
    trainer = trained(tmp_path / "a", KTO("embedded:base"), data(UnaryDataModule), callback)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = SampleCompletions(2, max_new_tokens=4)
    continued = Trainer(
        accelerator="cpu", devices=1, max_steps=6, logger=False, callbacks=[again], enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    continued.fit(
        KTO("embedded:base"), datamodule=data(UnaryDataModule), ckpt_path=tmp_path / "last.ckpt", weights_only=True
    )
    assert again._reference == callback._reference != []


def test_where_there_is_nothing_to_sample(tmp_path: Path) -> None:
    trained(tmp_path / "off", KTO("embedded:base"), data(UnaryDataModule), SampleCompletions(0))
    assert shown(tmp_path / "off") == {}
    trained(tmp_path / "reward", RewardModel("embedded:base"), data(PairedDataModule), SampleCompletions(2))
    assert shown(tmp_path / "reward") == {}


def test_criteria() -> None:
    assert criteria("\n\nHuman: Name two animals.\n\nAssistant:", "A dog and a cat.") == (
        " (✓ helpful, ✓ harmless, ✓ concise)"
    )
    assert "✗ harmless" in criteria("Name two animals.", "A dog and a cat, you fool.")
    assert criteria("Who are you?", "A dog.") == ""


@pytest.mark.parametrize("wrong", [{"prompts": -1}, {"every_n_steps": 0}, {"max_new_tokens": 0}])
def test_settings_that_cannot_work(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SampleCompletions(**wrong)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "sharded"])
def test_several_processes(kind: str, tmp_path: Path) -> None:
    """The first one samples; where the weights may be divided, all of them together; nobody waits for ever."""
    command = [sys.executable, "-m", "tests.callbacks.sample_in_processes", str(tmp_path), kind]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    assert sorted(shown(tmp_path)) == [0, 1, 2]
