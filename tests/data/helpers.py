"""Tokenizers made in memory, and rows written to files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

WORDS = ["ĠHello", "Ġworld", "Ġis", "Ġgood", "Human", "Assistant", "Question", "ĠYes", "ĠNo"]


def byte_bpe(
    merges: list[tuple[str, str]] | None = None,
    *,
    regex: bool = True,
    eos: str | None = "</s>",
    bos: str | None = None,
    adds_bos: bool = False,
    extra: tuple[str, ...] = (),
    template: str | None = None,
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: `merges`, or those that make the words above one token each."""
    if merges is None:
        merges = []
        for word in WORDS:
            merges += [(word[:i], word[i]) for i in range(1, len(word)) if (word[:i], word[i]) not in merges]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*alphabet, *dict.fromkeys(a + b for a, b in merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    special = [token for token in (eos, bos, *extra) if token]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    if adds_bos:
        tokenizer.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=True),
                processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]),
            ]
        )
    names = {"eos_token": eos, "bos_token": bos}
    result = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{k: v for k, v in names.items() if v})
    result.chat_template = template
    return result


def chatml(eos: str = "<|im_end|>") -> PreTrainedTokenizerFast:
    extra = tuple(token for token in ("<|im_start|>", "<|im_end|>") if token != eos)
    return byte_bpe(eos=eos, extra=extra, template=CHATML)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def thumbs(count: int, desirable: int) -> list[dict[str, Any]]:
    """Unary feedback, each row with its own prompt and completion; the first ones are desirable."""
    return [{"prompt": f"Question {i}", "completion": f"answer {i}", "label": i < desirable} for i in range(count)]


def pairs(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"Question {i}", "chosen": f"Yes {i}", "rejected": f"No {i}"} for i in range(count)]
