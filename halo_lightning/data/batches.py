"""What a data module hands to a module: named tuples of tensors, each field with its shape.

The sequences of a batch stand one after the other in one flat row. There is no padding in it, and a prompt that
several completions share (both of a pair) stands in it once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Segments(NamedTuple):
    """Which tokens of a flat row attend to which: one segment of consecutive tokens for each of R sequences.

    A token attends to itself and to what comes before it in its own sequence. That is what comes before it in its
    segment and, where the prompt stands in the segment of an earlier sequence, that prompt.

    Attributes:
        query_lengths: Number of tokens in each segment.
        key_lengths: Number of tokens in each sequence: those of the segment, and of a prompt that stands elsewhere.
        query_bounds: int32 `[R + 1]`, where each segment starts in the row, and where the last one ends.
        key_bounds: int32 `[R + 1]`, the same for the sequences, in `order`.
        order: int64 `[sum of key_lengths]`, the places in the row of the tokens of each sequence, one sequence after
            the other. None where no prompt is shared: that is the row itself then.
    """

    query_lengths: tuple[int, ...]
    key_lengths: tuple[int, ...]
    query_bounds: Tensor
    key_bounds: Tensor
    order: Tensor | None


class Sequences(NamedTuple):
    """R prompts with a completion each, in one flat row of T tokens.

    Attributes:
        input_ids: int64 `[T]`, the tokens of prompts, completions and ends of sequences.
        position_ids: int64 `[T]`, each token's position in its own sequence.
        segments: Which tokens attend to which.
        targets: int64 `[K]`, the tokens that the loss is on, sequence after sequence: those of the completions, the
            end-of-sequence tokens included; where a completion has turns of others in it, those of the assistant's.
        predictors: int64 `[K]`, the place in the row of the token before each target, from which it is predicted.
        predicting: int64 `[U]`, the places among `predictors`, in order, each once: completions that share a prompt
            have the predictor of their first token in common.
        completion_mask: bool `[R, C]`, the first columns of each row: a table with a row for each completion, the
            longest of C targets.
        cells: int64 `[K]`, the place of each target in that table, counted row by row.
        reference_logps: float32 `[K]`, log π_ref of each target, in nats; None where they were not computed yet.
    """

    input_ids: Tensor
    position_ids: Tensor
    segments: Segments
    targets: Tensor
    predictors: Tensor
    predicting: Tensor
    completion_mask: Tensor
    cells: Tensor
    reference_logps: Tensor | None = None

    @property
    def real_tokens(self) -> int:
        """Number of tokens of all sequences, a shared prompt counted for each of its completions."""
        return sum(self.segments.key_lengths)

    @property
    def lengths(self) -> Tensor:
        """Number of targets of each completion, int64 `[R]`."""
        return self.completion_mask.sum(-1)

    def table(self, values: Tensor) -> Tensor:
        """One value per target, `[K]`, as a table `[R, C]` with 0 where a completion has no token."""
        # By places and not by the mask, whose true entries a GPU would have to count before it could go on.
        shape = self.completion_mask.shape
        return values.new_zeros(shape.numel()).index_copy(0, self.cells, values).view(shape)

    def of_targets(self, table: Tensor) -> Tensor:
        """One value per target, `[K]`, from a table `[R, C]`: the inverse of `table`."""
        return table.flatten().index_select(0, self.cells)

    def unpacked(self) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """Prompt and completion of each sequence, as they were given to `pack`."""
        order = self.segments.order
        ids = (self.input_ids if order is None else self.input_ids[order]).cpu().numpy()
        bounds = np.cumsum(self.segments.key_lengths)[:-1]
        # The first token of every completion is a target, and its predictor the last one of the prompt.
        ends = [int(places[0]) + 1 for places in self._positions_of_predictors()]
        return [(row[:end], row[end:]) for row, end in zip(np.split(ids, bounds), ends, strict=True)]

    def learned(self) -> list[NDArray[np.bool_]]:
        """Which tokens of each completion are targets, as they were given to `pack`."""
        masks = []
        for places, length in zip(self._positions_of_predictors(), self.segments.key_lengths, strict=True):
            masks.append(np.zeros(length - 1 - places[0], dtype=np.bool_))
            masks[-1][places - places[0]] = True
        return masks

    def _positions_of_predictors(self) -> list[NDArray[np.int64]]:
        """The position of each target's predictor in its own sequence, one array for each sequence."""
        positions = self.position_ids[self.predictors].cpu().numpy()
        return np.split(positions, self.lengths.cumsum(0)[:-1].cpu().numpy()) if len(self.lengths) else []


