"""Runs that were made to fail stop, skip or warn, and say what it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data._utils.pin_memory import pin_memory

from halo_lightning import DPO, KTO, PairedDataModule, UnaryDataModule
from halo_lightning.callbacks import WatchNumbers
from halo_lightning.callbacks.warning_signs import EXPLODED_KL, FALLEN_NATS, LEAKED_EXAMPLES, SIGNS, History
from halo_lightning.callbacks.watch import MOST_SKIPPED, save_batches
from halo_lightning.data.batches import SFTBatch, pack
from halo_lightning.errors import ConfigError, NotFiniteError
from halo_lightning.world import rows
from tests.conftest import REPOSITORY

SMALL: dict[str, Any] = {"batch_size": 8, "max_length": 64, "max_prompt_length": 40, "validation_fraction": 0}


def write(path: Path, kind: str, examples: int = 32) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(kind, examples=examples, seed=1)))
    return str(path)


class Poisoned(KTO):
    """KTO whose loss is NaN for the examples with some numbers."""

    bad: tuple[int, ...] = ()
    gradient_alone = False

    def loss_and_metrics(self, batch: Any) -> Any:
        loss, values = super().loss_and_metrics(batch)
        for place, number in enumerate(batch.index.tolist()):
            if number in self.bad:
                values["losses"][place] = torch.nan
                if self.gradient_alone:
                    values["losses"][place] = 1.0
                    weight = next(self.pair.policy.parameters()).flatten()[0]
                    loss = loss + (weight * 0).sqrt() * 0  # finite, and has an infinite gradient times 0
                else:
                    loss = loss + torch.nan
        return loss, values


def fit(folder: Path, module: L.LightningModule, data: Any, watch: WatchNumbers, **settings: Any) -> L.Trainer:
    trainer = L.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[watch],
        **{"max_epochs": 1, "log_every_n_steps": 1, **settings},
    )
    trainer.fit(module, datamodule=data)
    return trainer


def poisoned(path: Path, *, bad: tuple[int, ...] = (3,), **settings: Any) -> tuple[Poisoned, UnaryDataModule]:
    module = Poisoned("embedded:small", reference_mode="frozen")
    module.bad = bad
    return module, UnaryDataModule(write(path / "thumbs.jsonl", "thumbs"), **{**SMALL, **settings})


def test_a_loss_that_is_nan_stops_the_run_and_says_which_example(tmp_path: Path) -> None:
    module, data = poisoned(tmp_path)
    with pytest.raises(NotFiniteError) as error:
        fit(tmp_path, module, data, WatchNumbers())
    message = str(error.value)
    where = data.train_dataset.place(3)
    assert "thumbs.jsonl, line" in where
    assert "the loss is nan (" in message
    assert f"with {where}. The batch is saved in" in message
    assert all(weight.isfinite().all() for weight in module.parameters()), "the step was made"

    (folder,) = (tmp_path / "not_finite").iterdir()
    about = json.loads((folder / "about.json").read_text())
    assert about["examples"] == [where]
    saved = load_file(folder / "batch-0.safetensors")
    again = data.train_dataset[saved["index"].tolist()]
    assert torch.equal(saved["sequences.input_ids"], again.sequences.input_ids)
    assert 3 in saved["index"]


def test_a_gradient_that_is_not_finite_names_its_tensor(tmp_path: Path) -> None:
    module, data = poisoned(tmp_path)
    module.gradient_alone = True
    with pytest.raises(NotFiniteError, match=r"the gradient is not finite \(the gradient of models\.policy\.") as error:
        fit(tmp_path, module, data, WatchNumbers())
    assert "thumbs.jsonl, line" in str(error.value)


def test_skipped_steps_leave_the_weights_and_are_counted(tmp_path: Path) -> None:
    module, data = poisoned(tmp_path)
    watch = WatchNumbers(not_finite="skip")
    with pytest.warns(UserWarning, match="is skipped: the loss is nan"):
        trainer = fit(tmp_path, module, data, watch, max_epochs=2)
    assert watch.skipped == 2  # once an epoch
    assert trainer.callback_metrics["skipped_steps"] == 2
    assert all(weight.isfinite().all() for weight in module.parameters())
    restored = WatchNumbers()
    restored.load_state_dict(watch.state_dict())
    assert restored.skipped == 2


def test_where_every_step_would_be_skipped_the_run_stops(tmp_path: Path) -> None:
    module, data = poisoned(tmp_path, bad=tuple(range(32)), batch_size=2)
    watch = WatchNumbers(not_finite="skip")
    with pytest.warns(UserWarning, match="is skipped"), pytest.raises(NotFiniteError, match="that were skipped for it"):
        fit(tmp_path, module, data, watch)
    assert watch.skipped == MOST_SKIPPED


def test_what_is_kept_on_a_device_is_looked_at_before_a_checkpoint(tmp_path: Path, monkeypatch: Any) -> None:
    """On a GPU a run that is to stop reads numbers at logs, validations and checkpoints alone."""
    module, data = poisoned(tmp_path, bad=(3,))
    watch = WatchNumbers()
    checked, check = [], watch._check
    monkeypatch.setattr(watch, "_check", lambda *_: None)
    trainer = fit(tmp_path, module, data, watch)
    monkeypatch.setattr(watch, "_check", lambda *arguments: (checked.append(1), check(*arguments)))
    bad = [step.number for step in watch._unchecked if not step.finite]
    assert len(watch._unchecked) == trainer.global_step
    with pytest.raises(NotFiniteError, match=f"step {bad[0]}: the loss is nan"):
        trainer.save_checkpoint(tmp_path / "never.ckpt")
    assert not (tmp_path / "never.ckpt").exists()


def test_a_learning_rate_that_is_too_high_is_warned_of_and_stops(tmp_path: Path) -> None:
    module = DPO(
        "embedded:small", reference_mode="frozen", optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e4)
    )
    data = PairedDataModule(write(tmp_path / "pairs.jsonl", "pairs"), **SMALL)
    watch = WatchNumbers()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            fit(tmp_path, module, data, watch, max_epochs=3)
        except NotFiniteError:
            assert any(not weight.isfinite().all() for weight in module.parameters())
    assert "falling chosen" in watch.warned
    assert sum("have become less likely" in str(one.message) for one in said) == 1


def test_a_healthy_run_is_not_warned_of(tmp_path: Path) -> None:
    module = KTO("embedded:small", reference_mode="frozen")
    watch = WatchNumbers()
    fit(tmp_path, module, UnaryDataModule(write(tmp_path / "thumbs.jsonl", "thumbs"), **SMALL), watch, max_epochs=2)
    assert (watch.warned, watch.skipped) == ([], 0)
    assert not (tmp_path / "not_finite").exists()


def history(logs: list[dict[str, float]], examples: int = 32) -> History:
    result = History()
    for metrics in logs:
        result.add(metrics, examples)
    return result


BAD: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "exploding KL": ({"kl": 0.0}, {"kl": EXPLODED_KL + 1}),
    "collapsed rewards": (
        {"rewards/chosen": 0.0, "rewards/rejected": 0.0},
        {"rewards/chosen": -3.0, "rewards/rejected": -3.01},
    ),
    "leaked labels": ({"rewards/accuracies": 0.9}, {"rewards/accuracies": 1.0}),
    "falling chosen": (
        {"logps/chosen": -50.0, "logps/rejected": -60.0},
        {"logps/chosen": -51.0 - FALLEN_NATS, "logps/rejected": -90.0},
    ),
}
GOOD: dict[str, dict[str, float]] = {
    "exploding KL": {"kl": EXPLODED_KL - 1},
    "collapsed rewards": {"rewards/chosen": -3.0, "rewards/rejected": -3.5},
    "leaked labels": {"rewards/accuracies": 0.97},
    "falling chosen": {"logps/chosen": -45.0, "logps/rejected": -90.0},
}


@pytest.mark.parametrize("name", SIGNS)
def test_a_sign_is_seen_when_it_stays_and_not_otherwise(name: str) -> None:
    first, bad = BAD[name]
    assert SIGNS[name](history([first, *[bad] * 4])) is not None
    assert SIGNS[name](history([first, *[GOOD[name]] * 4])) is None
    assert SIGNS[name](history([first, bad, bad, bad, GOOD[name]])) is None  # it has passed
    assert SIGNS[name](history([{"loss": 1.0}] * 5)) is None  # a method that has no such metric
    assert SIGNS[name](History.of(json.loads(json.dumps(history([first, *[bad] * 4]).state())))) is not None


def test_an_accuracy_of_one_is_no_leak_late_or_of_few_examples() -> None:
    first, bad = BAD["leaked labels"]
    assert SIGNS["leaked labels"](history([first, *[bad] * 4], examples=LEAKED_EXAMPLES // 8)) is None
    assert SIGNS["leaked labels"](history([*[first] * 10, *[bad] * 4])) is None


def test_a_choice_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected 'stop' or 'skip'"):
        WatchNumbers(not_finite="ignore")  # type: ignore[arg-type]


SPREAD = [pytest.param(strategy, marks=pytest.mark.slow) for strategy in ("fsdp2", "fsdp")]


@pytest.fixture(scope="module", params=["ddp", *SPREAD])
def in_two_processes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes left what they said: `stop-0.json` is of the first one, and so on."""
    folder = tmp_path_factory.mktemp("processes")
    write(folder / "thumbs.jsonl", "thumbs")
    jobs = [f"{request.param}:{choice}" for choice in ("stop", "skip")]
    outside = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    environment = {key: value for key, value in os.environ.items() if key not in outside}
    command = [sys.executable, "-m", "tests.callbacks.watch_in_processes", str(folder), *jobs]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def results(folder: Path, choice: str) -> list[dict[str, Any]]:
    return [json.loads((folder / f"{choice}-{rank}.json").read_text()) for rank in range(2)]


