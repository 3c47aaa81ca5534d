"""What is shown of an example: its text in pieces, and nothing that a terminal or a browser would obey."""

from __future__ import annotations

from typing import Any

import pytest

from halo_lightning.data.batching import TokenizedDataset, TokenizedDatasetBuilder
from halo_lightning.data.rendering import encode_batch, prepare_tokenizer
from halo_lightning.inspection.examples import harmless, show
from tests.data.chat import KINDS, tokenizer_of
from tests.data.test_templates import CONVERSATION, LAST


def built(tokenizer: Any, **options: Any) -> TokenizedDataset:
    builder = TokenizedDatasetBuilder("sft")
    builder.add(encode_batch(tokenizer, [CONVERSATION], [LAST], **options), [0.5], [], [("a.jsonl", 7)])
    return builder.build()


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_the_pieces_are_the_text(kind: str) -> None:
    tokenizer = prepare_tokenizer(tokenizer_of(kind, "llama3"))
    example = show(built(tokenizer, all_turns=True), 0, tokenizer)
    (sequence,) = example.sequences
    assert (example.number, example.place, example.label, example.weight) == (0, "a.jsonl, line 7", None, 0.5)
    texts = [span.text for span in sequence.spans]
    assert "".join(texts) == tokenizer.decode(sequence.token_ids)
    kinds = [(span.learned, span.ends) for span in sequence.spans]
    learned = [(True, False), (True, True)]
    assert kinds == [(False, False), *learned, (False, False), *learned]
    assert texts[1].strip() == "Paris is."
    assert texts[2] == texts[5] == "<|eot_id|>"
    assert texts[4].strip() == LAST
    assert [token for span in sequence.spans for token in span.tokens] == tokenizer.convert_ids_to_tokens(
        sequence.token_ids
    )
    assert sum(len(span.tokens) for span in sequence.spans if span.learned) == sum(sequence.loss_mask)


def test_the_end_of_another_turn_is_not_learned() -> None:
    tokenizer = prepare_tokenizer(tokenizer_of("byte BPE, words", "zephyr"))
    (sequence,) = show(built(tokenizer), 0, tokenizer).sequences
    assert [(span.learned, span.ends) for span in sequence.spans] == [(False, False), (True, False), (True, True)]
    assert sequence.spans[0].text.count("</s>") == 3


def test_control_characters_are_shown() -> None:
    assert harmless("a\x1b[31mred\x00\n\tb\x7f\x9b") == "a␛[31mred␀\n\tb␡‹U+009B›"
    assert harmless("abc\u202egnp.exe\u2028") == "abc‹U+202E›gnp.exe‹U+2028›"
    assert harmless("naïve 😀 – ok\r") == "naïve 😀 – ok␍"
