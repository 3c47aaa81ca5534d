"""The progress bar of a run: one bar for the whole of it, and the numbers that people watch in a line below."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import CustomBarColumn
from rich.console import RenderableType
from rich.progress import MofNCompleteColumn, ProgressColumn, Task, TextColumn
from rich.text import Text

SHOWN = {
    "loss": "loss",
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "kl": "KL",
    "tokens_per_second": "tokens/s",
}
"""The metrics that are shown while a run goes on, and what they are called there."""


def shown_metrics(metrics: dict[str, Any], prefix: str = "") -> str:
    """The metrics that people watch in one line: `loss 0.4812  margin 0.31  accuracy 0.64`.

    Args:
        metrics: Logged values by name.
        prefix: What the names start with, such as `val/`.
    """
    values = {label: float(metrics[prefix + name]) for name, label in SHOWN.items() if prefix + name in metrics}
    return "  ".join(f"{label} {number(value)}" for label, value in values.items())


def number(value: float) -> str:
    """A number as people read it: 1,234 and 0.4812, never 1.234e+03."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def duration(seconds: float | None) -> str:
    """A time as `h:mm:ss`, and `-:--:--` where it is not known."""
    if seconds is None or not math.isfinite(seconds):
        return "-:--:--"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"


class TimeColumn(ProgressColumn):
    """How long it has taken, and how long it will take."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        """One cell of the bar's line."""
        if task.finished:
            return Text(f"took {duration(task.finished_time)}", style="dim")
        return Text(f"{duration(task.elapsed)}, {duration(task.time_remaining)} left", style="dim")


class RunProgressBar(RichProgressBar):
    """Lightning's rich progress bar, in optimizer steps of the whole run instead of batches of an epoch.

    The line below the bar shows loss, reward margin, accuracy, KL and tokens a second as they were last logged. They
    are read only when they were logged, so that no step waits for a device.

    Args:
        refresh_rate: Times a second that the bar is drawn, at most.
        console_kwargs: Arguments of rich's console.
    """

    def __init__(self, refresh_rate: int = 10, console_kwargs: dict[str, Any] | None = None) -> None:
        super().__init__(refresh_rate=refresh_rate, console_kwargs=console_kwargs)
        self._metrics_line = ""

    def _init_progress(self, trainer: L.Trainer) -> None:
        super()._init_progress(trainer)
        if self.progress is not None:
            # Rich's own way to add lines; its method yields the table of bars alone.
            setattr(self.progress, "get_renderables", self._renderables)  # noqa: B010

    def _renderables(self) -> Iterable[RenderableType]:
        assert self.progress is not None
        visible = [task for task in self.progress.tasks if task.visible]
        yield self.progress.make_tasks_table(visible)
        if self._metrics_line and visible:
            yield Text(self._metrics_line, style="italic", overflow="ellipsis", no_wrap=True)

    def configure_columns(self, trainer: L.Trainer) -> list[Any]:
        """What the line of a bar consists of."""
        style = self.theme.progress_bar
        return [
            TextColumn("[progress.description]{task.description}"),
            CustomBarColumn(bar_width=30, complete_style=style, finished_style=style, pulse_style=style),
            MofNCompleteColumn(),
            TimeColumn(),
        ]

    @property
    def total_train_batches(self) -> int | float:
        """Optimizer steps of the whole run; infinite where that is not known."""
        steps = self.trainer.estimated_stepping_batches
        return steps if steps > 0 else math.inf

    def _get_train_description(self, current_epoch: int) -> str:
        epochs = self.trainer.max_epochs
        return f"epoch {current_epoch + 1}" + (f" of {epochs}" if epochs and epochs > 0 else "")

    @property
    def validation_description(self) -> str:
        """What the bar of a validation is called."""
        return "validation"

    @property
    def sanity_check_description(self) -> str:
        """What the bar of the validation before the first step is called."""
        return "validation before the first step"

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Goes on with the bar of the run."""
        if self.is_disabled or self.progress is None:
            return
        if self.train_progress_bar_id is None:
            self._initialize_train_progress_bar_id()
        assert self.train_progress_bar_id is not None
        self.progress.update(self.train_progress_bar_id, description=self._get_train_description(trainer.current_epoch))
        self.refresh()

    def _initialize_train_progress_bar_id(self) -> None:
        assert self.progress is not None
        # Steps before the checkpoint that a run goes on from took no time now, so they are not counted into its speed.
        self.train_progress_bar_id = self.progress.add_task(
            self._get_train_description(self.trainer.current_epoch),
            total=self.total_train_batches,
            completed=self.trainer.global_step,
        )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar."""
        if not self.is_disabled and self.train_progress_bar_id is None:
            self._initialize_train_progress_bar_id()  # resumed in the middle of an epoch
        self._update(self.train_progress_bar_id, trainer.global_step)
        log_every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.global_step % log_every == 0:
            self._update_metrics(trainer, pl_module)

    def _update_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.is_enabled:
            self._metrics_line = shown_metrics(trainer.callback_metrics)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leaves the finished bar as it is; what is printed from here on comes below it."""
        self._stop_progress()
