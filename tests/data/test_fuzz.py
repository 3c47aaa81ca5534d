"""Damaged rows and damaged files: the only error is the one that says what is wrong, and no row is silently changed."""

from __future__ import annotations

import copy
import gzip
import json
import lzma
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from halo_lightning.data.feedback import Example, Feedback, Paired
from halo_lightning.data.preparation import Preparation, prepare
from halo_lightning.data.reading import LeftOut, read_feedback
from halo_lightning.data.rendering import prepare_tokenizer
from halo_lightning.data.sources import BadRows, Label, Source, read_rows
from halo_lightning.data.truncation import Limits
from halo_lightning.errors import DataError, HaloError
from tests.data.helpers import byte_bpe
from tests.data.sources.published import BINARIZED, TREE, shp_row, ultrafeedback

USER = {"role": "user", "content": "What is it?"}
ASSISTANT = {"role": "assistant", "content": "It is this."}
CALLS = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]}
DIALOGUE = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant:"

FORMATS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "unary": ({"prompt": "Hi", "completion": "Yes", "label": True, "weight": 2.0}, {}),
    "unary, messages": ({"prompt": [USER], "completion": [ASSISTANT], "label": False}, {}),
    "unary, whole conversation": ({"messages": [USER, ASSISTANT], "label": False}, {}),
    "pairs": ({"prompt": "Hi", "chosen": "Yes", "rejected": "No", "weight": 0.5}, {}),
    "pairs, messages": ({"prompt": [USER], "chosen": [ASSISTANT], "rejected": [ASSISTANT]}, {}),
    "pairs, implicit prompt": ({"chosen": [USER, ASSISTANT], "rejected": [USER, {**ASSISTANT, "content": "No"}]}, {}),
    "pairs, plain texts": ({"chosen": "The sky is blue.", "rejected": "The sky is green."}, {}),
    "HH": ({"chosen": f"{DIALOGUE} Yes", "rejected": f"{DIALOGUE} No"}, {}),
    "demonstration": ({"prompt": DIALOGUE, "completion": " Yes"}, {}),
    "tools": (
        {
            "messages": [USER, CALLS, {"role": "tool", "content": "3", "name": "add"}, ASSISTANT],
            "tools": [{"type": "function", "function": {"name": "add"}}],
        },
        {},
    ),
    "thumbs log": (
        {"conversation": [USER, ASSISTANT], "rating": "up"},
        {
            "columns": {"messages": "conversation", "label": "rating"},
            "label": Label(mapping={"up": True, "down": False, "meh": None}),
        },
    ),
    "0 and 1": ({"prompt": "Hi", "completion": "Yes", "label": 1}, {"label": Label(numbers=True)}),
    "threshold": ({"prompt": "Hi", "completion": "Yes", "score": 3}, {"label": Label(threshold=2.5)}),
    "rated": (ultrafeedback(3, 8.5), {}),
    "rated, threshold": (ultrafeedback(3, 8.5), {"label": Label(threshold=5)}),
    "binarized": (BINARIZED, {}),
    "SHP": (shp_row("Salt?", "Yes.", "No."), {}),
}
"""A row of each format, and the source that reads it."""

WANTED: tuple[Feedback, ...] = ("sft", "paired", "unary")
FEW = settings(max_examples=1150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))

VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 3),
        st.just(10**400),
        st.floats(),
        st.text(max_size=6),
        st.sampled_from(["", " ", "\n\nHuman:", "\n\nAssistant: x", DIALOGUE, "user", "tool", "\x00", "a\ud800", "[{"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["role", "content", "score", "x"]), inner, max_size=3),
    ),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every way into a nested value."""
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*path, key)
            yield from places(inner, (*path, key))


@st.composite
def mutated(draw: st.DrawFn, row: dict[str, Any]) -> dict[str, Any]:
    """A row with one to three changes anywhere in it."""
    row = copy.deepcopy(row)
    for _ in range(draw(st.integers(1, 3))):
        everywhere = list(places(row))
        if not everywhere:
            break
        *path, last = draw(st.sampled_from(everywhere))
        inside = row
        for key in path:
            inside = inside[key]
        change = draw(st.sampled_from(["replace", "remove", "repeat", "exchange"]))
        if change == "replace":
            inside[last] = draw(VALUES)
        elif change == "remove":
            del inside[last]
        elif change == "repeat" and isinstance(inside, list):
            inside.insert(last, copy.deepcopy(inside[last]))
        elif change == "exchange":
            other = draw(st.sampled_from(list(inside) if isinstance(inside, dict) else list(range(len(inside)))))
            inside[last], inside[other] = inside[other], inside[last]
    return row


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)


def texts(example: Example) -> list[str]:
    completions = [example.chosen, example.rejected] if isinstance(example, Paired) else [example.completion]
    return [message["content"] for message in example.prompt] + completions


def read(source: Source, wanted: Feedback, bad: BadRows) -> tuple[list[Example], LeftOut]:
    left_out = LeftOut()
    return list(read_feedback(source, wanted, left_out, bad=bad)), left_out


def check_rows(folder: Path, name: str, row: dict[str, Any]) -> None:
    """A changed row between two that are not."""
    good, options = FORMATS[name]
    path = folder / "rows.jsonl"
    lines = [json.dumps(value) for value in (good, row, good)]
    path.write_text("\n".join(lines))
    whole = folder / "whole.jsonl"
    whole.write_text("\n".join([lines[0], lines[2]]))
    source = Source(str(path), **options)
    for wanted in WANTED:
        bad = BadRows("skip")
        try:
            expected, _ = read(Source(str(whole), **options), wanted, BadRows())
            first = 2
        except DataError:  # this kind is not made of such rows
            expected, first = [], 1
        examples, left_out = read(source, wanted, bad)
        # The rows around it are as they were, wherever rows do not depend on each other.
        per_row = wanted != "paired" or not ({"label", "score", "rating"} & row.keys() or source.label)
        if name != "SHP" and per_row and expected:
            around = [texts(example) for example in examples if example.line != 2]
            assert around == [texts(example) for example in expected]
        # Each row is used, left out, or bad, and counted as one of these.
        assert left_out.rows + bad.count >= 3
        if per_row:
            used = {example.line for example in examples}
            assert len(used) + len(left_out) + bad.count == 3
        # What is in an example is in its row, letter by letter.
        for example in examples:
            found = list(strings(json.loads(lines[example.line - 1])))
            for text in texts(example):
                assert any(text in one for one in found)
        # Without skipping, the first bad row stops, with its place.
        if bad.count:
            with pytest.raises(DataError) as error:
                read(source, wanted, BadRows())
            assert str(error.value) == bad.first
            assert (error.value.file, error.value.line) == (str(path), first)
            assert "expected" in bad.first
            assert "found" in bad.first
            assert len(bad.first) < 1500


def check_preparation(folder: Path, name: str, row: dict[str, Any], tokenizer: Any) -> None:
    """The way to tokens: a template that fails on the row is its error, too."""
    path = folder / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps(FORMATS[name][0]))
    for wanted in WANTED:
        bad = BadRows("skip")
        sources = (Source(str(path), **FORMATS[name][1]),)
        data, _, prepared = prepare(Preparation(sources, wanted, Limits(64, 32)), tokenizer, bad)
        assert len(data) or bad.count or any(len(left_out) for left_out in prepared.left_out.values())


TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}]{{ message.content }}"
    "{% for call in message.tool_calls %}{{ call.function.name + call.function.arguments | tojson }}{% endfor %}"
    "{% endfor %}{% if tools %}{{ tools[0].function.name + '' }}{% endif %}"
    "{% if add_generation_prompt %}[assistant]{% else %}</s>{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@st.composite
def formats_and_rows(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    name = draw(st.sampled_from(sorted(FORMATS)))
    return name, draw(mutated(FORMATS[name][0]))


@FEW
@given(formats_and_rows())
def test_rows(folder: Path, case: tuple[str, dict[str, Any]]) -> None:
    check_rows(folder, *case)


@pytest.mark.slow
@MANY
@given(formats_and_rows())
def test_many_rows(folder: Path, case: tuple[str, dict[str, Any]]) -> None:
    check_rows(folder, *case)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return prepare_tokenizer(byte_bpe(template=TEMPLATE))


@settings(FEW, max_examples=450)
@given(formats_and_rows())
def test_rows_on_their_way_to_tokens(folder: Path, tokenizer: Any, case: tuple[str, dict[str, Any]]) -> None:
    check_preparation(folder, *case, tokenizer)


@pytest.mark.slow
@settings(MANY, max_examples=5000)
@given(formats_and_rows())
def test_many_rows_on_their_way_to_tokens(folder: Path, tokenizer: Any, case: tuple[str, dict[str, Any]]) -> None:
    check_preparation(folder, *case, tokenizer)


# --- trees ---------------------------------------------------------------------------------------------------------


def check_tree(folder: Path, number: int, row: dict[str, Any]) -> None:
    path = folder / "tree.jsonl"
    rows = [row if index == number else other for index, other in enumerate(TREE)]
    path.write_text("\n".join(map(json.dumps, rows)))
    for wanted in WANTED:
        bad = BadRows("skip")
        examples, _ = read(Source(str(path), format="oasst"), wanted, bad)
        for example in examples:
            found = {one for row in rows for one in strings(row)}
            assert all(text in found for text in texts(example))
        if bad.count:
            with pytest.raises(DataError, match=r"line \d+(, key '\w+')?: .*expected"):
                read(Source(str(path), format="oasst"), wanted, BadRows())


@st.composite
def trees(draw: st.DrawFn) -> tuple[int, dict[str, Any]]:
    number = draw(st.integers(0, len(TREE) - 1))
    return number, draw(mutated(TREE[number]))


@settings(FEW, max_examples=400)
@given(trees())
def test_trees(folder: Path, case: tuple[int, dict[str, Any]]) -> None:
    check_tree(folder, *case)


# --- bytes ---------------------------------------------------------------------------------------------------------

ROWS = [{"prompt": f"Question {i} “é”", "completion": f'a\n"{i}"', "label": i % 2 == 0} for i in range(12)]


def files() -> dict[str, bytes]:
    lines = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in ROWS)
    table = pa.Table.from_pylist(ROWS)
    parquet, arrow = pa.BufferOutputStream(), pa.BufferOutputStream()
    pa.parquet.write_table(table, parquet)
    with pa.ipc.new_file(arrow, table.schema) as writer:
        writer.write_table(table)
    return {
        "a.jsonl": lines,
        "a.json": json.dumps(ROWS, ensure_ascii=False, indent=1).encode(),
        "a.csv": b"prompt,completion,label\n" + b'"Question ""1"" \xc3\xa9\nx",yes,true\nQ2,no,false\n' * 4,
        "a.parquet": parquet.getvalue().to_pybytes(),
        "a.arrow": arrow.getvalue().to_pybytes(),
        "a.jsonl.gz": gzip.compress(lines),
        "a.jsonl.xz": lzma.compress(lines),
        "a.jsonl.zst": pa.Codec("zstd").compress(lines).to_pybytes(),
    }


FILES = files()


def damaged(content: bytes, randomness: random.Random) -> bytes:
    """The content cut off, or with some bytes changed, lost or repeated."""
    data = bytearray(content)
    for _ in range(randomness.choice([1, 1, 2, 5])):
        where = randomness.randrange(len(data) + 1)
        what = randomness.choice(["cut", "change", "lose", "repeat", "add"])
        if what == "cut":
            del data[where:]
        elif what == "change" and where < len(data):
            data[where] ^= randomness.randrange(1, 256)
        elif what == "lose":
            del data[where : where + randomness.randrange(1, 40)]
        elif what == "repeat":
            data[where:where] = data[where : where + randomness.randrange(1, 40)]
        else:
            data[where:where] = randomness.choice([b"\n", b'"', b"\xff", b"{", b"]", b",", b"\x00", b"\r", b"\\ud800"])
    return bytes(data)


def by_lines(content: bytes) -> dict[int, Any]:
    """What a JSON Lines file says, found in another way: its objects by their line."""
    found = {}
    for number, line in enumerate(content.split(b"\n"), start=1):
        try:
            found[number] = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            json.dumps(found[number], ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            found.pop(number, None)
    return {number: value for number, value in found.items() if isinstance(value, dict)}


def until_stopped(stream: Iterator[Any]) -> tuple[list[Any], str]:
    """What a stream gives, and the message of the error that ends it."""
    found: list[Any] = []
    try:
        found.extend(stream)
    except HaloError as error:
        return found, str(error)
    return found, ""


def check_file(folder: Path, name: str, seed: int) -> None:
    content = damaged(FILES[name], random.Random(seed))
    path = folder / name
    path.write_bytes(content)
    bad = BadRows("skip")
    rows, stopped = until_stopped(read_rows(str(path), bad))
    if name == "a.jsonl" and not stopped:
        expected = by_lines(content)
        found = {int(row.line): row.values for row in rows}
        assert all(expected[line] == values for line, values in found.items())
        assert len(expected) - len(found) <= bad.count  # an object with a key twice is refused
    for message in [
        stopped,
        *(until_stopped(read_feedback(str(path), wanted, bad=BadRows("skip")))[1] for wanted in WANTED),
    ]:
        assert message == "" or str(path) in message
        assert len(message) < 1500


@settings(FEW, max_examples=500)
@given(st.sampled_from(sorted(FILES)), st.integers(0, 2**32))
def test_files(folder: Path, name: str, seed: int) -> None:
    check_file(folder, name, seed)


def test_a_damaged_name_of_a_column(folder: Path) -> None:
    check_file(folder, "a.parquet", 2134968)  # found by the test below


@pytest.mark.slow
@MANY
@given(st.sampled_from(sorted(FILES)), st.integers(0, 2**32))
def test_many_files(folder: Path, name: str, seed: int) -> None:
    check_file(folder, name, seed)
