"""Two processes with the same cache or folder: one writes and the other waits for it, or is told who is there."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halo_lightning.cli import main
from halo_lightning.evaluation import grids
from halo_lightning.evaluation.grids import NOTE, Cell, finished_grid
from halo_lightning.reference import ReferenceCache
from halo_lightning.run_folder import RunFolder
from tests.conftest import REPOSITORY
from tests.test_reference import STRATEGY, dataset, fake

Capture = pytest.CaptureFixture[str]
FORK = multiprocessing.get_context("fork")  # to start another interpreter takes seconds


def compute(folder: Path, together: Any) -> None:
    """Asks for the cache of the reference, and notes that this process is one that computed it."""
    data = dataset(200)
    logps = fake(data)

    def noted(part: Any) -> Any:
        (folder / f"computed-{os.getpid()}").touch()
        return logps(part)

    together.wait()
    values = ReferenceCache(folder / "cache", data, {"weights": "w"}).compute(noted, STRATEGY, 1, 0)
    np.save(folder / f"values-{os.getpid()}.npy", values)


def test_one_computes_the_cache_of_the_reference_and_all_read_it(tmp_path: Path) -> None:
    together = FORK.Barrier(3)
    processes = [FORK.Process(target=compute, args=(tmp_path, together)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(list(tmp_path.glob("computed-*"))) == 1
    expected = ReferenceCache(tmp_path / "cache", dataset(200), {"weights": "w"}).read()
    assert expected is not None
    for file in tmp_path.glob("values-*.npy"):
        assert np.array_equal(np.load(file), expected)
    assert not list((tmp_path / "cache").glob("*.partial"))


@contextmanager
def another(work: Callable[..., None], *arguments: Any) -> Iterator[Any]:
    """Within, another process works; it is to end well when it is told to."""
    ready, go_on = FORK.Event(), FORK.Event()
    process = FORK.Process(target=work, args=(ready, go_on, *arguments))
    process.start()
    try:
        assert ready.wait(60)
        yield process
    finally:
        go_on.set()
        process.join(60)
    assert process.exitcode == 0


def hold(ready: Any, go_on: Any, folder: Path) -> None:
    """Writes a run, as `fit` does."""
    run = RunFolder(folder)
    with run.locked():
        run.begin({}, anew=True)
        ready.set()
        go_on.wait(60)


def test_a_second_fit_is_told_who_is_there(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    with another(hold, tmp_path) as process:
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        assert main(["fit", "--config=configs/tiny_kto.yaml", f"--run_dir={tmp_path}"]) == 2
        message = capsys.readouterr().err
        assert f"{tmp_path}: another process is writing this run (process {process.pid} on " in message
        assert "Choose another --run_dir" in message
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@dataclass(frozen=True)
class Slow(Cell):
    """A cell that has written something, and is not finished before it is told to be."""

    name: str
    ready: Any
    go_on: Any

    @property
    def label(self) -> str:
        return self.name

    @property
    def place(self) -> str:
        return self.name

    @property
    def settings(self) -> dict[str, Any]:
        return {"name": self.name}

    def make(self, root: Path) -> dict[str, Any]:
        (root / self.place / "half").write_text("made")
        self.ready.set()
        self.go_on.wait(60)
        return {"still": (root / self.place / "half").read_text()}


def make_cells(ready: Any, go_on: Any, folder: Path, name: str) -> None:
    with finished_grid([[Slow(name, ready, go_on)]], folder, 1):
        pass


@pytest.mark.parametrize(
    ("command", "place"),
    [
        ("compare --configs=configs/tiny_kto.yaml --seeds=1", "base-1"),
        ("archangel-tiny", "base"),
        ("value-lab", "base"),
    ],
    ids=lambda value: value.split()[0],
)
def test_a_second_grid_leaves_the_cells_of_the_first_alone(
    command: str, place: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    with another(make_cells, tmp_path, place) as process:
        monkeypatch.setattr(grids, "finish", lambda cell, _: pytest.fail(f"{cell.label} is made"))
        arguments = [f"--run_dir={tmp_path}", f"--out={tmp_path / 'page.md'}", "--processes=1"]
        assert main([*command.split(), *arguments]) == 2
        assert f"another process is writing this run (process {process.pid} on " in capsys.readouterr().err
    assert (tmp_path / place / NOTE).is_file()
    assert not (tmp_path / "page.md").exists()
