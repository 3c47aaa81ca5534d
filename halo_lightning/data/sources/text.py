"""Readers of text files: JSON Lines, JSON and CSV."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterator
from typing import Any

from halo_lightning.data.sources import content as limits
from halo_lightning.data.sources.bad_rows import BadRows
from halo_lightning.data.sources.content import EXPECTED, Content, decode
from halo_lightning.data.sources.rows import Row, describe, excerpt
from halo_lightning.errors import DataError, RowNumber

_CHUNK = 2**20
_SPACE = re.compile(r"[ \t\r\n]*")


class _DuplicateKeyError(ValueError):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, unless a key occurs twice: one of its values would silently be lost."""
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _DuplicateKeyError(f"found the key {twice!r} twice in one object, expected each key once")
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def json_lines(content: Content, bad: BadRows) -> Iterator[Row]:
    """One object a line; blank lines may only be at the end."""
    blank: int | None = None
    for number, raw in content.numbered_lines():
        if not (raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw).strip():
            blank = blank or number
            continue
        if blank is not None:
            bad.refuse(
                DataError(f"found a blank line before the end of the file, {EXPECTED}", file=content.name, line=blank)
            )
            blank = None
        if number == 1 and raw.strip() == b"{":
            raise DataError(
                f"found an object that goes on in the next line, {EXPECTED}, or an array of objects",
                file=content.name,
                line=1,
            )
        try:
            row = Row(_parse(decode(raw, content.name, number), content.name, number), content.name, number)
        except DataError as error:
            bad.refuse(error, raw.decode(errors="backslashreplace"))
            continue
        yield row


def _parse(text: str, name: str, number: int) -> dict[str, Any]:
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"found {excerpt(text)}, which is not JSON ({error.msg}, column {error.colno}); {EXPECTED}",
            file=name,
            line=number,
        ) from error
    except _DuplicateKeyError as error:
        raise DataError(str(error), file=name, line=number) from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"cannot be parsed as JSON: {error}; {EXPECTED}", file=name, line=number) from error
    return _checked(value, text, name, number)


def _checked(value: Any, text: str, name: str, number: int) -> dict[str, Any]:
    """An object of whole characters."""
    if not isinstance(value, dict):
        raise DataError(f"found {describe(value)}, {EXPECTED}", file=name, line=number)
    if "\\u" in text and "\\ud" in text.lower():  # half a surrogate pair is no character, and no tokenizer takes it
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise DataError(
                "found an unpaired surrogate (such as \\ud800), which is not a character; expected text",
                file=name,
                line=number,
            ) from error
    return value


def json_array(content: Content, bad: BadRows) -> Iterator[Row]:
    """The objects of one array, read as a stream: memory holds a few of them at a time."""
    text = _Window(content)
    number = 0
    text.take("[", "the [ of a JSON array")
    closed = text.peek() == "]"
    while not closed:
        number += 1
        value, raw = text.value(number)
        try:
            if not isinstance(value, dict):
                raise DataError(
                    f"found {describe(value)}, expected an object as each element of the array",
                    file=content.name,
                    line=RowNumber(number),
                )
            yield Row(_checked(value, raw, content.name, RowNumber(number)), content.name, RowNumber(number))
        except DataError as error:
            bad.refuse(error, raw)
        closed = text.peek() == "]"
        if not closed:
            text.take(",", f"a comma or the closing ] after element {number}")
    text.take("]", "the closing ]")
    if after := text.peek():
        raise text.error(f"found {after!r} after the closing ], expected the end of the file")


