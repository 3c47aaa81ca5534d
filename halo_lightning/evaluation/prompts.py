"""The prompts that models are compared on, each with the completion that a human chose."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from halo_lightning.data.base import FeedbackDataModule
from halo_lightning.data.conversations import Conversation, text_of
from halo_lightning.data.conversion import prompt_key
from halo_lightning.data.feedback import Example, Feedback, Unary, completions_of
from halo_lightning.data.kinds import sniff
from halo_lightning.data.preparation import held_out_by_prompt
from halo_lightning.data.selection import Mixture
from halo_lightning.data.sources import Source, oasst, read_rows, shp
from halo_lightning.data.sources.bad_rows import BadRows
from halo_lightning.data.sources.columns import named
from halo_lightning.errors import ConfigError, DataError


@dataclass(frozen=True)
class Question:
    """One prompt.

    Attributes:
        prompt: The conversation.
        chosen: The completion that a human chose, out of two perhaps: it can be improved upon.
        tools: What the chat template is told of.
        template_options: What else it is given by name.
    """

    prompt: Conversation
    chosen: str
    tools: tuple[dict[str, Any], ...] | None = None
    template_options: dict[str, Any] | None = None

    @property
    def id(self) -> str:
        """What identifies the prompt, in all files and for all seeds."""
        return hashlib.blake2b(prompt_key(self.prompt).encode(), digest_size=8).hexdigest()


def kind_of_source(source: Source, bad: BadRows) -> Feedback:
    """As what a source is read so that its chosen completions are found: its first row says it."""
    row = next(iter(read_rows(source, bad)))
    row = named(row, source.columns)
    keys = row.values.keys()
    if keys >= shp.COLUMNS or oasst.is_oasst(keys):
        return "paired"
    kind = sniff(row.values)
    # Texts without a prompt of their own are pairs, too; what is no feedback at all is refused when it is read.
    return "paired" if kind in ("paired", "rated") else "unary" if kind == "unary" else "sft"


def read_questions(
    sources: Sequence[str | Source],
    count: int,
    seed: int,
    *,
    wanted: Callable[[Conversation], bool] | None = None,
    bad: BadRows | None = None,
) -> list[Question]:
    """Different prompts from sources of feedback of any kind, each with its (first) chosen completion.

    Which ones are taken is decided by a hash of the prompt and the seed, so neither their order nor how often a prompt
    comes matters. They are returned in the order in which they first come.

    Args:
        sources: Where from.
        count: The most prompts to take.
        seed: Which ones are taken where there are more.
        wanted: Whether a prompt is among those to choose from; None takes all.
        bad: What happens to a row that cannot be used; None raises its error.

    Raises:
        DataError: There is no prompt, or a row cannot be used.
    """
    if count < 1:
        raise ConfigError(f"count is {count}: expected 1 or more prompts")
    listed = [Source.of(source) for source in sources]
    bad = BadRows() if bad is None else bad
    kinds = {kind_of_source(source, bad.quiet()) for source in listed}
    # Pairs can be read as thumbs, and both as demonstrations.
    kind: Feedback = "sft" if "sft" in kinds else "unary" if "unary" in kinds else "paired"
    taken: dict[bytes, tuple[int, Question]] = {}
    largest: list[tuple[bytes, bytes]] = []  # a heap of the taken ones, the one that goes first on top
    for place, example in enumerate(Mixture(listed, kind, seed).examples(bad)):
        if (isinstance(example, Unary) and not example.desirable) or not example.prompt:  # a text without a prompt
            continue
        if wanted is not None and not wanted(example.prompt):
            continue
        digest = hashlib.blake2b(f"{seed}\n{prompt_key(example.prompt)}".encode(), digest_size=16).digest()
        if digest in taken or (len(taken) == count and digest > largest[0][1]):
            continue
        question = Question(example.prompt, _chosen(example), example.tools, example.template_options)
        taken[digest] = (place, question)
        heapq.heappush(largest, (_reversed(digest), digest))
        if len(taken) > count:
            del taken[heapq.heappop(largest)[1]]
    if not taken:
        raise DataError(
            "found no prompt with a chosen completion" + (" that is held out" if wanted is not None else ""),
            file=", ".join(map(str, listed)),
        )
    return [question for _, question in sorted(taken.values(), key=lambda pair: pair[0])]


def _chosen(example: Example) -> str:
    return text_of(completions_of(example)[0]).strip()


def _reversed(digest: bytes) -> bytes:
    """Sorts the other way round."""
    return bytes(255 - byte for byte in digest)


def held_out_questions(
    data: FeedbackDataModule, count: int, seed: int, *, bad: BadRows | None = None
) -> list[Question]:
    """Prompts of the held-out feedback of a data module, which no training with it has seen.

    Raises:
        ConfigError: It holds out nothing.
    """
    if data.validation_sources:
        return read_questions(data.validation_sources, count, seed, bad=bad)
    if data.validation_fraction == 0:
        raise ConfigError(
            "the configuration holds out no feedback (validation_fraction is 0, and there is no validation source):"
            " name a source of prompts with --prompts"
        )
    held_out = held_out_by_prompt(data.validation_fraction, data.seed)
    return read_questions(data.train_sources, count, seed, wanted=held_out, bad=bad)
