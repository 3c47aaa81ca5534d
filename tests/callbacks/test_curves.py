"""Curves that were damaged before a run goes on, or before they are drawn."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.loggers import TensorBoardLogger

from halo_lightning.callbacks import ContinuedCurves
from halo_lightning.cli import main
from halo_lightning.figures import read_scalars

Capture = pytest.CaptureFixture[str]


def logged(folder: Path, points: int) -> TensorBoardLogger:
    logger = TensorBoardLogger(str(folder), name="tensorboard", version="version_0")
    for step in range(points):
        logger.log_metrics({"loss": 1.0 / (step + 1)}, step)
    logger.experiment.flush()
    return logger


def trainer(logger: TensorBoardLogger) -> Any:
    return SimpleNamespace(loggers=[logger], is_global_zero=True, state=SimpleNamespace(fn="fit"))


def events(folder: Path) -> Path:
    (file,) = folder.glob("tensorboard/*/*tfevents*")
    return file


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


DAMAGE = pytest.mark.parametrize("damage", [flip, cut, Path.unlink], ids=lambda damage: damage.__name__)


@DAMAGE
def test_a_run_that_goes_on_with_damaged_curves_says_so(damage: Callable[[Path], None], tmp_path: Path) -> None:
    logger, checkpoint = logged(tmp_path, 5), {}
    callback: Any = ContinuedCurves()
    callback.on_save_checkpoint(trainer(logger), None, checkpoint)
    file = events(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        callback.on_load_checkpoint(trainer(logger), None, checkpoint)
    damage(file)
    with pytest.warns(match=f"{file.name}: the curves up to the checkpoint are not what was written"):
        callback.on_load_checkpoint(trainer(logger), None, checkpoint)


@pytest.mark.parametrize("damage", [flip, cut])
def test_damaged_curves_are_drawn_as_far_as_they_go(
    damage: Callable[[Path], None], tmp_path: Path, capsys: Capture
) -> None:
    logged(tmp_path, 9).experiment.close()
    file = events(tmp_path)
    assert len(read_scalars(tmp_path)["loss"]) == 9
    assert capsys.readouterr().out == ""
    damage(file)
    points = read_scalars(tmp_path)["loss"]
    assert points == [(step, pytest.approx(1 / (step + 1))) for step in range(len(points))]
    assert 0 < len(points) < 9
    assert f"{file}: cut off or damaged after " in capsys.readouterr().out


def test_no_picture_of_no_curves(tmp_path: Path, capsys: Capture) -> None:
    logged(tmp_path, 2).experiment.close()
    events(tmp_path).write_bytes(b"")
    assert main(["curves", "--runs", str(tmp_path), "--out", str(tmp_path / "curves.png")]) == 2
    assert f"{tmp_path}: found no curve in the TensorBoard files, expected one of loss," in capsys.readouterr().err
    assert not (tmp_path / "curves.png").exists()