class _Window:
    """The part of a text that is being parsed: it grows where an element goes on, and forgets what was parsed."""

    def __init__(self, content: Content) -> None:
        self.content = content
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.text, self.position, self.line = "", 0, 1

    def more(self, size: int = _CHUNK) -> bool:
        raw = self.content.read(size)
        try:
            added = self.decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            line = self.line + self.text.count("\n", self.position) + raw.count(b"\n", 0, max(error.start, 0))
            raise DataError(
                f"found the byte 0x{error.object[error.start]:02x}, which is not UTF-8 ({error.reason}); expected a"
                " file in UTF-8: convert it, for example with iconv",
                file=self.content.name,
                line=line,
            ) from error
        self.text = self.text[self.position :] + added
        self.position = 0
        return bool(raw)

    def advance(self, end: int) -> None:
        self.line += self.text.count("\n", self.position, end)
        self.position = end

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        blank = 0
        while True:
            space = _SPACE.match(self.text, self.position)
            assert space is not None
            blank += len(space[0])
            self.content.check_blank(blank)
            self.advance(space.end())
            if self.position < len(self.text):
                return self.text[self.position]
            if not self.more():
                return ""

    def take(self, character: str, expected: str) -> None:
        found = self.peek()
        if found != character:
            what = (
                f"found {excerpt(self.text[self.position :])!r}" if found else "the file ends before its content does"
            )
            raise self.error(f"{what}, expected {expected}")
        self.advance(self.position + 1)

    def value(self, number: int) -> tuple[Any, str]:
        """The next element, and its text."""
        self.peek()
        size = _CHUNK
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.position)
                if end < len(self.text) or isinstance(value, (dict, list, str)):
                    raw = self.text[self.position : end]
                    self.advance(end)
                    return value, raw
                problem = "the file ends in it"  # more digits may follow
            except json.JSONDecodeError as error:
                problem = error.msg
                if not error.msg.startswith("Unterminated") and error.pos < len(self.text) - 16:
                    raise self.element_error(number, problem) from error
            except (RecursionError, ValueError) as error:
                raise self.element_error(number, str(error)) from error
            if len(self.text) - self.position > limits.MAX_LINE_BYTES:
                raise self.element_error(number, f"it is longer than {limits.MAX_LINE_BYTES // 2**20} MiB")
            if not self.more(size):
                raise self.element_error(number, problem)
            size *= 2

    def element_error(self, number: int, problem: str) -> DataError:
        found = excerpt(self.text[self.position : self.position + 200])
        return self.error(
            f"element {number} of the array cannot be parsed: {problem}; found {found}, expected an object"
        )

    def error(self, message: str) -> DataError:
        return DataError(message, file=self.content.name, line=self.line)


def csv_rows(content: Content, bad: BadRows, delimiter: str) -> Iterator[Row]:
    """One row a record; the first record names the columns. All values are texts."""
    expected = "expected CSV: a first line of column names, then as many values in every record"
    csv.field_size_limit(limits.MAX_LINE_BYTES)
    name = content.name
    undecodable: list[DataError] = []

    def texts() -> Iterator[str]:
        for number, raw in content.numbered_lines(expected):
            try:
                if b"\x00" in raw and not raw.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise DataError(f"found a byte of value 0, {expected}", file=name, line=number)
                yield decode(raw, name, number)
            except DataError as error:
                undecodable.append(error)
                yield raw.decode(errors="backslashreplace")

    reader = csv.reader(texts(), delimiter=delimiter, strict=True)
    columns: list[str] | None = None
    while True:
        line, values = reader.line_num + 1, []
        try:
            values = next(reader)
            wrong = undecodable.pop() if undecodable else None
        except StopIteration:
            return
        except csv.Error as error:
            wrong = DataError(f"found a record that is not CSV ({error}), {expected}", file=name, line=line)
            if "unexpected end" in str(error):  # a quote that swallows the rest of the file: nobody knows how many rows
                raise wrong from error
        undecodable.clear()
        if columns is None:
            if wrong is not None:
                raise wrong
            columns = _columns(values, name, line, expected)
            continue
        if wrong is None and not values:
            continue  # a blank line, which CSV has no meaning for
        if wrong is None and len(values) != len(columns):
            wrong = DataError(f"found {len(values)} values, {expected} ({len(columns)})", file=name, line=line)
        if wrong is not None:
            bad.refuse(wrong, str(values))
            continue
        yield Row(dict(zip(columns, values, strict=True)), name, line, "text")


def _columns(values: list[str], name: str, line: int, expected: str) -> list[str]:
    columns = [value.strip() for value in values]
    if not all(columns) or len(set(columns)) < len(columns):
        found = excerpt(", ".join(map(repr, values)), 200)
        raise DataError(f"found the column names {found}, {expected}, each name once", file=name, line=line)
    return columns
