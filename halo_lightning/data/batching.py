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
from halo_lightning.errors import RowNumber, place

ORIGIN = np.dtype([("file", "<i4"), ("line", "<i4"), ("prompt_cut", "<i4"), ("completion_cut", "<i4")])
"""Where a sequence came from: the number of its file, its line there (below 0: the number of a row, in a source that
has no lines), and how many tokens of its prompt and of its completion were cut."""


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
        learned: bool, as long as `tokens`: which of them the loss is on. The first token of every completion is, and
            none of a prompt. None is all tokens of the completions.
        origins: `ORIGIN` `[sequences]`, where each one came from; None where nobody noted it.
        files: The files that `origins` counts, from 0.
        share_prompts: Whether a prompt that occurs several times in a batch is computed once.
    """

    reference_logps: NDArray[np.float32] | None = None
    """log π_ref of each token that the loss is on, in nats, one sequence after the other, once they are known."""

    def __init__(
        self,
        feedback: Feedback,
        *,
        tokens: NDArray[np.int32],
        offsets: NDArray[np.int64],
        prompt_lengths: NDArray[np.int32],
        weights: NDArray[np.float32],
        desirable: NDArray[np.bool_] | None,
        learned: NDArray[np.bool_] | None = None,
        origins: NDArray[np.void] | None = None,
        files: Sequence[str] = (),
        share_prompts: bool = True,
    ) -> None:
        self.feedback = feedback
        self.tokens = tokens
        self.offsets = offsets
        self.prompt_lengths = prompt_lengths
        self.weights = weights
        self.desirable = desirable
        self.learned = learned
        self.origins, self.files = origins, tuple(files)
        self.share_prompts = share_prompts
        if learned is None or not len(prompt_lengths):
            lengths = np.diff(offsets) - prompt_lengths
        else:
            lengths = np.add.reduceat(learned, offsets[:-1], dtype=np.int64)
        self.completion_offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        """Where each completion starts in an array of all tokens that the loss is on, int64 `[sequences + 1]`."""

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

    @property
    def per_example(self) -> int:
        """How many sequences make up an example."""
        return 2 if self.feedback == "paired" else 1

    def place(self, example: int, *, with_file: bool = True) -> str:
        """File and line that an example came from, or the line alone; empty where nobody noted it."""
        if self.origins is None:
            return ""
        origin = self.origins[example * self.per_example]
        line = int(origin["line"])
        return place(self.files[origin["file"]] if with_file else None, RowNumber(-line) if line < 0 else line)

    def sequences(self, which: NDArray[np.int64]) -> Sequences:
        """The sequences with these numbers, in one flat row, with the reference's log-probabilities if known."""
        starts, ends = self.offsets[which], self.offsets[which + 1]
        middles = starts + self.prompt_lengths[which]
        logps = None
        if self.reference_logps is not None:
            first, last = self.completion_offsets[which], self.completion_offsets[which + 1]
            logps = [self.reference_logps[a:b] for a, b in zip(first, last, strict=True)]
        learned = self.learned
        return pack(
            [self.tokens[a:b] for a, b in zip(starts, middles, strict=True)],
            [self.tokens[a:b] for a, b in zip(middles, ends, strict=True)],
            learned=None if learned is None else [learned[a:b] for a, b in zip(middles, ends, strict=True)],
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
        self._learned: list[NDArray[np.bool_]] = []
        self._origins: list[NDArray[np.void]] = []
        self._files: dict[str, int] = {}

    def add(
        self,
        sequences: Sequence[Encoded],
        weights: Sequence[float],
        desirable: Sequence[bool],
        places: Sequence[tuple[str, int]] = (),
    ) -> None:
        """Adds some examples.

        Args:
            sequences: One for each example; two for each pair, chosen and rejected.
            weights: One for each example.
            desirable: One for each example of unary feedback, else empty.
            places: File and line of each example, or of none.
        """
        tokens = [token for one in sequences for part in (one.prompt_ids, one.completion_ids) for token in part]
        self._tokens.append(np.array(tokens, dtype=np.int32))
        self._lengths.append(np.array([len(s.prompt_ids) + len(s.completion_ids) for s in sequences], dtype=np.int64))
        self._prompt_lengths.append(np.array([len(one.prompt_ids) for one in sequences], dtype=np.int32))
        for one in sequences:
            if one.learned is not None:
                self._learned.append(np.array([False] * len(one.prompt_ids) + one.learned, dtype=np.bool_))
        self._weights.append(np.array(weights, dtype=np.float32))
        self._desirable.append(np.array(desirable, dtype=np.bool_))
        if places:
            self._origins.append(self._origins_of(sequences, places))

    def _origins_of(self, sequences: Sequence[Encoded], places: Sequence[tuple[str, int]]) -> NDArray[np.void]:
        each = len(sequences) // len(places)
        numbers = [
            (self._files.setdefault(file, len(self._files)), -line if isinstance(line, RowNumber) else line)
            for file, line in places
        ]
        cuts = [(one.prompt_cut, one.completion_cut) for one in sequences]
        return np.array([(*numbers[i // each], *cut) for i, cut in enumerate(cuts)], dtype=ORIGIN)

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
            learned=_joined(self._learned, np.bool_) if self._learned else None,
            origins=_joined(self._origins, ORIGIN) if self._origins or not self._lengths else None,
            files=tuple(self._files),
        )


def _joined(parts: list[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)
