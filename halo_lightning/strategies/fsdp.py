"""FSDP as Lightning has it, for the modules of this package."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal

import torch
from lightning.fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision
from torch.distributed.fsdp.wrap import CustomPolicy
from torchmetrics import Metric

from halo_lightning.errors import ConfigError
from halo_lightning.pretrained import compute_dtype
from halo_lightning.sharding import built_without_memory, check_filled
from halo_lightning.strategies.sharded import ShardedCheckpoints


class FSDP(ShardedCheckpoints, FSDPStrategy):
    """Spreads weights, gradients and optimizer over all devices, each transformer block on its own.

    Beside what Lightning's `FSDPStrategy` does: blocks are found in any model, gradients are added up in float32, the
    reference is spread like the policy, one process alone loads the weights, and a checkpoint can be continued with
    another number of devices.

    Args:
        cpu_offload: Whether they stay in the memory of the CPU, from where each block is fetched when it is run.
        sharding_strategy: What is spread: `FULL_SHARD` everything, `SHARD_GRAD_OP` all but the weights, which takes
            more memory and less time.
        timeout: How long a process waits for the others.
    """

    def __init__(
        self,
        cpu_offload: bool = False,
        sharding_strategy: Literal["FULL_SHARD", "SHARD_GRAD_OP"] = "FULL_SHARD",
        timeout: timedelta | None = default_pg_timeout,
    ) -> None:
        super().__init__(
            cpu_offload=cpu_offload, sharding_strategy=sharding_strategy, state_dict_type="sharded", timeout=timeout
        )

    needs_gpu = True
    """What torch's FSDP says of itself; the tests know how to run it on CPUs all the same."""

    def setup_environment(self) -> None:
        """Starts the processes' group, and a mesh of it, with which weights have the form of FSDP2's.

        Raises:
            ConfigError: There is no GPU, or one alone that was to compute in mixed precision.
        """
        if self.needs_gpu and self.root_device.type == "cpu":
            raise ConfigError(
                "FSDP needs GPUs, and there is none. On CPUs: --trainer.strategy auto, or, to spread the weights over"
                " several processes, --trainer.strategy fsdp2"
            )
        if self.num_nodes * self.num_processes == 1 and compute_dtype(str(self.precision_plugin.precision)) is not None:
            raise ConfigError(
                "FSDP with one device and mixed precision is not supported (torch would keep gradients in half"
                " precision): use --trainer.strategy auto, or fsdp2, which offloads as well: fsdp2_cpu_offload"
            )
        super().setup_environment()
        self.kwargs["device_mesh"] = init_device_mesh(self.root_device.type, (self.world_size,))

    def _get_process_group_backend(self) -> str:
        backend = super()._get_process_group_backend()
        offload = self.cpu_offload is not None and self.cpu_offload.offload_params
        return "cpu:gloo,cuda:nccl" if offload and backend == "nccl" else backend

    @property
    def mixed_precision_config(self) -> MixedPrecision:
        """Blocks compute in half precision where precision is mixed; gradients are added up in float32.

        Buffers (frequencies of rotary embeddings, say) and the log-probabilities in batches stay what they are.
        """
        return MixedPrecision(
            param_dtype=compute_dtype(str(self.precision_plugin.precision)),
            reduce_dtype=torch.float32,
            cast_root_forward_inputs=False,
        )

    def build(self, build: Callable[[], nn.Module], frozen: bool) -> Any:
        """Builds a module of which the first process alone loads the weights (see `halo_lightning.policy.Build`).

        They are handed out when the module is wrapped: a frozen one here, the one that is trained by `setup`.
        """
        module: Any = build() if self.is_global_zero else built_without_memory(build)
        if frozen:
            return self._wrapped(module, _blocks(module.model), [])
        module.state_is_whole = True
        return module

    def spread_small(self, module: nn.Module) -> None:
        """Nothing: `setup` wraps it."""

    def _setup_model(self, model: nn.Module) -> nn.Module:
        module: Any = self.lightning_module
        pair: Any = getattr(module, "models", None)
        blocks = [] if pair is None else _blocks(pair.policy)
        untrained = pair is not None and pair.untrained
        wrapped = self._wrapped(model, blocks, getattr(module, "full_precision_modules", list)())
        for part in wrapped.modules():
            if isinstance(part, Metric):
                part.to(self.root_device)
        if untrained:
            pair.weights_are_loaded()
        return wrapped

    def _wrapped(self, module: nn.Module, blocks: list[nn.Module], full_precision: list[nn.Module]) -> nn.Module:
        alone: dict[int, bool | dict[str, Any]] = {id(block): True for block in blocks}
        alone |= {id(part): {"mixed_precision": MixedPrecision(reduce_dtype=torch.float32)} for part in full_precision}
        wrapped = FullyShardedDataParallel(
            module,
            auto_wrap_policy=CustomPolicy(lambda part: alone.get(id(part), False)),
            cpu_offload=self.cpu_offload,
            mixed_precision=self.mixed_precision_config,
            sharding_strategy=self.sharding_strategy,
            device_id=self.root_device,
            sync_module_states=True,
            param_init_fn=_Materialized(self.root_device),
            **self.kwargs,
        )
        check_filled(wrapped)
        return wrapped

    def clip_gradients(self, bound: float, part: nn.Module | None = None) -> Tensor:
        """Scales gradients down to a norm, over all processes.

        Args:
            bound: The norm.
            part: The wrapped module whose gradients are meant; None is all of them.

        Returns:
            The norm before.
        """
        if part is None:
            root: Any = self.model
            norm: Tensor = root.clip_grad_norm_(bound)
            return norm
        own = [weight.grad for weight in part.parameters() if weight.grad is not None and weight.grad.numel()]
        squares = torch.zeros((), device=self.root_device)
        if own:
            squares += torch.stack(torch._foreach_norm(own)).square().sum().to(squares)
        if self.world_size > 1:
            distributed.all_reduce(squares)
        scale = (bound / (squares.sqrt() + 1e-6)).clamp(max=1.0)
        for gradient in own:
            gradient.mul_(scale.to(gradient.device))
        return squares.sqrt()


def _blocks(model: Any) -> list[nn.Module]:
    from halo_lightning.forward import blocks_of, plain

    return list(blocks_of(plain(model)) or [])


class _Materialized:
    """Gives a module's own weights and buffers memory where they have none, and shared ones the same memory."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.made: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, module: nn.Module) -> None:
        for kept in (module._parameters, module._buffers):
            for name, tensor in kept.items():
                if tensor is not None and tensor.is_meta:
                    kept[name] = self._made(tensor)  # type: ignore[assignment]

    def _made(self, tensor: Tensor) -> Tensor:
        # The tensor itself is kept as well, so that no other one gets its number.
        if id(tensor) not in self.made:
            empty: Tensor = torch.empty_like(tensor, device=self.device)
            if isinstance(tensor, nn.Parameter):
                empty = nn.Parameter(empty, requires_grad=tensor.requires_grad)
            self.made[id(tensor)] = (tensor, empty)
        return self.made[id(tensor)][1]
