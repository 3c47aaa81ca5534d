"""The learning-rate schedule that every method shares."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from halo_lightning.errors import ConfigError

Made = TypeVar("Made")


def check_optimizer(make_optimizer: OptimizerCallable, make_scheduler: LRSchedulerCallable) -> None:
    """Makes an optimizer and a schedule for a few numbers, to see whether they can be made.

    Args:
        make_optimizer: Makes the optimizer of parameters.
        make_scheduler: Makes the schedule of an optimizer.

    Raises:
        ConfigError: They are something else, or refuse their settings; or a setting is not finite.
    """
    few = (nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2)))
    optimizer = _made("optimizer", Optimizer, lambda: make_optimizer(iter(few)))
    for name, value in optimizer.param_groups[0].items():
        numbers = value if isinstance(value, (list, tuple)) else [value]
        if not all(math.isfinite(number) for number in numbers if isinstance(number, float)):
            raise ConfigError(f"optimizer: {name} is {value}, expected a finite number")
    schedule = _made("scheduler", LRScheduler, lambda: make_scheduler(optimizer))
    if isinstance(schedule, ReduceLROnPlateau):
        raise ConfigError("a schedule that watches a metric (ReduceLROnPlateau) is not supported: choose another")


def _made(name: str, kind: type[Made], make: Callable[[], Any]) -> Made:
    try:
        made = make()
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{name}: no {kind.__name__} of torch could be made of these settings ({error})") from error
    if not isinstance(made, kind):
        raise ConfigError(f"{name}: found what makes {type(made).__name__}, expected {kind.__name__} of torch")
    return made


class LinearWarmup(LambdaLR):
    """Linear warm-up to the optimizer's learning rate, then constant or decaying to zero.

    The number of steps is not known when a configuration is written: `HaloModule` tells it (`prepare`) when training
    starts.

    Args:
        optimizer: The optimizer.
        warmup: Length of the warm-up: a fraction of all steps when below 1, else a number of steps.
        then: What follows: `constant`, or a `linear` or `cosine` decay to zero at the last step.
        total_steps: Number of optimizer steps of the whole run.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup: float = 0.1,
        then: Literal["constant", "linear", "cosine"] = "constant",
        total_steps: int | None = None,
    ) -> None:
        if not 0 <= warmup < math.inf:
            raise ConfigError(f"warmup is {warmup}: expected a fraction of the steps, or a number of steps")
        self.warmup, self.then, self.total_steps = warmup, then, total_steps
        super().__init__(optimizer, self._factor)

    def prepare(self, total_steps: int | None) -> None:
        """Tells the schedule how many optimizer steps the run has, when training starts or is resumed.

        Args:
            total_steps: How many; None where nobody knows.

        Raises:
            ConfigError: Nobody knows, and the schedule depends on it.
        """
        if total_steps is None and (0 < self.warmup < 1 or self.then != "constant"):
            raise ConfigError(
                f"the schedule (warmup {self.warmup}, then {self.then}) depends on the number of steps, which is not"
                " known: set trainer.max_steps, or a warmup in steps that is followed by a constant rate"
            )
        self.total_steps = total_steps
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base * self._factor(self.last_epoch)
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    @property
    def warmup_steps(self) -> int:
        """Number of steps of the warm-up."""
        if self.warmup >= 1:
            return int(self.warmup)
        return math.ceil(self.warmup * (self.total_steps or 0))

    def _factor(self, step: int) -> float:
        # The first step already has a part of the rate: a step with rate 0 would be a wasted batch.
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.then == "constant" or not self.total_steps:
            return 1.0
        done = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        return 1.0 - done if self.then == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
