"""Batching: tokenised examples in flat arrays, and the batches that are cut from them."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch.utils.data import Dataset

from halo_lightning.data.batches import Batch, PairedBatch, Sequences, SFTBatch, UnaryBatch, pack
from halo_lightning.data.feedback import Feedback
from halo_lightning.data.rendering import Encoded
from halo_lightning.data.store import Arrays, ArraysInMemory, Growing, picklable, unpickled
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
        hashes: The SHA-256 of the arrays by their names, where they are known from a cache.
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
        hashes: Mapping[str, str] | None = None,
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
        self.hashes = dict(hashes or {})

    @cached_property
    def completion_offsets(self) -> NDArray[np.int64]:
        """Where each completion starts in an array of all tokens that the loss is on, int64 `[sequences + 1]`."""
        if self.learned is None or not len(self.prompt_lengths):
            lengths = np.diff(self.offsets) - self.prompt_lengths
        else:
            lengths = np.add.reduceat(self.learned, self.offsets[:-1], dtype=np.int64)
        return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each example, those of both sequences of a pair, int64 `[examples]`."""
        return np.diff(self.offsets).reshape(-1, self.per_example).sum(-1)

    def __getstate__(self) -> dict[str, Any]:
        """What a worker process that is not forked gets: names of mapped files, and not what is in them."""
        return {name: picklable(value) for name, value in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: unpickled(value) for name, value in state.items()})

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

    def largest_token(self) -> tuple[int, str]:
        """The largest token id, and the place of an example that has it; -1 where there is no token."""
        if not len(self.tokens):
            return -1, ""
        at = int(self.tokens.argmax())
        sequence = int(np.searchsorted(self.offsets, at, side="right")) - 1
        return int(self.tokens[at]), self.place(sequence // self.per_example)

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

    def subset(self, examples: NDArray[np.int64]) -> TokenizedDataset:
        """The examples with these numbers, in this order, numbered from 0."""
        which = np.arange(self.per_example) + self.per_example * examples[:, None]
        which = which.reshape(-1)
        lengths = np.diff(self.offsets)[which]
        places = [np.arange(start, start + length) for start, length in zip(self.offsets[which], lengths, strict=True)]
        tokens = np.concatenate(places) if places else np.zeros(0, np.int64)
        return TokenizedDataset(
            self.feedback,
            tokens=self.tokens[tokens],
            offsets=np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)]),
            prompt_lengths=self.prompt_lengths[which],
            weights=self.weights[examples],
            desirable=None if self.desirable is None else self.desirable[examples],
            learned=None if self.learned is None else self.learned[tokens],
            origins=None if self.origins is None else self.origins[which],
            files=self.files,
            share_prompts=self.share_prompts,
        )


class TokenizedDatasetBuilder:
    """Collects tokenised examples into a `TokenizedDataset`, in arrays all along.

    Args:
        feedback: `sft`, `paired` or `unary`.
        arrays: Where the arrays grow; None is in memory.
    """

    def __init__(self, feedback: Feedback, arrays: Growing | None = None) -> None:
        self.feedback = feedback
        self._arrays = ArraysInMemory() if arrays is None else arrays
        self._end = 0
        self._examples = 0
        self._placed = 0
        self._files: dict[str, int] = {}
        self._append("tokens", [], np.int32)
        self._append("offsets", [0], np.int64)
        self._append("prompt_lengths", [], np.int32)
        self._append("weights", [], np.float32)
        if feedback == "unary":
            self._append("desirable", [], np.bool_)

    def _append(self, name: str, values: Any, dtype: DTypeLike) -> None:
        self._arrays.append(name, np.asarray(values, dtype=dtype))

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
        parts = chain.from_iterable((one.prompt_ids, one.completion_ids) for one in sequences)
        # A million numbers of a list become an array three times as fast by way of this one.
        self._append("tokens", np.frombuffer(array("i", list(chain.from_iterable(parts))), dtype=np.intc), np.int32)
        ends = self._end + np.cumsum([len(s.prompt_ids) + len(s.completion_ids) for s in sequences], dtype=np.int64)
        self._append("offsets", ends, np.int64)
        self._append("prompt_lengths", [len(one.prompt_ids) for one in sequences], np.int32)
        for one in sequences:
            if one.learned is not None:
                self._append("learned", [False] * len(one.prompt_ids) + one.learned, np.bool_)
        self._append("weights", weights, np.float32)
        if self.feedback == "unary":
            self._append("desirable", desirable, np.bool_)
        if places:
            self._append("origins", self._origins_of(sequences, places), ORIGIN)
        if len(ends):
            self._end = int(ends[-1])
        self._examples += len(weights)
        self._placed += len(places)

    def _origins_of(self, sequences: Sequence[Encoded], places: Sequence[tuple[str, int]]) -> NDArray[np.void]:
        each = len(sequences) // len(places)
        numbers = [
            (self._files.setdefault(file, len(self._files)), -line if isinstance(line, RowNumber) else line)
            for file, line in places
        ]
        cuts = [(one.prompt_cut, one.completion_cut) for one in sequences]
        return np.array([(*numbers[i // each], *cut) for i, cut in enumerate(cuts)], dtype=ORIGIN)

    @property
    def about(self) -> dict[str, Any]:
        """What a data set is beside its arrays, as JSON values: the arguments of `dataset_of`."""
        return {"feedback": self.feedback, "files": list(self._files), "placed": self._placed == self._examples}

    def build(self) -> TokenizedDataset:
        """The data set of everything that was added, in memory."""
        if not isinstance(self._arrays, ArraysInMemory):
            raise TypeError("arrays on disk become a data set when their folder has its name: see dataset_of")
        return dataset_of(self._arrays.arrays(), **self.about)


def dataset_of(
    arrays: Arrays, feedback: Feedback, files: Sequence[str], placed: bool, hashes: Mapping[str, str] | None = None
) -> TokenizedDataset:
    """The data set of arrays that a `TokenizedDatasetBuilder` has made.

    Args:
        arrays: Its arrays by their names.
        feedback: `sft`, `paired` or `unary`.
        files: The files that the examples came from.
        placed: Whether it is known where each example came from.
        hashes: The SHA-256 of each array, where they are known.
    """
    named: dict[str, Any] = {"desirable": None, **arrays}
    if not placed:
        named["origins"] = None
    elif "origins" not in named:
        named["origins"] = np.zeros(0, dtype=ORIGIN)
    return TokenizedDataset(feedback, files=files, hashes=hashes, **named)
