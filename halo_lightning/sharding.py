"""Modules whose weights are spread over processes, built so that no process but one ever holds them whole.

The first process loads a module; every other one makes it without memory for its weights (on the "meta" device). FSDP2
spreads the empty weights, and the first process hands them out one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

from halo_lightning.errors import ConfigError
from halo_lightning.pretrained import compute_dtype
from halo_lightning.sharded_checkpoints import take_part


def built_without_memory(build: Callable[[], nn.Module]) -> Any:
    """A module whose weights have shapes and no values."""
    with torch.device("meta"):
        return build()


def spread(
    module: nn.Module,
    blocks: Iterable[nn.Module],
    mesh: DeviceMesh,
    *,
    precision: str,
    cpu_offload: bool,
    full_precision: bool = False,
) -> None:
    """Spreads a module's weights over the processes of a mesh, by FSDP2: each block, and the rest together.

    Gradients are added up in float32, unless the weights are float64.

    Args:
        module: The module; its forward pass gathers what is not in a block.
        blocks: Parts of it that are gathered on their own, when they are run.
        mesh: The processes, in one dimension.
        precision: The Trainer's.
        cpu_offload: Whether weights, gradients and optimizer stay in the memory of the CPU.
        full_precision: Whether the module computes in the type of its weights under mixed precision, too.
    """
    weights = next(module.parameters()).dtype
    mixed: dict[str, Any] = {
        "param_dtype": None if full_precision else compute_dtype(precision),
        "reduce_dtype": None if weights == torch.float64 else torch.float32,
    }
    offload = CPUOffloadPolicy() if cpu_offload else OffloadPolicy()
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=MixedPrecisionPolicy(**mixed), offload_policy=offload)
    # The module itself is given whole batches: the log-probabilities in them stay float32.
    outer = MixedPrecisionPolicy(**mixed, cast_forward_inputs=False)
    fully_shard(module, mesh=mesh, mp_policy=outer, offload_policy=offload)


def build_spread(
    build: Callable[[], nn.Module],
    blocks: Callable[[nn.Module], Iterable[nn.Module]],
    mesh: DeviceMesh,
    device: torch.device,
    *,
    precision: str,
    cpu_offload: bool,
) -> nn.Module:
    """A module, spread over the processes of a mesh (see `spread`).

    Args:
        build: Makes the module; the first process calls it twice.
        blocks: Which parts of the module are gathered on their own.
        mesh: The processes, in one dimension.
        device: This process's.
        precision: The Trainer's.
        cpu_offload: Whether weights stay in the memory of the CPU.
    """
    module: nn.Module = built_without_memory(build)
    source = build() if distributed.get_rank() == 0 else None
    spread(module, blocks(module), mesh, precision=precision, cpu_offload=cpu_offload)
    module.to_empty(device=torch.device("cpu") if cpu_offload else device)
    hand_out(source, module, device)
    return module


@torch.no_grad()
def hand_out(source: nn.Module | None, module: nn.Module, device: torch.device) -> None:
    """Gives every process its part of the first one's weights, and all of its buffers, one tensor at a time.

    Args:
        source: The same module with its values; in the first process, else None.
        module: What is filled.
        device: This process's, through which values are sent.
    """
    values = {} if source is None else dict(tensors_of(source))
    for name, tensor in tensors_of(module):
        whole = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        if source is not None:
            whole.copy_(values[name])
        distributed.broadcast(whole, 0)
        take_part(whole, tensor)
    check_filled(module)


def tensors_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Weights, once each, and buffers, those that are not saved included."""
    yield from module.named_parameters()
    yield from module.named_buffers()


def check_filled(module: nn.Module) -> None:
    """Makes sure that nothing was left without values.

    Raises:
        ConfigError: The module keeps a tensor where only its own code finds it.
    """
    for name, part in module.named_modules():
        for key, value in vars(part).items():
            if isinstance(value, Tensor) and value.is_meta:
                raise ConfigError(
                    f"{type(part).__name__} ({name}) has a tensor, {key}, that is neither a weight nor a buffer, so"
                    " that the model cannot be spread over processes: use --trainer.strategy ddp"
                )
