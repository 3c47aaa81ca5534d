"""What Weights & Biases and MLflow are handed, seen by stand-ins: neither has to be installed."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger

from halo_lightning.callbacks.loggers import log_figure, log_histogram, shows_pictures
from halo_lightning.figures import new_figure


class WeightsAndBiases(WandbLogger):
    """Notes what it is given."""

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}

    experiment = None  # type: ignore[assignment]

    def log_image(self, key: str, images: list[Any], step: int | None = None, **_: Any) -> None:  # type: ignore[override]
        self.given[key] = images

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.given |= dict(metrics)


class MLflow(MLFlowLogger):
    """Notes what it is given."""

    run_id = "a run"  # type: ignore[assignment]

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}

    @property
    def experiment(self) -> Any:
        return SimpleNamespace(log_figure=lambda run, figure, name: self.given.update({name: (run, figure)}))


@pytest.fixture
def trainer() -> Any:
    return SimpleNamespace(loggers=[WeightsAndBiases(), MLflow()], global_step=12)


def test_both_are_known_to_show_pictures(trainer: Any) -> None:
    assert shows_pictures(trainer)
    assert not shows_pictures(SimpleNamespace(loggers=[]))  # type: ignore[arg-type]


def test_figures(trainer: Any) -> None:
    figure = new_figure(2, 1)
    log_figure(trainer, "pictures/value function", figure)
    wandb, mlflow = trainer.loggers
    (image,) = wandb.given["pictures/value function"]
    assert image.dtype == np.uint8
    assert image.shape == (130, 260, 3)
    assert mlflow.given == {"pictures/value function/0000012.png": ("a run", figure)}


def test_histograms(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(Histogram=list))
    log_histogram(trainer, "rewards", torch.tensor([0.5, -1.0]))
    log_histogram(trainer, "nothing", torch.tensor([]))
    log_histogram(trainer, "not finite", torch.tensor([torch.nan]))
    wandb, mlflow = trainer.loggers
    assert wandb.given == {"rewards": [0.5, -1.0]}
    assert mlflow.given == {}
