"""Trains two processes with samples: `python -m tests.callbacks.sample_in_processes OUT ddp|sharded`.

A script of its own, because every process of Lightning's launcher runs it.
"""

from __future__ import annotations

import sys
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

from halo_lightning import KTO, UnaryDataModule
from halo_lightning.callbacks.samples import SampleCompletions


def main(out: str, kind: str) -> None:
    strategy: Any = DDPStrategy(process_group_backend="gloo")
    if kind == "sharded":
        strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo")
    module = KTO("embedded:base", reference_mode="frozen")
    trainer = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=strategy,
        max_steps=2,
        logger=TensorBoardLogger(out, name="tensorboard"),
        callbacks=[SampleCompletions(2, every_n_steps=1, max_new_tokens=4)],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        limit_val_batches=0,
    )
    trainer.fit(module, datamodule=UnaryDataModule("embedded:thumbs?examples=40", batch_size=4))


if __name__ == "__main__":
    main(*sys.argv[1:])
