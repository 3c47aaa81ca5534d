"""Batching: tokenised examples in flat arrays, and the batches that are cut from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from halo_lightning.data.batches import Batch, PairedBatch, Sequences, SFTBatch, UnaryBatch, pack
from halo_lightning.data.feedback import Feedback
from halo_lightning.data.rendering import Encoded


class TokenizedDataset(Dataset[Batch]):
    """Tokenised examples of one kind of feedback; asked for a list of examples, it gives a batch of them.

    A pair is two sequences that follow each other (chosen, rejected), any other example is one. All tokens lie in
    one array, so that a million examples are a few arrays, shared with worker processes and not copied.

    Args:
        feedback: `sft`, `paired` or `unary`.
        tokens: int32, the tokens of all sequences, one after the other.
        offsets: int64 `[sequences + 1]`, where each sequence starts, and where the last one ends.
        prompt_lengths: int32 `[sequences]`, how many tokens of each are the prompt.
        weights: float32 `[examples]`.
        desirable: bool `[examples]`; for unary feedback.
        share_prompts: Whether a prompt that occurs several times in a batch is computed once.
    """

    reference_logps: NDArray[np.float32] | None = None
    """log π_ref of each token of each completion, in nats, one sequence after the other, once they are known."""

    def __init__(
        self,
        feedback: Feedback,
        *,
        tokens: NDArray[np.int32],
        offsets: NDArray[np.int64],
        prompt_lengths: NDArray[np.int32],
        weights: NDArray[np.float32],
        desirable: NDArray[np.bool_] | None,
        share_prompts: bool = True,
    ) -> None:
        self.feedback = feedback
        self.tokens = tokens
        self.offsets = offsets
        self.prompt_lengths = prompt_lengths
        self.weights = weights
        self.desirable = desirable
        self.share_prompts = share_prompts
        self.completion_offsets = np.concatenate([[0], np.cumsum(np.diff(offsets) - prompt_lengths, dtype=np.int64)])
        """Where each completion starts in an array of the tokens of all completions, int64 `[sequences + 1]`."""

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, examples: int | Sequence[int]) -> Batch:
        """A batch of the examples with these numbers, in this order; of one example for a single number."""
        which = np.atleast_1d(np.asarray(examples, dtype=np.int64))
        if len(which) and not (which.min() >= 0 and which.max() < len(self)):
            raise IndexError(f"there are {len(self)} examples, numbered from 0; asked for {which.tolist()}")
        index, weight = torch.from_numpy(which), torch.from_numpy(self.weights[which])
        if self.feedback == "paired":
            return PairedBatch(self.sequences(np.concatenate([2 * which, 2 * which + 1])), weight, index)
        if self.feedback == "sft":
            return SFTBatch(self.sequences(which), weight, index)
        assert self.desirable is not None
        return UnaryBatch(self.sequences(which), torch.from_numpy(self.desirable[which]), weight, index)

    def sequences(self, which: NDArray[np.int64]) -> Sequences:
        """The sequences with these numbers, in one flat row, with the reference's log-probabilities if known."""
        starts, ends = self.offsets[which], self.offsets[which + 1]
        middles = starts + self.prompt_lengths[which]
        logps = None
        if self.reference_logps is not None:
            first, last = self.completion_offsets[which], self.completion_offsets[which + 1]
            logps = [self.reference_logps[a:b] for a, b in zip(first, last, strict=True)]
        return pack(
            [self.tokens[a:b] for a, b in zip(starts, middles, strict=True)],
            [self.tokens[a:b] for a, b in zip(middles, ends, strict=True)],
            reference_logps=logps,
            share_prompts=self.share_prompts,
        )


class TokenizedDatasetBuilder:
    """Collects tokenised examples into a `TokenizedDataset`, in arrays all along.

    Args:
        feedback: `sft`, `paired` or `unary`.
    """

    def __init__(self, feedback: Feedback) -> None:
        self.feedback = feedback
        self._tokens: list[NDArray[np.int32]] = []
        self._lengths: list[NDArray[Any]] = []
        self._prompt_lengths: list[NDArray[np.int32]] = []
        self._weights: list[NDArray[np.float32]] = []
        self._desirable: list[NDArray[np.bool_]] = []

    def add(self, sequences: Sequence[Encoded], weights: Sequence[float], desirable: Sequence[bool]) -> None:
        """Adds some examples.

        Args:
            sequences: One for each example; two for each pair, chosen and rejected.
            weights: One for each example.
            desirable: One for each example of unary feedback, else empty.
        """
        tokens = [token for prompt, completion in sequences for part in (prompt, completion) for token in part]
        self._tokens.append(np.array(tokens, dtype=np.int32))
        self._lengths.append(np.array([len(p) + len(c) for p, c in sequences], dtype=np.int64))
        self._prompt_lengths.append(np.array([len(p) for p, _ in sequences], dtype=np.int32))
        self._weights.append(np.array(weights, dtype=np.float32))
        self._desirable.append(np.array(desirable, dtype=np.bool_))

    def build(self) -> TokenizedDataset:
        """The data set of everything that was added."""
        lengths = _joined(self._lengths, np.int64)
        return TokenizedDataset(
            self.feedback,
            tokens=_joined(self._tokens, np.int32),
            offsets=np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)]),
            prompt_lengths=_joined(self._prompt_lengths, np.int32),
            weights=_joined(self._weights, np.float32),
            desirable=_joined(self._desirable, np.bool_) if self.feedback == "unary" else None,
        )


def _joined(parts: list[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)
