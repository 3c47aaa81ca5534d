"""Chunked log-probabilities equal the straightforward ones, gradients included."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from halo_lightning.logprobs import scatter_to_positions, token_logps


def straightforward(hidden: torch.Tensor, targets: torch.Tensor, head: nn.Module) -> torch.Tensor:
    return head(hidden).log_softmax(-1).gather(-1, targets[:, None])[:, 0]


@pytest.mark.parametrize("chunk_bytes", [1, 4 * 31 * 5, 2**20])
def test_chunks_change_neither_values_nor_gradients(chunk_bytes: int) -> None:
    torch.manual_seed(0)
    head = nn.Linear(8, 31).double()
    hidden = torch.randn(17, 8, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 31, (17,))
    weights = torch.randn(17, dtype=torch.float64)

    values = token_logps(hidden, targets, head, vocabulary=31, chunk_bytes=chunk_bytes)
    gradients = torch.autograd.grad(values @ weights, [hidden, *head.parameters()])
    expected = straightforward(hidden, targets, head)
    expected_gradients = torch.autograd.grad(expected @ weights, [hidden, *head.parameters()])

    torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_never_more_than_one_chunk_of_logits() -> None:
    seen: list[int] = []
    head = nn.Linear(4, 100)

    def watched(hidden: torch.Tensor) -> torch.Tensor:
        seen.append(len(hidden))
        return head(hidden)

    values = token_logps(
        torch.randn(50, 4), torch.zeros(50, dtype=torch.int64), watched, vocabulary=100, chunk_bytes=4000
    )
    values.sum().backward()
    assert max(seen) == 10
    assert sum(seen) == 100  # every position once forward and once again backward


def test_bfloat16_logits_are_summed_in_float32() -> None:
    torch.manual_seed(0)
    head = nn.Linear(16, 1000).bfloat16()
    hidden = torch.randn(5, 16).bfloat16()
    targets = torch.arange(5)
    values = token_logps(hidden, targets, head, vocabulary=1000)
    assert values.dtype == torch.float32
    expected = head(hidden).float().log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    torch.testing.assert_close(values, expected)


def test_no_position_at_all() -> None:
    values = token_logps(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), nn.Linear(4, 5), vocabulary=5)
    assert values.shape == (0,)


def test_values_return_to_their_positions() -> None:
    mask = torch.tensor([[False, True, True], [True, False, False]])
    spread = scatter_to_positions(torch.tensor([1.0, 2.0, 3.0]), mask)
    assert spread.tolist() == [[0, 1, 2], [3, 0, 0]]
