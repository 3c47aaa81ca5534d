"""A training step never asks its device for a value, and has no tensor on the CPU in it.

On a GPU the first would make Python wait for everything that was queued, the second is an error. A meta device shows
both without a GPU: its tensors have no values to ask for, and do not go with tensors of another device.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy

from halo_lightning import KTO, Throughput, UnaryDataModule, modules
from halo_lightning.callbacks import WatchNumbers
from halo_lightning.forward import Ways, run_as
from halo_lightning.modules import HaloModule
from halo_lightning.world import rows
from tests.conftest import make_sequences
from tests.modules.test_modules import BATCHES, METHODS

MISMATCHED = make_sequences([12, 9, 7, 10], [4, 3, 1, 6])


def built(module: HaloModule, *, kernel: bool) -> HaloModule:
    """A module whose models are run as on a GPU, without trying out whether that is right: it needs values."""
    module.configure_model()
    models = [module.pair.policy]
    if module.needs_reference:
        module.pair.freeze()
        models.append(module.pair.reference)
    for model in models:
        run_as(model, Ways(), kernel)
    return module


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", [cls.__name__ for cls in METHODS])
def test_a_step(name: str, dtype: Any) -> None:
    method = getattr(modules, name)
    module = method("embedded:base", dtype=dtype, **{"reference_mode": "frozen"} if method.needs_reference else {})
    batch = BATCHES[module.feedback[0]]
    if hasattr(batch, "mismatched"):
        batch = batch._replace(mismatched=MISMATCHED)
    module = built(module, kernel=dtype == "bfloat16").to("meta")
    batch = move_data_to_device(module.on_before_batch_transfer(batch, 0), torch.device("meta"))
    loss, values = module.loss_and_metrics(batch)
    loss.backward()
    module.training_metrics.update(**{name: value.detach() for name, value in values.items()})
    assert {value.device.type for value in (loss, *values.values())} == {"meta"}


class AnyDevice(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        pass


class OnMeta(SingleDeviceStrategy):
    """Trains where nothing has a value; what Lightning asks for before and after training is made up."""

    def __init__(self) -> None:
        super().__init__(torch.device("meta"))

    def reduce(self, tensor: Any, *_: Any, **__: Any) -> Any:
        return torch.ones((), dtype=tensor.dtype)

    def teardown(self) -> None:
        pass


class Ends(L.Callback):
    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == 4:
            raise StopAsyncIteration


def test_steps_of_a_trainer(tmp_path: Path) -> None:
    """Between logs nothing waits either: not the watch of the numbers, not the clipping of gradients."""
    data = tmp_path / "feedback.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows("thumbs", examples=64, seed=1)))
    module = KTO(
        "embedded:base", reference_mode="frozen", optimizer=lambda weights: torch.optim.AdamW(weights, lr=1e-4)
    )
    trainer = L.Trainer(
        accelerator=AnyDevice(),
        strategy=OnMeta(),
        default_root_dir=tmp_path,
        max_steps=5,
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
        log_every_n_steps=1000,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[WatchNumbers(), Throughput(), Ends()],
    )
    with pytest.raises(StopAsyncIteration):
        trainer.fit(built(module, kernel=False), UnaryDataModule(str(data), batch_size=4, max_length=128))
