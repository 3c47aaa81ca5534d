"""Errors that are the user's to mend: the message says where, what was found, and what was expected."""

from __future__ import annotations


class HaloError(Exception):
    """An error in what the user gave: data, configuration or files.

    The command line prints the message alone, without a traceback, and exits with status 2.
    """


class ConfigError(HaloError, ValueError):
    """A setting, or a combination of settings, that cannot work."""


class DataError(HaloError, ValueError):
    """A row, file or data set that cannot be used as it is.

    Args:
        message: What is wrong, and what would be right.
        file: The file (or other source) that the problem is in.
        line: Its line (or row) number, counted from 1.
        key: The key of the row that the problem is in.
    """

    def __init__(
        self, message: str, *, file: str | None = None, line: int | None = None, key: str | None = None
    ) -> None:
        self.file, self.line, self.key = file, line, key
        place = ", ".join(
            part
            for part in (
                file,
                None if line is None else f"line {line}",
                None if key is None else f"key {key!r}",
            )
            if part
        )
        super().__init__(f"{place}: {message}" if place else message)
