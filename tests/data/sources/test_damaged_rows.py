"""One damaged row between two good ones: an error with its place, or a skipped row, and nothing else is touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from halo_lightning.data.feedback import Feedback
from halo_lightning.data.reading import LeftOut, read_feedback
from halo_lightning.data.sources import BadRows, Label, Source
from halo_lightning.errors import DataError

UNARY = {"prompt": "Hi", "completion": "Yes", "label": True}
PAIR = {"prompt": "Hi", "chosen": "Yes", "rejected": "No"}
SCORED = {"prompt": "Hi", "completion": "Yes", "score": 3}
SYSTEM, USER, ASSISTANT = ({"role": role, "content": "x"} for role in ("system", "user", "assistant"))
MAPPING = {"label": Label(mapping={"good": True, "bad": False})}
NUMBERS, THRESHOLD = {"label": Label(numbers=True)}, {"label": Label(threshold=2)}

LINES: dict[str, tuple[bytes, str]] = {
    "not JSON": (b"prompt: Hi", "found prompt: Hi, which is not JSON"),
    "a page": (b"<!DOCTYPE html><html>404</html>", "found <!DOCTYPE html>"),
    "Python": (b"{'prompt': 'Hi', 'completion': 'Yes', 'label': True}", "enclosed in double quotes"),
    "a comment": (b"// rows", "found // rows"),
    "a comma at the end": (json.dumps(UNARY).encode() + b",", "Extra data"),
    "two objects": (json.dumps(UNARY).encode() * 2, "Extra data"),
    "cut off": (json.dumps(UNARY).encode()[:30], "which is not JSON"),
    "CR alone": (json.dumps(UNARY).encode() + b"\r" + json.dumps(UNARY).encode(), "Extra data"),
    "NULs of a crash": (b"\x00" * 64, r"found \x00\x00"),
    "a NUL in a text": (b'{"prompt": "a\x00b", "completion": "c", "label": true}', "Invalid control character"),
    "a tab in a text": (b'{"prompt": "a\tb", "completion": "c", "label": true}', "Invalid control character"),
    "Latin-1": (b'{"prompt": "caf\xe9", "completion": "c", "label": true}', "byte 0xe9 at column 16"),
    "an overlong character": (b'{"prompt": "\xc0\x80", "completion": "c", "label": true}', "byte 0xc0"),
    "half a character": (b'{"prompt": "\xed\xa0\x80", "completion": "c", "label": true}', "byte 0xed"),
    "half an escaped character": (b'{"prompt": "\\ud83d", "completion": "c", "label": true}', "unpaired surrogate"),
    "a second mark of byte order": (b"\xef\xbb\xbf" + json.dumps(UNARY).encode(), "which is not JSON"),
    "UTF-16": (json.dumps(UNARY).encode("utf-16-le"), "which is not JSON"),
    "a number": (b"3", "found an integer (3)"),
    "null": (b"null", "found null"),
    "a list": (json.dumps([UNARY]).encode(), "found a list"),
    "a key twice": (b'{"prompt": "a", "prompt": "b", "completion": "c", "label": true}', "the key 'prompt' twice"),
    "a key twice inside": (
        b'{"prompt": [{"role": "user", "content": "a", "content": "b"}], "completion": "c", "label": true}',
        "the key 'content' twice",
    ),
    "thousands of digits": (b'{"prompt": "a", "completion": "c", "label": ' + b"9" * 5000 + b"}", "cannot be parsed"),
    "thousands of brackets": (b'{"prompt": ' + b"[" * 9999 + b"]" * 9999 + b"}", "cannot be parsed"),
}
"""A line that is no row: what is said of it."""


def conversation(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages), "label": True}


def call(calls: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": calls}


ROWS: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "a mistyped key": ({"promt": "Hi", "completion": "Yes", "label": True}, "prompt", "found 'promt'"),
    "a prompt alone": ({"prompt": "Hi"}, None, "it is a prompt alone"),
    "half a pair": ({"prompt": "Hi", "chosen": "Yes"}, None, "found the keys 'prompt', 'chosen'"),
    "no keys": ({}, None, "found the keys no keys"),
    "null label": (UNARY | {"label": None}, "label", "found null"),
    "label 1": (UNARY | {"label": 1}, "label", "(label.numbers)"),
    "label in words": (UNARY | {"label": "True"}, "label", 'found a string ("True")'),
    "label in a list": (UNARY | {"label": [True]}, "label", "found a list ([true])"),
    "weight 0": (UNARY | {"weight": 0}, "weight", "found an integer (0)"),
    "weight below 0": (UNARY | {"weight": -1}, "weight", "found an integer (-1)"),
    "weight in words": (UNARY | {"weight": "2"}, "weight", 'found a string ("2")'),
    "weight true": (UNARY | {"weight": True}, "weight", "found a boolean (true)"),
    "weight NaN": (UNARY | {"weight": float("nan")}, "weight", "found a number (NaN)"),
    "weight infinite": (UNARY | {"weight": float("inf")}, "weight", "found a number (Infinity)"),
    "empty prompt": (UNARY | {"prompt": " "}, "prompt", "found an empty prompt"),
    "null prompt": (UNARY | {"prompt": None}, "prompt", "found null"),
    "prompt of texts": (UNARY | {"prompt": ["Hi"]}, "prompt", 'found a string ("Hi") as message 1'),
    "prompt that ends with an answer": (
        UNARY | {"prompt": [USER, ASSISTANT]}, "prompt", "found a last message of the assistant"),
    "dialogue without its line ends": (
        UNARY | {"prompt": "Human: Hi\n\nAssistant:"}, "prompt", "found a dialogue that starts with Human: Hi"),
    "empty completion": (UNARY | {"completion": ""}, "completion", "found an empty completion"),
    "completion that is a number": (UNARY | {"completion": 4}, "completion", "found an integer (4)"),
    "completion of the user": (UNARY | {"completion": [USER]}, "completion", "found 1 message(s) (user)"),
    "two completions": (UNARY | {"completion": [ASSISTANT] * 2}, "completion", "found 2 message(s)"),
    "no messages": (conversation(), "messages", "found an empty list"),
    "null messages": ({"messages": None, "label": True}, "messages", "found null"),
    "one message": ({"messages": USER, "label": True}, "messages", "found an object"),
    "messages in a list": (conversation([USER, ASSISTANT]), "messages", "found a list"),
    "null message": (conversation(USER, None), "messages", "found null as message 2"),
    "message with other keys": (conversation({"speaker": "user", "text": "Hi"}), "messages", "found an object"),
    "only an answer": (conversation(ASSISTANT), "messages", "found nothing before the last turn"),
    "no answer": (conversation(USER, ASSISTANT, USER), "messages", "found a last turn of the user"),
    "answer first": (conversation(ASSISTANT, USER, ASSISTANT), "messages", "found a message of the assistant first"),
    "two of the user": (conversation(USER, USER, ASSISTANT), "messages", "after one of the user (message 2 of 3)"),
    "two answers": (conversation(USER, ASSISTANT, ASSISTANT), "messages", "(message 3 of 3)"),
    "two of the system": (conversation(SYSTEM, SYSTEM, USER, ASSISTANT), "messages", "after one of the system"),
    "system late": (conversation(USER, ASSISTANT, SYSTEM, USER, ASSISTANT), "messages", "of the system after"),
    "role in capitals": (conversation(USER | {"role": "User"}, ASSISTANT), "messages", 'found a string ("User")'),
    "role of a function": (
        conversation(USER, {"role": "function", "content": "3"}, ASSISTANT), "messages", 'found a string ("function")'),
    "null role": (conversation(USER | {"role": None}, ASSISTANT), "messages", "found null as the role of message 1"),
    "null content": (conversation(USER, ASSISTANT | {"content": None}), "messages", "found null as the content"),
    "content that is a number": (conversation(USER | {"content": 3}, ASSISTANT), "messages", "found an integer (3)"),
    "a picture": (conversation(USER | {"content": [{"type": "image"}]}, ASSISTANT), "messages", "found a list"),
    "no parts": (conversation(USER | {"content": []}, ASSISTANT), "messages", "found a list ([])"),
    "blank answer": (conversation(USER, ASSISTANT | {"content": " "}), "messages", "found an empty last message"),
    "call in words": (conversation(USER, call("f()")), "messages", 'found a string ("f()") as the tool_calls'),
    "call of nothing": (conversation(USER, call([{"function": {}}])), "messages", "as the tool_calls of the last"),
    "tools in bad JSON": (UNARY | {"tools": "[{"}, "tools", 'found a string ("[{")'),
    "tools in an object": (UNARY | {"tools": {"a": 1}}, "tools", "found an object"),
    "options in a list": (UNARY | {"chat_template_kwargs": [1]}, "chat_template_kwargs", "found a list"),
    "options of the code": (
        UNARY | {"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs", "found 'tokenize' in it"),
}  # fmt: skip
"""A row of unary feedback that cannot be used: the key that is at fault, and what is said of it."""

PAIRS: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "null side": (PAIR | {"rejected": None}, "rejected", "found null"),
    "empty side": (PAIR | {"chosen": " "}, "chosen", "found an empty completion"),
    "sides that are objects": (PAIR | {"chosen": ASSISTANT}, "chosen", "found an object"),
    "sides of two kinds": ({"chosen": [USER, ASSISTANT], "rejected": "No"}, "prompt", "this key is missing"),
    "different prompts": (
        {"chosen": [USER, ASSISTANT], "rejected": [USER | {"content": "y"}, ASSISTANT]},
        "rejected", "found two conversations with different prompts (message 1 differs)"),
    "nothing in common": ({"chosen": "Yes", "rejected": "No"}, "prompt", "this key is missing"),
    "no answer": ({"chosen": "\n\nHuman: a", "rejected": "\n\nHuman: b"}, "chosen", "found a last turn of the user"),
    "stepwise": ({"prompt": "Hi", "completions": ["a", "b"], "labels": [True, False]}, None, "stepwise supervision"),
}  # fmt: skip
LABELS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str, str]] = {
    "a value that the mapping lacks": (
        MAPPING,
        UNARY | {"label": "good"},
        UNARY | {"label": "so so"},
        "label",
        '("so so")',
    ),
    "white space": (MAPPING, UNARY | {"label": "good"}, UNARY | {"label": "good "}, "label", '("good ")'),
    "capitals": (MAPPING, UNARY | {"label": "good"}, UNARY | {"label": "GOOD"}, "label", '("GOOD")'),
    "2 of 0 and 1": (NUMBERS, UNARY | {"label": 0}, UNARY | {"label": 2}, "label", "(2)"),
    "one and a half": (NUMBERS, UNARY | {"label": 0}, UNARY | {"label": 1.5}, "label", "(1.5)"),
    "a number in words": (NUMBERS, UNARY | {"label": 0}, UNARY | {"label": "1"}, "label", '("1")'),
    "score in words": (THRESHOLD, SCORED, SCORED | {"score": "3"}, "score", '("3")'),
    "score NaN": (THRESHOLD, SCORED, SCORED | {"score": float("nan")}, "score", "(NaN)"),
    "score infinite": (THRESHOLD, SCORED, SCORED | {"score": float("inf")}, "score", "(Infinity)"),
    "null score": (THRESHOLD, SCORED, SCORED | {"score": None}, "score", "null"),
}
"""Of a source's label: a good row, a bad one, the key at fault, and what was found."""


