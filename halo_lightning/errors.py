"""Errors that are the user's to mend: the message says where, what was found, and what was expected."""

from __future__ import annotations

import errno
import os
import re


class HaloError(Exception):
    """An error in what the user gave: data, configuration or files.

    The command line prints the message alone, without a traceback, and exits with status 2.
    """


class ConfigError(HaloError, ValueError):
    """A setting, or a combination of settings, that cannot work."""


class DiskFullError(HaloError):
    """There was no room for something that was to be written."""


class NotFiniteError(HaloError, ArithmeticError):
    """A loss or a gradient that is NaN or infinite."""


class RowNumber(int):
    """The number of a row, counted from 1, in a source that has no lines: messages say "row" instead of "line"."""


def place(file: str | None, line: int | None, key: str | None = None) -> str:
    """Where something is, as messages say it: `rows.jsonl, line 7, key 'label'`."""
    parts = [file] if file else []
    if line is not None:
        parts.append(f"{'row' if isinstance(line, RowNumber) else 'line'} {int(line)}")
    if key is not None:
        parts.append(f"key {key!r}")
    return ", ".join(parts)


class DataError(HaloError, ValueError):
    """A row, file or data set that cannot be used as it is.

    Args:
        message: What is wrong, and what would be right.
        file: The file (or other source) that the problem is in.
        line: Its line number, counted from 1; a `RowNumber` where there are no lines.
        key: The key of the row that the problem is in.
    """

    def __init__(
        self, message: str, *, file: str | None = None, line: int | None = None, key: str | None = None
    ) -> None:
        self.file, self.line, self.key = file, line, key
        where = place(file, line, key)
        super().__init__(f"{where}: {message}" if where else message)


def users_error(error: BaseException | None) -> HaloError | None:
    """The error of the user's that an exception is, or was raised because of."""
    while error is not None and not isinstance(error, HaloError):
        error = error.__cause__ or error.__context__
    return error


def first_line(error: BaseException) -> str:
    """The beginning of what a library says."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:500]


def without_passwords(text: str) -> str:
    """A text in which addresses have no password: that of a proxy, or of a mirror of the hub, may have one."""
    return re.sub(r"(\w://)[^/\s@]*@", r"\1[password]@", text)


NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def no_space(error: BaseException | None) -> str | None:
    """What a full disk (or quota, or limit of a file's size) said, if that is what an error comes from."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            return str(error)
        # Libraries that are written in Rust, and shutil where it copies a folder, hand on the text alone.
        for number in NO_SPACE:
            if f"(os error {number})" in str(error):
                return str(error)
            if f"[Errno {number}]" in str(error):
                return f"[Errno {number}] {os.strerror(number)}"
        error = error.__cause__ or error.__context__
    return None


def is_panic(error: BaseException) -> bool:
    """Whether an exception comes from a library written in Rust that gave up, which is no `Exception` for Python."""
    return type(error).__name__ == "PanicException"
