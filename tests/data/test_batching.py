"""Batches, written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from halo_lightning.data.batches import PairedBatch, SFTBatch, UnaryBatch
from halo_lightning.data.batching import TokenizedDataset, TokenizedDatasetBuilder
from halo_lightning.data.feedback import Feedback
from halo_lightning.data.rendering import Encoded
from halo_lightning.errors import RowNumber

SEQUENCES = [
    Encoded([1, 2], [3]),
    Encoded([4], [5, 6, 7]),
    Encoded([8, 9, 10], [11, 12]),
    Encoded([13], [14]),
]


def dataset(feedback: Feedback) -> TokenizedDataset:
    builder = TokenizedDatasetBuilder(feedback)
    each = 2 if feedback == "paired" else 1
    labels = [True, False, True, False] if feedback == "unary" else []
    for start in range(0, 4, 2):  # in two parts, as chunks come
        builder.add(SEQUENCES[start : start + 2], [0.5 + start] * (2 // each), labels[start : start + 2])
    return builder.build()


def rows(batch: UnaryBatch | PairedBatch | SFTBatch) -> list[tuple[list[int], list[int]]]:
    return [(prompt.tolist(), completion.tolist()) for prompt, completion in batch.sequences.unpacked()]


def test_unary() -> None:
    batch = dataset("unary")[[2, 0]]
    assert isinstance(batch, UnaryBatch)
    assert batch.sequences.input_ids.tolist() == [8, 9, 10, 11, 12, 1, 2, 3]  # example 2, example 0
    assert rows(batch) == [([8, 9, 10], [11, 12]), ([1, 2], [3])]
    assert batch.sequences.completion_mask.int().tolist() == [[1, 1], [1, 0]]
    assert batch.desirable.tolist() == [True, True]
    assert batch.weight.tolist() == [2.5, 0.5]
    assert batch.index.tolist() == [2, 0]


def test_paired() -> None:
    batch = dataset("paired")[[1, 0]]
    assert isinstance(batch, PairedBatch)
    assert rows(batch) == [
        ([8, 9, 10], [11, 12]),  # chosen of pair 1
        ([1, 2], [3]),  # chosen of pair 0
        ([13], [14]),  # rejected of pair 1
        ([4], [5, 6, 7]),  # rejected of pair 0
    ]
    assert batch.desirable.tolist() == [True, True, False, False]
    assert batch.weight.tolist() == [2.5, 0.5]
    assert batch.index.tolist() == [1, 0]


def test_sft_and_dtypes() -> None:
    batch = dataset("sft")[[3]]
    assert isinstance(batch, SFTBatch)
    sequences = batch.sequences
    assert sequences.input_ids.tolist() == [13, 14]
    integers = (sequences.input_ids, sequences.position_ids, sequences.targets, sequences.predictors, sequences.cells)
    assert {field.dtype for field in integers} == {torch.int64}
    assert (batch.weight.dtype, batch.index.dtype) == (torch.float32, torch.int64)


def test_reference_log_probabilities_come_with_their_tokens() -> None:
    data = dataset("paired")
    assert data[[0]].sequences.reference_logps is None
    data.reference_logps = -np.arange(7, dtype=np.float32)  # completions of 1, 3, 2 and 1 tokens
    sequences = data[[1, 0]].sequences
    assert sequences.targets.tolist() == [11, 12, 3, 14, 5, 6, 7]
    assert sequences.reference_logps.tolist() == [-4, -5, 0, -6, -1, -2, -3]


def test_sharing_prompts_can_be_switched_off() -> None:
    builder = TokenizedDatasetBuilder("paired")
    builder.add([Encoded([1, 2], [3]), Encoded([1, 2], [4])], [1.0], [])
    data = builder.build()
    assert data[[0]].sequences.input_ids.tolist() == [1, 2, 3, 4]
    data.share_prompts = False
    assert data[[0]].sequences.input_ids.tolist() == [1, 2, 3, 1, 2, 4]


def test_a_single_number_is_a_batch_of_one() -> None:
    assert dataset("unary")[1].index.tolist() == [1]


@pytest.mark.parametrize("examples", [[4], [-1], 4])
def test_a_number_that_does_not_exist(examples: int | list[int]) -> None:
    with pytest.raises(IndexError, match="4 examples"):
        dataset("unary")[examples]


def test_nothing_was_added() -> None:
    empty = TokenizedDatasetBuilder("unary").build()
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


def test_some_tokens_are_learned() -> None:
    builder = TokenizedDatasetBuilder("sft")
    builder.add([Encoded([1, 2], [3, 4, 5], [True, False, True])], [1.0], [])
    builder.add([Encoded([6], [7, 8, 9], [True, True, False]), Encoded([6], [7], [True])], [1.0, 1.0], [])
    data = builder.build()
    assert data.learned is not None
    assert data.learned.tolist() == [0, 0, 1, 0, 1, 0, 1, 1, 0, 0, 1]
    assert data.completion_offsets.tolist() == [0, 2, 4, 5]
    data.reference_logps = -np.arange(5, dtype=np.float32)
    sequences = data[[1, 0, 2]].sequences
    assert sequences.targets.tolist() == [7, 8, 3, 5, 7]
    assert sequences.reference_logps.tolist() == [-2, -3, 0, -1, -4]


def test_where_examples_came_from() -> None:
    builder = TokenizedDatasetBuilder("paired")
    builder.add([*SEQUENCES[:2]], [1.0], [], [("a.jsonl", 3)])
    builder.add(
        [Encoded([1], [2], None, 5, 0), Encoded([1], [3], None, 5, 6)], [1.0], [], [("b.parquet", RowNumber(7))]
    )
    data = builder.build()
    assert (data.place(0), data.place(1)) == ("a.jsonl, line 3", "b.parquet, row 7")
    assert data.origins is not None
    assert data.origins["prompt_cut"].tolist() == [0, 0, 5, 5]
    assert data.origins["completion_cut"].tolist() == [0, 0, 0, 6]
    assert dataset("sft").place(0) == ""
