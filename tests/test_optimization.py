"""The learning-rate schedule, step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from halo_lightning import KTO
from halo_lightning.errors import ConfigError
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


@pytest.mark.parametrize("warmup", [-0.1, float("nan"), float("inf")])
def test_a_warmup_that_is_none(warmup: float) -> None:
    with pytest.raises(ConfigError, match=r"warmup is .*: expected a fraction"):
        rates(1, warmup=warmup)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda parameters: torch.optim.AdamW(parameters, lr=-1.0), "optimizer: no Optimizer .* .*-1.0"),
        (lambda parameters: torch.optim.AdamW(parameters, lr=float("nan")), "optimizer: no Optimizer .* .*nan"),
        (lambda parameters: torch.optim.AdamW(parameters, lr=float("inf")), "optimizer: lr is inf, expected a finite"),
        (lambda parameters: torch.optim.AdamW(parameters, weight_decay=float("inf")), "weight_decay is inf"),
        (lambda parameters: torch.optim.AdamW(parameters, betas=(0.9, 2.0)), "optimizer: no Optimizer .*"),
        (print, "optimizer: found what makes NoneType, expected Optimizer"),
        (eval, "optimizer: no Optimizer .*"),
    ],
)
def test_an_optimizer_that_is_none_is_refused_when_the_module_is_made(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        KTO("embedded:small", optimizer=make)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: None, "scheduler: found what makes NoneType, expected LRScheduler"),
        (lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer), "scheduler: no LRScheduler .* .*step_size"),
        (torch.optim.lr_scheduler.ReduceLROnPlateau, "watches a metric"),
    ],
)
def test_a_schedule_that_is_none_is_refused_when_the_module_is_made(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        KTO("embedded:small", scheduler=make)


def test_optimizers_of_some_of_the_parameters_are_fine() -> None:
    def matrices(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD([parameter for parameter in parameters if parameter.ndim == 2], lr=0.1)

    KTO("embedded:small", optimizer=matrices)
