"""The learning-rate schedule, step by step."""

from __future__ import annotations

import pytest
import torch

from halo_lightning.optimization import LinearWarmup


def rates(steps: int, **settings: object) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = LinearWarmup(optimizer, **settings)
    scheduler.prepare(steps)
    used = []
    for _ in range(steps):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return used


def test_a_tenth_of_the_steps_by_default_then_constant() -> None:
    assert rates(20) == pytest.approx([1.0, 2.0] + [2.0] * 18)


def test_warmup_in_steps() -> None:
    assert rates(6, warmup=4) == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0])


def test_no_warmup() -> None:
    assert rates(3, warmup=0.0) == [2.0, 2.0, 2.0]


def test_linear_and_cosine_decay() -> None:
    assert rates(5, warmup=1, then="linear") == pytest.approx([2.0, 2.0, 1.5, 1.0, 0.5])
    assert rates(3, warmup=0.0, then="cosine") == pytest.approx([2.0, 1.5, 0.5])


def test_negative_warmup_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        rates(3, warmup=-1)
