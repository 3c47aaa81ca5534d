"""Readers of tables: Parquet, Arrow and Feather files, data sets that `datasets` saved, and data sets of the hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from halo_lightning.data.sources.bad_rows import BadRows
from halo_lightning.data.sources.rows import Row, check_repeats, excerpt
from halo_lightning.errors import ConfigError, DataError, RowNumber, first_line
from halo_lightning.hub import check_hub
from halo_lightning.memory import at_most

HUB = "hub:"
"""The prefix of data sets of the Hugging Face hub."""

_BATCH = 512

MOST_MEMORY = 2**30
"""Bytes that some rows of a table, or a batch of an Arrow file, may take beside as many as their file has.

A file of some thousand bytes can hold gigabytes: one text for all rows, or many times the same letter.
"""


def parquet_rows(path: Path, name: str, bad: BadRows) -> Iterator[Row]:
    """The rows of a Parquet file."""

    def batches() -> Iterator[Any]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            check_repeats(file.metadata.num_rows, path.stat().st_size, name)
            yield from file.iter_batches(batch_size=_BATCH)

    return _arrow_rows(batches, name, "Parquet", bad, path.stat().st_size)


def arrow_rows(path: Path, name: str, bad: BadRows) -> Iterator[Row]:
    """The rows of an Arrow or Feather file, in Arrow's file format or its streaming format."""

    def batches() -> Iterator[Any]:
        import pyarrow as pa

        with pa.memory_map(str(path)) as file:
            is_file = file.read(6) == b"ARROW1"
            file.seek(0)
            if not is_file:
                yield from pa.ipc.open_stream(file)
                return
            reader = pa.ipc.open_file(file)
            yield from (reader.get_batch(number) for number in range(reader.num_record_batches))

    return _arrow_rows(batches, name, "Arrow", bad, path.stat().st_size)


def _arrow_rows(
    batches: Callable[[], Iterator[Any]], name: str, what: str, bad: BadRows, size: int = 0
) -> Iterator[Row]:
    import pyarrow as pa

    number = 0
    try:
        waiting = batches()
        while True:
            with at_most(MOST_MEMORY + size):
                batch = next(waiting, None)
            if batch is None:
                return
            if size:
                check_repeats(batch.num_rows, size, name)
            if len(set(batch.schema.names)) < len(batch.schema.names):
                raise DataError(
                    f"found the columns {', '.join(batch.schema.names)}, expected each name once", file=name
                )
            for start in range(0, batch.num_rows, _BATCH):
                with at_most(MOST_MEMORY):
                    rows = list(_values(batch.slice(start, _BATCH), name, number, bad))
                for values in rows:
                    number += 1
                    if values is not None:
                        yield Row(values, name, RowNumber(number), "table")
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(
            f"found rows that take more than {MOST_MEMORY / 2**30:g} GiB of memory after {number} rows, which is no"
            " feedback",
            file=name,
        ) from error
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # damaged names of columns are ValueErrors
        raise DataError(
            f"cannot be read as {what} after {number} rows ({excerpt(str(error), 200)}), expected a whole {what} file",
            file=name,
        ) from error


def _values(batch: Any, name: str, before: int, bad: BadRows) -> Iterable[dict[str, Any] | None]:
    """The rows of a batch; None for one that cannot be used."""
    try:
        return _read(batch)
    except _UNREADABLE:
        return _values_one_by_one(batch, name, before, bad)


_UNREADABLE = (UnicodeDecodeError, ValueError, OverflowError, RecursionError)


def _read(batch: Any) -> list[dict[str, Any]]:
    """The rows of a batch, if all of them can be used."""
    batch.validate(full=True)  # a damaged file may point anywhere in memory, and be believed
    rows: list[dict[str, Any]] = batch.to_pylist()
    for column in batch.schema:
        plain = _plain_values(column.type)
        if plain is not None:
            for row in rows:
                row[column.name] = plain(row[column.name])
    return rows


