"""The folder of a run: which run it is of, who writes to it, and where that run goes on."""

from __future__ import annotations

import os
import socket
import time
import uuid
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from lightning.fabric.utilities.rank_zero import rank_zero_only

from halo_lightning.checkpoints import check, newest_good, read_seal
from halo_lightning.errors import ConfigError
from halo_lightning.files import clear_up, make_folder, read_checked_json, write_checked_json

LAST = "last"
"""The checkpoint path that stands for the newest whole checkpoint of a run."""

_RUN, _LOCK = "run.json", ".lock"


class RunFolder:
    """The folder that one run writes to.

    Args:
        folder: The folder.

    Attributes:
        id: Which run its checkpoints are of: a run that starts anew in the same folder is another one.
        curves: The name of the run's TensorBoard version.
        settings: What the run was started with.
        ended: Whether the run came to its end, with everything written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.id = ""
        self.curves = ""
        self.settings: dict[str, Any] = {}
        self.ended = True
        try:
            content = read_checked_json(self.folder / _RUN)
            self.id, self.curves = str(content["id"]), Path(str(content["curves"])).name
            self.settings = dict(content.get("settings", {}))
            self.ended = bool(content.get("ended", True))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConfigError(f"{self.folder / _RUN}: this file is damaged ({error}); delete it") from error

    def locked(self, *, wait: bool = False) -> AbstractContextManager[Any]:
        """Holds the folder for this process, and those that it starts, until the context ends.

        Args:
            wait: Whether to wait for another process that holds it, instead of refusing.

        Raises:
            ConfigError: Another process holds it.
        """
        if rank_zero_only.rank:  # type: ignore[attr-defined]  # the first process of a run speaks for all of them
            return ExitStack()
        make_folder(self.folder)
        lock = FileLock(self.folder / _LOCK)
        try:
            return lock.acquire(timeout=0)
        except Timeout:
            if not wait:
                raise ConfigError(
                    f"{self.folder}: another process is writing this run ({self._holder()}). Choose another --run_dir,"
                    " or wait for it to end"
                ) from None
        print(f"{self.folder}: waiting for another process that is writing this run ({self._holder()})", flush=True)
        return lock.acquire()

    def _holder(self) -> str:
        try:
            content = read_checked_json(self.folder / _RUN)
            return f"process {content['process']} on {content['host']}, since {content['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "one that has just begun"

    def begin(self, settings: dict[str, Any], *, anew: bool) -> None:
        """Notes that a run starts in this folder, or goes on.

        Args:
            settings: What it is started with.
            anew: Whether it is a new run.
        """
        if anew or not self.id:
            versions = [path.name for path in (self.folder / "tensorboard").glob("version_*")]
            numbers = [int(name[8:]) for name in versions if name[8:].isdigit()]
            self.id, self.curves = uuid.uuid4().hex, f"version_{max(numbers, default=-1) + 1}"
            self.settings = settings
        self._note(ended=False)

    def end(self) -> None:
        """Notes that the run has come to its end."""
        self._note(ended=True)

    def _note(self, *, ended: bool) -> None:
        self.ended = ended
        if not rank_zero_only.rank:  # type: ignore[attr-defined]
            content = {
                "id": self.id,
                "curves": self.curves,
                "settings": self.settings,
                "ended": ended,
                "process": os.getpid(),
                "host": socket.gethostname(),
                "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            }
            write_checked_json(self.folder / _RUN, content)

    def checkpoint(self, asked: str | None, folder: Path) -> tuple[Path | None, list[str]]:
        """Where a run goes on.

        Args:
            asked: `last`, the path of a checkpoint, or None for a run that starts anew.
            folder: Where its checkpoints are.

        Returns:
            The checkpoint, which is whole, or None where there is none to go on from; and what to tell the user.

        Raises:
            ConfigError: The checkpoint that was asked for cannot be used.
        """
        clear_up(folder)
        if asked is not None and asked != LAST:
            return check(asked), []
        if asked is None:
            return None, _of_an_earlier_run(folder)
        found = newest_good(folder, self.id or None)
        notes = [f"{path}: this checkpoint is left alone: {why}" for path, why in found.damaged.items()]
        if found.path is None:
            others = f" ({found.of_others} of earlier runs are left alone)" if found.of_others else ""
            notes.append(f"{folder}: no checkpoint of this run{others}, so training starts from the beginning")
        else:
            notes.append(f"going on from {found.path}")
        return found.path, notes

    def is_where_it_ended(self, checkpoint: Path) -> bool:
        """Whether a checkpoint is the newest one of this run: from an older one on, it becomes another run."""
        path = checkpoint.resolve()
        seal = read_seal(path)
        if not self.id or seal is None or seal.run != self.id:
            return False
        return newest_good(path.parent, self.id).path == path


def _of_an_earlier_run(folder: Path) -> list[str]:
    if not any(folder.glob("*.ckpt")):
        return []
    return [
        f"{folder}: there are checkpoints of an earlier run, which are left alone; this run starts from the beginning"
        " (--ckpt_path last would have gone on)"
    ]