def check(folder: Path, source: Source, wanted: Feedback, line: int, key: str | None, says: str) -> None:
    """The second of three rows cannot be used."""
    path = source.paths[0]
    with pytest.raises(DataError) as error:
        list(read_feedback(source, wanted))
    message = str(error.value)
    assert (error.value.file, error.value.line, error.value.key) == (path, line, key)
    assert says in message
    assert "expected" in message
    assert "\n" not in message
    assert len(message) < 600
    bad, left_out = BadRows("skip", folder / "bad.jsonl"), LeftOut()
    examples = list(read_feedback(source, wanted, left_out, bad=bad))
    assert [int(example.line) for example in examples] == [line - 1, line + 1]
    assert (examples[0].prompt, bad.count, bad.first, len(left_out)) == (examples[1].prompt, 1, message, 0)
    (listed,) = [json.loads(one) for one in (folder / "bad.jsonl").read_text().splitlines()]
    assert (listed["file"], listed.get("line", listed.get("row_number"))) == (path, line)


def between(folder: Path, good: dict[str, Any], line: bytes) -> str:
    path = folder / "rows.jsonl"
    path.write_bytes(b"\n".join([json.dumps(good).encode(), line, json.dumps(good).encode(), b""]))
    return str(path)


@pytest.mark.parametrize("name", LINES)
def test_a_line_that_is_no_row(name: str, tmp_path: Path) -> None:
    line, says = LINES[name]
    check(tmp_path, Source(between(tmp_path, UNARY, line)), "unary", 2, None, says)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_unary_feedback(name: str, tmp_path: Path) -> None:
    row, key, says = ROWS[name]
    check(tmp_path, Source(between(tmp_path, UNARY, json.dumps(row).encode())), "unary", 2, key, says)


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair(name: str, tmp_path: Path) -> None:
    row, key, says = PAIRS[name]
    check(tmp_path, Source(between(tmp_path, PAIR, json.dumps(row).encode())), "paired", 2, key, says)


