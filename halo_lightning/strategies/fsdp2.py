"""FSDP2: torch's `fully_shard` under Lightning's ModelParallelStrategy. It runs on CPUs, too."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from lightning.fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torchmetrics import Metric

from halo_lightning.errors import ConfigError
from halo_lightning.sharding import build_spread, hand_out, spread
from halo_lightning.strategies.sharded import ShardedCheckpoints


class FSDP2(ShardedCheckpoints, ModelParallelStrategy):
    """Spreads weights, gradients and optimizer over all processes, each transformer block on its own.

    Args:
        cpu_offload: Whether they stay in the memory of the CPU, from where each block is fetched when it is run.
        process_group_backend: How processes talk; None is `nccl` on GPUs and `gloo` on CPUs.
        timeout: How long a process waits for the others.
    """

    def __init__(
        self,
        cpu_offload: bool = False,
        process_group_backend: str | None = None,
        timeout: timedelta | None = default_pg_timeout,
    ) -> None:
        super().__init__(process_group_backend=process_group_backend, timeout=timeout)
        self.cpu_offload = cpu_offload

    def setup_environment(self) -> None:
        """Starts the processes' group.

        Raises:
            ConfigError: Weights were to be fetched from the memory of the CPU, and there is nothing to fetch them to.
        """
        if self.cpu_offload and self.root_device.type == "cpu":
            raise ConfigError(
                "cpu_offload fetches weights to a GPU, and there is none. On CPUs: --trainer.strategy fsdp2"
            )
        super().setup_environment()

    def _setup_distributed(self) -> None:
        super()._setup_distributed()
        self._data_parallel_size, self._tensor_parallel_size = self.world_size, 1

    def _get_process_group_backend(self) -> str:
        backend = super()._get_process_group_backend()
        return "cpu:gloo,cuda:nccl" if self.cpu_offload and backend == "nccl" else backend

    def build(self, build: Callable[[], nn.Module], frozen: bool) -> Any:
        """Builds a module whose weights are spread (see `halo_lightning.policy.Build`)."""
        from halo_lightning.forward import blocks_of, plain

        def blocks(module: Any) -> list[nn.Module]:
            return list(blocks_of(plain(module.model if frozen else module.policy)) or [])

        options: dict[str, Any] = {"precision": str(self.precision_plugin.precision), "cpu_offload": self.cpu_offload}
        module: Any = build_spread(build, blocks, self.device_mesh["data_parallel"], self.root_device, **options)
        if not frozen:
            module.weights_are_loaded()
            module.state_is_whole = True
        return module

    def spread_small(self, module: nn.Module) -> None:
        """Spreads a module that every process has whole, with the first one's weights.

        It computes in the type of its weights under mixed precision, too.
        """
        hand_out(module if self.is_global_zero else None, module.to(self.root_device), self.root_device)
        if self.cpu_offload:
            module.cpu()
        spread(
            module,
            [],
            self.device_mesh["data_parallel"],
            precision=str(self.precision_plugin.precision),
            cpu_offload=self.cpu_offload,
            full_precision=True,
        )

    def model_to_device(self) -> None:
        """Moves what is not spread; offloaded weights stay."""
        if not self.cpu_offload:
            super().model_to_device()
            return
        assert self.model is not None
        for module in self.model.modules():
            if isinstance(module, Metric):
                module.to(self.root_device)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = buffer.to(self.root_device)
