"""Every format that a file may have, compressed or not, one file or many."""

from __future__ import annotations

import gzip
import json
import lzma
import tracemalloc
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest

from halo_lightning.data.sources import BadRows, Row, Source, read_rows
from halo_lightning.errors import ConfigError, DataError, RowNumber

ROWS: list[dict[str, Any]] = [
    {"prompt": f"Question {number}, “é”", "completion": f'Answer\n"{number}"', "label": number % 2 == 0}
    for number in range(1500)
]


def json_lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    """The rows in the format that the name says."""
    table = pa.Table.from_pylist(rows)
    name = path.name
    if name.endswith((".jsonl", ".ndjson")):
        path.write_bytes(json_lines(rows))
    elif name.endswith(".json"):
        path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    elif name.endswith(".parquet"):
        pa.parquet.write_table(table, path, row_group_size=400)
    elif name.endswith(".feather"):
        pa.feather.write_feather(table, path, compression="zstd")
    elif name.endswith(".arrow"):
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=700)
    return str(path)


def compress(content: bytes, suffix: str) -> bytes:
    if suffix == ".zst":
        return pa.Codec("zstd").compress(content).to_pybytes()
    return {".gz": gzip.compress, ".xz": lzma.compress, "": bytes}[suffix](content)


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "a.parquet", "a.feather", "a.arrow"])
def test_every_format_gives_the_same_rows_with_their_numbers(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, ROWS)
    rows = list(read_rows(path))
    assert [row.values for row in rows] == ROWS
    assert {row.file for row in rows} == {path}
    assert [int(row.line) for row in rows] == list(range(1, 1501))
    assert isinstance(rows[0].line, RowNumber) == (not name.endswith(("jsonl", "ndjson")))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".xz"])
@pytest.mark.parametrize("named_so", [True, False])
def test_compression_is_found_by_its_first_bytes(tmp_path: Path, name: str, suffix: str, named_so: bool) -> None:
    content = {
        "a.jsonl": json_lines(ROWS),
        "a.json": json.dumps(ROWS).encode(),
        "a.csv": b"prompt,completion\n" + b"".join(b"Question %d,yes\n" % number for number in range(1500)),
    }[name]
    path = tmp_path / (name + suffix * named_so)
    path.write_bytes(compress(content, suffix))
    rows = list(read_rows(str(path)))
    assert len(rows) == 1500
    assert rows[7].values["prompt"].startswith("Question 7")


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".xz"])
def test_compressed_files_one_after_the_other_are_one(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(compress(json_lines(ROWS[:700]), suffix) + compress(json_lines(ROWS[700:]), suffix))
    assert [row.values for row in read_rows(str(path))] == ROWS


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".xz"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
@pytest.mark.parametrize("action", ["error", "skip"])
def test_a_cut_off_file_always_stops_and_says_how_far_it_goes(
    tmp_path: Path, suffix: str, name: str, action: Any
) -> None:
    content = {"a.jsonl": json_lines(ROWS), "a.json": json.dumps(ROWS, indent=0).encode(), "a.csv": b"a,b\n" * 50_000}
    path = tmp_path / f"{name}{suffix}"
    path.write_bytes(compress(content[name], suffix)[:-9])
    with pytest.raises(DataError, match=r"line \d+: the \w+ file ends before its content does .* get it again"):
        list(read_rows(str(path), BadRows(action)))


@pytest.mark.parametrize(("suffix", "what"), [(".gz", "gzip"), (".zst", "Zstandard"), (".xz", "xz")])
def test_plain_content_under_a_compressed_name(tmp_path: Path, suffix: str, what: str) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(json_lines(ROWS))
    with pytest.raises(DataError, match=rf"the name ends in \{suffix}, and the content is not {what}"):
        next(read_rows(str(path)))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b"PK\x03\x04rest", "found a zip archive, expected"),
        ("a.parquet", b"PAR1 and no more", "cannot be read as Parquet after 0 rows .* expected a whole Parquet file"),
        ("a.parquet", b"", "cannot be read as Parquet"),
        ("a.arrow", b"ARROW1 and no more", "cannot be read as Arrow"),
        ("a.arrow", b"", "cannot be read as Arrow"),
        ("a.parquet.gz", gzip.compress(b"PAR1", mtime=0), "found a .parquet file inside of gzip"),
        ("a.csv", b"", "found no row in it"),
        ("a.csv", b"a,b\n", "found no row in it"),
        ("a.csv", b"a,a\n1,2\n", "line 1: found the column names 'a', 'a', expected CSV"),
        ("a.csv", b"a,\n1,2\n", "line 1: found the column names 'a', ''"),
        ("a.csv", b'a,b\n1,"x\ny"\n1\n', "line 4: found 1 values, expected CSV.*2"),
        ("a.csv", b"a,b\n1,2,3\n", "line 2: found 3 values"),
        ("a.csv", b'a,b\n1,"2\n3,4\n', "line 2: found a record that is not CSV .unexpected end of data"),
        ("a.csv", b'a,b\n1,"2"x\n3,4\n', "line 2: found a record that is not CSV"),
        ("a.csv", "a,b\n1,é\n".encode("latin-1"), "line 2: found the byte 0xe9 at column 3, which is not UTF-8"),
        ("a.csv", "a,é\n1,2\n".encode("latin-1"), "line 1: found the byte 0xe9 at column 3, which is not UTF-8"),
        ("a.json", b"[]", "found no row in it"),
        ("a.json", b'[{"a": 1}', "line 1: the file ends before its content does, expected a comma or the closing"),
        ("a.json", b'[\n{"a": 1}\n{"a": 2}]', "line 3: found .* expected a comma .* after element 1"),
        ("a.json", b'[\n{"a": 1},\n{"a": }]', "line 3: element 2 of the array cannot be parsed: Expecting value"),
        ("a.json", b'[{"a": 1}] x', "found 'x' after the closing"),
        ("a.json", b'[{"a": 1}, 7]', "row 2: found an integer .7., expected an object as each element"),
        ("a.json", b'[{"a": 1}, 7', "the file ends"),
        ("a.json", b'[{"a": 1}, {"a": 1, "a": 2}]', "element 2 .* found the key 'a' twice"),
        ("a.json", b'[{"a": 1},\n {"a": "\\ud800"}]', "row 2: found an unpaired surrogate"),
        ("a.json", b'[{"a": 1},\n\n {"a": "\xff"}]', "line 3: found the byte 0xff, which is not UTF-8"),
        ("a.json", b'[{"a": ' + b"[" * 100_000, "element 1 of the array cannot be parsed"),
        ("a.json", b'{"a":\n 1}', "line 1: found .* expected one JSON object on each line"),
    ],
)
def test_a_bad_file_says_what_was_expected(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=says) as error:
        list(read_rows(str(path)))
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 800


