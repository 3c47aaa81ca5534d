"""Batches, written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from halo_lightning.data.batches import PairedBatch, SFTBatch, UnaryBatch
from halo_lightning.data.batching import TokenizedDataset, TokenizedDatasetBuilder
from halo_lightning.data.feedback import Feedback
from halo_lightning.data.rendering import Encoded

PAD = 99
SEQUENCES = [
    Encoded([1, 2], [3]),
    Encoded([4], [5, 6, 7]),
    Encoded([8, 9, 10], [11, 12]),
    Encoded([13], [14]),
]


def dataset(feedback: Feedback) -> TokenizedDataset:
    builder = TokenizedDatasetBuilder(feedback, PAD)
    each = 2 if feedback == "paired" else 1
    labels = [True, False, True, False] if feedback == "unary" else []
    for start in range(0, 4, 2):  # in two parts, as chunks come
        builder.add(SEQUENCES[start : start + 2], [0.5 + start] * (2 // each), labels[start : start + 2])
    return builder.build()


def test_unary() -> None:
    batch = dataset("unary")[[2, 0]]
    assert isinstance(batch, UnaryBatch)
    assert batch.sequences.input_ids.tolist() == [
        [8, 9, 10, 11, 12],  # example 2
        [1, 2, 3, PAD, PAD],  # example 0
    ]
    assert batch.sequences.attention_mask.int().tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert batch.sequences.completion_mask.int().tolist() == [[0, 0, 0, 1, 1], [0, 0, 1, 0, 0]]
    assert batch.desirable.tolist() == [True, True]
    assert batch.weight.tolist() == [2.5, 0.5]
    assert batch.index.tolist() == [2, 0]


def test_paired() -> None:
    batch = dataset("paired")[[1, 0]]
    assert isinstance(batch, PairedBatch)
    assert batch.sequences.input_ids.tolist() == [
        [8, 9, 10, 11, 12],  # chosen of pair 1
        [1, 2, 3, PAD, PAD],  # chosen of pair 0
        [13, 14, PAD, PAD, PAD],  # rejected of pair 1
        [4, 5, 6, 7, PAD],  # rejected of pair 0
    ]
    assert batch.sequences.completion_mask.int().sum(1).tolist() == [2, 1, 1, 3]
    assert batch.desirable.tolist() == [True, True, False, False]
    assert batch.weight.tolist() == [2.5, 0.5]
    assert batch.index.tolist() == [1, 0]


def test_sft_and_dtypes() -> None:
    batch = dataset("sft")[[3]]
    assert isinstance(batch, SFTBatch)
    assert batch.sequences.input_ids.tolist() == [[13, 14]]
    assert [field.dtype for field in batch.sequences] == [torch.int64, torch.bool, torch.bool]
    assert (batch.weight.dtype, batch.index.dtype) == (torch.float32, torch.int64)


def test_a_single_number_is_a_batch_of_one() -> None:
    assert dataset("unary")[1].index.tolist() == [1]


@pytest.mark.parametrize("examples", [[4], [-1], 4])
def test_a_number_that_does_not_exist(examples: int | list[int]) -> None:
    with pytest.raises(IndexError, match="4 examples"):
        dataset("unary")[examples]


def test_nothing_was_added() -> None:
    empty = TokenizedDatasetBuilder("unary", PAD).build()
    assert (len(empty), len(empty.tokens), empty.offsets.tolist()) == (0, 0, [0])


def test_holds_arrays_and_no_objects_per_row() -> None:
    data = dataset("unary")
    arrays = [data.tokens, data.offsets, data.prompt_lengths, data.weights, data.desirable]
    assert [array.dtype for array in arrays if array is not None] == [
        np.int32,
        np.int64,
        np.int32,
        np.float32,
        np.bool_,
    ]
