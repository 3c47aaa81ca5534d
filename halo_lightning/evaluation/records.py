"""Files of generations and verdicts: JSON Lines, written record by record, that survive being killed at any time.

Beside `verdicts.jsonl` stands `verdicts.settings.json`, with the settings that every record in it was made with.
Records are only ever added. What was half written when a process was killed is dropped when the file is opened the
next time. Each record ends with a checksum of itself, so that none is read which is not what was written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from halo_lightning import __version__
from halo_lightning.errors import ConfigError, DataError
from halo_lightning.files import (
    checksum,
    full_disk_is_said,
    make_folder,
    read_checked_json,
    why_no_file,
    write_checked_json,
)
from halo_lightning.settings import differences, flat

Record = dict[str, Any]


def settings_file(path: str | Path) -> Path:
    """Where the settings of a file of records are."""
    return Path(path).with_suffix(".settings.json")


def read_settings(path: str | Path, needs: Iterable[str] = ()) -> dict[str, Any]:
    """The settings that the records in a file were made with.

    Args:
        path: The file of records.
        needs: Dotted names of settings that have to be there.

    Raises:
        ConfigError: They are not there, or cannot be read, or not those that are needed.
    """
    file = settings_file(path)
    try:
        settings = dict(read_checked_json(file)["settings"])
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: the settings that it was made with are not beside it, in {file.name}; expected both files"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"{file}: found no settings in it ({error}), expected what this package wrote") from error
    if missing := [name for name in needs if name not in flat(settings)]:
        raise ConfigError(f"{file}: found no setting {missing[0]}, expected what this package wrote")
    return settings


LARGEST = 2**31
"""Bytes of a file of records at most: it is read at once."""

Needs = Mapping[str, type | tuple[type, ...]]
"""The types of the values that each record has to have, by key."""

GENERATION: Needs = {"number": int, "id": str, "prompt": list, "completion": str, "tokens": int}
"""What every line that `generate` wrote has."""

GENERATED_WITH = ("name", "group", "prompts.count", "dtype", "backend", "sampling.seed")
"""Settings that every file of such lines was made with."""


RECORD_CHECKSUM = "record_checksum"
"""The key of a record under which it says what its checksum is; who reads records does not get it."""


def _line(record: Record) -> bytes:
    """What is written of a record that is not empty: the checksum is that of the line without it."""
    line = json.dumps(record, ensure_ascii=False).encode("utf-8", errors="backslashreplace")
    return line[:-1] + _end(checksum(line)) + b"\n"


def _end(value: Any) -> bytes:
    return f', "{RECORD_CHECKSUM}": {json.dumps(value)}}}'.encode()


def _is_as_written(noted: Any, line: bytes) -> bool:
    """Whether a line is the one that was written, as far as can be told: one of somebody else has no checksum."""
    end, whole = _end(noted), line.rstrip()
    return noted is None or (whole.endswith(end) and checksum(whole.removesuffix(end) + b"}") == noted)


def read_records(path: str | Path, needs: Needs | None = None) -> list[Record]:
    """The records in a file; a last line that is half written is none.

    Args:
        path: The file.
        needs: What each record has to have.

    Raises:
        DataError: There is no such file, or a line in it that is no such record.
    """
    file = Path(path)
    return list(_parsed(file, _content(file), needs or {}))


def _content(file: Path) -> bytes:
    if (why := why_no_file(file)) is not None:
        raise DataError(why, file=str(file))
    if (size := file.stat().st_size) > LARGEST:
        raise DataError(f"found {size:,} bytes, expected at most {LARGEST:,}", file=str(file))
    return file.read_bytes()


def _parsed(file: Path, content: bytes, needs: Needs) -> Iterator[Record]:
    *lines, last = content.split(b"\n")
    if _record(last) is not None:  # all of it was written but the end of the line
        lines.append(last)
    for number, line in enumerate(lines, start=1):
        yield _checked(line, needs, file, number)


def _checked(line: bytes, needs: Needs, file: Path, number: int) -> Record:
    """The record of a line, without its checksum."""
    record = _record(line)
    if record is None:
        shown = line[:60].decode(errors="replace")
        raise DataError(f"found {shown!r}, expected a JSON object", file=str(file), line=number)
    if not _is_as_written(record.pop(RECORD_CHECKSUM, None), line):
        raise DataError(
            "found another record than was written: delete the line, and the command that wrote it makes it again; if"
            f" you changed it yourself, take {RECORD_CHECKSUM!r} out of it",
            file=str(file),
            line=number,
        )
    for key, kind in needs.items():
        if not isinstance(record.get(key), kind):
            found = f"found {str(record[key])[:60]!r}" if key in record else "found no such key"
            message = f"{found}, expected what this package wrote"
            raise DataError(message, file=str(file), line=number, key=key)
    return record


def _record(line: bytes) -> Record | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


class Records:
    """A file of records that is open for adding to it. Use `open_records`.

    Attributes:
        path: The file.
        found: The records that were in it when it was opened.
    """

    def __init__(self, path: Path, needs: Needs) -> None:
        self.path = path
        content = _content(path) if path.exists() else b""
        self.found = list(_parsed(path, content, needs))
        self._file = path.open("ab")
        tail = content[content.rfind(b"\n") + 1 :]
        if tail and _record(tail) is not None:
            self._file.write(b"\n")
        elif tail:
            self._file.truncate(len(content) - len(tail))

    def add(self, records: Iterable[Record]) -> None:
        """Adds records; they are on disk when this returns."""
        self._file.write(b"".join(map(_line, records)))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


@contextmanager
def open_records(
    path: str | Path, settings: dict[str, Any], notes: dict[str, Any] | None = None, needs: Needs | None = None
) -> Iterator[Records]:
    """A file of records to go on with, or a new one.

    Args:
        path: The file; its folder is made where it is not there.
        settings: What the records depend on, JSON values.
        notes: What else is written beside them, and may differ the next time (devices, say).
        needs: What each record has to have.

    Raises:
        ConfigError: There are records of other settings in the file, or another process is writing to it.
        DataError: There is a line in it that is no record.
    """
    file = Path(path)
    if file.exists() and (why := why_no_file(file)) is not None:
        raise DataError(why, file=str(file))
    make_folder(file.parent)
    settings = json.loads(json.dumps(settings))
    lock = FileLock(file.with_name(f".{file.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(f"{path}: another process is writing to this file; wait for it, or name another") from None
    try:
        if file.exists() and file.stat().st_size:
            changed = differences(flat(read_settings(file)), flat(settings))
            if changed:
                raise ConfigError(
                    f"{path}: this file was made with other settings ({'; '.join(changed)}); delete it with"
                    f" {settings_file(file).name}, or name another"
                )
        else:
            write_checked_json(
                settings_file(file), {"halo_lightning": __version__, "settings": settings, "notes": notes or {}}
            )
        with full_disk_is_said(file):
            records = Records(file, needs or {})
            try:
                yield records
            finally:
                records.close()
    finally:
        lock.release()
