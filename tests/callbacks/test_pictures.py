"""Histograms, pictures, layout and hyper-parameters, read back from the event files; and other loggers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from halo_lightning import DPO, KTO, SFT, PairedDataModule, SFTDataModule, SLiC, UnaryDataModule
from halo_lightning.callbacks import RewardPictures, TensorBoardPage
from halo_lightning.callbacks import pictures as pictures_module
from halo_lightning.callbacks.drawing import Rewards, draw_kl_against_reward, draw_value_function
from halo_lightning.callbacks.loggers import pixels
from halo_lightning.callbacks.pictures import gathered
from halo_lightning.callbacks.tensorboard import CHARTS
from halo_lightning.values import DPOValue, KahnemanTversky, Logistic

LENGTHS = {"max_length": 64, "max_prompt_length": 32, "validation_fraction": 0.3}
KIND = {KTO: (UnaryDataModule, "thumbs"), DPO: (PairedDataModule, "pairs"), SLiC: (PairedDataModule, "pairs")}


def run(folder: Path, method: type, logger: Any, **settings: Any) -> Trainer:
    """Six steps of a method with both callbacks, logging and drawing every second step."""
    home, name = KIND.get(method, (SFTDataModule, "sft"))
    options = {"max_steps": 6, "log_every_n_steps": 2, "val_check_interval": 3, "num_sanity_val_steps": -1, **settings}
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=logger,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[RewardPictures(every_n_steps=2), TensorBoardPage()],
        **options,
    )
    trainer.fit(method("embedded:base"), datamodule=home(f"embedded:{name}?examples=80", batch_size=8, **LENGTHS))
    return trainer


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "histograms": 0})
    accumulator.Reload()
    return accumulator


@pytest.fixture(scope="module")
def kto(tmp_path_factory: pytest.TempPathFactory) -> EventAccumulator:
    folder = tmp_path_factory.mktemp("kto")
    run(folder, KTO, TensorBoardLogger(folder, name="", version="", default_hp_metric=False))
    return events(folder)


def test_histograms_are_of_the_examples_that_the_scalars_are_means_of(kto: EventAccumulator) -> None:
    for part, count in (("", None), ("val/", None)):
        for kind, name in (("desirable", "chosen"), ("undesirable", "rejected")):
            histograms = kto.Histograms(f"{part}reward_distributions/{kind}")
            means = [event.value for event in kto.Scalars(f"{part}rewards/{name}")]
            if part:
                means = means[1:]  # those before the first step, of which there is no histogram
            assert len(histograms) == len(means) == (2 if part else 3)
            for event, mean in zip(histograms, means, strict=True):
                value = event.histogram_value
                assert value.sum / value.num == pytest.approx(mean, abs=1e-6)
                count = 8 if not part else value.num  # two batches of eight, half of them of each kind
                assert value.num == count
    assert [event.step for event in kto.Histograms("reward_distributions/desirable")] == [2, 4, 6]


def test_pictures_are_there_and_show_something(kto: EventAccumulator) -> None:
    import io

    from PIL import Image

    for name in ("pictures/value function", "pictures/KL against reward"):
        images = kto.Images(name)
        assert [image.step for image in images] == [2, 4, 6]
        picture = np.asarray(Image.open(io.BytesIO(images[-1].encoded_image_string)).convert("RGB"))
        assert picture.shape[0] >= 300
        assert 0.01 < (picture < 250).any(-1).mean() < 0.9


def test_the_layout_shows_scalars_that_are_there(kto: EventAccumulator) -> None:
    from tensorboard.plugins.custom_scalar import layout_pb2

    content = kto.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    layout = layout_pb2.Layout.FromString(content)
    assert [category.title for category in layout.category] == list(CHARTS)
    shown = {tag for category in layout.category for chart in category.chart for tag in chart.multiline.tag}
    there = set(kto.Tags()["scalars"]) | {"tokens_per_second"}
    assert {tag.strip("^$") for tag in shown} <= there


def test_hyperparameters_stand_beside_final_metrics(kto: EventAccumulator) -> None:
    from tensorboard.plugins.hparams import plugin_data_pb2

    def content(tag: str) -> plugin_data_pb2.HParamsPluginData:
        return plugin_data_pb2.HParamsPluginData.FromString(kto.summary_metadata[tag].plugin_data.content)

    hparams = content("_hparams_/session_start_info").session_start_info.hparams
    assert hparams["method"].string_value == "KTO"
    assert hparams["beta"].number_value == 0.1
    assert hparams["lr"].number_value == pytest.approx(5e-6)
    assert hparams["batch_size"].number_value == 8
    assert hparams["steps"].number_value == 6
    assert not {"packing", "reference_cache"} & set(hparams)
    metrics = [info.name.tag for info in content("_hparams_/experiment").experiment.metric_infos]
    assert metrics[0] == "val/loss"
    assert {"val/rewards/accuracies", "val/rewards/margins"} <= set(metrics) <= set(kto.Tags()["scalars"])


@pytest.mark.parametrize("method", [DPO, SLiC])
def test_pairs(method: type, tmp_path: Path) -> None:
    run(tmp_path, method, TensorBoardLogger(tmp_path, name="", version=""), max_steps=2, limit_val_batches=0)
    written = events(tmp_path)
    for kind in ("chosen", "rejected"):
        value = written.Histograms(f"reward_distributions/{kind}")[0].histogram_value
        assert value.num == 16
        assert value.sum / 16 == pytest.approx(written.Scalars(f"rewards/{kind}")[0].value, rel=1e-5, abs=1e-6)
    # SLiC has no reference, so there is no KL to draw.
    assert ("pictures/KL against reward" in written.Tags()["images"]) == (method is DPO)


@pytest.mark.parametrize("logger", ["csv", "dummy", "none", "two"])
def test_other_loggers_are_left_alone(logger: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loggers: dict[str, Any] = {
        "csv": CSVLogger(tmp_path),
        "dummy": DummyLogger(),
        "none": False,
        "two": [CSVLogger(tmp_path), TensorBoardLogger(tmp_path)],
    }
    drawn: list[int] = []
    monkeypatch.setattr(pictures_module, "log_figure", lambda trainer, *_: drawn.append(trainer.global_step))
    run(tmp_path, KTO, loggers[logger], max_steps=2, limit_val_batches=0)
    assert drawn == ([2, 2] if logger == "two" else [])  # both pictures
    if logger in ("csv", "two"):
        text = next(tmp_path.rglob("metrics.csv")).read_text()
        assert "rewards/margins" in text.splitlines()[0]


def test_methods_without_rewards(tmp_path: Path) -> None:
    run(tmp_path, SFT, TensorBoardLogger(tmp_path, name="", version=""), max_steps=2, limit_val_batches=0)
    assert events(tmp_path).Tags()["images"] == []


def test_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    from lightning.pytorch.loggers import WandbLogger

    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    run(tmp_path, KTO, WandbLogger(project="test", save_dir=tmp_path), max_steps=2, limit_val_batches=0)
    assert list(tmp_path.rglob("value function*.png"))


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    from lightning.pytorch.loggers import MLFlowLogger

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    run(tmp_path, KTO, MLFlowLogger(tracking_uri=f"file:{tmp_path}"), max_steps=2, limit_val_batches=0)
    assert list(tmp_path.rglob("pictures/value function/0000002.png"))


def test_nothing_is_read_in_the_steps_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def spy(batches: list, module: KTO) -> Rewards:
        read.append(module.trainer.global_step)
        return gathered(batches, module)

    monkeypatch.setattr(pictures_module, "gathered", spy)
    logger = TensorBoardLogger(tmp_path, name="", version="")
    run(tmp_path, KTO, logger, max_steps=7, log_every_n_steps=3, limit_val_batches=0)
    assert read == [3, 6]  # every two steps, rounded up to steps that are logged


def test_chosen_and_rejected_of_several_batches_stay_together() -> None:
    batches = [
        {"rewards": torch.tensor([1.0, 2, -1, -2]), "losses": torch.tensor([0.1, 0.2])},
        {"rewards": torch.tensor([3.0, -3]), "losses": torch.tensor([0.3])},
    ]
    for batch in batches:
        pairs = len(batch["losses"])
        batch["desirable"] = torch.arange(2 * pairs) < pairs
    rewards = gathered(batches, SLiC("embedded:base"))
    assert rewards.paired
    assert rewards.rewards.tolist() == [1, 2, 3, -1, -2, -3]
    assert rewards.desirable.tolist() == [True] * 3 + [False] * 3
    assert rewards.reference_points is None


def test_the_reference_point_of_kto_is_beta_times_kl() -> None:
    batch = {
        "rewards": torch.tensor([1.0, -1.0]),
        "losses": torch.tensor([0.1, 0.2]),
        "desirable": torch.tensor([True, False]),
        "kl": torch.tensor([4.0, 0.0]),
    }
    rewards = gathered([batch, batch], KTO("embedded:base", beta=0.5))
    assert rewards.reference_points is not None
    assert rewards.reference_points.tolist() == [2.0, 0.0, 2.0, 0.0]


def points_of(figure: Any) -> list[np.ndarray]:
    return [
        np.asarray(collection.get_offsets())
        for collection in figure.axes[0].collections
        if len(collection.get_offsets())
    ]


def test_points_lie_on_the_value_function() -> None:
    rewards = Rewards(
        torch.tensor([1.0, -2.0, 0.5]), torch.tensor([True, True, False]), torch.full((3,), 0.5), torch.zeros(3), False
    )
    desirable, undesirable = points_of(draw_value_function(rewards, Logistic(), "KTO"))
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    assert desirable.tolist() == [[0.5, pytest.approx(sigmoid(0.5))], [-2.5, pytest.approx(sigmoid(-2.5))]]
    assert undesirable.tolist() == [[0.0, 0.5]]
    _, undesirable = points_of(
        draw_value_function(rewards._replace(rewards=torch.tensor([1.0, -2.0, 2.5])), KahnemanTversky(), "KTO")
    )
    assert undesirable[0, 1] == pytest.approx(-2.25 * 2**0.88)  # an undesirable output that is too likely is a loss
    (pairs,) = points_of(
        draw_value_function(
            Rewards(torch.tensor([1.0, -1.0]), torch.tensor([True, False]), None, torch.zeros(1), True),
            DPOValue(),
            "DPO",
        )
    )
    assert pairs.tolist() == [[2.0, pytest.approx(math.log(sigmoid(2.0)))]]
    (unknown,) = points_of(
        draw_value_function(
            Rewards(torch.tensor([1.0, -1.0]), torch.tensor([True, False]), None, torch.tensor([0.7]), True), None, "X"
        )
    )
    assert unknown.tolist() == [[2.0, pytest.approx(-0.7)]]


def test_the_way_of_a_run_survives_a_checkpoint(tmp_path: Path) -> None:
    first = RewardPictures()
    first._points["training"] = [(2, 0.5, 1.0), (4, 0.75, 1.5)]
    torch.save(first.state_dict(), tmp_path / "state")
    second = RewardPictures()
    second.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert second._points == first._points
    figure = draw_kl_against_reward(second._points, "way")
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[0.5, 1.0], [0.75, 1.5]]
    assert pixels(figure).shape[2] == 3
