"""Preparation: from sources to tokenised data sets, in one pass, counting all that is left out, cut or held out."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from halo_lightning.data.batching import TokenizedDataset, TokenizedDatasetBuilder
from halo_lightning.data.conversations import Conversation
from halo_lightning.data.feedback import Example, Feedback, Unary, completions_of, known_by
from halo_lightning.data.rendering import (
    Encoded,
    Rendered,
    RenderingError,
    finish_batch,
    generation_tail,
    render_batch,
    tokenize_batch,
)
from halo_lightning.data.selection import Mixture
from halo_lightning.data.sources.bad_rows import BadRows
from halo_lightning.data.sources.config import KeepPrompt, Source
from halo_lightning.data.sources.left_out import LeftOut
from halo_lightning.data.sources.rows import Row
from halo_lightning.data.truncation import Limits, Truncation
from halo_lightning.errors import DataError

CHUNK = 128
"""Examples that are tokenised in one call: what becomes of them stays in the processor's caches."""

TOKENIZING = 2
"""Threads that wait for the tokenizer: while one of them waits for Python, the other one's call keeps it busy."""

Tokenized = tuple[Example, list[Encoded]]
"""An example with the tokens of its completions."""


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

    def reasons(self) -> list[str]:
        """Everything that was left out, one line each."""
        left_out = [f"{source}: {rows}" for source, rows in self.left_out.items() if len(rows)]
        dropped = [str(self.truncation)] if self.truncation.dropped else []
        return [*left_out, *self.notes, *dropped, *([str(self.bad_rows)] if self.bad_rows.count else [])]

    def as_plain_data(self) -> dict[str, Any]:
        """All but the bad rows, as JSON values."""
        truncation = {name: value for name, value in vars(self.truncation).items() if name != "limits"}
        left_out = [[source, rows.as_plain_data()] for source, rows in self.left_out.items()]
        return {"truncation": truncation, "left_out": left_out, "notes": self.notes}

    @classmethod
    def of(cls, plain: dict[str, Any], limits: Limits, bad: BadRows) -> Prepared:
        """What `as_plain_data` was made of."""
        left_out = {source: LeftOut.of(rows) for source, rows in plain["left_out"]}
        return cls(Truncation(limits, **plain["truncation"]), left_out, list(plain["notes"]), bad)


class Encoder:
    """Makes tokens of examples within limits, and counts what is cut.

    Args:
        tokenizer: A tokenizer that went through `prepare_tokenizer`.
        limits: How long an example may be.
        all_turns: Whether the loss is on all turns of the assistant; for demonstrations.

    Attributes:
        truncation: What was cut.
    """

    def __init__(self, tokenizer: Any, limits: Limits, *, all_turns: bool = False) -> None:
        self.tokenizer, self.all_turns = tokenizer, all_turns
        self.truncation = Truncation(limits, tokenizer.bos_token_id, generation_tail(tokenizer))

    def __call__(self, examples: Sequence[Example], bad: BadRows) -> Iterator[Tokenized]:
        """Some examples, each with the tokens of its completions; not those that cannot be used."""
        for rendered in self.render(examples, bad):
            yield from self.finish(rendered, tokenize_batch(self.tokenizer, rendered.texts), bad)

    def render(self, examples: Sequence[Example], bad: BadRows) -> Iterator[_RenderedExamples]:
        """The first part: the texts of some examples, all of them together, or each alone if one of them fails."""
        texts = [(example, completion) for example in examples for completion in completions_of(example)]
        try:
            rendered = render_batch(
                self.tokenizer,
                [example.prompt for example, _ in texts],
                [completion for _, completion in texts],
                [example.tools for example, _ in texts],
                [example.template_options for example, _ in texts],
                all_turns=self.all_turns,
            )
        except RenderingError as error:
            if len(examples) > 1 and bad.action == "skip":  # all but those that fail can be used
                for example in examples:
                    yield from self.render([example], bad)
                return
            example = texts[error.position][0]
            _refuse(DataError(error.message, file=example.file, line=example.line), example, bad, error)
            return
        yield _RenderedExamples(examples, rendered)

    def finish(self, rendered: _RenderedExamples, tokenized: list[Any], bad: BadRows) -> Iterator[Tokenized]:
        """The last part: tokens within the limits."""
        encoded = iter(finish_batch(self.tokenizer, rendered.texts, tokenized))
        for example in rendered.examples:
            sequences = list(itertools.islice(encoded, len(completions_of(example))))
            if self.truncation.drop(sequences, example.file, example.line):
                continue
            try:
                cut = [self.truncation.apply(one, example.file, example.line, example.keep_prompt) for one in sequences]
            except DataError as error:
                _refuse(error, example, bad, error)
                continue
            yield example, cut


class _RenderedExamples(NamedTuple):
    examples: Sequence[Example]
    texts: Rendered


