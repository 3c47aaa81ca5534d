"""Conversions between the kinds of feedback: pairs to unary and back, and either to demonstrations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from halo_lightning.data.conversations import Conversation
from halo_lightning.data.feedback import Demonstration, Example, Feedback, Paired, Unary
from halo_lightning.data.sources.left_out import LeftOut


def prompt_key(prompt: Conversation) -> str:
    """A text that is the same for equal prompts, and only for them."""
    return json.dumps([[*message.values()] for message in prompt], default=str)


def convert(example: Example, wanted: Feedback) -> list[Example]:
    """An example as another kind of feedback, as far as it can be alone; unary feedback stays where pairs are wanted.

    A pair becomes a desirable and an undesirable completion (in this order), or a demonstration of the chosen one. A
    desirable completion becomes a demonstration, an undesirable one becomes nothing.
    """
    if isinstance(example, Paired) and wanted == "unary":
        return [
            Unary(example.prompt, example.chosen, True, *_about(example)),
            Unary(example.prompt, example.rejected, False, *_about(example)),
        ]
    if isinstance(example, Demonstration) or wanted != "sft":
        return [example]
    completion = example.chosen if isinstance(example, Paired) else example.completion
    if isinstance(example, Unary) and not example.desirable:
        return []
    return [Demonstration(example.prompt, completion, *_about(example))]


def _about(example: Example) -> tuple[Any, ...]:
    """What every kind of example has beside its conversation, in the order of its fields."""
    return (
        example.weight,
        example.file,
        example.line,
        example.tools,
        example.template_options,
        example.keep_prompt,
    )


class Pairer:
    """Makes pairs of unary feedback: a desirable and an undesirable completion of the same prompt, each used once.

    The first desirable completion of a prompt meets its first undesirable one, the second the second, and so on. A pair
    has the place of its later half and the mean of both weights. Memory holds what has no partner yet.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, list[Unary]] = {}

    def add(self, example: Unary) -> Iterator[Paired]:
        """The pair that an example completes, if there is one."""
        waiting = self._waiting.setdefault(prompt_key(example.prompt), [])
        if not waiting or waiting[0].desirable == example.desirable:
            waiting.append(example)
            return
        partner = waiting.pop(0)
        chosen, rejected = (example, partner) if example.desirable else (partner, example)
        _, *rest = _about(example)
        weight = (chosen.weight + rejected.weight) / 2
        yield Paired(example.prompt, chosen.completion, rejected.completion, weight, *rest)

    def count_unpaired(self, left_out: LeftOut) -> None:
        """Counts what is left without a partner."""
        for waiting in self._waiting.values():
            for example in waiting:
                kind, other = ("desirable", "undesirable") if example.desirable else ("undesirable", "desirable")
                article = "an" if example.desirable else "a"
                reason = (
                    f"{kind} without {article} {other} completion of the same prompt, so in no pair (UnaryDataModule,"
                    " for KTO, reads them as they are)"
                )
                left_out.add_at(reason, example.file, example.line)


def keeping(example: Example, keep_prompt: str) -> Example:
    """The example with the part of its prompt that stays where it has to be cut."""
    return example if example.keep_prompt == keep_prompt else replace(example, keep_prompt=keep_prompt)  # type: ignore[arg-type]
