"""Division: how an effective batch is spread over processes and accumulated micro-batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import lightning as L
from torch import distributed

from halo_lightning.errors import ConfigError


class Division(NamedTuple):
    """An effective batch, divided: `micro_batch` × `accumulate` × `processes` examples.

    Attributes:
        micro_batch: Examples that a process computes at one time.
        accumulate: Micro-batches of a process whose gradients are added up for an optimizer step.
        processes: How many processes there are: devices × nodes.
    """

    micro_batch: int
    accumulate: int
    processes: int

    @property
    def batch_size(self) -> int:
        """Examples in an optimizer step."""
        return self.micro_batch * self.accumulate * self.processes

    def __str__(self) -> str:
        parts = (
            f"{self.micro_batch} × {self.accumulate} accumulated × {self.processes} device{'s' * (self.processes != 1)}"
        )
        return f"{self.batch_size} examples ({parts})"


def divide(
    batch_size: int,
    processes: int,
    *,
    largest: int | None = None,
    accumulate: int | None = None,
    even: bool = False,
) -> Division:
    """The division of an effective batch, with the largest micro-batches that are allowed.

    Args:
        batch_size: Examples in an optimizer step.
        processes: How many processes there are: devices × nodes.
        largest: Most examples in a micro-batch; None is no limit.
        accumulate: How many micro-batches are accumulated, where that is decided already.
        even: Whether micro-batches have to be of an even number of examples, because they have equal halves.

    Returns:
        The division; its `batch_size` is the one that was asked for.

    Raises:
        ConfigError: The batch cannot be divided so; the message says what would do.

    Example:
        >>> divide(32, 4, largest=3)
        Division(micro_batch=2, accumulate=4, processes=4)
    """
    unit = 2 if even else 1
    halves = ", in micro-batches of equal halves" if even else ""
    parts = processes * (accumulate or 1)
    if batch_size % (parts * unit):
        among = f"{processes} processes" + (f" × {accumulate} accumulated micro-batches" if accumulate else "")
        fitting = [str(number) for number in range(1, batch_size + 1) if batch_size % (number * unit) == 0]
        below = batch_size // (parts * unit) * parts * unit
        sizes = " or ".join(str(size) for size in (below, below + parts * unit) if size)
        raise ConfigError(
            f"batch_size is {batch_size}, the examples of an optimizer step, and does not divide among {among}{halves}:"
            f" this batch_size can be divided among {', '.join(fitting)}; among {parts}, {sizes} could be"
        )
    share = batch_size // parts
    if accumulate is not None:
        if largest is not None and share > largest:
            raise ConfigError(
                f"batch_size {batch_size} over {processes} processes × accumulate_grad_batches {accumulate} makes"
                f" micro-batches of {share}, more than micro_batch_size {largest}: leave accumulate_grad_batches out,"
                " and it follows from the others"
            )
        return Division(share, accumulate, processes)
    micro_batch = max(
        (size for size in range(unit, min(share, largest or share) + 1, unit) if share % size == 0), default=None
    )
    if micro_batch is None:
        raise ConfigError(f"micro_batch_size is {largest}: expected {unit} or more{halves}")
    return Division(micro_batch, share // micro_batch, processes)


def divide_for(trainer: L.Trainer | None, divided: Callable[..., Division]) -> Division:
    """The division among the processes of a Trainer, which is told its part.

    Args:
        trainer: The Trainer; None is the processes that there are.
        divided: `divide`, given all but the processes and what is accumulated.
    """
    if trainer is None:
        running = distributed.is_available() and distributed.is_initialized()
        return divided(distributed.get_world_size() if running else 1)
    # What the user asked the Trainer for, and not what an earlier data module told it.
    asked = trainer.accumulate_grad_batches
    if asked not in (1, getattr(trainer, "_halo_accumulates", 1)):
        return divided(trainer.world_size, accumulate=asked)
    division = divided(trainer.world_size)
    trainer.accumulate_grad_batches = trainer._halo_accumulates = division.accumulate  # type: ignore[attr-defined]
    return division