def pack(
    prompts: Sequence[NDArray[Any]],
    completions: Sequence[NDArray[Any]],
    *,
    learned: Sequence[NDArray[np.bool_]] | None = None,
    reference_logps: Sequence[NDArray[np.float32]] | None = None,
    share_prompts: bool = True,
) -> Sequences:
    """Puts prompts and completions into one flat row.

    Args:
        prompts: Tokens of each prompt, at least one.
        completions: Tokens of each completion, at least one.
        learned: Which tokens of each completion the loss is on, the first one always; None is all of them.
        reference_logps: log π_ref of each token that the loss is on; None where there are none.
        share_prompts: Whether a prompt that occurs several times stands in the row once.

    Example:
        Two completions of the prompt 1 2, and one of the prompt 3::

            pack([[1, 2], [1, 2], [3]], [[4, 5], [6], [7]])

            input_ids          1  2  4  5 | 6 | 3  7     three segments
            position_ids       0  1  2  3 | 2 | 0  1
            segments.order     0  1  2  3 | 0  1  4 | 5  6     three sequences: 6 comes after 1 2
            targets            4  5 | 6 | 7
            predictors         1  2 | 1 | 5     4 and 6 are both predicted from the prompt's last token
            completion_mask    [[1, 1], [1, 0], [1, 0]]
    """
    place_of_prompt: dict[bytes, int] = {}
    ids: list[NDArray[Any]] = []
    positions: list[NDArray[np.int64]] = []
    sequences: list[NDArray[np.int64]] = []
    predictors: list[NDArray[np.int64]] = []
    targets = [np.asarray(completion) for completion in completions]
    end = 0
    for number, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        start, begin = end, 0
        if share_prompts:
            start = place_of_prompt.setdefault(np.asarray(prompt).tobytes(), end)
        if start == end:
            ids.append(np.asarray(prompt))
        else:
            begin = len(prompt)
        ids.append(np.asarray(completion))
        length = len(prompt) + len(completion)
        positions.append(np.arange(begin, length))
        sequences.append(np.concatenate([np.arange(start, start + begin), np.arange(end, end + length - begin)]))
        predictors.append(sequences[-1][len(prompt) - 1 : -1])
        if learned is not None:
            assert learned[number][0], "the prompt ends where the first token that is learned begins"
            predictors[-1], targets[number] = (part[learned[number]] for part in (predictors[-1], targets[number]))
        end += length - begin
    query_lengths, key_lengths = [len(part) for part in positions], [len(part) for part in sequences]
    lengths = torch.tensor([len(part) for part in targets], dtype=torch.int64)
    mask = torch.arange(max(map(len, targets), default=0)) < lengths[:, None]
    return Sequences(
        input_ids=_joined(ids),
        position_ids=_joined(positions),
        segments=Segments(
            tuple(query_lengths),
            tuple(key_lengths),
            _bounds(query_lengths),
            _bounds(key_lengths),
            None if query_lengths == key_lengths else _joined(sequences),
        ),
        targets=_joined(targets),
        predictors=_joined(predictors),
        predicting=torch.from_numpy(np.unique(np.concatenate([np.zeros(0, np.int64), *predictors]))),
        completion_mask=mask,
        cells=mask.flatten().nonzero()[:, 0],
        reference_logps=None if reference_logps is None else _joined(reference_logps, np.float32),
    )


def _joined(parts: Sequence[NDArray[Any]], dtype: Any = np.int64) -> Tensor:
    return torch.from_numpy(np.concatenate([np.zeros(0, dtype), *parts], dtype=dtype, casting="same_kind"))


def _bounds(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).int()


class SFTBatch(NamedTuple):
    """Demonstrations to imitate.

    Attributes:
        sequences: N of them.
        weight: float32 `[N]`, the weight of each example in the loss.
        index: int64 `[N]`, the example's number in its data set.
    """

    sequences: Sequences
    weight: Tensor
    index: Tensor  # type: ignore[assignment]  # tuple.index, which nobody calls


class UnaryBatch(NamedTuple):
    """Completions, each known to be desirable or undesirable.

    Attributes:
        sequences: N of them.
        desirable: bool `[N]`.
        weight: float32 `[N]`, the weight of each example in the loss.
        index: int64 `[N]`, the example's number in its data set.
        mismatched: N sequences of a prompt of the batch with the completion of another one, for the methods that
            estimate a KL from them; None where they are not asked for.
    """

    sequences: Sequences
    desirable: Tensor
    weight: Tensor
    index: Tensor  # type: ignore[assignment]  # tuple.index, which nobody calls
    mismatched: Sequences | None = None


class PairedBatch(NamedTuple):
    """Pairs of completions of the same prompt, one preferred to the other.

    Attributes:
        sequences: 2N of them: the N chosen ones, then the N rejected ones in the same order.
        weight: float32 `[N]`, the weight of each pair in the loss.
        index: int64 `[N]`, the pair's number in its data set.
    """

    sequences: Sequences
    weight: Tensor
    index: Tensor  # type: ignore[assignment]  # tuple.index, which nobody calls

    @property
    def desirable(self) -> Tensor:
        """Bool `[2N]`: true for the chosen ones."""
        pairs = len(self.index)
        return torch.arange(2 * pairs, device=self.index.device) < pairs


Batch = SFTBatch | UnaryBatch | PairedBatch
