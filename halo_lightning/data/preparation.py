"""Preparation: from sources to tokenised data sets, in one pass, counting all that is left out, cut or held out."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from halo_lightning.data.batching import TokenizedDataset, TokenizedDatasetBuilder
from halo_lightning.data.conversations import Conversation
from halo_lightning.data.feedback import Example, Feedback, Paired, Unary
from halo_lightning.data.rendering import Encoded, RenderingError, encode_batch, generation_tail
from halo_lightning.data.selection import Mixture
from halo_lightning.data.sources.bad_rows import BadRows
from halo_lightning.data.sources.config import KeepPrompt, Source
from halo_lightning.data.sources.left_out import LeftOut
from halo_lightning.data.sources.rows import Row
from halo_lightning.data.truncation import Limits, Truncation
from halo_lightning.errors import DataError

CHUNK = 512
"""Examples that are tokenised in one call."""


@dataclass
class Prepared:
    """What came of some sources.

    Attributes:
        truncation: What was cut.
        left_out: For each source, the rows that were left out.
        notes: What the selection and the mixture left out, one line for each source.
        bad_rows: The rows that were skipped because they cannot be used.
    """

    truncation: Truncation
    left_out: dict[str, LeftOut] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    bad_rows: BadRows = field(default_factory=BadRows)


def prepare(
    sources: Iterable[str | Source],
    feedback: Feedback,
    tokenizer: Any,
    limits: Limits,
    held_out: Callable[[Conversation], bool] | None = None,
    *,
    seed: int = 1,
    bad_rows: BadRows | None = None,
    all_turns: bool = False,
    keep_prompt: KeepPrompt | None = None,
) -> tuple[TokenizedDataset, TokenizedDataset, Prepared]:
    """Reads, mixes, converts, renders, tokenises and cuts; memory holds the tokens, and a few hundred rows at a time.

    Args:
        sources: See `Source`; a path alone is one, too.
        feedback: The kind of feedback that is wanted.
        tokenizer: A tokenizer that went through `prepare_tokenizer`.
        limits: How long an example may be.
        held_out: Whether the examples of a prompt go to the second data set.
        seed: Of what is drawn at random, where a source has no seed of its own.
        bad_rows: What happens to a row that cannot be used; None raises its error.
        all_turns: Whether the loss is on all turns of the assistant; for demonstrations.
        keep_prompt: Which part of a prompt stays where it has to be cut, for sources that do not say.

    Returns:
        The examples to use, the examples held out, and the counts.

    Raises:
        DataError: Something in the sources cannot be used.
    """
    bad = BadRows() if bad_rows is None else bad_rows
    mixture = Mixture(sources, feedback, seed, keep_prompt)
    truncation = Truncation(limits, tokenizer.bos_token_id, generation_tail(tokenizer))
    prepared = Prepared(truncation, mixture.left_out, mixture.notes, bad)
    builders = [TokenizedDatasetBuilder(feedback) for _ in range(2)]
    examples = mixture.examples(bad)
    while chunk := list(itertools.islice(examples, CHUNK)):
        parts: list[list[tuple[Example, list[Encoded]]]] = [[], []]
        for example, sequences in _encode(tokenizer, chunk, truncation, bad, all_turns):
            parts[held_out is not None and held_out(example.prompt)].append((example, sequences))
        for builder, part in zip(builders, parts, strict=True):
            builder.add(
                [sequence for _, sequences in part for sequence in sequences],
                [example.weight for example, _ in part],
                [example.desirable for example, _ in part if isinstance(example, Unary)],
                [(example.file, example.line) for example, _ in part],
            )
    return builders[0].build(), builders[1].build(), prepared


def _encode(
    tokenizer: Any, chunk: list[Example], truncation: Truncation, bad: BadRows, all_turns: bool
) -> Iterator[tuple[Example, list[Encoded]]]:
    """Some examples, each with the tokens of its completions."""
    texts = [(example, text) for example in chunk for text in _completions(example)]
    try:
        encoded = iter(
            encode_batch(
                tokenizer,
                [example.prompt for example, _ in texts],
                [text for _, text in texts],
                [example.tools for example, _ in texts],
                all_turns=all_turns,
            )
        )
    except RenderingError as error:
        if len(chunk) > 1 and bad.action == "skip":  # all but those that fail can be used
            for example in chunk:
                yield from _encode(tokenizer, [example], truncation, bad, all_turns)
            return
        example = texts[error.position][0]
        _refuse(DataError(error.message, file=example.file, line=example.line), example, bad, error)
        return
    for example in chunk:
        sequences = list(itertools.islice(encoded, len(_completions(example))))
        if truncation.drop(sequences, example.file, example.line):
            continue
        try:
            cut = [truncation.apply(one, example.file, example.line, example.keep_prompt) for one in sequences]
        except DataError as error:
            _refuse(error, example, bad, error)
            continue
        yield example, cut


def _refuse(error: DataError, example: Example, bad: BadRows, cause: Exception) -> None:
    values = {"prompt": list(example.prompt), "completions": list(_completions(example))}
    try:
        bad.refuse(error, Row(values, example.file, example.line))
    except DataError as refused:
        raise refused from (cause if cause is not refused else None)


def _completions(example: Example) -> tuple[str, ...]:
    return (example.chosen, example.rejected) if isinstance(example, Paired) else (example.completion,)


def held_out_by_prompt(fraction: float, seed: int) -> Callable[[Conversation], bool]:
    """Whether a prompt is held out: decided by a hash of the prompt and the seed, so always the same way.

    All examples of a prompt are on the same side, in every file, in every order, for every kind of feedback.
    """

    def held_out(prompt: Conversation) -> bool:
        text = json.dumps([[message["role"], message["content"]] for message in prompt])
        digest = hashlib.blake2b(f"{seed}\n{text}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < fraction * 2**64

    return held_out
