"""Two ways to the same boundaries: by the bytes of the tokens, and by the characters that they stand for."""

from __future__ import annotations

import random
import unicodedata
from typing import Any

import pytest
from tokenizers import AddedToken, normalizers, pre_tokenizers

from halo_lightning.data import boundaries
from halo_lightning.data.rendering import encode_batch, prepare_tokenizer
from tests.data.chat import KINDS, tokenizer_of

PIECES = ["a", "Is it", " ", "  ", "\n", "\n\n", ":", "é", "e\u0301", "ﬁ", "😀", "1234", "</s>", "<tag>", "日本"]


def said(generator: random.Random) -> str:
    return "".join(generator.choice(PIECES) for _ in range(7)) + "x"


def conversation(generator: random.Random) -> tuple[dict[str, str], ...]:
    roles = ("user", "assistant", "user")
    return tuple({"role": role, "content": said(generator)} for role in roles)


def byte_level(kind: str, *, composed: bool) -> Any:
    """A byte-level tokenizer, with an added token that takes the space before it."""
    tokenizer = tokenizer_of(kind, "default")
    tokenizer.backend_tokenizer.add_tokens([AddedToken("<tag>", lstrip=True, normalized=False)])
    if composed:
        tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    return prepare_tokenizer(tokenizer)


@pytest.mark.parametrize("composed", [False, True])
@pytest.mark.parametrize("kind", ["byte BPE", "byte BPE, words"])
def test_both_ways_lead_to_the_same_tokens(kind: str, composed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = byte_level(kind, composed=composed)
    assert boundaries.byte_lengths(tokenizer) is not None
    generator = random.Random(f"{kind} {composed}")
    prompts = [conversation(generator) for _ in range(300)]
    completions = [said(generator) for _ in prompts]
    by_bytes = [encode_batch(tokenizer, prompts, completions, all_turns=turns) for turns in (False, True)]  # type: ignore[arg-type]
    found = [boundaries._places_by_bytes(boundaries.byte_lengths(tokenizer), ids(tokenizer, text), text, [1])  # type: ignore[arg-type]
             for text in (prompt[0]["content"] for prompt in prompts)]  # fmt: skip
    assert 30 < found.count(None) < 270  # so that some go one way, and some the other
    monkeypatch.setattr(boundaries, "byte_lengths", lambda _: None)
    by_characters = [encode_batch(tokenizer, prompts, completions, all_turns=turns) for turns in (False, True)]  # type: ignore[arg-type]
    assert by_bytes == by_characters


def ids(tokenizer: Any, text: str) -> list[int]:
    encoded: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return encoded


def test_a_text_that_is_composed_anew_is_not_measured_in_bytes() -> None:
    tokenizer = byte_level("byte BPE", composed=True)
    known = boundaries.byte_lengths(tokenizer)
    assert known is not None
    for text, usable in (("é", True), ("e\u0301", False)):
        assert (boundaries._places_by_bytes(known, ids(tokenizer, text), text, [0]) is not None) == usable
        assert unicodedata.is_normalized("NFC", text) == usable


@pytest.mark.parametrize("kind", KINDS)
def test_only_tokens_that_are_pieces_of_the_bytes_are_measured(kind: str) -> None:
    tokenizer = tokenizer_of(kind, "default")
    assert (boundaries.byte_lengths(tokenizer) is not None) == kind.startswith("byte")


@pytest.mark.parametrize(
    "change",
    [
        lambda backend: setattr(backend, "normalizer", normalizers.Lowercase()),
        lambda backend: setattr(backend, "normalizer", normalizers.NFKC()),
        lambda backend: setattr(backend, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
        lambda backend: setattr(backend, "pre_tokenizer", pre_tokenizers.Whitespace()),
        lambda backend: setattr(
            backend, "pre_tokenizer", pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel()])
        ),
        lambda backend: setattr(backend.model, "end_of_word_suffix", "</w>"),
    ],
)
def test_a_tokenizer_that_changes_texts_is_not_measured_in_bytes(change: Any) -> None:
    tokenizer = tokenizer_of("byte BPE", "default")
    change(tokenizer.backend_tokenizer)
    assert boundaries.byte_lengths(tokenizer) is None


def test_tokens_that_are_added_later_are_known() -> None:
    tokenizer = tokenizer_of("byte BPE", "default")
    before = boundaries.byte_lengths(tokenizer)
    tokenizer.add_tokens(["<later>"])
    after = boundaries.byte_lengths(tokenizer)
    assert before is not None
    assert after is not None
    assert (len(after.lengths), after.lengths[-1]) == (len(before.lengths) + 1, len("<later>"))
