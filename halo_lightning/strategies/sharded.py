"""What the strategies that spread weights share: checkpoints that each process writes its part of."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim import Optimizer

from halo_lightning.adapters import has_adapter, keep_adapter_alone
from halo_lightning.errors import ConfigError
from halo_lightning.files import replaced_folder
from halo_lightning.sharded_checkpoints import (
    is_sharded,
    optimizer_by_name,
    read_parts,
    read_whole_file,
    weights_by_name,
    write_parts,
)


class ShardedCheckpoints(ParallelStrategy):
    """Saves a folder that each process writes its part of, and reads one, or a single file, into their parts."""

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Weights are spread first, and filled then."""
        return True

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Optimizers are restored by `load_checkpoint`."""
        return False

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The weights by name, as they are spread; where there is an adapter, what is trained alone."""
        assert self.model is not None
        state = weights_by_name(self.model)
        pair: Any = getattr(self.lightning_module, "models", None)
        if pair is not None and has_adapter(pair.policy):
            keep_adapter_alone(state, "models.policy.")
        return state

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's state by the names of the weights, as it is spread."""
        assert self.model is not None
        plain: Any = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        return optimizer_by_name(self.model, plain)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Writes a folder, which has its name when everything of all processes is in it."""
        path = Path(self.broadcast(str(filepath)))
        with replaced_folder(path) if self.is_global_zero else nullcontext() as own:
            folder = Path(self.broadcast(str(own)))
            write_parts(folder, checkpoint, self.global_rank)
        self.barrier("checkpoint")

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads a folder, or a single file, into the weights and optimizers of this process.

        Raises:
            ConfigError: The path is neither.
        """
        path = Path(self.broadcast(str(checkpoint_path)))
        assert self.model is not None
        assert self.lightning_module is not None
        needed = self.lightning_module_state_dict() if self.lightning_module.strict_loading else ()
        training = self.lightning_module.trainer.state.fn == TrainerFn.FITTING
        optimizers = self.optimizers if training else []
        if is_sharded(path):
            return read_parts(path, self.model, optimizers, needed=needed)
        if path.is_file():
            return read_whole_file(path, self.model, optimizers, needed=needed)
        raise ConfigError(f"{path}: neither a checkpoint nor a folder with a whole one in it")

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Nothing: `load_checkpoint` did it."""

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Nothing: `load_checkpoint` did it."""
