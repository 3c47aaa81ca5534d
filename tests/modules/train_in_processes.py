"""Trains several methods for a few steps in float64, in one process or in two, and writes what came out.

A script of its own, because every process of Lightning's `ddp` runs it:
    python -m tests.modules.train_in_processes DATA OUT DEVICES
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from transformers import AutoConfig, AutoModelForCausalLM

from halo_lightning import (
    BCO,
    CSFT,
    DPO,
    KTO,
    SFT,
    OfflinePPO,
    PairedDataModule,
    SFTDataModule,
    SLiC,
    UnaryDataModule,
)
from halo_lightning.data.preparation import Preparation
from halo_lightning.world import BASE_MODEL

RANDOM = "random"
"""Stands for the folder of a model with random weights."""

CASES = {
    "KTO": (KTO, {"beta": 0.5}, UnaryDataModule),
    "KTO, gradient through the KL": (KTO, {"beta": 0.5, "kl_gradient": True}, UnaryDataModule),
    # Against a reference that knows nothing the KL is above 0, and not clamped.
    "KTO, mismatched KL": (KTO, {"beta": 0.01, "kl": "mismatched", "reference": RANDOM}, UnaryDataModule),
    "DPO": (DPO, {}, PairedDataModule),
    "BCO": (BCO, {"beta": 0.5}, UnaryDataModule),
    "OfflinePPO": (OfflinePPO, {}, UnaryDataModule),
    "OfflinePPO, value head": (OfflinePPO, {"advantage": "gae", "value_coefficient": 1.0}, UnaryDataModule),
    "CSFT": (CSFT, {}, UnaryDataModule),
    "SLiC": (SLiC, {}, PairedDataModule),
    "SFT": (SFT, {}, SFTDataModule),
    "DPO, cached tokens": (DPO, {}, PairedDataModule),
    "KTO, streamed": (KTO, {"beta": 0.5}, UnaryDataModule),
}


def data_options(name: str, data: str, out: str) -> dict[str, Any]:
    """What a case asks of its data module."""
    options: dict[str, Any] = {"batch_size": 16, "max_length": 128, "max_prompt_length": 64}
    if "cached" in name:
        options |= {"cache": f"{out}.tokens", "group_by_length": True}
    if "streamed" in name:
        options |= {"streaming": True, "shuffle_buffer": 40, "validation": data}
    return options


def note_preparation(out: str) -> None:
    """Lets every preparation leave a file, so that they can be counted."""
    run = Preparation.run

    def noted(*arguments: Any) -> Any:
        Path(f"{out}.prepared.{uuid.uuid4()}").touch()
        return run(*arguments)

    Preparation.run = noted  # type: ignore[method-assign]


def main(data: str, out: str, devices: int) -> None:
    results = {}
    torch.manual_seed(0)
    random = f"{out}.{RANDOM}.{os.environ.get('LOCAL_RANK', 0)}"
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(BASE_MODEL)).save_pretrained(random)
    run = Preparation.run
    for name, (module_class, settings, data_class) in CASES.items():
        L.seed_everything(1)
        settings = {key: random if value == RANDOM else value for key, value in settings.items()}
        module = module_class(
            "embedded:base",
            dtype="float64",
            reference_cache=f"{out}.cache",  # each number of processes computes its own
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05),
            **settings,
        )
        trainer = L.Trainer(
            accelerator="cpu",
            devices=devices,
            strategy=DDPStrategy(process_group_backend="gloo") if devices > 1 else "auto",
            max_steps=3,
            log_every_n_steps=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=4,
            val_check_interval=3,
        )
        if "cached" in name:
            note_preparation(out)
        trainer.fit(module, datamodule=data_class(data, **data_options(name, data, out)))
        Preparation.run = run
        if trainer.is_global_zero:
            weights = module.pair.policy.state_dict()
            results[name] = {
                "metrics": {key: float(value) for key, value in trainer.callback_metrics.items()},
                "weights": {key: [float(w.double().sum()), float(w.double().norm())] for key, w in weights.items()},
            }
    if trainer.is_global_zero:
        Path(out).write_text(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
