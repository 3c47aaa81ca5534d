"""The flat row, written out."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_lightning.data.batches import Sequences, pack


def packed(prompts: list[list[int]], completions: list[list[int]], **options: object) -> Sequences:
    return pack([np.array(p) for p in prompts], [np.array(c) for c in completions], **options)


def test_the_example_of_the_docstring() -> None:
    sequences = packed([[1, 2], [1, 2], [3]], [[4, 5], [6], [7]])
    assert sequences.input_ids.tolist() == [1, 2, 4, 5, 6, 3, 7]
    assert sequences.position_ids.tolist() == [0, 1, 2, 3, 2, 0, 1]
    assert sequences.segments.query_lengths == (4, 1, 2)
    assert sequences.segments.key_lengths == (4, 3, 2)
    assert sequences.segments.query_bounds.tolist() == [0, 4, 5, 7]
    assert sequences.segments.key_bounds.tolist() == [0, 4, 7, 9]
    assert sequences.segments.order.tolist() == [0, 1, 2, 3, 0, 1, 4, 5, 6]
    assert sequences.targets.tolist() == [4, 5, 6, 7]
    assert sequences.predictors.tolist() == [1, 2, 1, 5]
    assert sequences.predicting.tolist() == [1, 2, 5]
    assert sequences.completion_mask.int().tolist() == [[1, 1], [1, 0], [1, 0]]
    assert sequences.cells.tolist() == [0, 1, 2, 4]
    assert sequences.real_tokens == 9
    assert sequences.lengths.tolist() == [2, 1, 1]


def test_no_order_where_no_prompt_is_shared() -> None:
    assert packed([[1, 2], [3]], [[4], [5]]).segments.order is None
    assert packed([[1, 2], [1, 2]], [[4], [5]], share_prompts=False).segments.order is None


def test_values_return_to_their_cells() -> None:
    sequences = packed([[1], [2]], [[3, 4], [5]])
    values = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    table = sequences.table(values)
    assert table.tolist() == [[1, 2], [3, 0]]
    (table * torch.tensor([[1.0, 10.0], [100.0, 1000.0]])).sum().backward()
    assert values.grad.tolist() == [1, 10, 100]


def test_only_learned_tokens_are_targets() -> None:
    mask = [np.array([True, False, True]), np.array([True, False])]
    sequences = packed([[1, 2], [1, 2]], [[3, 4, 5], [6, 7]], learned=mask)
    assert sequences.input_ids.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert sequences.targets.tolist() == [3, 5, 6]
    assert sequences.predictors.tolist() == [1, 3, 1]
    assert sequences.completion_mask.int().tolist() == [[1, 1], [1, 0]]
    assert sequences.lengths.tolist() == [2, 1]
    assert sequences.real_tokens == 9


tokens = st.lists(st.integers(0, 3), min_size=1, max_size=4)
learned_tokens = st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=4)
rows_with_masks = st.lists(st.tuples(tokens, st.integers(0, 3), learned_tokens), min_size=1, max_size=6)


@settings(max_examples=200, deadline=None)
@given(rows_with_masks, st.booleans())
def test_unpacking_gives_back_masks(rows: list[tuple[list[int], int, list[tuple[int, bool]]]], share: bool) -> None:
    prompts = [prompt for prompt, _, _ in rows]
    completions = [[first, *(token for token, _ in rest)] for _, first, rest in rows]
    masks = [[True, *(yes for _, yes in rest)] for _, _, rest in rows]
    sequences = packed(prompts, completions, learned=[np.array(mask) for mask in masks], share_prompts=share)
    assert [(p.tolist(), c.tolist()) for p, c in sequences.unpacked()] == list(zip(prompts, completions, strict=True))
    assert [mask.tolist() for mask in sequences.learned()] == masks
    chosen = [
        (before, token)
        for prompt, completion, mask in zip(prompts, completions, masks, strict=True)
        for before, token, yes in zip([prompt[-1], *completion], completion, mask, strict=False)
        if yes
    ]
    assert list(zip(sequences.input_ids[sequences.predictors].tolist(), sequences.targets.tolist())) == chosen  # noqa: B905
    assert sequences.lengths.tolist() == [sum(mask) for mask in masks]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(tokens, tokens), min_size=1, max_size=6), st.booleans())
def test_unpacking_gives_back_what_was_packed(rows: list[tuple[list[int], list[int]]], share: bool) -> None:
    sequences = packed([p for p, _ in rows], [c for _, c in rows], share_prompts=share)
    assert [(p.tolist(), c.tolist()) for p, c in sequences.unpacked()] == rows
    assert sequences.real_tokens == sum(len(p) + len(c) for p, c in rows)
    prompts = {tuple(p) for p, _ in rows} if share else [p for p, _ in rows]
    assert len(sequences.input_ids) == sum(map(len, prompts)) + sum(len(c) for _, c in rows)
    # What a target is predicted from is the token before it in its own sequence.
    before = [token for p, c in rows for token in [*p, *c][len(p) - 1 : -1]]
    assert sequences.input_ids[sequences.predictors].tolist() == before
    assert sequences.targets.tolist() == [token for _, c in rows for token in c]
