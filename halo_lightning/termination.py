"""What SIGTERM does to a command: the machine is wanted back, and everything that was done is on disk already."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.utilities.exceptions import SIGTERMException


@contextmanager
def ends_at_once(trainer: Callable[[], Any]) -> Iterator[None]:
    """Within, SIGTERM ends the process with status 0: what it had finished by then is whole on disk.

    While a policy is trained, `RunCheckpoint` takes the signal instead, and saves first.

    Args:
        trainer: Gives the Trainer as soon as there is one, whose other processes are ended, too.
    """

    def end(signum: int, _: Any) -> None:
        launcher = getattr(getattr(trainer(), "strategy", None), "launcher", None)
        if launcher is not None:
            launcher.kill(signal.Signals(signum))
        print(
            "told to end (SIGTERM) while nothing was in training: nothing is lost, the same command with --ckpt_path"
            " last goes on",
            flush=True,
        )
        raise SIGTERMException

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
