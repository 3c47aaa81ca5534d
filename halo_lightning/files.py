"""Writing files and folders so that nobody ever sees half of one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced_folder(folder: str | Path) -> Iterator[Path]:
    """A new folder to write into, which takes the name of `folder` when everything in it is on disk.

    Where an exception is raised, what was written is removed and an older `folder` stays as it was.

    Args:
        folder: The name that the folder gets. An existing one is replaced.
    """
    target = Path(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    try:
        partial.chmod(0o755)
        yield partial
        for path in sorted(partial.rglob("*")):
            flush_to_disk(path)
        flush_to_disk(partial)
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old-", dir=target.parent))
            os.rename(target, old / target.name)
            os.rename(partial, target)
            shutil.rmtree(old)
        else:
            os.rename(partial, target)
        flush_to_disk(target.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def flush_to_disk(path: Path) -> None:
    """Makes a file, or the list of names of a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