@dataclass(frozen=True)
class Preparation:
    """What is to be made of which sources: with the content of the sources, it decides every token.

    Args:
        sources: What to read.
        feedback: The kind of feedback that is wanted.
        limits: How long an example may be.
        held_out: How large a part of the prompts goes to the second data set.
        seed: Of what is held out, and of what is drawn at random where a source has no seed of its own.
        all_turns: Whether the loss is on all turns of the assistant; for demonstrations.
        keep_prompt: Which part of a prompt stays where it has to be cut, for sources that do not say.
        most: Most examples that are read of the sources, the first ones; None is all of them.
    """

    sources: tuple[Source, ...]
    feedback: Feedback
    limits: Limits
    held_out: float = 0.0
    seed: int = 1
    all_turns: bool = False
    keep_prompt: KeepPrompt | None = None
    most: int | None = None

    def mixture(self) -> Mixture:
        """The examples."""
        return Mixture(self.sources, self.feedback, self.seed, self.keep_prompt)

    def run(
        self, tokenizer: Any, bad: BadRows, builders: tuple[TokenizedDatasetBuilder, TokenizedDatasetBuilder]
    ) -> Prepared:
        """Reads, mixes, converts, renders, tokenises and cuts; memory holds some hundred rows at a time.

        Args:
            tokenizer: A tokenizer that went through `prepare_tokenizer`.
            bad: What happens to a row that cannot be used.
            builders: What the tokens go to: those to use, those held out.

        Returns:
            The counts.

        Raises:
            DataError: Something in the sources cannot be used.
        """
        encoder = Encoder(tokenizer, self.limits, all_turns=self.all_turns)
        mixture = self.mixture()
        held_out = held_out_by_prompt(self.held_out, self.seed) if self.held_out else None
        for tokenized in _in_chunks(encoder, itertools.islice(mixture.examples(bad), self.most), bad):
            parts: tuple[list[Tokenized], list[Tokenized]] = ([], [])
            for example, sequences in tokenized:
                parts[held_out is not None and held_out(known_by(example))].append((example, sequences))
            for builder, part in zip(builders, parts, strict=True):
                add(builder, part)
        return Prepared(encoder.truncation, mixture.left_out, mixture.notes, bad)


def prepare(
    preparation: Preparation, tokenizer: Any, bad: BadRows | None = None
) -> tuple[TokenizedDataset, TokenizedDataset, Prepared]:
    """Prepares in memory.

    Args:
        preparation: What is to be made of which sources.
        tokenizer: A tokenizer that went through `prepare_tokenizer`.
        bad: What happens to a row that cannot be used; None raises its error.

    Returns:
        The examples to use, the examples held out, and the counts.

    Raises:
        DataError: Something in the sources cannot be used.
    """
    builders = TokenizedDatasetBuilder(preparation.feedback), TokenizedDatasetBuilder(preparation.feedback)
    prepared = preparation.run(tokenizer, BadRows() if bad is None else bad, builders)
    return builders[0].build(), builders[1].build(), prepared


def require_examples(
    name: str, used: TokenizedDataset, held_out: TokenizedDataset, prepared: Prepared, fraction: float
) -> None:
    """Refuses sources that gave no example, and says what became of their rows.

    Args:
        name: What the examples are for.
        used: The examples to use.
        held_out: The examples held out.
        prepared: What was left out.
        fraction: How large a part was to be held out.

    Raises:
        DataError: There is no example to use.
    """
    if len(used):
        return
    reasons = prepared.reasons()
    if len(held_out):
        reasons.append(f"validation_fraction={fraction} held out all {len(held_out)} examples")
    raise DataError(f"there is no example for {name}: {'; '.join(reasons)}", file=", ".join(prepared.left_out) or None)


def add(builder: TokenizedDatasetBuilder, part: Sequence[Tokenized]) -> None:
    """Adds examples with their tokens to a data set in the making."""
    builder.add(
        [sequence for _, sequences in part for sequence in sequences],
        [example.weight for example, _ in part],
        [example.desirable for example, _ in part if isinstance(example, Unary)],
        [(example.file, example.line) for example, _ in part],
    )


def _in_chunks(encoder: Encoder, examples: Iterator[Example], bad: BadRows) -> Iterator[Iterator[Tokenized]]:
    """The examples with their tokens, chunk after chunk.

    While the tokenizer works on chunks in threads of their own, on all processors and without Python, the next chunk is
    read and rendered.
    """
    with ThreadPoolExecutor(TOKENIZING, thread_name_prefix="tokenizer") as pool:
        waiting: deque[tuple[_RenderedExamples, Future[list[Any]]]] = deque()

        def finished(left: int) -> Iterator[Iterator[Tokenized]]:
            while len(waiting) > left:
                rendered, tokenized = waiting.popleft()
                yield encoder.finish(rendered, tokenized.result(), bad)

        try:
            while chunk := list(itertools.islice(examples, CHUNK)):
                for rendered in encoder.render(chunk, bad):
                    waiting.append((rendered, pool.submit(tokenize_batch, encoder.tokenizer, rendered.texts)))
                    yield from finished(TOKENIZING)
        except DataError:
            yield from finished(0)  # what is wrong with an earlier row is said first
            raise
        yield from finished(0)


def _refuse(error: DataError, example: Example, bad: BadRows, cause: Exception) -> None:
    values = {"prompt": list(example.prompt), "completions": list(completions_of(example))}
    try:
        bad.refuse(error, Row(values, example.file, example.line))
    except DataError as refused:
        raise refused from (cause if cause is not refused else None)


def held_out_by_prompt(fraction: float, seed: int) -> Callable[[Conversation], bool]:
    """Whether a prompt is held out: decided by a hash of the prompt and the seed, so always the same way.

    All examples of a prompt are on the same side, in every file, in every order, for every kind of feedback.
    """

    def held_out(prompt: Conversation) -> bool:
        text = json.dumps([[message["role"], message["content"]] for message in prompt])
        digest = hashlib.blake2b(f"{seed}\n{text}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < fraction * 2**64

    return held_out
