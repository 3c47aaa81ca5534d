"""Where caches are, who may write one, and whether the content of a file is still what it was."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from halo_lightning.files import make_folder

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "HALO_LIGHTNING_CACHE"
"""The environment variable that says where caches are; without it they are in `~/.cache/halo_lightning`."""

SETTLED_SECONDS = 2.0
"""A file that was changed so recently may change again within the resolution of its times."""

_READ = 2**22


def cache_folder(kind: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """Where the caches of one kind are: in a folder that was asked for, or in the user's own.

    Args:
        kind: `reference`, `data` or `hashes`.
        folder: The folder that was asked for.
    """
    default = os.environ.get(CACHE_VARIABLE) or "~/.cache/halo_lightning"
    return Path(folder or default).expanduser() / kind


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Waits until no other process writes this cache, and lets none begin meanwhile.

    Args:
        path: The cache; the lock is a file beside it.
    """
    make_folder(path.parent)
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.warning("another process is writing %s: waiting for it", path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def content_hash(path: Path, memory: Path, *, written_here: str | None = None) -> str:
    """The SHA-256 of a file, from memory while nothing has touched the file.

    A file is taken to be untouched while its size, its times of modification and of change (which nobody can set), and
    its inode are what they were. A file that was changed in the last two seconds is always read.

    Args:
        path: The file.
        memory: The folder where hashes are remembered.
        written_here: The hash, where this process has just written the file itself: it is remembered, not computed.

    Raises:
        OSError: The file cannot be read.
    """
    where = os.path.abspath(path)
    note = memory / f"{hashlib.sha256(where.encode()).hexdigest()[:32]}.json"
    before = _state(path)
    if written_here is None:
        with suppress(OSError, ValueError, TypeError, KeyError):
            known = json.loads(note.read_text())
            if known["path"] == where and known["state"] == before:
                return str(known["sha256"])
    now, value = time.time(), written_here or _sha256(path)
    settled = now - max(before[1], before[2]) / 1e9 > SETTLED_SECONDS
    if (settled or written_here) and _state(path) == before:
        _remember(note, {"path": where, "state": before, "sha256": value})
    return value


def _state(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while part := file.read(_READ):
            digest.update(part)
    return digest.hexdigest()


def _remember(note: Path, values: dict[str, object]) -> None:
    """Writes a note whole or not at all; one that cannot be written is no loss."""
    with suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=note.parent, prefix=".partial-", delete=False) as file:
            json.dump(values, file)
        os.replace(file.name, note)
