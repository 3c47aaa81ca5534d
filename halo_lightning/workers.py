"""Processes that compute for this one, and end when it ends, however that is.

Imports nothing heavy, since every such process imports this.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from halo_lightning.errors import ConfigError

HARMLESS = 64
"""So many processes can be started anywhere; more than that, and no more than four for each processor, at most."""


def check_processes(name: str, number: int | None, fewest: int = 1) -> None:
    """Refuses a number of processes that only a mistake asks for, and that the machine would be busy with for hours.

    Args:
        name: Of the setting.
        number: How many; None says nothing.
        fewest: The smallest number that makes sense.

    Raises:
        ConfigError: There are fewer, or too many.
    """
    processors = os.cpu_count() or 1
    most = max(HARMLESS, 4 * processors)
    if number is not None and number < fewest:
        raise ConfigError(f"{name} is {number}: expected {fewest} or more")
    if number is not None and number > most:
        raise ConfigError(f"{name} is {number}: expected at most {most} on this machine with {processors} processors")


@contextmanager
def worker_pool(
    processes: int, begin: Callable[..., None] | None = None, *arguments: Any
) -> Iterator[ProcessPoolExecutor]:
    """Newly started processes: the threads of torch do not survive a fork.

    Where an error is raised, they finish what they have begun; where the command is interrupted, they end at once.

    Args:
        processes: How many.
        begin: What each of them does first.
        arguments: Of `begin`.
    """
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(begin, arguments)) as pool:
        try:
            yield pool
        except BaseException as error:
            if not isinstance(error, Exception):
                for process in set(multiprocessing.active_children()) - others:
                    process.kill()
            pool.shutdown(cancel_futures=True)
            raise


def _begin(begin: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if begin is not None:
        begin(*arguments)


def _end_with_parent() -> None:
    """Waits for the death of the process that started this one, which a pool does not notice, and dies of it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
