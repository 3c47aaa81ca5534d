"""Scores by a Python function, in several processes."""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from halo_lightning.errors import ConfigError
from halo_lightning.labelling.calling import Answers, answers, load, look_here
from halo_lightning.labelling.items import Item
from halo_lightning.labelling.scorers import Keep, Scored, Scorer, batched, scored
from halo_lightning.workers import check_processes, worker_pool


class FunctionScorer(Scorer):
    """A function of a prompt and a completion that gives a number.

    A function whose parameters are called `prompts` and `completions` (as those of TRL's reward functions are) is
    given lists, and gives a list.

    Args:
        path: `module:function`; modules are looked for in the working directory, too.
        workers: How many processes; None is one for each core.
        batch_size: How many completions a process is given at a time.
    """

    def __init__(self, path: str, workers: int | None, batch_size: int) -> None:
        check_processes("workers", workers)
        self.path, self.batch_size = path, batch_size
        self.workers = workers or len(os.sched_getaffinity(0))
        self.function = load(path)

    @property
    def settings(self) -> dict[str, Any]:
        """The function, and the content of the file that it is in: scores of two versions are never mixed."""
        file = inspect.getsourcefile(inspect.unwrap(self.function)) if callable(self.function) else None
        digest = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).is_file() else None
        return {"scorer": "function", "function": self.path, "source": digest}

    def score(self, items: Iterable[Item], keep: Keep) -> None:
        """See `Scorer`."""
        batches = batched(items, self.batch_size)
        if self.workers == 1:
            for batch in batches:
                keep(_joined(batch, answers(self.path, _plain(batch))))
            return
        waiting: dict[Future[Answers], list[Item]] = {}
        try:
            with worker_pool(self.workers, look_here, sys.path) as pool:
                for batch in batches:
                    waiting[pool.submit(answers, self.path, _plain(batch))] = batch
                    # So that memory holds a few batches, however long the source is.
                    if len(waiting) >= 2 * self.workers:
                        _keep_finished(waiting, keep)
                while waiting:
                    _keep_finished(waiting, keep)
        except BrokenProcessPool as error:
            raise ConfigError(
                f"a process that ran {self.path} died; what was scored is kept, and the same command goes on"
            ) from error


def _keep_finished(waiting: dict[Future[Answers], list[Item]], keep: Keep) -> None:
    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
    for future in done:
        batch = waiting.pop(future)
        keep(_joined(batch, future.result()))


def _plain(batch: list[Item]) -> list[tuple[Any, str]]:
    return [(item.written, item.completion) for item in batch]


def _joined(batch: list[Item], given: Answers) -> list[Scored]:
    return [
        Scored(item, None, problem) if problem else scored(item, value)
        for item, (value, problem) in zip(batch, given, strict=True)
    ]