def _plain_values(kind: Any) -> Callable[[Any], Any] | None:
    """What makes the values of a type those that JSON would have; None where they are those already.

    In a table every object has every name that any of them has, and null for what it does not have: those names are
    left out. And `datasets` writes objects that differ (arguments of tools, say) as texts, and calls them JSON.
    """
    import pyarrow as pa

    if getattr(kind, "extension_name", None) == "arrow.json":
        return lambda value: None if value is None else json.loads(value)
    if pa.types.is_struct(kind):
        fields = {field.name: _plain_values(field.type) or _as_it_is for field in kind}
        return lambda value: value and {name: fields[name](one) for name, one in value.items() if one is not None}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        element = _plain_values(kind.value_type)
        return element and (lambda value: value and [element(one) for one in value])
    return None


def _as_it_is(value: Any) -> Any:
    return value


def _values_one_by_one(batch: Any, name: str, before: int, bad: BadRows) -> Iterator[dict[str, Any] | None]:
    for index in range(batch.num_rows):
        row = batch.slice(index, 1)
        try:
            (values,) = _read(row)
        except _UNREADABLE as error:
            if "offset" in str(error).lower():  # the table itself is damaged, not a value in it
                raise
            found = f"found a value that cannot be read ({excerpt(str(error), 200)})"
            bad.refuse(
                DataError(
                    f"{found}, expected text in UTF-8, or JSON where its column is of JSON",
                    file=name,
                    line=RowNumber(before + index + 1),
                )
            )
            values = None
        yield values


def is_saved_dataset(folder: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def saved_rows(folder: Path, name: str, split: str | None, bad: BadRows) -> Iterator[Row]:
    """The rows of a data set, or of one split of several, that `datasets` saved."""
    import datasets

    data = _load(name, lambda: datasets.load_from_disk(str(folder)))
    return _dataset_rows(_one_split(data, name, split), name, bad)


def hub_rows(
    source: str, configuration: str | None, data_dir: str | None, split: str | None, bad: BadRows
) -> Iterator[Row]:
    """The rows of a data set of the hub, which `datasets` downloads once and keeps in its cache."""
    return _dataset_rows(_hub_data(source, configuration, data_dir, split), source, bad)


def hub_fingerprint(source: str, configuration: str | None, data_dir: str | None, split: str | None) -> str:
    """What `datasets` identifies the rows of a data set of the hub by: another version of them has another one."""
    return str(_hub_data(source, configuration, data_dir, split)._fingerprint)


def _hub_data(source: str, configuration: str | None, data_dir: str | None, split: str | None) -> Any:
    import datasets

    identifier = source.removeprefix(HUB)
    check_hub(identifier, "dataset")
    # The whole of it, and then the split: so a mistyped split gets the list of those that there are.
    data = _load(source, lambda: datasets.load_dataset(identifier, name=configuration, data_dir=data_dir))
    return _one_split(data, source, split)


def _load(name: str, load: Callable[[], Any]) -> Any:
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        return load()
    except Exception as error:  # of the network, of files, of a dozen libraries: to the user all of them mean one thing
        reason = excerpt(first_line(error), 300)
        raise DataError(f"`datasets` could not load it ({reason}), expected a data set", file=name) from error


def _one_split(data: Any, name: str, split: str | None) -> Any:
    if not isinstance(data, dict):
        if split is not None:
            raise ConfigError(
                f"{name}: found one data set without splits, expected none to be named (split is {split!r})"
            )
        return data
    if split is None and len(data) == 1:
        return next(iter(data.values()))
    if split not in data:
        found = "no split" if split is None else f"the split {split!r}"
        raise ConfigError(f"{name}: found {found}, expected split to be one of {', '.join(data)}")
    return data[split]


def _dataset_rows(data: Any, name: str, bad: BadRows) -> Iterator[Row]:
    return _arrow_rows(lambda: data.with_format("arrow").iter(batch_size=_BATCH), name, "Arrow", bad)
