"""Every format of rows gives the same examples from every format of files."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from halo_lightning.data.feedback import Example
from halo_lightning.data.kinds import READABLE
from halo_lightning.data.reading import read_feedback
from halo_lightning.data.sources import Source
from halo_lightning.errors import DataError
from tests.data.helpers import write_rows
from tests.data.sources.published import TREE
from tests.data.test_fuzz import FORMATS


def write(folder: Path, kind: str, rows: list[dict[str, Any]]) -> str:
    path = folder / f"rows.{kind}"
    if kind == "jsonl":
        return write_rows(path, rows)
    if kind == "json":
        path.write_text(json.dumps(rows))
    elif kind == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            for row in rows:
                writer.writerow({k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()})
    elif kind == "saved":
        datasets.Dataset.from_list(rows).save_to_disk(path)
    elif kind == "parquet":
        pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        pa.feather.write_feather(pa.Table.from_pylist(rows), path)
    return str(path)


def read(source: Source) -> dict[str, list[Example]]:
    """The examples of every kind that can be had, without their places."""
    found: dict[str, list[Example]] = {}
    for wanted in READABLE:
        try:
            found[wanted] = [replace(example, file="", line=0) for example in read_feedback(source, wanted)]
        except DataError as error:
            assert "expected" in str(error)  # noqa: PT017
    return found


@pytest.mark.parametrize("kind", ["json", "csv", "parquet", "feather", "saved"])
@pytest.mark.parametrize("name", FORMATS)
def test_rows_are_the_same_in_every_file(tmp_path: Path, name: str, kind: str) -> None:
    row, options = FORMATS[name]
    expected = read(Source(write(tmp_path, "jsonl", [row, row]), **options))
    assert any(expected.values())
    assert read(Source(write(tmp_path, kind, [row, row]), **options)) == expected


@pytest.mark.parametrize("kind", ["json", "parquet", "feather", "saved"])
def test_trees_are_the_same_in_every_file(tmp_path: Path, kind: str) -> None:
    expected = read(Source(write(tmp_path, "jsonl", TREE)))
    assert len(expected["paired"]) == 3
    assert read(Source(write(tmp_path, kind, TREE))) == expected
