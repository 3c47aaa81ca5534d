"""Every way in which a file can be read, and every way in which it can be wrong."""

from __future__ import annotations

import gzip
import sys
import tracemalloc
from pathlib import Path
from types import ModuleType

import pytest

from halo_lightning.data.sources import Row, content, read_rows
from halo_lightning.errors import ConfigError, DataError

TWO = b'{"prompt": "a"}\n{"prompt": "\xc3\xa9"}\n'


def rows_of(path: Path, content: bytes) -> list[Row]:
    path.write_bytes(content)
    return list(read_rows(str(path)))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(TWO, id="plain"),
        pytest.param(TWO.rstrip(b"\n"), id="no newline at the end"),
        pytest.param(TWO + b"\n \n\t\n", id="blank lines at the end"),
        pytest.param(TWO.replace(b"\n", b"\r\n"), id="carriage returns"),
        pytest.param(b"\xef\xbb\xbf" + TWO, id="byte-order mark"),
        pytest.param(gzip.compress(TWO), id="gzip without .gz in its name"),
    ],
)
def test_reads_rows_with_their_lines(tmp_path: Path, content: bytes) -> None:
    file = str(tmp_path / "rows.jsonl")
    assert rows_of(tmp_path / "rows.jsonl", content) == [
        Row({"prompt": "a"}, file, 1),
        Row({"prompt": "é"}, file, 2),
    ]


def test_reads_gzip(tmp_path: Path) -> None:
    assert [row.values for row in rows_of(tmp_path / "rows.jsonl.gz", gzip.compress(TWO))] == [
        {"prompt": "a"},
        {"prompt": "é"},
    ]


def test_reads_as_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' + b"not json\n")
    rows = read_rows(str(path))
    assert next(rows).values == {"a": 1}
    with pytest.raises(DataError, match="line 2"):
        next(rows)


@pytest.mark.parametrize(
    ("content", "line", "found"),
    [
        pytest.param(b"", None, "empty", id="empty"),
        pytest.param(b"\n\n", None, "empty", id="only blank lines"),
        pytest.param(b'{"a": 1}\n\n{"a": 2}\n', 2, "blank line", id="blank line in the middle"),
        pytest.param(b'{"a": 1}\n{"a": "\xff"}\n', 2, "0xff at column 8, which is not UTF-8", id="not UTF-8"),
        pytest.param('{"a": "é"}'.encode("latin-1"), 1, "not UTF-8", id="Latin-1"),
        pytest.param('{"a": 1}\n'.encode("utf-16"), 1, "found text in UTF-16", id="UTF-16"),
        pytest.param(b'{"a": 1}\n{"a": \n', 2, "not JSON", id="cut off"),
        pytest.param(b"prompt,completion,label\n", 1, "found prompt,completion,label", id="CSV"),
        pytest.param(b'{"a": 1}\n[{"a": 1}]\n', 2, "a list", id="list on a line"),
        pytest.param(b'{"a": 1, "a": 1}\n', 1, "the key 'a' twice", id="key twice"),
        pytest.param(b'{"a": 1}\n{"b": [{"a": 1, "a": 2}]}\n', 2, "the key 'a' twice", id="key twice, further in"),
        pytest.param(b'"text"\n', 1, "a string", id="string"),
        pytest.param(b"null\n", 1, "null", id="null"),
        pytest.param(b'{"a": 1} {"a": 2}\n', 1, "not JSON", id="two objects on a line"),
        pytest.param(b'{"a": "\\ud800"}\n', 1, "surrogate", id="half a surrogate pair"),
        pytest.param(b'{"a": ' + b"[" * 100_000 + b"\n", 1, "cannot be parsed", id="nested too deep"),
    ],
)
def test_a_bad_line_says_where_it_is(tmp_path: Path, content: bytes, line: int | None, found: str) -> None:
    with pytest.raises(DataError) as error:
        rows_of(tmp_path / "rows.jsonl", content)
    assert (error.value.file, error.value.line) == (str(tmp_path / "rows.jsonl"), line)
    assert found in str(error.value)
    assert "expected" in str(error.value)
    assert len(str(error.value)) < 600


def test_a_whole_surrogate_pair_is_a_character(tmp_path: Path) -> None:
    assert rows_of(tmp_path / "rows.jsonl", b'{"a": "\\ud83d\\ude00"}\n')[0].values == {"a": "😀"}


def test_a_line_without_end_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "MAX_LINE_BYTES", 2**20)
    path = tmp_path / "rows.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b'{"a": 1}\n"')
        for _ in range(32):
            file.write(b"x" * 2**20)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="line 2: found a line of more than 1 MiB, expected one JSON object"):
            list(read_rows(str(path)))
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


def test_a_truncated_gzip_says_how_far_it_goes(tmp_path: Path) -> None:
    content = b"".join(b'{"number": %d}\n' % number for number in range(10_000))
    with pytest.raises(DataError, match=r"line \d+: the gzip file ends before its content does"):
        rows_of(tmp_path / "rows.jsonl.gz", gzip.compress(content)[:-2000])


def test_a_damaged_gzip(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(b"".join(b'{"number": %d}\n' % number for number in range(10_000))))
    content[len(content) // 2] ^= 0xFF
    with pytest.raises(DataError, match=r"damaged|not UTF-8|not JSON|ends before"):
        rows_of(tmp_path / "rows.jsonl.gz", bytes(content))


def test_plain_content_under_a_gzip_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ends in \.gz, and the content is not gzip"):
        rows_of(tmp_path / "rows.jsonl.gz", TWO)


def test_a_missing_file_names_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "feedback.jsonl").touch()
    (tmp_path / "other.txt").touch()
    with pytest.raises(DataError, match=r"no such file; did you mean '.*feedback\.jsonl'\?"):
        next(read_rows(str(tmp_path / "fedback.jsonl")))
    with pytest.raises(DataError, match=r"nothing in .* has such a name"):
        next(read_rows(str(tmp_path / "zzz")))
    with pytest.raises(DataError, match=r"there is no folder .*nowhere"):
        next(read_rows(str(tmp_path / "nowhere" / "feedback.jsonl")))


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").touch()
    with pytest.raises(DataError, match=r"found a folder without data files, expected files that end in \.jsonl"):
        next(read_rows(str(tmp_path)))


def test_the_embedded_world(monkeypatch: pytest.MonkeyPatch) -> None:
    world = ModuleType("halo_lightning.world")
    world.rows = lambda name, *, examples, seed: [{"name": name, "seed": seed}] * examples  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "halo_lightning.world", world)
    source = "embedded:pairs?examples=3&seed=7"
    assert list(read_rows(source)) == [Row({"name": "pairs", "seed": 7}, source, line) for line in (1, 2, 3)]
    assert len(list(read_rows("embedded:thumbs"))) == 2000


@pytest.mark.parametrize(
    "source", ["embedded:pears", "embedded:pairs?sed=1", "embedded:pairs?seed=x", "embedded:sft?examples=0"]
)
def test_a_mistyped_embedded_source(source: str) -> None:
    with pytest.raises(ConfigError, match="embedded:"):
        next(read_rows(source))
