"""Damage that logs come with: one message with file, line and key, what was found, and what was expected."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from halo_lightning.data.feedback import Feedback
from halo_lightning.data.reading import read_feedback
from halo_lightning.data.sources import BadRows, Label, Source, read_rows, rows, tables
from halo_lightning.data.sources.content import MOST_BLANK
from halo_lightning.errors import DataError

ROW = {"prompt": "Hi", "completion": "Yes", "label": True}
GOOD = json.dumps(ROW)
USER = {"role": "user", "content": "Hi"}


def read(path: Path, wanted: Feedback = "unary", **options: Any) -> list[Any]:
    return list(read_feedback(Source(str(path), **options), wanted))


def pq_of(text: str) -> bytes:
    """A Parquet file."""
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": [text] * 3}), buffer)
    return buffer.getvalue().to_pybytes()


BLANK = gzip.compress(b"\n" * (MOST_BLANK + 10))
"""A thousand bytes; one of a few megabytes could hold billions of lines."""

FILES: dict[str, tuple[bytes, str]] = {
    "blank.jsonl.gz": (BLANK, "characters of white space one after the other"),
    "blank_after.jsonl.gz": (gzip.compress(GOOD.encode()) + BLANK, "characters of white space one after the other"),
    "blank.json.gz": (gzip.compress(b"[") + BLANK, "characters of white space one after the other"),
    "blank.csv.gz": (gzip.compress(b"prompt,completion,label\n") + BLANK, "characters of white space one after the"),
    "utf16.jsonl": (f"{GOOD}\n".encode("utf-16"), "line 1: found text in UTF-16, expected UTF-8"),
    "utf16.csv": ("prompt,completion,label\na,b,true\n".encode("utf-16"), "line 1: found text in UTF-16, expected"),
    "nul.jsonl": (GOOD.replace("Hi", "H\x00").encode(), r'line 1: found {"prompt": "H\x00"'),
    "nul.csv": (b"prompt,completion,label\na,b\x00c,true\n", "line 2: found a byte of value 0, expected CSV"),
    "escape.jsonl": (b"\x1b[2J\x1b]0;owned\x07\n", r"line 1: found \x1b[2J\x1b]0;owned\x07, which is not JSON"),
    "pretty.json": (json.dumps(ROW, indent=1).encode(), "line 1: found an object that goes on in the next line"),
    "lfs.jsonl": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
        "found a pointer of Git LFS, expected",
    ),
    "lfs.parquet": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "found a pointer of Git LFS"),
    "header.csv": (b"prompt,completion,label\n", "found no row in it"),
    "empty.json": (b"[]", "found no row in it"),
    "empty.jsonl.gz": (gzip.compress(b""), "found no row in it"),
    "trailing.jsonl.gz": (gzip.compress(GOOD.encode()) + b"garbage", "the gzip file is damaged"),
    "twice.jsonl.gz": (gzip.compress(gzip.compress(GOOD.encode())), "found a gzip file inside of another, expected"),
    "rows.tar.gz": (
        gzip.compress(b"rows.jsonl".ljust(257, b"\x00") + b"ustar\x00" + bytes(249)),
        "found a tar archive",
    ),
    "rows.bz2": (b"BZh91AY&SY", "found a bzip2 file, expected"),
    "mark.jsonl": (b"\xef\xbb\xbf\n", "found no row in it"),
    "lines.parquet": (pq_of("damage")[:-40], "cannot be read as Parquet after 0 rows (Parquet magic bytes not found"),
    "comma.json": (f"[{GOOD},]".encode(), "element 2 of the array cannot be parsed"),
    "python.jsonl": (b"{'prompt': 'a', 'completion': 'b', 'label': True}", "line 1: found {'prompt'"),
    "huge.jsonl": (b'{"prompt":"a","completion":"b","label":' + b"9" * 9999 + b"}", "line 1: cannot be parsed as JSON"),
    "deep.jsonl": (b'{"prompt":' + b"[" * 99999 + b"]" * 99999 + b"}", "line 1: cannot be parsed as JSON"),
    "one.jsonl": (b'{"prompt":"a","completion":"b","label":1}', "key 'label': found an integer (1), expected true"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file(tmp_path: Path, name: str) -> None:
    content, says = FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read(path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert says in message
    assert len(message) < 700
    assert not {character for character in message if ord(character) < 32 or 127 <= ord(character) < 160}


def test_line_ends_and_a_mark_of_byte_order_are_no_damage(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + f"{GOOD}\r\n{GOOD}\r\n".encode())
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfprompt,completion,label\r\nHi,Yes,true\r\n")
    rows = [read(tmp_path / name) for name in ("a.jsonl", "a.csv")]
    assert [(row.prompt, row.completion) for part in rows for row in part] == [((USER,), "Yes")] * 3


WRITTEN = ["[{'role': 'user', 'content': 'Hi'}]", '[{"role": "user", "content": "Hi"]', json.dumps([USER])]


@pytest.mark.parametrize("text", WRITTEN)
@pytest.mark.parametrize("key", ["prompt", "completion", "messages"])
def test_a_list_of_messages_that_became_a_text(tmp_path: Path, key: str, text: str) -> None:
    """It would be learned with its brackets: pandas writes lists like this, for example."""
    row: dict[str, Any] = {"label": True, "messages": text} if key == "messages" else {**ROW, key: text}
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{GOOD}\n{json.dumps(row)}\n")
    with pytest.raises(DataError, match=f"line 2, key '{key}': found the text of a list of messages") as error:
        read(path)
    assert "expected the list itself" in str(error.value)
    bad = BadRows("skip")
    assert len(list(read_feedback(str(path), "unary", bad=bad))) == bad.count == 1


def test_texts_that_only_look_like_lists_stay_texts(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    texts = ["[INST] Hi", "[1, 2]", '[{"a": 1}]', "{'role': 'user'}"]
    path.write_text("".join(json.dumps({**ROW, "prompt": text}) + "\n" for text in texts))
    assert [row.prompt[0]["content"] for row in read(path)] == texts


def test_content_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    parts = [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}]
    path.write_text(json.dumps({**ROW, "prompt": [{"role": "user", "content": parts}]}) + "\n")
    assert read(path)[0].prompt == ({"role": "user", "content": "Hi there"},)
    picture = [{"type": "image"}, *parts]
    path.write_text(json.dumps({**ROW, "prompt": [{"role": "user", "content": picture}]}) + "\n")
    with pytest.raises(DataError, match="as the content of message 1, expected a string"):
        read(path)


def test_conversations_of_sharegpt(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    turns = [("system", "Be kind."), ("human", "Hi"), ("gpt", "Yes")]
    path.write_text(json.dumps({"conversations": [{"from": role, "value": text} for role, text in turns]}) + "\n")
    (row,) = read(path, "sft", columns={"messages": "conversations"})
    assert row.prompt == ({"role": "system", "content": "Be kind."}, USER)
    assert row.completion == "Yes"
    path.write_text(json.dumps({"messages": [{"from": "bing", "value": "Hi"}]}) + "\n")
    with pytest.raises(DataError, match=r"key 'messages': found a string \(\"bing\"\) as the role of message 1"):
        read(path, "sft")


def test_decimals_are_numbers(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a"], "completion": ["b"], "score": [Decimal("1.5")]}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", label=Label(threshold=1.5))[0].desirable


def test_a_link_to_nowhere(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").symlink_to(tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match=r"a.jsonl: found a link to '.*gone.jsonl', which is not there"):
        read(tmp_path / "a.jsonl")


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    ("make", "message"),
    [(a_pipe, "found a named pipe, expected a file"), (a_device, "found a device"), (a_loop, "found a link to")],
)
def test_what_is_no_file_is_not_opened(make: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    make(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match=f"rows.jsonl: {message}"):
        read(tmp_path / "rows.jsonl")


def one_text(size: int) -> pa.Table:
    """Rows that all have the same text, which is in the table once."""
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 512, pa.int32()), pa.array(["x" * size]))
    return pa.table({"prompt": text, "completion": ["Yes"] * 512, "label": [True] * 512})


def write_arrow(table: pa.Table, path: Path) -> None:
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(str(path), table.schema, options=options) as writer:
        writer.write_table(table)


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.parquet", lambda table, path: pq.write_table(table, path, compression="zstd")), ("a.arrow", write_arrow)],
)
def test_a_small_table_that_holds_gigabytes(
    name: str, write: Callable[[pa.Table, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MOST_MEMORY", 2**26)
    write(one_text(10**6), tmp_path / name)
    assert (tmp_path / name).stat().st_size < 10_000
    with pytest.raises(DataError, match=rf"{name}: found rows that take more than .* of memory after 0 rows"):
        read(tmp_path / name)
    write(one_text(10), tmp_path / name)
    assert len(read(tmp_path / name)) == 512


def test_a_table_of_a_billion_rows_in_a_kilobyte_is_not_read(tmp_path: Path) -> None:
    """Before the rows, which would take minutes until there were too many of them."""
    columns = {"prompt": "Hi", "completion": "Yes", "label": True}
    ends = pa.array([10**9], pa.int32())
    arrays = [pa.RunEndEncodedArray.from_arrays(ends, pa.array([value])) for value in columns.values()]
    batch = pa.record_batch(arrays, names=list(columns))
    with pa.ipc.new_file(str(tmp_path / "rows.arrow"), batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(DataError, match="the same rows again and again"):
        next(read_rows(str(tmp_path / "rows.arrow")))


def test_more_rows_than_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MOST_ROWS_ANYWAY", 100)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(f"{GOOD}\n".encode() * 5000))
    with pytest.raises(
        DataError, match=r"found more than .* rows in .* bytes, which are the same rows again and again"
    ):
        read(tmp_path / "rows.jsonl.gz")
    monkeypatch.undo()
    assert len(read(tmp_path / "rows.jsonl.gz")) == 5000
