"""Turns: where the assistant's turns are in the text that a chat template made of a conversation.

A template writes markers around each turn, may change white space, and may write a turn in another way when it is not
the last one (the end-of-sequence token only at the very end, a section of thoughts only in the last turn). So a turn
is looked for by rendering the conversation up to it, without and with it, and comparing that with the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

from halo_lightning.data.conversations import Conversation

Render = Callable[[Conversation, bool], str]
"""From messages, and whether the generation prompt follows them, to text."""


class LostTurnError(Exception):
    """What the assistant said is not in the text, or not as it was said."""


def common(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many elements two sequences have in common at their start."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def contains(text: str, content: str) -> bool:
    """Whether a text has the content in it, except for differences in white space."""
    return content in text or "".join(content.split()) in "".join(text.split())


def turn_start(before: str, whole: str, content: str, *, last: bool) -> int:
    """The character at which a turn starts.

    Args:
        before: The conversation up to the turn, with the generation prompt.
        whole: The whole conversation.
        content: What is said in the turn.
        last: Whether it is the last turn.
    """
    if whole.startswith(before):
        return len(before)
    # The template writes something after the prompt that it does not write in a finished conversation: for example
    # DeepSeek-R1's generation prompt opens a <think> section. They have the part before it in common.
    shared = common(before, whole)
    return min(shared, max(whole.rfind(content) if last else whole.find(content, shared), 0))


def assistant_spans(messages: Conversation, whole: str, render: Render) -> list[tuple[int, int]]:
    """Start and end of each of the assistant's turns, its end-of-turn marker included.

    Args:
        messages: A conversation that ends with a turn of the assistant.
        whole: Its text.
        render: Renders some of its messages.

    Raises:
        LostTurnError: A turn is not in the text.
    """
    numbers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    starts: list[int] = []
    for number in numbers:
        content = messages[number]["content"].strip()
        starts.append(turn_start(render(messages[:number], True), whole, content, last=number == numbers[-1]))
    spans = []
    for number, start, limit in zip(numbers, starts, [*starts[1:], len(whole)], strict=True):
        end = len(whole)
        if number != numbers[-1]:
            alone = render(messages[: number + 1], False).rstrip()
            end = _turn_end(alone, whole, start, limit, messages[number]["content"].strip())
        if not (0 < start < end <= limit and contains(whole[start:end], messages[number]["content"].strip())):
            raise LostTurnError
        spans.append((start, end))
    return spans


def _turn_end(alone: str, whole: str, start: int, limit: int, content: str) -> int:
    """The character after a turn that is followed by others.

    Args:
        alone: The conversation up to the turn and with it, as it is when nothing follows.
        whole: The whole conversation.
        start: Where the turn starts.
        limit: Where the next turn of the assistant starts.
        content: What is said in it.
    """
    end = common(alone, whole)
    if start < end <= limit and contains(whole[start:end], content):
        return end
    # The turn is written in another way when it is the last one: then its text, and what follows the text in both.
    place = whole.find(content, start, limit) if content else -1
    if place < 0:
        return start
    place += len(content)
    return place + common(alone[alone.rfind(content) + len(content) :], whole[place:limit])
