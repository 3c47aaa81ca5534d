"""What a run prints: the header before it, lines or a bar on the way, the footer after it."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path

import pytest
import rich
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from halo_lightning import KTO, UnaryDataModule
from halo_lightning.callbacks import HuggingFaceExport, RunProgressBar, RunReport, Throughput
from halo_lightning.callbacks import progress as progress_module
from halo_lightning.callbacks.progress import duration, number, shown_metrics
from halo_lightning.callbacks.report import header, written
from halo_lightning.callbacks.steps import planned_steps


@pytest.fixture(autouse=True)
def console():
    """Rich's console as it is at the start of a program."""
    yield
    rich.reconfigure()


def feedback(examples: int = 60, batch_size: int = 8) -> UnaryDataModule:
    return UnaryDataModule(
        f"embedded:thumbs?examples={examples}",
        batch_size=batch_size,
        max_length=64,
        max_prompt_length=32,
        validation_fraction=0.3,
    )


def trainer(folder: Path, *callbacks: object, **settings: object) -> Trainer:
    options = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, "num_sanity_val_steps": 0, **settings}
    bar = any(isinstance(callback, RunProgressBar) for callback in callbacks)
    return Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=1,
        enable_progress_bar=bar,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **options,
    )


def bar_on_a_screen() -> tuple[io.StringIO, RunProgressBar]:
    """What rich takes for a terminal, and a bar on it."""
    screen = io.StringIO()
    console = {"file": screen, "force_terminal": True, "width": 100, "_environ": {}}
    rich.reconfigure(**console)
    return screen, RunProgressBar(console_kwargs=console)


def test_numbers_and_times_as_people_read_them() -> None:
    assert [number(value) for value in (0.481234, 12345.6, -2000.0, 1.5e-7)] == [
        "0.4812",
        "12,346",
        "-2,000",
        "1.5e-07",
    ]
    assert [duration(value) for value in (None, math.inf, 0.4, 61.6, 7322)] == [
        "-:--:--",
        "-:--:--",
        "0:00:00",
        "0:01:02",
        "2:02:02",
    ]
    metrics = {"val/loss": 0.5, "loss": 0.25, "val/rewards/margins": 1.0, "val/logps/chosen": -9.0}
    assert shown_metrics(metrics, "val/") == "loss 0.5  margin 1"
    assert shown_metrics(metrics) == "loss 0.25"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_epochs": 3},
        {"max_steps": 4},
        {"max_steps": 400, "max_epochs": 2},
        {"accumulate_grad_batches": 4},
        {"limit_train_batches": 3, "accumulate_grad_batches": 2, "max_epochs": 5},
        {"limit_train_batches": 0.5},
    ],
)
def test_planned_steps_are_those_that_lightning_tells_later(settings: dict, tmp_path: Path) -> None:
    told: list[int | None] = []

    class Early(RunReport):
        def on_fit_start(self, trainer: Trainer, pl_module: KTO) -> None:
            told.append(planned_steps(trainer, trainer.datamodule))

        def on_train_start(self, trainer: Trainer, pl_module: KTO) -> None:
            told.append(trainer.estimated_stepping_batches)
            trainer.should_stop = True

    run = trainer(tmp_path, Early(), limit_val_batches=0, min_steps=0, **settings)
    run.fit(KTO("embedded:base"), datamodule=feedback())
    assert told[0] == told[1]
    assert told[0] is not None


def test_steps_that_nobody_knows(tmp_path: Path) -> None:
    data = UnaryDataModule(
        "embedded:thumbs?examples=60", tokenizer="embedded:base", max_length=64, max_prompt_length=32
    )
    data.setup()
    assert planned_steps(trainer(tmp_path, max_epochs=-1), data) is None
    assert planned_steps(trainer(tmp_path, max_epochs=2), object()) is None
    assert planned_steps(trainer(tmp_path, max_epochs=-1, max_steps=7), object()) == 7


