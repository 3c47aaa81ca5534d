"""Writing files and folders so that nobody ever sees half of one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any, BinaryIO

from halo_lightning.errors import ConfigError, DiskFullError, no_space


@contextmanager
def full_disk_is_said(target: str | Path) -> Iterator[None]:
    """Within, an error that comes from a full disk, a quota or a limit of a file's size says what was to be written.

    Args:
        target: What is written.

    Raises:
        DiskFullError: There is no room.
    """
    try:
        yield
    except Exception as error:
        said = no_space(error)
        if said is None or isinstance(error, DiskFullError):
            raise
        raise DiskFullError(
            f"{target}: the disk is full ({said}), so this could not be written; what was there before is unchanged."
            " Make room, and run it again"
        ) from error


@contextmanager
def replaced_folder(folder: str | Path) -> Iterator[Path]:
    """A new folder to write into, which takes the name of `folder` when everything in it is on disk.

    Where an exception is raised, what was written is removed and an older `folder` stays as it was.

    Args:
        folder: The name that the folder gets. An existing one is replaced.

    Raises:
        DiskFullError: There is no room.
        ConfigError: There is a file of this name.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise ConfigError(f"{target}: found a file where a folder is to be written; move it, or name another folder")
    if not target.name:
        raise ConfigError(f"found {os.fspath(folder)!r} as the name of a folder to write, expected another one")
    make_folder(target.parent)
    _clear_up_after_the_dead(target)
    partial, old = _beside(target, "partial"), _beside(target, "old")
    try:
        with full_disk_is_said(target):
            partial.mkdir()
            yield partial
            for path in sorted(partial.rglob("*")):
                flush_to_disk(path)
            flush_to_disk(partial)
        if target.exists():
            os.rename(target, old)
            try:
                os.rename(partial, target)
            except BaseException:
                os.rename(old, target)
                raise
            shutil.rmtree(old)
        else:
            os.rename(partial, target)
        flush_to_disk(target.parent)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        _name(target, partial, error)
        raise


@contextmanager
def replaced_file(file: str | Path) -> Iterator[BinaryIO]:
    """A new file to write into, which takes the name of `file` when all of it is on disk.

    Where an exception is raised, what was written is removed and an older `file` stays as it was.

    Args:
        file: The name that the file gets. An existing one is replaced.

    Raises:
        DiskFullError: There is no room.
        ConfigError: There is something of this name that is no file: a device would be lost.
    """
    target = Path(file)
    if target.exists() and (why := why_no_file(target)) is not None:
        raise ConfigError(f"{target}: {why}, where one is to be written")
    make_folder(target.parent)
    _clear_up_after_the_dead(target)
    partial = _beside(target, "partial")
    try:
        with full_disk_is_said(target), partial.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, target)
        flush_to_disk(target.parent)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        _name(target, partial, error)
        raise


