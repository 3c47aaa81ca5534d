"""Boundaries: where turns start and end among the tokens of a text, from where they do among its characters."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from halo_lightning.data.turns import common

Text = tuple[str, list[int]]
"""A text, and the characters at which turns that are learned start and end in it, in turn."""


def split_fast(tokenizer: Any, texts: Iterable[Text], tokenized: list[Any]) -> list[tuple[list[int], list[int]]]:
    """Tokens, and the places among them of each text's boundaries, from the characters that each token stands for."""
    return [
        (
            encoding.ids,
            [_place(tokenizer, encoding, text, mark, ends=number % 2 == 1) for number, mark in enumerate(marks)],
        )
        for encoding, (text, marks) in zip(tokenized, texts, strict=True)
    ]


def _place(tokenizer: Any, encoding: Any, text: str, boundary: int, *, ends: bool) -> int:
    """The token at which a turn starts, or before which it ends: one that straddles the boundary belongs to it."""
    place = _first_completion_token(tokenizer, encoding, text, boundary)
    if not ends or place == len(encoding):
        return place
    start = encoding.token_to_chars(place)[0]
    if text[start - 1 : start] == " " != text[start : start + 1] and _spaces(tokenizer, encoding.ids[place])[0]:
        start -= 1  # the space that a byte-level tokenizer leaves out of its offsets
    return place + (start < boundary)


def _first_completion_token(tokenizer: Any, encoding: Any, text: str, boundary: int) -> int:
    """The first token that stands for a character at or after the boundary.

    Byte-level tokenizers leave spaces at the rims of a token out of its offsets. So the token that is found by its
    offsets may begin with spaces before its first character, and the one before it may end with spaces after its
    last: whose they are, the tokens themselves say.
    """
    first, character = None, boundary
    while first is None and character < len(text):
        first = encoding.char_to_token(character)
        character += 1
    if first is None:
        return len(encoding)
    while first > 0 and encoding.token_to_chars(first - 1)[1] > boundary:
        first -= 1
    gap = encoding.token_to_chars(first)[0] - boundary
    if gap > 0 and first > 0:
        leading = _spaces(tokenizer, encoding.ids[first])[0]
        trailing = _spaces(tokenizer, encoding.ids[first - 1])[1]
        if leading < gap and trailing:
            return first - 1
    return first


def _spaces(tokenizer: Any, token_id: int) -> tuple[int, int]:
    """How many spaces a token of several characters begins and ends with."""
    return _spaces_of(tokenizer.convert_ids_to_tokens(token_id))


@lru_cache(maxsize=65536)
def _spaces_of(token: str) -> tuple[int, int]:
    marks = " Ġ▁"
    return len(token) - len(token.lstrip(marks)), len(token) - len(token.rstrip(marks))


def split_slow(tokenizer: Any, texts: Iterable[Text]) -> list[tuple[list[int], list[int]]]:
    """The same without offsets: the tokens that a text up to a boundary and the whole text both begin with."""
    result = []
    for text, marks in texts:
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        places = []
        for number, mark in enumerate(marks):
            before = list(tokenizer(text[:mark], add_special_tokens=False)["input_ids"])
            shared = common(before, ids)
            places.append(shared + (number % 2 == 1 and shared < len(before)))
        result.append((ids, places))
    return result
