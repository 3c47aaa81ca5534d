"""A Hugging Face folder at the end of training."""

from __future__ import annotations

import os
from typing import Any

import lightning as L

from halo_lightning.export import empty_copy, filled, gathered, policy_weights, with_adapter, write_export
from halo_lightning.modules.base import HaloModule
from halo_lightning.policy import is_spread
from halo_lightning.pretrained import load_tokenizer
from halo_lightning.sharded_checkpoints import weights_by_name


class HuggingFaceExport(L.Callback):
    """Writes the policy as a Hugging Face folder when training has ended, and not when it was interrupted.

    Args:
        folder: Where to; an existing export there is replaced. None is `export` in the Trainer's root folder (the
            folder of the run, from the command line).
        adapter_only: Whether to write an adapter (`lora`) alone, and not merged into the model as well.

    Attributes:
        origin: What else to note in the export's manifest, JSON values.
    """

    def __init__(self, folder: str | None = None, adapter_only: bool = False) -> None:
        self.folder, self.adapter_only = folder, adapter_only
        self.origin: dict[str, Any] = {}
        self._exported = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Sees to it that a run that goes on where there is nothing left to train is exported, too."""
        if stage != "fit":
            return
        loop = trainer.fit_loop
        run = type(loop).run
        self._exported = False

        def run_and_export() -> None:
            run(loop)
            if not self._exported:  # Lightning skips all hooks of training then
                self.on_train_end(trainer, pl_module)

        loop.run = run_and_export  # type: ignore[method-assign]

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Takes that away."""
        if stage == "fit":
            vars(trainer.fit_loop).pop("run", None)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gathers the weights (every process takes part) and writes the folder (one process does)."""
        if not isinstance(pl_module, HaloModule) or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        # What a strategy has spread over processes comes together here, one weight at a time.
        spread = any(is_spread(module) for module in (trainer.strategy.model, pl_module.pair) if module is not None)
        model: Any = trainer.strategy.model
        state = weights_by_name(model) if spread else trainer.strategy.lightning_module_state_dict()
        weights = gathered(policy_weights(state), trainer.is_global_zero)
        if trainer.is_global_zero:
            tokenizer = getattr(getattr(trainer, "datamodule", None), "tokenizer", None)
            write_export(
                self.folder or os.path.join(trainer.default_root_dir, "export"),
                self.exported(pl_module, weights),
                pl_module.tokenizer_for_export(tokenizer or load_tokenizer(pl_module.policy_path)),
                adapter_only=self.adapter_only and pl_module.lora is not None,
                origin={
                    "module": type(pl_module).__name__,
                    "policy": pl_module.policy_path,
                    "global_step": trainer.global_step,
                    **self.origin,
                },
            )
        trainer.strategy.barrier("export")
        self._exported = True

    def exported(self, module: HaloModule, weights: dict[str, Any]) -> Any:
        """The policy apart from the training, with these weights."""
        if module.lora is not None:
            return with_adapter(module.policy_path, module.dtype_of_weights, module.task, module.lora, weights)
        return filled(empty_copy(module.pair.policy), weights)
