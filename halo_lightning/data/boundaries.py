"""Boundaries: where turns start and end among the tokens of a text, from where they do among its characters."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from threading import Lock
from typing import Any, NamedTuple
from unicodedata import is_normalized

import numpy as np
from numpy.typing import NDArray
from tokenizers import models, normalizers, pre_tokenizers

from halo_lightning.data.turns import common

Text = tuple[str, list[int]]
"""A text, and the characters at which turns that are learned start and end in it, in turn."""


_SETTINGS = {"add_special_tokens": False, "padding": False, "truncation": False, "verbose": False}
_ONE_AT_A_TIME = Lock()


def tokenize_fast(tokenizer: Any, texts: list[str]) -> list[Any]:
    """What the fast implementation makes of texts, for `split_fast`. Several threads may do this at one time."""
    if not _is_plain(tokenizer):
        encodings: list[Any] = tokenizer(texts, **_SETTINGS).encodings
        return encodings
    with _ONE_AT_A_TIME:  # tells the implementation not to pad and to cut, as the last call may have
        tokenizer("", **_SETTINGS)
    # What `transformers` makes of the result (lists of masks and numbers) is not needed; nor, where the bytes of each
    # token are known, the characters that it stands for, which take the implementation a fifth of its time.
    backend = tokenizer.backend_tokenizer
    encode = backend.encode_batch if byte_lengths(tokenizer) is None else backend.encode_batch_fast
    encodings = encode(texts, add_special_tokens=False)
    return encodings


def _is_plain(tokenizer: Any) -> bool:
    """Whether a tokenizer leaves everything to the fast implementation."""
    from transformers import PreTrainedTokenizerFast

    return type(tokenizer)._encode_plus is PreTrainedTokenizerFast._encode_plus


def split_fast(tokenizer: Any, texts: Iterable[Text], tokenized: list[Any]) -> list[tuple[list[int], list[int]]]:
    """Tokens, and the places among them of each text's boundaries: from the bytes, or characters, of each token."""
    lengths = byte_lengths(tokenizer)
    result = []
    for encoding, (text, marks) in zip(tokenized, texts, strict=True):
        ids = encoding.ids
        places = None if lengths is None else _places_by_bytes(lengths, ids, text, marks)
        if places is None:
            if lengths is not None:
                encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
            places = [
                _place(tokenizer, encoding, text, mark, ends=number % 2 == 1) for number, mark in enumerate(marks)
            ]
        result.append((ids, places))
    return result


# --- by bytes ------------------------------------------------------------------------------------------------------


class _ByteLengths(NamedTuple):
    """How many bytes of a text each token stands for, int64 `[vocabulary]`.

    Attributes:
        lengths: By the number of the token.
        composed: Whether that holds for texts in Unicode's composed form (NFC) alone.
    """

    lengths: NDArray[np.int64]
    composed: bool


def byte_lengths(tokenizer: Any) -> _ByteLengths | None:
    """The bytes of each token; None for a tokenizer whose tokens are not pieces of the text's bytes."""
    return _byte_lengths(tokenizer, len(tokenizer))


@lru_cache(maxsize=4)
def _byte_lengths(tokenizer: Any, size: int) -> _ByteLengths | None:
    if not _is_plain(tokenizer):
        return None
    backend = tokenizer.backend_tokenizer
    model, normalizer = backend.model, backend.normalizer
    composed = isinstance(normalizer, normalizers.NFC)
    if not isinstance(model, models.BPE) or model.continuing_subword_prefix or model.end_of_word_suffix:
        return None
    if not (normalizer is None or composed) or not _cuts_into_bytes(backend.pre_tokenizer):
        return None
    vocabulary = backend.get_vocab(with_added_tokens=True)
    if not vocabulary.keys() >= set(pre_tokenizers.ByteLevel.alphabet()):  # what it has no token for would be lost
        return None
    lengths = np.zeros(max(vocabulary.values()) + 1, dtype=np.int64)
    for token, number in vocabulary.items():
        lengths[number] = len(token)  # a character for each byte
    for number, added in backend.get_added_tokens_decoder().items():
        lengths[number] = len(added.content.encode())
    return _ByteLengths(lengths, composed)


def _cuts_into_bytes(pre_tokenizer: Any) -> bool:
    """Whether a text is cut into pieces, and these are written as bytes, with nothing added."""
    if pre_tokenizer is None:
        return False
    state = json.loads(pre_tokenizer.__getstate__())
    *cuts, last = state["pretokenizers"] if state["type"] == "Sequence" else [state]
    return (
        all(cut["type"] in ("Split", "Digits") for cut in cuts)
        and last["type"] == "ByteLevel"
        and not last["add_prefix_space"]
    )


def _places_by_bytes(known: _ByteLengths, ids: list[int], text: str, marks: list[int]) -> list[int] | None:
    """The tokens at the boundaries; None where these tokens are not the text to the last byte."""
    if known.composed and not is_normalized("NFC", text):
        return None
    lengths = known.lengths[ids]
    ends = lengths.cumsum()
    if not len(ends) or ends[-1] != len(text.encode()):
        return None
    places = []
    for number, mark in enumerate(marks):
        byte = len(text[:mark].encode())
        # One that straddles the boundary belongs to the turn, at its start as at its end.
        place = ends.searchsorted(byte, "right") if number % 2 == 0 else (ends - lengths).searchsorted(byte, "left")
        places.append(int(place))
    return places


# --- by characters -------------------------------------------------------------------------------------------------


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
