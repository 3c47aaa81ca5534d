"""Pictures and distributions for the loggers that can show them; every other logger is left alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def shows_pictures(trainer: L.Trainer) -> bool:
    """Whether a logger of the run can show pictures."""
    return any(isinstance(logger, (TensorBoardLogger, WandbLogger, MLFlowLogger)) for logger in trainer.loggers)


def log_figure(trainer: L.Trainer, name: str, figure: Figure) -> None:
    """Hands a figure to TensorBoard, Weights & Biases and MLflow, whichever the run logs to.

    Args:
        trainer: Of the run, at its present step.
        name: What it is shown as, such as `pictures/value function`.
        figure: The figure.
    """
    step = trainer.global_step
    logger: Any
    for logger in trainer.loggers:
        experiment = logger.experiment
        if isinstance(logger, TensorBoardLogger):
            experiment.add_image(name, pixels(figure), step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [pixels(figure)])
        elif isinstance(logger, MLFlowLogger):
            experiment.log_figure(logger.run_id, figure, f"{name}/{step:07}.png")


def log_histogram(trainer: L.Trainer, name: str, values: Tensor) -> None:
    """Hands a distribution to TensorBoard and Weights & Biases, whichever the run logs to.

    Args:
        trainer: Of the run, at its present step.
        name: What it is shown as.
        values: `[N]`, float32 on the CPU; nothing is logged of no values, or of values that are not finite.
    """
    if not len(values) or not values.isfinite().all():
        return
    logger: Any
    for logger in trainer.loggers:
        experiment = logger.experiment
        if isinstance(logger, TensorBoardLogger):
            experiment.add_histogram(name, values.numpy(), trainer.global_step)
        elif isinstance(logger, WandbLogger):
            import wandb

            logger.log_metrics({name: wandb.Histogram(values.numpy())})


def pixels(figure: Figure, dpi: int = 130) -> NDArray[np.uint8]:
    """A figure as `[height, width, 3]`."""
    figure.set_dpi(dpi)
    canvas: Any = figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
