"""What a data module hands to a module: named tuples of tensors, each field with its shape."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Sequences(NamedTuple):
    """Prompts with their completions, one row each, padded on the right to the longest.

    Attributes:
        input_ids: int64 `[R, T]`, the tokens of prompt, completion and end-of-sequence.
        attention_mask: bool `[R, T]`, true at every real token, false at padding.
        completion_mask: bool `[R, T]`, true at the tokens that the loss is on: those of the completion,
            the end-of-sequence token included. Never true in the first column (nothing predicts it).
    """

    input_ids: Tensor
    attention_mask: Tensor
    completion_mask: Tensor

    def rows(self, which: Tensor | slice) -> Sequences:
        """The rows that a slice, an index or a boolean mask selects."""
        return Sequences(*(field[which] for field in self))


class SFTBatch(NamedTuple):
    """Demonstrations to imitate.

    Attributes:
        sequences: N rows.
        weight: float32 `[N]`, the weight of each example in the loss.
        index: int64 `[N]`, the example's number in its data set.
    """

    sequences: Sequences
    weight: Tensor
    index: Tensor  # type: ignore[assignment]  # tuple.index, which nobody calls


class UnaryBatch(NamedTuple):
    """Completions, each known to be desirable or undesirable.

    Attributes:
        sequences: N rows.
        desirable: bool `[N]`.
        weight: float32 `[N]`, the weight of each example in the loss.
        index: int64 `[N]`, the example's number in its data set.
    """

    sequences: Sequences
    desirable: Tensor
    weight: Tensor
    index: Tensor  # type: ignore[assignment]  # tuple.index, which nobody calls


class PairedBatch(NamedTuple):
    """Pairs of completions of the same prompt, one preferred to the other.

    Attributes:
        sequences: 2N rows: the N chosen ones, then the N rejected ones in the same order.
        weight: float32 `[N]`, the weight of each pair in the loss.
        index: int64 `[N]`, the pair's number in its data set.
    """

    sequences: Sequences
    weight: Tensor
    index: Tensor  # type: ignore[assignment]  # tuple.index, which nobody calls

    @property
    def desirable(self) -> Tensor:
        """Bool `[2N]`: true for the chosen rows."""
        pairs = len(self.index)
        return torch.arange(2 * pairs, device=self.index.device) < pairs


Batch = SFTBatch | UnaryBatch | PairedBatch
