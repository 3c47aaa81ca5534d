"""Bad rows: each one stops the run, or is skipped, counted and listed in a side file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.utilities.rank_zero import rank_zero_only

from halo_lightning.data.sources.rows import Row
from halo_lightning.errors import DataError, RowNumber

OnBadRow = Literal["error", "skip"]


class BadRows:
    """What happens to a row that cannot be used: `error` stops with its message, `skip` counts and lists it.

    A file that is cut off, damaged or missing is no bad row and always stops: nobody knows how many rows it should
    have had.

    Args:
        action: `error` or `skip`.
        file: The side file that skipped rows are listed in, one JSON object each with `file`, `line` (or `row_number`),
            `key`, `error` and the `row` itself; None lists them nowhere. It is begun anew with the first of them, and
            each is appended as soon as it is skipped: a run that is killed leaves a list of all rows until then.

    Attributes:
        count: How many rows were skipped.
        first: The message about the first of them.
    """

    def __init__(self, action: OnBadRow = "error", file: str | Path | None = None) -> None:
        self.action = action
        self.file = None if file is None else Path(file)
        self.count = 0
        self.first = ""
        self._seen: set[tuple[str | None, int | None]] = set()
        self._record: Path | None = None
        self._recorded: set[tuple[str | None, int | None]] = set()

    def refuse(self, error: DataError, row: Row | str | None = None) -> None:
        """Raises the error, or skips the row; a row that gives several errors is counted once.

        Args:
            error: What is wrong with the row.
            row: The row as far as it could be read.

        Raises:
            DataError: The error, unless rows are to be skipped.
        """
        if self.action == "error":
            raise error
        values: Any = row.values if isinstance(row, Row) else row
        number = "row_number" if isinstance(error.line, RowNumber) else "line"
        self._skip({"file": error.file, number: error.line, "key": error.key, "error": str(error), "row": values})

    def _skip(self, entry: dict[str, Any]) -> None:
        where = entry["file"], entry.get("line", entry.get("row_number"))
        if self._record is not None and where not in self._recorded:
            self._recorded.add(where)
            _append(self._record, entry)
        if where in self._seen:
            return
        self._seen.add(where)
        self.count += 1
        self.first = self.first or entry["error"]
        if self.file is not None:
            self._list(entry)

    @contextmanager
    def recorded(self, file: Path) -> Iterator[None]:
        """Within, rows that are skipped are listed in another file, too, for `skip_again`: also those seen before.

        Args:
            file: A new file, which is there in any case.
        """
        file.touch(exist_ok=False)
        self._record, self._recorded = file, set()
        try:
            yield
        finally:
            self._record = None

    def skip_again(self, file: Path) -> None:
        """Skips the rows that were recorded in a file: counts and lists them without reading them."""
        with file.open(encoding="utf-8") as entries:
            for line in entries:
                self._skip(json.loads(line))

    def quiet(self) -> BadRows:
        """The same decision without counting and listing, for a look at a source before it is read."""
        return BadRows(self.action)

    @rank_zero_only
    def _list(self, entry: dict[str, Any]) -> None:
        assert self.file is not None
        self.file.parent.mkdir(parents=True, exist_ok=True)
        if self.count == 1:
            self.file.write_bytes(b"")
        _append(self.file, entry)

    def __str__(self) -> str:
        listed = "" if self.file is None else f", listed in {self.file}"
        return f"skipped {self.count} bad rows{listed} (first: {self.first})" if self.count else "skipped no bad row"


def _append(path: Path, entry: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry, default=repr) + "\n")
