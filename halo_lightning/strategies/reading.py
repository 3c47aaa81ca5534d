"""Checkpoints of any strategy, for the strategies that do not spread weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from halo_lightning.checkpoints import SealedCheckpointIO
from halo_lightning.errors import ConfigError
from halo_lightning.sharded_checkpoints import is_sharded, read_whole


class AnyCheckpointIO(SealedCheckpointIO):
    """Sealed files, which also reads the folders that `FSDP` and `FSDP2` write."""

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a file or a folder; a folder's tensors are whole, on the CPU."""
        if is_sharded(path):
            return read_whole(Path(path))
        checkpoint: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only)
        if "pytorch-lightning_version" not in checkpoint:
            raise ConfigError(f"{path}: this is not a checkpoint of Lightning, which notes its version in each")
        return checkpoint
