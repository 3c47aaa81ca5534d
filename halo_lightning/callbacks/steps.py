"""How many optimizer steps a run will make, told before Lightning builds its data loader."""

from __future__ import annotations

import math
from typing import Any

import lightning as L


def planned_steps(trainer: L.Trainer, data: Any) -> int | None:
    """The number of optimizer steps of a whole run, as `trainer.estimated_stepping_batches` gives it later.

    That one builds the data loader, and Lightning then does not go on in the middle of an epoch that a checkpoint was
    saved in; so it cannot be asked before training has begun.

    Args:
        trainer: Of the run.
        data: Its data module, set up.

    Returns:
        The number, or None where the run or an epoch of it has no end that is known.
    """
    epochs, most = trainer.max_epochs, trainer.max_steps
    try:
        batches = None if getattr(data, "streaming", False) else len(data.train_sampler(data.train_dataset))
    except (AttributeError, TypeError):
        batches = None
    steps = None
    if batches is not None and epochs not in (None, -1):
        limit: float = trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        steps = math.ceil(batches / trainer.accumulate_grad_batches) * epochs
    if most is not None and most >= 0:
        return most if steps is None else min(steps, most)
    return steps
