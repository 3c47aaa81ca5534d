"""One run at a time writes to a folder, and it is known which run checkpoints are of."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from halo_lightning.checkpoints import RUN, SealedCheckpointIO
from halo_lightning.errors import ConfigError
from halo_lightning.files import replaced_file
from halo_lightning.run_folder import RunFolder


def save(folder: Path, step: int, run: str) -> Path:
    path = folder / "checkpoints" / f"step={step}-{run[:4]}.ckpt"
    content = {"global_step": step, "state_dict": {"weight": torch.zeros(9)}, RUN: {"id": run}}
    SealedCheckpointIO().save_checkpoint(content, path)
    return path


def test_a_second_process_is_refused_and_told_who_is_there(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.locked():
        folder.begin({}, anew=True)
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            try:
                RunFolder(tmp_path / "run").locked()
            except ConfigError as error:
                os.write(write, str(error).encode())
            os._exit(0)
        os.waitpid(child, 0)
        os.close(write)
        message = os.read(read, 10_000).decode()
        os.close(read)
    assert f"another process is writing this run (process {os.getpid()} on " in message
    with RunFolder(tmp_path / "run").locked():  # free again
        pass


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    if (child := os.fork()) == 0:
        held = RunFolder(tmp_path / "run").locked()
        os.kill(os.getpid(), 9)
        del held
    os.waitpid(child, 0)
    with RunFolder(tmp_path / "run").locked():
        pass


def test_last_is_of_the_run_and_not_of_an_earlier_one(tmp_path: Path) -> None:
    first = RunFolder(tmp_path)
    assert first.checkpoint("last", tmp_path / "checkpoints")[0] is None
    first.begin({"beta": 0.1}, anew=True)
    newest = save(tmp_path, 5, first.id)
    older = save(tmp_path, 3, first.id)
    again = RunFolder(tmp_path)
    assert (again.id, again.settings) == (first.id, {"beta": 0.1})
    assert again.checkpoint("last", tmp_path / "checkpoints")[0] == newest
    assert again.is_where_it_ended(newest)
    assert not again.is_where_it_ended(older)

    assert "earlier run" in again.checkpoint(None, tmp_path / "checkpoints")[1][0]
    again.begin({}, anew=True)
    assert again.id != first.id
    path, notes = RunFolder(tmp_path).checkpoint("last", tmp_path / "checkpoints")
    assert path is None
    assert "no checkpoint of this run (2 of earlier runs are left alone)" in notes[0]
    assert not RunFolder(tmp_path).is_where_it_ended(newest)


def test_a_damaged_one_is_named_and_the_one_before_taken(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.begin({}, anew=True)
    good, bad = save(tmp_path, 1, run.id), save(tmp_path, 2, run.id)
    bad.write_bytes(bad.read_bytes()[:-1])
    path, notes = run.checkpoint("last", tmp_path / "checkpoints")
    assert path == good
    assert str(bad) in notes[0]
    assert "bytes" in notes[0]
    with pytest.raises(ConfigError, match="The newest whole checkpoint beside it is"):
        run.checkpoint(str(bad), tmp_path / "checkpoints")


def test_curves_of_a_new_run_get_a_version_of_their_own(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.begin({}, anew=True)
    assert run.curves == "version_0"
    (tmp_path / "tensorboard" / "version_0").mkdir(parents=True)
    again = RunFolder(tmp_path)
    again.begin({}, anew=False)
    assert again.curves == "version_0"
    again.begin({}, anew=True)
    assert again.curves == "version_1"


def test_a_damaged_note_of_the_run_is_named(tmp_path: Path) -> None:
    for content in ("{", "[]", "[" * 100_000, '{"id": 1, "curves": 2, "settings": 3}'):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(ConfigError, match=r"run\.json"):
            RunFolder(tmp_path)
    (tmp_path / "run.json").unlink()
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(ConfigError, match=r"run\.json: this file is damaged \(.*found a named pipe"):
        RunFolder(tmp_path)


def test_what_a_killed_process_had_not_finished_goes(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    if (child := os.fork()) == 0:
        with replaced_file(folder / "step=8.ckpt.json") as stream:
            stream.write(b"half")
            stream.flush()
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    (left,) = folder.iterdir()
    assert "step=8.ckpt.json.partial" in left.name
    (folder / ".notes").write_text("mine")
    RunFolder(tmp_path).checkpoint(None, folder)
    assert [path.name for path in folder.iterdir()] == [".notes"]
