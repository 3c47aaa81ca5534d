"""How many real tokens a second are trained on."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import torch


class Throughput(L.Callback):
    """Logs `tokens_per_second`: real tokens (no padding) of all processes, over the wall-clock time between two logs.

    Time spent in validation is left out. The tokens of a prompt count with each of its completions, also where they
    are computed once for all of them.
    """

    def __init__(self) -> None:
        self._tokens = 0
        self._since = 0.0
        self._logged_at = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock."""
        self._tokens, self._since, self._logged_at = 0, time.perf_counter(), trainer.global_step

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stops the clock."""
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Goes on as if no time had passed."""
        self._since += time.perf_counter() - self._paused

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts, and adds up the counts of all processes only when they are logged."""
        self._tokens += batch.sequences.real_tokens
        log_every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.global_step == self._logged_at or trainer.global_step % log_every:
            return
        tokens = trainer.strategy.reduce(
            torch.tensor(float(self._tokens), device=trainer.strategy.root_device), reduce_op="sum"
        )
        elapsed = time.perf_counter() - self._since
        pl_module.log("tokens_per_second", float(tokens) / elapsed, prog_bar=True)
        self._tokens, self._since, self._logged_at = 0, time.perf_counter(), trainer.global_step
