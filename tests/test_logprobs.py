"""Log-probabilities in chunks against the straightforward form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from halo_lightning.logprobs import token_logps, token_statistics


def straightforward(hidden: torch.Tensor, targets: torch.Tensor, head: nn.Module) -> torch.Tensor:
    return head(hidden).log_softmax(-1).gather(-1, targets[:, None])[:, 0]


@pytest.mark.parametrize("chunk_bytes", [1, 4 * 31 * 5, 2**20])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_chunks_change_neither_values_nor_gradients(chunk_bytes: int, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    head = nn.Linear(8, 31).to(dtype)
    hidden = torch.randn(17, 8, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, 31, (17,))
    weights = torch.randn(17, dtype=dtype)

    values = token_logps(hidden, targets, head, vocabulary=31, chunk_bytes=chunk_bytes)
    gradients = torch.autograd.grad(values @ weights, [hidden, *head.parameters()])
    expected = straightforward(hidden, targets, head)
    expected_gradients = torch.autograd.grad(expected @ weights, [hidden, *head.parameters()])

    torch.testing.assert_close(values, expected, rtol=tolerance, atol=tolerance)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=4 * tolerance)


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
    assert sum(seen) == 90  # every position once forward, and once again backward but for the last chunk's


def test_logits_of_any_size_are_stable() -> None:
    """Logits of ±10⁴ overflow in a softmax that does not take the highest one away."""
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]], requires_grad=True)
    values = token_logps(logits, torch.tensor([1, 2]), lambda hidden: hidden * 1.0, vocabulary=3)
    values.sum().backward()
    expected = logits.detach().double().log_softmax(-1)[[0, 1], [1, 2]]
    torch.testing.assert_close(values.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(logits.grad, torch.tensor([[-1.0, 1.0, 0.0], [-1 / 3, -1 / 3, 2 / 3]]))


def test_blocks_of_many_rows() -> None:
    """More rows than the CPU works on at one time."""
    torch.manual_seed(0)
    head = nn.Linear(4, 50_000)
    hidden, targets = torch.randn(50, 4), torch.arange(50)
    values = token_logps(hidden, targets, head, vocabulary=50_000)
    torch.testing.assert_close(values, straightforward(hidden, targets, head), rtol=1e-5, atol=1e-5)


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


@pytest.mark.parametrize("chunk_bytes", [4 * 7 * 2, 2**20])
def test_statistics(chunk_bytes: int) -> None:
    torch.manual_seed(0)
    head = nn.Linear(3, 7)
    hidden, targets = torch.randn(5, 3), torch.randint(0, 7, (5,))
    entropy, correct = token_statistics(hidden, targets, head, vocabulary=7, chunk_bytes=chunk_bytes)
    distribution = torch.distributions.Categorical(logits=head(hidden))
    torch.testing.assert_close(entropy, distribution.entropy())
    assert correct.tolist() == (head(hidden).argmax(-1) == targets).tolist()
    assert not entropy.requires_grad
