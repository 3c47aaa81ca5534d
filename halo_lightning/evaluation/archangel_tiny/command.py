"""`archangel-tiny`: the report's grid in miniature, and whether its findings are found again.

What trains is imported in the processes that do it, so that the help of the command is quick.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from halo_lightning.errors import ConfigError
from halo_lightning.evaluation.archangel_tiny.grid import SIZES, Cell, cells, finish

SEEDS = [1, 2, 3, 4, 5]
PROMPTS = 200

Task = TypeVar("Task")


def archangel_tiny(
    run_dir: str = "runs/archangel_tiny",
    sizes: list[str] | str | None = None,
    seeds: list[int] | int | None = None,
    prompts: int = PROMPTS,
    processes: int = 2,
    arguments: list[str] | None = None,
    out: str = "docs/archangel-tiny.md",
) -> None:
    """Trains, samples and judges 8 methods on 3 sizes of the embedded model, and says which findings show.

    Each model that is finished is kept, so the same command goes on where it was interrupted. A model whose settings
    have changed is made again; after a change of the code, delete the folder.

    Args:
        run_dir: The folder that everything else is written to.
        sizes: `small`, `medium`, `base`; none are all three.
        seeds: Of feedback, training, prompts and sampling; none are 1 to 5.
        prompts: Number of held-out prompts for each seed, of which there are 309.
        processes: How many train at the same time, on one core each.
        arguments: Further arguments of every training, such as `--trainer.max_steps=100`.
        out: The Markdown page to write; its pictures go beside it.
    """
    sizes = [sizes] if isinstance(sizes, str) else sizes or list(SIZES)
    seeds = [seeds] if isinstance(seeds, int) else seeds or SEEDS
    if processes < 1:
        raise ConfigError(f"processes is {processes}: expected 1 or more")
    root = Path(run_dir)
    root.mkdir(parents=True, exist_ok=True)
    todo = cells(sizes, seeds, prompts, arguments or [])
    # The methods of one size and seed share an SFT stage: one process makes them, one after the other.
    groups: dict[tuple[int, str], list[Cell]] = {}
    for cell in todo:
        groups.setdefault((cell.seed, cell.size), []).append(cell)
    finished = sum(cell.found(root) is not None for cell in todo)
    print(f"{len(todo)} models, {finished} of them finished before", flush=True)
    in_processes(_finish_all, [(group, root, todo) for group in groups.values()], processes)


def _finish_all(task: tuple[list[Cell], Path, list[Cell]]) -> None:
    group, root, everything = task
    for cell in group:
        if cell.found(root) is None:
            noted = finish(cell, root)
            done = sum((one.folder(root) / "cell.json").is_file() for one in everything)
            name = f"{cell.size} {cell.method}, seed {cell.seed}"
            seconds = f"{noted['seconds']:.0f} s ({noted['cpu_seconds']:.0f} s of the processor)"
            print(f"[{done}/{len(everything)}] {name}: {seconds}", flush=True)


def in_processes(work: Callable[[Task], Any], tasks: Sequence[Task], processes: int) -> None:
    """Does some tasks, several at the same time, each in a process with one thread.

    Raises:
        Exception: What a task raised; tasks that have not begun are given up.
    """
    before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM")}
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    try:
        with ProcessPoolExecutor(min(processes, len(tasks)), mp_context=get_context("spawn")) as pool:
            futures = [pool.submit(work, task) for task in tasks]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
