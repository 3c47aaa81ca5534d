"""A training step never asks its device for a value, and has no tensor on the CPU in it.

On a GPU the first would make Python wait for everything that was queued, the second is an error. A meta device shows
both without a GPU: its tensors have no values to ask for, and do not go with tensors of another device.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.fabric.utilities import move_data_to_device

from halo_lightning import modules
from halo_lightning.forward import Ways, run_as
from halo_lightning.modules import HaloModule
from tests.conftest import make_sequences
from tests.modules.test_modules import BATCHES, METHODS

MISMATCHED = make_sequences([12, 9, 7, 10], [4, 3, 1, 6])


def on_meta(module: HaloModule, *, kernel: bool) -> HaloModule:
    """A module all of whose weights and metrics are on the meta device, whose models are run as on a GPU."""
    module.configure_model()
    models = [module.pair.policy]
    if module.needs_reference:
        module.pair.freeze()
        models.append(module.pair.reference)
    for model in models:
        run_as(model, Ways(), kernel)
    return module.to("meta")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", [cls.__name__ for cls in METHODS])
def test_a_step(name: str, dtype: Any) -> None:
    method = getattr(modules, name)
    module = method("embedded:base", dtype=dtype, **{"reference_mode": "frozen"} if method.needs_reference else {})
    batch = BATCHES[module.feedback[0]]
    if hasattr(batch, "mismatched"):
        batch = batch._replace(mismatched=MISMATCHED)
    module = on_meta(module, kernel=dtype == "bfloat16")
    batch = move_data_to_device(module.on_before_batch_transfer(batch, 0), torch.device("meta"))
    loss, values = module.loss_and_metrics(batch)
    loss.backward()
    module.training_metrics.update(**{name: value.detach() for name, value in values.items()})
    assert {value.device.type for value in (loss, *values.values())} == {"meta"}