def test_a_run_without_a_terminal_prints_few_plain_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trainer(
        tmp_path,
        Throughput(),
        RunReport(),
        HuggingFaceExport(),
        log_every_n_steps=1,
        max_epochs=20,
        val_check_interval=1.0,
        check_val_every_n_epoch=10,
        accumulate_grad_batches=2,
    )
    run.fit(KTO("embedded:base"), datamodule=feedback())
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    lines = printed.splitlines()
    assert lines[0] == "KTO on embedded:base"
    data = run.datamodule.summary
    steps = run.global_step
    assert steps == 20 * math.ceil(max(data.desirable, data.undesirable) / 4)
    assert f"  data        {data.train} examples to train on ({data.desirable} desirable" in lines[1]
    assert f"{steps} of 8 examples (4 × 2 accumulated × 1 device)" in printed
    assert "885,888 parameters (all weights), float32 weights" in printed
    assert "CPU, precision 32-true" in printed
    # Four float32 numbers for each weight: itself, its gradient, and Adam's two moments.
    assert f"  memory      {885888 * 4 * 4 / 1e6:.0f} MB a device for weights, gradients and Adam" in printed
    assert f"  writes      {tmp_path}/export" in printed
    on_the_way = [
        line for line in lines if re.match(r"  step +\d+  loss .*  margin .*  accuracy .*  KL .*tokens/s", line)
    ]
    assert 25 <= len(on_the_way) <= 50 < steps
    assert sum(line.startswith("  held out    loss") for line in lines) == 2 + 1  # and once more in the footer
    assert f"{steps} steps in 0:" in printed
    assert f"  model       {tmp_path}/export (a Hugging Face folder)" in printed
    assert (tmp_path / "export" / "model.safetensors").is_file()


def test_the_bar_shows_the_run_and_reads_metrics_only_when_they_are_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen, bar = bar_on_a_screen()
    read: list[int] = []
    monkeypatch.setattr(
        progress_module,
        "shown_metrics",
        lambda metrics: (read.append(run.global_step), shown_metrics(metrics))[1],
    )
    run = trainer(tmp_path, bar, Throughput(), RunReport(), log_every_n_steps=4, max_epochs=2, limit_val_batches=0)
    run.fit(KTO("embedded:base"), datamodule=feedback())
    steps = run.global_step
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    assert "epoch 2 of 2" in text
    assert f"{steps}/{steps} took 0:00:" in text
    last = text.splitlines()
    assert any(re.fullmatch(r"loss \S+  margin \S+  accuracy \S+  KL \S+  tokens/s \S+", line.strip()) for line in last)
    assert "KTO on embedded:base" in text
    assert "step " not in text.replace("steps", "")
    # At every log, and at the end of the epochs; not in between.
    assert {step for step in read if step % 4} <= {steps // 2, steps}


def test_a_resumed_run_goes_on_with_its_bar(tmp_path: Path) -> None:
    kept = ModelCheckpoint(tmp_path, every_n_train_steps=4, save_top_k=1)
    first = trainer(tmp_path, kept, enable_checkpointing=True, max_steps=5, limit_val_batches=0)
    first.fit(KTO("embedded:base"), datamodule=feedback())
    screen, bar = bar_on_a_screen()
    run = trainer(tmp_path, bar, RunReport(), enable_checkpointing=True, limit_val_batches=0)
    run.fit(KTO("embedded:base"), datamodule=feedback(), ckpt_path=kept.best_model_path)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    counts = [int(count) for count in re.findall(r"(\d+)/\d+ ", text)]
    assert min(counts) >= 4
    assert counts[-1] == run.global_step
    assert "after step 4 of" in " ".join(text.split())
    assert f"{run.global_step - 4} steps in 0:" in text


def test_lora_and_where_things_go(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    module = KTO("embedded:base", lora={"rank": 2, "alpha": 4})
    module.configure_model()
    rows = dict(header(trainer(tmp_path), module))
    assert re.fullmatch(r"[\d,]+ of [\d,]+ parameters \(LoRA of rank 2\), float32 weights", rows["trains"])
    assert rows["writes"] == "nothing"
    assert written({"model": "runs/a/export", "checkpoints": "runs/a/checkpoints"}) == "runs/a: checkpoints, export"
    assert written({"model": "runs/a/export"}) == "runs/a/export"
