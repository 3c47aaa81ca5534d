"""Grids of models: each is trained and judged once, whatever happens in between, and several at the same time."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from halo_lightning.files import read_checked_json, write_checked_json
from halo_lightning.run_folder import RunFolder
from halo_lightning.workers import check_processes, worker_pool

NOTE = "cell.json"
"""What is written into a cell's folder when it is finished."""

UNSEEN = (
    # The export is what is judged; nothing on the way to it is looked at.
    "--trainer.limit_val_batches=0",
    "--trainer.num_sanity_val_steps=0",
    "--checkpoint.save_top_k=0",
    "--checkpoint.save_last=false",
    "--samples.prompts=0",
    "--pictures.every_n_steps=0",
)
"""Arguments of a training of which only the export is wanted."""


class Cell(ABC):
    """One model of a grid. Subclasses are frozen data classes, and are sent to other processes."""

    @property
    @abstractmethod
    def label(self) -> str:
        """What it is called where progress is shown."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Its folder, relative to the grid's."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything that it depends on, as JSON has it: a cell that was finished with the same ones is kept."""

    @abstractmethod
    def make(self, root: Path) -> dict[str, Any]:
        """Trains, samples and judges it.

        Args:
            root: The folder of the grid. The cell's own folder in it is there, and empty.

        Returns:
            What was found, as JSON has it.
        """

    def in_words(self, result: dict[str, Any]) -> str:
        """What was found, in a few words."""
        return ""


@dataclass(frozen=True)
class Finished:
    """A cell that is made.

    Attributes:
        result: What `Cell.make` returned.
        seconds: How long it took.
        cpu_seconds: The same of the processor.
    """

    result: dict[str, Any]
    seconds: float
    cpu_seconds: float


def find(cell: Cell, root: Path) -> Finished | None:
    """What was noted when a cell was finished; None if it is not, or with other settings, or damaged."""
    note = root / cell.place / NOTE
    try:
        noted = read_checked_json(note)
        if noted["settings"] == json.loads(json.dumps(cell.settings)):
            return Finished(noted["result"], noted["seconds"], noted["cpu_seconds"])
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        print(f"{note}: this file is damaged ({error}), so {cell.label} is made again", flush=True)
    return None


def finish(cell: Cell, root: Path) -> Finished:
    """Makes a cell, with what it prints in a file of its folder, and notes that."""
    folder = root / cell.place
    shutil.rmtree(folder, ignore_errors=True)  # half finished, or with other settings
    folder.mkdir(parents=True)
    began, used = time.perf_counter(), time.process_time()
    with (
        (folder / "log.txt").open("w", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        result = cell.make(root)
    made = Finished(result, time.perf_counter() - began, time.process_time() - used)
    write_checked_json(folder / NOTE, {"settings": cell.settings, **vars(made)})
    return made


@contextlib.contextmanager
def finished_grid(waves: Sequence[Sequence[Cell]], root: Path, processes: int) -> Iterator[list[Finished]]:
    """Makes all cells that are not finished, and shows how far it is; within, no other command makes a grid there.

    What is made of the results, such as a page, is written within.

    Args:
        waves: The cells: those of a wave start from what those of the waves before have left.
        root: The folder of the grid.
        processes: How many cells are made at the same time, each on one core; 1 makes them in this process.

    Yields:
        What was found, in the order of the cells.

    Raises:
        ConfigError: There are no processes, or far too many, or another command makes a grid in this folder.
        Exception: What a cell raised; cells that have not begun are given up.
    """
    check_processes("processes", processes)
    # Another command would take the cells in the making for half finished ones, and remove them.
    with RunFolder(root).locked():
        RunFolder(root).begin({}, anew=False)
        yield _run_grid(waves, root, processes)


def _run_grid(waves: Sequence[Sequence[Cell]], root: Path, processes: int) -> list[Finished]:
    everything = [cell for wave in waves for cell in wave]
    made = {cell: found for cell in everything if (found := find(cell, root)) is not None}
    missing = len(everything) - len(made)
    print(f"{len(everything)} models, {len(made)} of them finished before", flush=True)
    began = time.perf_counter()
    with _executor(min(processes, missing)) as executor:
        for wave in waves:
            for cell, finished in _finish_all(executor, [cell for cell in wave if cell not in made], root):
                made[cell] = finished
                remaining = len(everything) - len(made)
                seconds = (time.perf_counter() - began) / (missing - remaining) * remaining
                left = f", about {seconds / 60:.0f} min left" if remaining else ""
                words = f"{cell.in_words(finished.result)} ".lstrip()
                print(
                    f"[{len(made)}/{len(everything)}] {cell.label}: {words}({finished.seconds:.0f} s{left})", flush=True
                )
    return [made[cell] for cell in everything]


@contextlib.contextmanager
def _executor(processes: int) -> Iterator[Executor | None]:
    """Processes with one thread each, begun once for the whole grid: to import everything takes seconds."""
    if processes <= 1:
        yield None
        return
    before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM")}
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    try:
        with worker_pool(processes) as executor:
            yield executor
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


def _finish_all(executor: Executor | None, cells: Sequence[Cell], root: Path) -> Iterator[tuple[Cell, Finished]]:
    if executor is None:
        for cell in cells:
            yield cell, finish(cell, root)
        return
    futures = {executor.submit(finish, cell, root): cell for cell in cells}
    for future in as_completed(futures):
        yield futures[future], future.result()


def fit(config: Path, folder: Path, arguments: Sequence[str], stage: tuple[Path, Sequence[str]] | None = None) -> None:
    """What the command `fit` does with a configuration.

    Args:
        config: The configuration.
        folder: Of the run.
        arguments: More of the command line.
        stage: Folder and arguments of the SFT stage that the configuration names: a finished one is reused.
    """
    from halo_lightning.training_cli import HaloCLI

    own = ["fit", f"--config={config}", f"--run_dir={folder}", *arguments]
    if stage is not None:
        own.append(f"--sft_stage.arguments={json.dumps([f'--run_dir={stage[0]}', *stage[1]])}")
    HaloCLI(args=own)


def command_line(command: str, options: dict[str, Any]) -> str:
    """The command that makes the same page.

    Args:
        command: Its name.
        options: Its options; those that are None or an empty list are left out.
    """
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in options.items()}
    given = [f"--{name}={text}" for name, text in texts.items() if options[name] not in (None, [], ())]
    return shlex.join(["python", "cli.py", command, *given])


def read_settings(path: Path) -> dict[str, Any]:
    """What a configuration says, the files that it names included."""
    settings: dict[str, Any] = yaml.safe_load(path.read_text())
    for group in ("data", "trainer"):
        if isinstance(settings.get(group), str):
            settings[group] = yaml.safe_load((path.parent / settings[group]).read_text())
    if stage := settings.get("sft_stage"):
        stage["config"] = read_settings(path.parent / stage["config"])
    return settings