@pytest.mark.parametrize("name", LABELS)
def test_a_label(name: str, tmp_path: Path) -> None:
    options, good, row, key, found = LABELS[name]
    source = Source(between(tmp_path, good, json.dumps(row).encode()), **options)
    check(tmp_path, source, "unary", 2, key, found)


CSV: dict[str, tuple[str, str | None, str]] = {
    "too few values": ("Hi,Yes", None, "found 2 values"),
    "too many values": ("Hi,Yes,true,", None, "found 4 values"),
    "white space": ("Hi,Yes, true", "label", 'found a string (" true")'),
    "another word": ("Hi,Yes,yes", "label", 'found a string ("yes")'),
    "no label": ("Hi,Yes,", "label", 'found a string ("")'),
    "no completion": ("Hi,,true", "completion", "found an empty completion"),
    "messages as Python writes them": (
        "\"[{'role': 'user', 'content': 'Hi'}]\",Yes,true", "prompt", "found the text of a list of messages"),
}  # fmt: skip


@pytest.mark.parametrize("name", CSV)
def test_a_record_of_csv(name: str, tmp_path: Path) -> None:
    record, key, says = CSV[name]
    path = tmp_path / "rows.csv"
    path.write_text(f"prompt,completion,label\nHi,Yes,true\n{record}\nHi,Yes,true\n")
    check(tmp_path, Source(str(path)), "unary", 3, key, says)


COLUMNS: dict[str, tuple[str, list[Any], str]] = {
    "null label": ("label", [True, None, True], "found null"),
    "null completion": ("completion", ["Yes", None, "Yes"], "found null"),
    "messages of another shape": (
        "prompt", [[{"role": "user", "content": "Hi"}], [{"role": "user", "content": None}], [{"role": "user",
        "content": "Hi"}]], "found an object"),
    "lists as texts": ("prompt", ["Hi", json.dumps([USER]), "Hi"], "found the text of a list of messages"),
}  # fmt: skip


@pytest.mark.parametrize("name", COLUMNS)
def test_a_row_of_a_table(name: str, tmp_path: Path) -> None:
    column, values, says = COLUMNS[name]
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({**{key: [value] * 3 for key, value in UNARY.items()}, column: values}), path)
    check(tmp_path, Source(str(path)), "unary", 2, column, says)