def make_folder(folder: str | Path) -> None:
    """Makes a folder, and those that it is in, where they are not there yet.

    Raises:
        ConfigError: There is a file of this name, or one where a folder would have to be.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        path = Path(folder)
        found = next(one for one in (path, *path.parents) if os.path.lexists(one) and not one.is_dir())
        raise ConfigError(f"{folder}: cannot be a folder, since {found} is none") from error


def _name(target: Path, partial: Path, error: BaseException) -> None:
    """Lets an error of the operating system name what was to be written, not what it is called until then."""
    if isinstance(error, OSError) and isinstance(error.filename, (str, os.PathLike)):
        error.filename = os.fspath(error.filename).replace(partial.name, target.name)


def replace_link(link: str | Path, target: str) -> None:
    """Makes a symbolic link, or lets an existing one point elsewhere, with no moment in which there is none.

    Args:
        link: The link.
        target: What it points to, from its own folder.
    """
    path = Path(link)
    _clear_up_after_the_dead(path)
    partial = _beside(path, "partial")
    os.symlink(target, partial)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    os.replace(partial, path)


def read_text(path: str | Path) -> str:
    """The text of a small file, such as a manifest, that may be somebody else's.

    Raises:
        FileNotFoundError: It is not there.
        OSError: It is no file, or cannot be read.
        UnicodeDecodeError: It is not UTF-8.
    """
    file = Path(path)
    if file.exists() and (why := why_no_file(file)) is not None:
        raise OSError(errno.EINVAL, why, os.fspath(path))
    return file.read_text(encoding="utf-8")


def write_text(path: str | Path, text: str) -> None:
    """Writes a file whole or not at all."""
    with replaced_file(path) as stream:
        stream.write(text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Writes a small JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


CHECKSUM = "checksum"
"""The key of a JSON file of ours under which it says what the checksum of everything else in it is."""


def checksum(content: bytes) -> str:
    """Sixteen characters that are others as soon as one bit of the content is another."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def write_checked_json(path: str | Path, value: dict[str, Any]) -> None:
    """Writes a small JSON file whole or not at all, with a checksum by which `read_checked_json` finds damage."""
    write_json(path, {**value, CHECKSUM: _checksum_of(value)})


def read_checked_json(path: str | Path) -> dict[str, Any]:
    """The content of a JSON file that `write_checked_json` wrote; one without a checksum is taken as it is.

    Raises:
        FileNotFoundError: It is not there.
        OSError: It is no file, or cannot be read.
        ValueError: It is no JSON object, or was changed after it was written.
    """
    value = json.loads(read_text(path))
    if not isinstance(value, dict):
        raise ValueError("found no JSON object")
    noted = value.pop(CHECKSUM, None)
    if noted is not None and noted != _checksum_of(value):
        raise ValueError(f"found another content than was written; whoever changed it takes {CHECKSUM!r} out of it")
    return value


def _checksum_of(value: dict[str, Any]) -> str:
    as_read = json.loads(json.dumps(value))
    return checksum(json.dumps(as_read, sort_keys=True).encode())


_OURS: set[Path] = set()
"""What this process itself has begun to write."""


def _beside(target: Path, what: str) -> Path:
    """A new name beside a target, which says which process has made it."""
    path = target.with_name(f".{target.name}.{what}-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    _OURS.add(path)
    return path


def clear_up(folder: str | Path) -> None:
    """Removes what killed processes of this machine had not finished in a folder, and puts back what they moved out.

    Whoever writes a name does so for that name; this is for names that nobody may ever write again.
    """
    unfinished = re.compile(r"\.(.+)\.(?:partial|old)-.+-\d+-[0-9a-f]{8}")
    for path in list(Path(folder).glob(".*")):
        if match := unfinished.fullmatch(path.name):
            _clear_up_after_the_dead(path.with_name(match[1]))


def _clear_up_after_the_dead(target: Path) -> None:
    """What `clear_up` does, of one name."""
    host = escape(socket.gethostname())
    for what in ("old", "partial"):
        for path in target.parent.glob(f".{escape(target.name)}.{what}-{host}-*"):
            process = path.name.rsplit("-", 2)[1]
            if path in _OURS or not process.isdigit() or (int(process) != os.getpid() and _alive(int(process))):
                continue
            if what == "old" and not target.exists():
                os.rename(path, target)
            elif path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def why_no_file(path: str | Path) -> str | None:
    """What a path is instead of a file, as the end of a message; None where it is one.

    A pipe or a device is found without opening it, which would wait for ever, or read without end.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "found a link to nothing, expected a file" if os.path.islink(path) else "there is no such file"
    except OSError as error:
        return f"this file cannot be read ({error.strerror})"
    kinds = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
    return None if stat.S_ISREG(mode) else f"found {kinds.get(stat.S_IFMT(mode), 'a device')}, expected a file"


def flush_to_disk(path: Path) -> None:
    """Makes a file, or the list of names of a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
