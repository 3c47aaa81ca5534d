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
from halo_lightning.data.reading import LeftOut, read_feedback
from halo_lightning.data.rendering import RenderingError, encode_batch
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
    """

    truncation: Truncation
    left_out: dict[str, LeftOut] = field(default_factory=dict)


def prepare(
    sources: Iterable[str],
    feedback: Feedback,
    tokenizer: Any,
    limits: Limits,
    held_out: Callable[[Conversation], bool] | None = None,
) -> tuple[TokenizedDataset, TokenizedDataset, Prepared]:
    """Reads, converts, renders, tokenises and cuts; memory holds the tokens, and a few hundred rows at a time.

    Args:
        sources: See `read_rows`.
        feedback: The kind of feedback that is wanted.
        tokenizer: A tokenizer that went through `prepare_tokenizer`.
        limits: How long an example may be.
        held_out: Whether the examples of a prompt go to the second data set.

    Returns:
        The examples to use, the examples held out, and the counts.

    Raises:
        DataError: Something in the sources cannot be used.
    """
    prepared = Prepared(Truncation(limits, tokenizer.bos_token_id))
    builders = [TokenizedDatasetBuilder(feedback) for _ in range(2)]
    for source in sources:
        left_out = prepared.left_out[source] = LeftOut()
        examples = read_feedback(source, feedback, left_out)
        while chunk := list(itertools.islice(examples, CHUNK)):
            encoded = iter(_encode(tokenizer, chunk, prepared.truncation))
            parts: list[list[tuple[Example, list[Any]]]] = [[], []]
            for example in chunk:
                sequences = list(itertools.islice(encoded, 2 if feedback == "paired" else 1))
                parts[held_out is not None and held_out(example.prompt)].append((example, sequences))
            for builder, part in zip(builders, parts, strict=True):
                builder.add(
                    [sequence for _, sequences in part for sequence in sequences],
                    [example.weight for example, _ in part],
                    [example.desirable for example, _ in part if isinstance(example, Unary)],
                )
    return builders[0].build(), builders[1].build(), prepared


def _encode(tokenizer: Any, chunk: list[Example], truncation: Truncation) -> Iterator[Any]:
    """The tokens of all completions of some examples, in order."""
    texts = [(example, text) for example in chunk for text in _completions(example)]
    try:
        encoded = encode_batch(tokenizer, [example.prompt for example, _ in texts], [text for _, text in texts])
    except RenderingError as error:
        example = texts[error.position][0]
        raise DataError(error.message, file=example.file, line=example.line) from error
    for (example, _), tokens in zip(texts, encoded, strict=True):
        yield truncation.apply(tokens, example.file, example.line)


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
