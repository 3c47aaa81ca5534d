"""What SIGTERM does to a command: the machine is wanted back, and everything that was done is on disk already."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class ToldToEnd(BaseException):
    """SIGTERM, for a command that does not train: like Ctrl-C, no error that anything else should catch."""


@contextmanager
def can_be_told_to_end() -> Iterator[None]:
    """Within, SIGTERM raises `ToldToEnd`, so that what is half written is removed, and other processes are ended.

    A second SIGTERM kills at once.
    """

    def end(signum: int, _: Any) -> None:
        signal.signal(signum, signal.SIG_DFL)
        raise ToldToEnd

    with _handled_by(end):
        yield


@contextmanager
def ends_at_once(cli: Any) -> Iterator[None]:
    """Within, SIGTERM ends a process that is to train with status 0: what it had finished by then is whole on disk.

    While a policy is trained, `RunCheckpoint` takes the signal instead, and saves first. A command that does not train
    is ended as any other one.

    Args:
        cli: The `HaloCLI`, whose Trainer's other processes are ended, too.
    """

    def end(signum: int, _: Any) -> None:
        launcher = getattr(getattr(getattr(cli, "trainer", None), "strategy", None), "launcher", None)
        if launcher is not None:
            launcher.kill(signal.Signals(signum))
        if getattr(getattr(cli, "config", None), "subcommand", "fit") != "fit":
            raise ToldToEnd
        print(
            "told to end (SIGTERM) while nothing was in training: nothing is lost, the same command with --ckpt_path"
            " last goes on",
            flush=True,
        )
        from lightning.pytorch.utilities.exceptions import SIGTERMException

        raise SIGTERMException

    with _handled_by(end):
        yield


def end_if_told_to(trainer: Any) -> None:
    """Ends after a stage that was told to end at its last step, which it made as it would have: no other one begins.

    Args:
        trainer: Of the stage.
    """
    if any(getattr(callback, "told_to_end", False) for callback in trainer.callbacks):
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _handled_by(end: Callable[[int, Any], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
