"""What a checkpoint has to hold beside Lightning's own, so that a run goes on as if it had not been interrupted.

Lightning keeps weights, optimizer, schedule and progress. Of a module it does not keep the metrics of the examples
since the last log, nor the state of the random numbers: without the first, one point of each curve is another one;
without the second, whatever is drawn at random is.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loops.fit_loop import RestartStage
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from halo_lightning.errors import ConfigError

STATE = "halo_lightning_state"
"""The key of a checkpoint under which this is."""

_VOLATILE = {"_name_or_path", "dtype", "torch_dtype", "use_cache", "transformers_version", "architectures"}


def metric_states(metrics: MetricCollection) -> dict[str, dict[str, Any]]:
    """The states of metrics, those of all processes together. Every process has to call this."""
    states = {}
    for name, metric in metrics.items(keep_base=True, copy_state=False):
        assert isinstance(metric, Metric)
        with metric.sync_context():
            states[name] = {key: _copied(getattr(metric, key)) for key in metric._defaults}
    return states


def restore_metrics(metrics: MetricCollection, states: dict[str, dict[str, Any]], *, here: bool) -> None:
    """Gives metrics their states back.

    Args:
        metrics: New ones.
        states: What `metric_states` gave.
        here: Whether this process is the one that takes them; in the others the metrics stay empty.
    """
    for name, metric in metrics.items(keep_base=True, copy_state=False):
        assert isinstance(metric, Metric)
        if here and name in states:
            for key, value in states[name].items():
                # A state that is a list comes out of several processes as one tensor; an empty one has lost its type,
                # and would change that of what is added to it in this process alone.
                if isinstance(metric._defaults[key], list) and isinstance(value, Tensor):
                    value = [value] if len(value) else []
                setattr(metric, key, _copied(value, metric.device))


def _copied(value: Any, device: Any = "cpu") -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone().to(device)
    return [_copied(one, device) for one in value]


def random_state() -> dict[str, Any]:
    """The state of all generators of random numbers, as tensors and plain values."""
    kind, keys, *rest = np.random.get_state()
    assert not isinstance(keys, str)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": (str(kind), np.asarray(keys).tolist(), *(float(value) for value in rest)),
        "python": random.getstate(),
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Sets all generators of random numbers."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), int(position), int(has_gauss), gauss))
    version, numbers, gauss_next = state["python"]
    random.setstate((version, tuple(numbers), gauss_next))


def leave_finished_epoch(trainer: Trainer) -> None:
    """Lets a run that goes on from the end of an epoch begin the next one, also where `max_steps` ends it.

    With `max_steps` Lightning takes the finished epoch for one to go on with: it would train the first batch of the
    next one in it, and count epochs one short. Without, it does what is done here.

    Args:
        trainer: Of a run that was restored from a checkpoint, at the start of training.
    """
    loop = trainer.fit_loop
    if not loop.restarted_on_epoch_end:
        return
    loop.epoch_progress.increment_completed()
    loop._restart_stage = RestartStage.RESUMED_ON_EPOCH_END
    for inner in (loop.epoch_loop, loop.epoch_loop.val_loop):
        inner.reset_restart_stage()
    loop._restarting = False  # the setter leaves it true where `max_steps` is set
    loop.epoch_loop.restarting = False


def check_is_of(notes: dict[str, Any] | None, module: str, config: dict[str, Any]) -> None:
    """Refuses a checkpoint of another method, or of a model of another shape.

    Args:
        notes: What the checkpoint says of itself; None where it says nothing.
        module: The method that is to go on.
        config: The configuration of its model.

    Raises:
        ConfigError: The checkpoint is of something else.
    """
    if not notes:
        raise ConfigError("this checkpoint is not one of a halo_lightning module")
    if notes["module"] != module:
        raise ConfigError(f"this checkpoint is one of {notes['module']}, and cannot be continued with {module}")
    theirs = notes["config"]
    keys = sorted(key for key in (theirs.keys() & config.keys()) - _VOLATILE if theirs[key] != config[key])
    if keys:
        listed = ", ".join(f"{key} was {theirs[key]!r:.80} and is {config[key]!r:.80}" for key in keys[:3])
        raise ConfigError(f"this checkpoint is one of another model: {listed}")
