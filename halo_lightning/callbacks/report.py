"""What a person reads while a run goes on where no progress bar is: a header, a line now and then, a footer."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.fabric.utilities.rank_zero import rank_zero_only

from halo_lightning.modules.base import HaloModule

SHOWN = {
    "loss": "loss",
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "kl": "KL",
    "tokens_per_second": "tokens/s",
}


class RunReport(L.Callback):
    """Prints what will happen, how it goes (where there is no progress bar), and where things are."""

    def __init__(self) -> None:
        self._printed_at = 0

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The header."""
        if not isinstance(pl_module, HaloModule):
            return
        self._printed_at = trainer.global_step
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        division = getattr(data, "division", None)
        parameters = sum(parameter.numel() for parameter in pl_module.parameters() if parameter.requires_grad)
        print(f"{type(pl_module).__name__} on {pl_module.policy_path} ({parameters:,} trainable parameters)")
        if hasattr(data, "summary"):
            print(f"  {data.summary}".replace("\n", "\n  "))
        if pl_module.reference_note:
            print(f"  {pl_module.reference_note}")
        if division is not None:
            print(f"  {trainer.estimated_stepping_batches:,} steps of {division}, {trainer.precision}")
        if trainer.log_dir:
            print(f"  curves: tensorboard --logdir {trainer.log_dir}", flush=True)

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """A line at every log, where no progress bar shows it: the metrics of the step before are there now."""
        self._print_step(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The line of the step before, if it is due."""
        self._print_step(trainer)

    @rank_zero_only
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The metrics on held-out feedback."""
        if not trainer.sanity_checking:
            print(f"  held out    {_line(trainer, 'val/')}", flush=True)

    @rank_zero_only
    def _print_step(self, trainer: L.Trainer) -> None:
        due = trainer.global_step % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        if trainer.progress_bar_callback is None and due and trainer.global_step != self._printed_at:
            self._printed_at = trainer.global_step
            print(f"  step {trainer.global_step:>5}  {_line(trainer, '')}", flush=True)

    @rank_zero_only
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The footer."""
        self._print_step(trainer)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if hasattr(callback, "folder"):
                print(f"  trained: the aligned model is in {callback.folder}", flush=True)


def _line(trainer: L.Trainer, prefix: str) -> str:
    metrics = trainer.callback_metrics
    values = {label: float(metrics[prefix + name]) for name, label in SHOWN.items() if prefix + name in metrics}
    return "  ".join(
        f"{label} {value:,.0f}" if value >= 1000 else f"{label} {value:.4g}" for label, value in values.items()
    )
