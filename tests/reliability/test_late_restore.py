"""A run whose weights are spread over processes is restored after it has started, and goes on as any other one."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.pytorch.strategies import SingleDeviceStrategy

from halo_lightning.cli import main
from halo_lightning.figures import read_scalars
from tests.conftest import REPOSITORY

FIT = [
    *("fit", f"--config={REPOSITORY / 'configs' / 'tiny_kto.yaml'}", "--model.policy=embedded:small", "--run_dir=run"),
    *("--data.train=embedded:thumbs?examples=40", "--data.batch_size=8", "--samples.prompts=0"),
    *(
        "--pictures.every_n_steps=0",
        "--trainer.limit_val_batches=0",
        "--trainer.max_epochs=3",
        "--trainer.log_every_n_steps=1",
    ),
]


def test_curves_and_the_last_checkpoint_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SingleDeviceStrategy, "restore_checkpoint_after_setup", True)  # as FSDP has it
    last = Path("run/checkpoints/last.ckpt")
    for steps in (2, 4, 4):  # the last one has no step left
        assert main([*FIT, f"--trainer.max_steps={steps}", "--ckpt_path=last"]) == 0
        scalars = read_scalars("run")
        assert [step for step, _ in scalars["loss"]] == list(range(steps))
        assert len(scalars["data/train"]) == 1
        newest = last.resolve()
        last.unlink()  # as if the run had been killed before it made the link
    assert main([*FIT, "--trainer.max_steps=4", "--ckpt_path=last"]) == 0
    assert last.resolve() == newest
