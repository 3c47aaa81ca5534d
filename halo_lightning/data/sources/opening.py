"""Opening: from a source, as it is named in a configuration, to the stream of its rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from halo_lightning.data.sources.bad_rows import BadRows
from halo_lightning.data.sources.config import Source
from halo_lightning.data.sources.content import Content
from halo_lightning.data.sources.embedded import EMBEDDED, embedded_rows
from halo_lightning.data.sources.files import TABLES, find_files, kind_of
from halo_lightning.data.sources.rows import Row, check_repeats
from halo_lightning.data.sources.tables import HUB, arrow_rows, hub_rows, is_saved_dataset, parquet_rows, saved_rows
from halo_lightning.data.sources.text import csv_rows, json_array, json_lines
from halo_lightning.errors import ConfigError, DataError


def read_rows(source: str | Source, bad: BadRows | None = None) -> Iterator[Row]:
    """Reads the rows of a source one at a time, as they are.

    Args:
        source: See `Source`; a path alone is one, too.
        bad: What happens to a row that cannot be read; None raises its error.

    Yields:
        The rows in the order of the files and of the rows in them. Every file has at least one.

    Raises:
        DataError: A file is missing, empty, cut off or damaged, or a row of it cannot be read.
        ConfigError: The source is described in a way that cannot work.
    """
    source, bad = Source.of(source), BadRows() if bad is None else bad
    for path in source.paths:
        yield from _rows_of_path(path, source, bad)


def _rows_of_path(path: str, source: Source, bad: BadRows) -> Iterator[Row]:
    if path.startswith(EMBEDDED):
        _refuse_settings(path, source, "split", "name", "data_dir")
        yield from _at_least_one(embedded_rows(path), path, bad)
        return
    if path.startswith(HUB):
        yield from _at_least_one(hub_rows(path, source.name, source.data_dir, source.split, bad), path, bad)
        return
    _refuse_settings(path, source, "name")
    folder = Path(path).expanduser() / (source.data_dir or "")
    if is_saved_dataset(folder):
        yield from _at_least_one(saved_rows(folder, path, source.split, bad), path, bad)
        return
    for file, name in find_files(path, source.split, source.data_dir):
        rows = _no_more_rows_than_bytes(_rows_of_file(file, name, bad), file, name)
        yield from _at_least_one(rows, name, bad)


def _refuse_settings(path: str, source: Source, *names: str) -> None:
    for name in names:
        if getattr(source, name) is not None:
            raise ConfigError(f"{path}: found {name}={getattr(source, name)}, expected none for this kind of source")


def _rows_of_file(path: Path, name: str, bad: BadRows) -> Iterator[Row]:
    kind = kind_of(path)
    with Content(path, name) as content:
        if kind in TABLES and content.compression:
            raise DataError(
                f"found a {kind} file inside of {content.compression}, expected it alone (its columns are compressed)",
                file=name,
            )
        if kind == ".csv" or kind == ".tsv":
            yield from csv_rows(content, bad, "," if kind == ".csv" else "\t")
        elif kind not in TABLES and not content.starts_with(b"PAR1", b"ARROW1"):
            yield from (json_array if content.first() == b"[" else json_lines)(content, bad)
        elif kind in (".parquet", ".pq") or content.starts_with(b"PAR1"):
            yield from parquet_rows(path, name, bad)
        else:
            yield from arrow_rows(path, name, bad)


def _no_more_rows_than_bytes(rows: Iterator[Row], path: Path, name: str) -> Iterator[Row]:
    size = path.stat().st_size
    for number, row in enumerate(rows, start=1):
        check_repeats(number, size, name)
        yield row


def _at_least_one(rows: Iterator[Row], name: str, bad: BadRows) -> Iterator[Row]:
    before, found = bad.count, False
    for row in rows:
        found = True
        yield row
    if not found and bad.count == before:
        raise DataError("found no row in it: it is empty, or has names of columns alone; expected some", file=name)
