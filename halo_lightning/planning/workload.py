"""What is trained on: how many examples, of how many tokens, and the batches that they make."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from halo_lightning.data.batches import Batch
from halo_lightning.data.batching import TokenizedDataset
from halo_lightning.data.feedback import Feedback

NAMES = {"paired": "pairs", "unary": "thumbs", "sft": "demonstrations"}


class Workload(Protocol):
    """Examples of one kind of feedback."""

    @property
    def examples(self) -> int:
        """How many there are in an epoch."""

    @property
    def real_tokens(self) -> int:
        """Tokens of all of them, a prompt counted with each of its completions."""

    @property
    def described(self) -> str:
        """Where the numbers come from, for who reads them."""

    def largest(self, micro_batch: int, cached: bool) -> Batch:
        """The micro-batch that takes the most memory, with log-probabilities of the reference if they are cached."""

    def typical(self, examples: int, cached: bool) -> Batch:
        """So many examples that are like the mean."""


@dataclass(frozen=True)
class Assumed:
    """Examples of which only the number and the lengths are known.

    Args:
        feedback: Their kind.
        examples: How many there are in an epoch.
        tokens: Mean tokens of a completion together with its prompt.
        prompt_share: How much of them is the prompt.
        max_length: Most tokens of a completion together with its prompt.
        max_prompt_length: Tokens of the prompt in the largest examples.
        share_prompts: Whether a pair's prompt is computed once.
    """

    feedback: Feedback
    examples: int
    tokens: int
    prompt_share: float
    max_length: int
    max_prompt_length: int
    share_prompts: bool = True

    @property
    def longest_prompt(self) -> int:
        """Tokens of the prompt in the largest examples."""
        return min(self.max_prompt_length, self.max_length - 1)

    @property
    def real_tokens(self) -> int:
        """Tokens of all examples."""
        return self.examples * self.tokens * (2 if self.feedback == "paired" else 1)

    @property
    def described(self) -> str:
        """The assumptions."""
        return (
            f"{self.examples:,} {NAMES[self.feedback]} of {self.tokens:,} tokens a completion, its prompt's"
            f" {self.prompt_share:.0%} included: assumed. Memory is for examples of {self.longest_prompt:,} +"
            f" {self.max_length - self.longest_prompt:,} tokens"
        )

    def largest(self, micro_batch: int, cached: bool) -> Batch:
        """All as long as they can be."""
        return self._batch(micro_batch, self.longest_prompt, self.max_length - self.longest_prompt, cached)

    def typical(self, examples: int, cached: bool) -> Batch:
        """All of the mean length."""
        prompt = max(1, round(self.tokens * self.prompt_share))
        return self._batch(examples, prompt, max(1, self.tokens - prompt), cached)

    def _batch(self, examples: int, prompt: int, completion: int, cached: bool) -> Batch:
        each = 2 if self.feedback == "paired" else 1
        # Each example's prompt begins with its own number, so that only a pair shares one.
        tokens = np.zeros((examples, each, prompt + completion), dtype=np.int32)
        tokens[:, :, 0] = np.arange(examples)[:, None]
        dataset = TokenizedDataset(
            self.feedback,
            tokens=tokens.reshape(-1),
            offsets=np.arange(examples * each + 1, dtype=np.int64) * (prompt + completion),
            prompt_lengths=np.full(examples * each, prompt, dtype=np.int32),
            weights=np.ones(examples, dtype=np.float32),
            desirable=np.arange(examples) % 2 == 0 if self.feedback == "unary" else None,
            share_prompts=self.share_prompts,
        )
        return _batch_of(dataset, np.arange(examples), cached)


class Read:
    """Examples that were read.

    Args:
        dataset: All of them.
        order: Their numbers in the order of the first epoch, in which they are cut into batches.
        source: Where they come from.
    """

    def __init__(self, dataset: TokenizedDataset, order: Iterable[int], source: str) -> None:
        self.dataset, self.source = dataset, source
        self.order = np.fromiter(order, dtype=np.int64)
        lengths = np.diff(dataset.offsets)
        prompts = dataset.prompt_lengths.astype(np.int64)
        if dataset.feedback == "paired":
            lengths = lengths[::2] + lengths[1::2]
            # The two prompts differ where truncation cut them differently.
            shared = np.where(prompts[::2] == prompts[1::2], prompts[::2], 0)
            self._real, self._computed = lengths, lengths - shared * dataset.share_prompts
        else:
            self._real = self._computed = lengths

    @property
    def examples(self) -> int:
        """How many an epoch has."""
        return len(self.order)

    @property
    def real_tokens(self) -> int:
        """Tokens of all examples of an epoch."""
        return int(self._real[self.order].sum())

    @property
    def described(self) -> str:
        """What was read."""
        name = NAMES[self.dataset.feedback]
        return f"{self.examples:,} {name}, {self.real_tokens:,} tokens, read from {self.source}"

    def largest(self, micro_batch: int, cached: bool) -> Batch:
        """The one with the most tokens, of those that the first epoch has."""
        whole = len(self.order) // micro_batch * micro_batch
        batches = (self.order if whole == 0 else self.order[:whole]).reshape(-1, min(micro_batch, len(self.order)))
        return _batch_of(self.dataset, batches[self._computed[batches].sum(1).argmax()], cached)

    def typical(self, examples: int, cached: bool) -> Batch:
        """Evenly from the shortest to the longest."""
        by_length = self.order[np.argsort(self._computed[self.order], kind="stable")]
        count = min(examples, len(by_length))
        middle = (np.arange(count) + 0.5) * len(by_length) / count
        return _batch_of(self.dataset, by_length[middle.astype(np.int64)], cached)


def _batch_of(dataset: TokenizedDataset, examples: NDArray[np.int64], cached: bool) -> Batch:
    size = int(dataset.completion_offsets[-1]) if cached else 0
    dataset.reference_logps = np.zeros(size, dtype=np.float32) if cached else None
    return dataset[examples.tolist()]
