"""An SFT stage that is killed after its export, and before its curves are closed, is brought to its end."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from halo_lightning.callbacks import TensorBoardPage
from halo_lightning.cli import main
from halo_lightning.modules import SFT
from halo_lightning.run_folder import RunFolder
from tests.conftest import REPOSITORY

SMALL = ["--model.policy=embedded:small", "--trainer.max_steps=2", "--samples.prompts=0", "--data.batch_size=8"]
STAGE = ["--run_dir=runs/sft", "--data.train=embedded:sft?examples=40", *SMALL]
FIT = [
    *("fit", f"--config={REPOSITORY / 'configs' / 'tiny_sft_kto.yaml'}", "--run_dir=runs/kto", *SMALL[1:]),
    *("--data.train=embedded:thumbs?examples=40", "--pictures.every_n_steps=0"),
    f"--sft_stage.arguments={json.dumps(STAGE)}",
]


def has_its_end(run: Path) -> bool:
    """Whether TensorBoard's page of hyper-parameters knows that a run has ended."""
    (version,) = (run / "tensorboard").iterdir()
    events = EventAccumulator(str(version))
    events.Reload()
    return "_hparams_/session_end_info" in events.summary_metadata


def test_a_stage_that_was_killed_after_its_export_gets_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sft = Path("runs/sft")

    def killed(*_: Any) -> None:
        raise ConnectionError  # as good as any: nothing after it is done

    with monkeypatch.context() as patched:
        patched.setattr(TensorBoardPage, "on_fit_end", killed)
        assert main(FIT) == 1
    assert (sft / "export" / "halo_lightning.json").is_file()
    assert not RunFolder(sft).ended
    assert not has_its_end(sft)
    weights = hashlib.sha256((sft / "export" / "model.safetensors").read_bytes()).digest()

    assert main([*FIT, "--ckpt_path=last"]) == 0
    assert "the export of a run that was killed" in capsys.readouterr().out
    assert RunFolder(sft).ended
    assert has_its_end(sft)
    assert has_its_end(Path("runs/kto"))
    assert hashlib.sha256((sft / "export" / "model.safetensors").read_bytes()).digest() == weights

    assert main([*FIT, "--ckpt_path=last"]) == 0
    assert "is reused" in capsys.readouterr().out


def test_no_other_stage_begins_after_one_that_was_told_to_end_when_it_had_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def told(_: SFT) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(SFT, "on_train_epoch_end", told)
    with pytest.raises(SystemExit) as ended:
        main(FIT)
    assert not ended.value.code  # status 0
    assert "nothing is lost" in capsys.readouterr().out
    assert RunFolder("runs/sft").ended
    assert not list(Path("runs/kto").glob("tensorboard/*"))
    assert main([*FIT, "--ckpt_path=last"]) == 0
    assert "is reused" in capsys.readouterr().out
