"""Single examples: the text that the model sees, in pieces, each learned or not."""

from __future__ import annotations

import re
from itertools import groupby
from typing import Any, Literal, NamedTuple

import numpy as np

from halo_lightning.data.batching import TokenizedDataset

Part = Literal["prompt", "chosen", "rejected", "completion"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069\ufeff]")


class Span(NamedTuple):
    """A piece of text.

    Attributes:
        text: What the tokens stand for.
        learned: Whether the loss is on them.
        ends: Whether it is an end-of-sequence token that is learned.
        tokens: The tokens as the tokenizer writes them.
    """

    text: str
    learned: bool
    ends: bool
    tokens: list[str]


class Sequence(NamedTuple):
    """A prompt with one completion.

    Attributes:
        name: `completion`; for pairs `chosen` or `rejected`.
        spans: All of it, in order.
        token_ids: Its tokens.
        loss_mask: Which of them the loss is on.
        prompt_tokens: How many tokens of it are the prompt.
        prompt_cut: How many tokens of the prompt were cut.
        completion_cut: How many tokens of the completion were cut.
    """

    name: Part
    spans: list[Span]
    token_ids: list[int]
    loss_mask: list[bool]
    prompt_tokens: int
    prompt_cut: int
    completion_cut: int

    @property
    def prompt_ids(self) -> list[int]:
        """The tokens of the prompt."""
        return self.token_ids[: self.prompt_tokens]


class Shown(NamedTuple):
    """An example.

    Attributes:
        number: Its number in its data set.
        place: File and line.
        label: True for a desirable one, false for an undesirable one, None where there are no labels.
        weight: Its weight in the loss.
        sequences: One, or the chosen and the rejected one.
    """

    number: int
    place: str
    label: bool | None
    weight: float
    sequences: list[Sequence]


def show(data: TokenizedDataset, number: int, tokenizer: Any) -> Shown:
    """An example as it is in the data set."""
    each = data.per_example
    names: list[Part] = ["chosen", "rejected"] if each == 2 else ["completion"]
    sequences = [_sequence(data, number * each + place, name, tokenizer) for place, name in enumerate(names)]
    label = None if data.desirable is None else bool(data.desirable[number])
    return Shown(number, data.place(number), label, float(data.weights[number]), sequences)


def _sequence(data: TokenizedDataset, number: int, name: Part, tokenizer: Any) -> Sequence:
    start, end = int(data.offsets[number]), int(data.offsets[number + 1])
    ids = np.asarray(data.tokens[start:end]).tolist()
    prompt = int(data.prompt_lengths[number])
    mask = [place >= prompt for place in range(len(ids))] if data.learned is None else data.learned[start:end].tolist()
    spans = spans_of(tokenizer, ids, mask, prompt)
    prompt_cut, completion_cut = 0, 0
    if data.origins is not None:
        prompt_cut, completion_cut = (int(data.origins[what][number]) for what in ("prompt_cut", "completion_cut"))
    return Sequence(name, spans, ids, mask, prompt, prompt_cut, completion_cut)


def spans_of(tokenizer: Any, ids: list[int], mask: list[bool], prompt: int) -> list[Span]:
    """Pieces of the same kind; the prompt is one of its own, and so is each end that is learned."""
    kinds = [
        (place >= prompt, learned, learned and token == tokenizer.eos_token_id)
        for place, (token, learned) in enumerate(zip(ids, mask, strict=True))
    ]
    spans, start = [], 0
    for (_, learned, ends), group in groupby(kinds):
        end = start + len(list(group))
        tokens = [str(token) for token in tokenizer.convert_ids_to_tokens(ids[start:end])]
        spans.append(Span(_text(tokenizer, ids, start, end), learned, ends, tokens))
        start = end
    return spans


def _text(tokenizer: Any, ids: list[int], start: int, end: int) -> str:
    """What some tokens stand for where they are: a tokenizer may write a first word in another way than a later one."""
    before, whole = (tokenizer.decode(ids[:place], clean_up_tokenization_spaces=False) for place in (start, end))
    if whole.startswith(before):
        return str(whole[len(before) :])
    # The piece before ends in the middle of a character.
    return str(tokenizer.decode(ids[start:end], clean_up_tokenization_spaces=False))


def harmless(text: str) -> str:
    """A text whose control characters are shown and not obeyed: data come from strangers, terminals obey."""
    return _CONTROL.sub(lambda match: _picture(match.group()), text)


def _picture(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"‹U+{code:04X}›"