def test_all_processes_stop_and_name_the_example_that_one_of_them_has(in_two_processes: Path) -> None:
    one, other = results(in_two_processes, "stop")
    assert one["said"] == other["said"]
    assert "the loss is nan (" in one["said"]
    assert f", with {one['place']}. The batch is saved in" in one["said"]
    saved = one["said"].split("saved in ")[1].split(". Going")[0]
    assert json.loads((Path(saved) / "about.json").read_text())["examples"] == [one["place"]]
    assert one["finite"]
    assert other["finite"]


def test_all_processes_skip_and_count_the_same(in_two_processes: Path) -> None:
    one, other = results(in_two_processes, "skip")
    assert one["said"] == other["said"] == ""
    assert one["skipped"] == other["skipped"] == 1
    (told,) = one["told"]  # the first process speaks for all
    assert f"), with {one['place']}. The batch is saved in" in told
    assert one["finite"]
    assert other["finite"]


def test_a_batch_that_was_pinned_for_a_gpu_is_saved_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch's loader pins it, which makes lists of tuples."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *device: tensor)
    sequences = pack([[1, 2], [1, 2], [3]], [[4, 5], [6], [7]])
    batch = SFTBatch(sequences, torch.ones(3), torch.arange(3))
    names = []
    for number, one in enumerate((batch, pin_memory(batch))):
        save_batches(tmp_path / str(number), [one], {})
        names.append(load_file(tmp_path / str(number) / "batch-0.safetensors").keys())
    assert names[0] == names[1]
    assert "sequences.segments.query_lengths" in names[1]