def test_a_cut_off_table_says_how_many_rows_it_gave(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "a.arrow", ROWS))
    path.write_bytes(path.read_bytes()[:-20_000])
    with pytest.raises(DataError, match="cannot be read as Arrow after 700 rows"):
        list(read_rows(str(path)))


def test_text_in_a_table_that_is_not_utf8(tmp_path: Path) -> None:
    binary = pa.array([b"a", b"\xff", b"c"], pa.binary())
    table = pa.table({"prompt": pa.Array.from_buffers(pa.string(), 3, binary.buffers())})
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    bad = BadRows("skip")
    rows = read_rows(str(tmp_path / "a.parquet"), bad)
    assert [(row.values["prompt"], int(row.line)) for row in rows] == [("a", 1), ("c", 3)]
    assert "row 2: found a value" in bad.first


@pytest.mark.parametrize(
    ("name", "content", "kept", "skipped"),
    [
        ("a.jsonl", b'{"a": 1}\nx\n\n[1]\n{"a": "\xff"}\n{"a": 2}\n', [1, 2], 4),
        ("a.json", b'[{"a": 1}, 7, {"a": "\\ud800"}, {"a": 2}]', [1, 2], 2),
        ("a.csv", b'a,b\n1,\n1\n1,"2"x\n"\xff",\n2,\n', ["1", "2"], 3),
    ],
)
def test_skipping_leaves_the_rows_around_alone(
    tmp_path: Path, name: str, content: bytes, kept: list[Any], skipped: int
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    bad = BadRows("skip", tmp_path / "bad.jsonl")
    assert [row.values["a"] for row in read_rows(str(path), bad)] == kept
    assert bad.count == skipped
    listed = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [entry["file"] for entry in listed] == [str(path)] * skipped
    assert all(entry["error"] and ("line" in entry or "row_number" in entry) for entry in listed)


def test_csv_values_are_texts_and_lines_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(b'\xef\xbb\xbfprompt\tcompletion\r\n"two\r\nlines"\t1\r\n\r\nlast\t"say ""x"""\r\n')
    assert list(read_rows(str(path))) == [
        Row({"prompt": "two\r\nlines", "completion": "1"}, str(path), 2, "text"),
        Row({"prompt": "last", "completion": 'say "x"'}, str(path), 5, "text"),
    ]


def test_a_json_array_is_a_stream_in_pieces_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": 'é\\"[{' * number} for number in range(60)], ensure_ascii=False))
    expected = json.loads(path.read_text())
    for size in (1, 2, 3, 7, 1000):
        monkeypatch.setattr("halo_lightning.data.sources.text._CHUNK", size)
        assert [row.values for row in read_rows(str(path))] == expected


@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.jsonl.xz", "a.parquet"])
def test_a_large_file_is_read_in_a_few_megabytes(tmp_path: Path, name: str) -> None:
    rows = [{"prompt": "x" * 1000, "completion": str(number)} for number in range(20_000)]
    path = tmp_path / name
    if name == "a.csv":
        path.write_text("prompt,completion\n" + "".join(f"{row['prompt']},{row['completion']}\n" for row in rows))
    elif name == "a.jsonl.xz":
        path.write_bytes(lzma.compress(json_lines(rows), preset=0))
    else:
        write(path, rows)
    del rows
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_rows(str(path))) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


# --- several files, folders, saved data sets, the hub ---------------------------------------------------------------


def test_patterns_and_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(("b.jsonl", "a.parquet", "c.json")):
        write(tmp_path / name, [{"number": number}])
    monkeypatch.chdir(tmp_path)
    assert [(row.values["number"], row.file) for row in read_rows("?.*")] == [
        (1, "a.parquet"),
        (0, "b.jsonl"),
        (2, "c.json"),
    ]
    assert [row.values["number"] for row in read_rows(Source(path=["c.json", "a.*"]))] == [2, 1]
    with pytest.raises(DataError, match=r"\*\.csv: no file has a name of this pattern"):
        next(read_rows("*.csv"))


def test_a_file_may_have_the_characters_of_a_pattern_in_its_name(tmp_path: Path) -> None:
    assert len(list(read_rows(write(tmp_path / "a[1].jsonl", ROWS[:3])))) == 3


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder as data sets are published: splits in the names, several subsets, and files that are no data."""
    for name, count in (
        ("helpful-base/train.jsonl", 1),
        ("helpful-base/test.jsonl", 2),
        ("harmless-base/train.jsonl", 4),
        ("data/train-00000-of-00001-b42a.parquet", 8),
        ("data/train_prefs-00000-of-00001.parquet", 16),
        (".cache/train.jsonl", 32),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, ROWS[:count])
    (tmp_path / "dataset_infos.json").write_text("{}")
    (tmp_path / "README.md").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"split": "train"}, 1 + 4 + 8),
        ({"split": "test"}, 2),
        ({"split": "train_prefs"}, 16),
        ({"split": "train", "data_dir": "harmless-base"}, 4),
        ({"data_dir": "harmless-base"}, 4),
    ],
)
def test_a_folder_of_published_files(published: Path, settings: dict[str, Any], count: int) -> None:
    rows = list(read_rows(Source(path=str(published), **settings)))
    assert len(rows) == count
    assert all(Path(row.file).is_file() for row in rows)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "found files of the splits train, test .* expected one to be named as split"),
        ({"split": "trian"}, "found no file of the split 'trian', expected one among data/train"),
        ({"split": "train", "name": "x"}, "found name=x, expected none"),
    ],
)
def test_a_folder_whose_split_is_not_clear(published: Path, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        next(read_rows(Source(path=str(published), **settings)))


def test_a_file_has_no_split(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(ConfigError, match="found split=train, expected none"):
        next(read_rows(Source(path=path, split="train")))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    parts = {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:5])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "several")
    parts["train"].save_to_disk(tmp_path / "one")
    return tmp_path


def test_saved_data_sets(saved: Path) -> None:
    rows = list(read_rows(str(saved / "one")))
    assert [row.values for row in rows] == ROWS
    assert rows[-1][1:] == (str(saved / "one"), RowNumber(1500), "table")
    assert len(list(read_rows(Source(str(saved / "several"), split="test")))) == 5
    with pytest.raises(ConfigError, match="found no split, expected split to be one of train, test"):
        next(read_rows(str(saved / "several")))
    with pytest.raises(ConfigError, match="found the split 'tset', expected split to be one of train, test"):
        next(read_rows(Source(str(saved / "several"), split="tset")))
    with pytest.raises(ConfigError, match="found one data set without splits"):
        next(read_rows(Source(str(saved / "one"), split="train")))
    (saved / "one" / "data-00000-of-00001.arrow").write_bytes(b"damaged")
    with pytest.raises(DataError, match="`datasets` could not load it"):
        next(read_rows(str(saved / "one")))


def test_a_hub_data_set(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(identifier: str, **options: Any) -> Any:
        asked.append((identifier, options))
        return datasets.load_from_disk(str(saved / "several"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows = list(read_rows(Source("hub:owner/name", split="test", name="default", data_dir="base")))
    assert asked == [("owner/name", {"name": "default", "data_dir": "base"})]
    assert [row.values for row in rows] == ROWS[:5]
    assert rows[1][1:] == ("hub:owner/name", RowNumber(2), "table")


def test_a_hub_data_set_from_a_local_folder(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real `load_dataset`, on a folder laid out as a repository of the hub."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = list(read_rows(Source(f"hub:{published / 'helpful-base'}", split="train")))
    assert [row.values for row in rows] == ROWS[:1]


def test_a_hub_data_set_that_cannot_be_had() -> None:
    with pytest.raises(
        DataError, match=r"hub:nobody/nothing: `datasets` could not load it \(.+\), expected a data set"
    ):
        next(read_rows(Source("hub:nobody/nothing", split="train")))


def test_a_hub_data_set_without_its_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="If it is a data set of the hub, write hub:Anthropic/hh-rlhf"):
        next(read_rows("Anthropic/hh-rlhf"))
