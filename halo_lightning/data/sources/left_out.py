"""Counts of the rows that are well-formed and give no example of the kind that is wanted."""

from __future__ import annotations

from typing import Any

from halo_lightning.data.sources.rows import Row
from halo_lightning.errors import place


class LeftOut:
    """Counts the rows of one source that are left out, by reason, with the place of the first of each.

    Attributes:
        rows: How many rows have been read.
        reasons: For each reason, how many rows and the place of the first.
        implicit_prompts: How many pairs of texts had no prompt but what both begin with.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.implicit_prompts = 0
        self.reasons: dict[str, tuple[int, str]] = {}
        self._files: set[str] = set()

    def as_plain_data(self) -> dict[str, Any]:
        """All counts as JSON values; the reasons as a list, since objects may lose their order in JSON."""
        return {"rows": self.rows, "implicit_prompts": self.implicit_prompts, "reasons": list(self.reasons.items())}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> LeftOut:
        """What `as_plain_data` was made of; nothing more is counted in it."""
        counted = cls()
        counted.rows, counted.implicit_prompts = plain["rows"], plain["implicit_prompts"]
        counted.reasons = {reason: (count, first) for reason, (count, first) in plain["reasons"]}
        return counted

    def read(self, row: Row) -> None:
        """Counts one row that was read."""
        self.rows += 1
        self._files.add(row.file)

    def add(self, reason: str, row: Row) -> None:
        """Counts one row that is left out."""
        self.add_at(reason, row.file, row.line)

    def add_at(self, reason: str, file: str, line: int) -> None:
        """Counts what came from one line of a file; the file is named where there are several."""
        count, first = self.reasons.get(reason, (0, ""))
        self.reasons[reason] = count + 1, first or place(file if len(self._files) > 1 else None, line)

    def __len__(self) -> int:
        return sum(count for count, _ in self.reasons.values())

    def __str__(self) -> str:
        if not self:
            return "left out none"
        parts = [f"{count} {reason} (first: {first})" for reason, (count, first) in self.reasons.items()]
        return f"left out {len(self)} of {self.rows} rows: {', '.join(parts)}"
