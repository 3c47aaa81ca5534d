"""Validation after so many examples, on any number of devices."""

from __future__ import annotations

from typing import Any

import lightning as L

from halo_lightning.errors import ConfigError


class ValidateEvery(L.Callback):
    """Validates every so many training examples, at the optimizer step that is nearest, and at least once an epoch.

    The Trainer's own `val_check_interval` counts micro-batches, of which there are more where there are fewer devices.

    Args:
        examples: Training examples between validations; None leaves it to the Trainer's `val_check_interval`.
    """

    def __init__(self, examples: int | None = None) -> None:
        if examples is not None and examples < 1:
            raise ConfigError(f"validate_every.examples is {examples}: expected 1 or more")
        self.examples = examples

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tells the Trainer, which asks after this hook."""
        if self.examples is None:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not hasattr(data, "division"):
            raise ConfigError("validate_every needs a data module of halo_lightning, which knows its batches")
        steps = max(1, round(self.examples / data.division.batch_size))
        every = steps * data.division.accumulate
        in_an_epoch = every if data.streaming else len(data.train_sampler(data.train_dataset))
        trainer.val_check_interval = min(every, in_an_epoch)
