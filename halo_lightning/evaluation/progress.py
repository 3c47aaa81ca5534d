"""How far a long command is: a bar where somebody can see it, a line now and then where not."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 15.0


class Counter:
    """Counts up to a total and shows it on the standard error stream.

    Args:
        what: What is counted.
        total: How many there are.
        done: How many of them were there before.
    """

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self.what, self.total, self.done = what, total, done
        self._printed = time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True))
            self._task = self._bar.add_task(what, total=total, completed=done, note="")

    def __enter__(self) -> Counter:
        if self._bar is not None:
            self._bar.start()
        return self

    def add(self, number: int, note: str = "") -> None:
        """Counts some more.

        Args:
            number: How many.
            note: What else to show.
        """
        self.done += number
        if self._bar is not None:
            self._bar.update(self._task, advance=number, note=note)
        elif time.monotonic() - self._printed > SECONDS_BETWEEN_LINES:
            self._printed = time.monotonic()
            print(f"  {self.what}: {self.done} of {self.total}{note and f', {note}'}", file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
