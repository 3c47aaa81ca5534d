"""Checkpoints that every process writes its part of: saved, and read again by any number of processes.

Such a checkpoint is a folder: torch's distributed checkpoint of all tensors by name, and `meta.pt`, what else there is
to go on from. It does not matter how weights are spread where it is read. Nothing in it is executed: torch reads the
list of tensors with pickle, here with one that knows nothing but descriptions of tensors.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from halo_lightning.errors import ConfigError

META = "meta.pt"
WEIGHTS = "state_dict"
GROUPS = "optimizer_groups"


def is_sharded(path: str | Path) -> bool:
    """Whether a path is a whole checkpoint of this kind."""
    return (Path(path) / META).is_file() and (Path(path) / ".metadata").is_file()


# --- writing -------------------------------------------------------------------------------------------------------


def weights_by_name(model: nn.Module) -> dict[str, Any]:
    """A module's weights as they are spread, by the names that they have where they are not."""
    return get_model_state_dict(model)


def optimizer_by_name(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """An optimizer's state as it is spread, by the names of the weights."""
    return get_optimizer_state_dict(model, optimizer)


def write_parts(folder: Path, checkpoint: dict[str, Any], rank: int) -> None:
    """Writes this process's part of a checkpoint into a folder that is there; every process has to.

    Args:
        folder: Where to.
        checkpoint: Lightning's, with `state_dict` and `optimizer_states` by name.
        rank: Which process this is; the first one writes what has no tensors.
    """
    rest = dict(checkpoint)
    tensors: dict[str, Any] = {WEIGHTS: rest.pop("state_dict")}
    rest[GROUPS] = []
    for number, state in enumerate(rest.pop("optimizer_states", [])):
        tensors[_optimizer(number)] = state["state"]
        rest[GROUPS].append(state["param_groups"])
    dcp.save(tensors, checkpoint_id=str(folder))
    if rank == 0:
        torch.save(rest, folder / META)


def _optimizer(number: int) -> str:
    return f"optimizer_{number}"


# --- reading -------------------------------------------------------------------------------------------------------


def read_parts(
    path: Path, model: nn.Module, optimizers: Iterable[Optimizer], *, needed: Iterable[str] = ()
) -> dict[str, Any]:
    """Reads a checkpoint into a module and optimizers that are spread over processes; every process has to.

    Args:
        path: The folder.
        model: The module. Weights of it that the checkpoint does not have stay as they are.
        optimizers: Its optimizers; none where only the weights are wanted.
        needed: Names of the weights that the checkpoint has to have.

    Returns:
        What else is in the checkpoint.

    Raises:
        ConfigError: It is damaged, or of another model.
    """
    rest = read_rest(path)
    saved = {
        name.removeprefix(f"{WEIGHTS}.")
        for name in SafeReader(path).read_metadata().state_dict_metadata
        if name.startswith(f"{WEIGHTS}.")
    }
    weights = weights_by_name(model)
    _check_names(path, saved, weights, needed)
    _read({WEIGHTS: {name: value for name, value in weights.items() if name in saved}}, path)
    set_model_state_dict(model, weights)
    for number, optimizer in enumerate(optimizers):
        state = optimizer_by_name(model, optimizer)
        _read({_optimizer(number): state["state"]}, path)
        state["param_groups"] = rest[GROUPS][number]
        set_optimizer_state_dict(model, optimizer, state)
    return rest


@torch.no_grad()
def read_whole_file(
    path: Path, model: nn.Module, optimizers: Iterable[Optimizer], *, needed: Iterable[str] = ()
) -> dict[str, Any]:
    """As `read_parts`, from a single file, as one process writes it whose weights are not spread."""
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        saved: dict[str, Tensor] = checkpoint.pop("state_dict")
    except Exception as error:
        raise ConfigError(f"{path}: not a whole checkpoint ({type(error).__name__})") from error
    weights = weights_by_name(model)
    _check_names(path, saved, weights, needed)
    for name, value in saved.items():
        take_part(value, weights[name])
    set_model_state_dict(model, weights)
    names = dict(enumerate(trained_names(model)))
    whole = StateDictOptions(full_state_dict=True)
    for optimizer, state in zip(optimizers, checkpoint.pop("optimizer_states", []), strict=False):
        set_optimizer_state_dict(model, optimizer, renamed(state, names), options=whole)
    return checkpoint


def take_part(whole: Tensor, own: Tensor) -> None:
    """Copies into a tensor that is spread over processes this process's part of the whole one."""
    if isinstance(own, DTensor):
        local = own.to_local()
        part = distribute_tensor(whole, own.device_mesh, own.placements, src_data_rank=None).to_local()
        local.copy_(part)
    else:
        own.copy_(whole)


def _check_names(path: Path, saved: Iterable[str], weights: Mapping[str, Any], needed: Iterable[str]) -> None:
    known = set(saved)
    unknown, missing = sorted(known - weights.keys()), sorted(set(needed) - known)
    if unknown or missing:
        what = f"it has {unknown[0]}, which the model has not" if unknown else f"the model's {missing[0]} is not in it"
        raise ConfigError(f"{path}: this checkpoint is of another model: {what}")


def read_whole(path: Path) -> dict[str, Any]:
    """A checkpoint as one process has it whose weights are not spread: all tensors whole, in memory.

    Optimizers number their weights, in the order in which they were given them.
    """
    rest = read_rest(path)
    tensors = read_tensors(path, lambda name: True)
    rest["state_dict"] = tensors.get(WEIGHTS, {})
    rest["optimizer_states"] = []
    for number, groups in enumerate(rest.pop(GROUPS, [])):
        names = [name for group in groups for name in group["params"]]
        state = {"state": tensors.get(_optimizer(number), {}), "param_groups": groups}
        numbers = {name: place for place, name in enumerate(names)}
        rest["optimizer_states"].append(renamed(state, numbers))
    return rest


def read_rest(path: Path) -> dict[str, Any]:
    """What a checkpoint has beside tensors.

    Raises:
        ConfigError: It is damaged.
    """
    try:
        rest: dict[str, Any] = torch.load(path / META, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ConfigError(f"{path}: not a whole checkpoint ({META}: {type(error).__name__})") from error
    return rest


def read_tensors(path: Path, wanted: Any, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Tensors of a checkpoint, whole, in one process; no other needs to take part.

    Args:
        path: The folder.
        wanted: Called with a tensor's dotted name, says whether to read it.
        dtype: What floating-point numbers become; None leaves them.

    Returns:
        The tensors, nested as they were saved.
    """
    metadata = SafeReader(path).read_metadata()
    flat: dict[str, Tensor] = {}
    for name, entry in metadata.state_dict_metadata.items():
        if isinstance(entry, TensorStorageMetadata) and wanted(name):
            kind = entry.properties.dtype
            flat[name] = torch.empty(entry.size, dtype=dtype if dtype and kind.is_floating_point else kind)
    dcp.load(flat, storage_reader=SafeReader(path), planner=SafePlanner(flatten_state_dict=False), no_dist=True)
    nested: dict[str, Any] = {}
    for name, tensor in flat.items():
        keys = (metadata.planner_data or {}).get(name, (name,))
        place = nested
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place[keys[-1]] = tensor
    return nested


def _read(state: dict[str, Any], path: Path) -> None:
    dcp.load(state, storage_reader=SafeReader(path), planner=SafePlanner())


# --- names ---------------------------------------------------------------------------------------------------------


def trained_names(model: nn.Module) -> list[str]:
    """Names of the weights that are trained, in the order in which a module's optimizer is given them."""
    return [
        name.replace("_fsdp_wrapped_module.", "") for name, weight in model.named_parameters() if weight.requires_grad
    ]


def renamed(state: Mapping[str, Any], names: Mapping[Any, Any]) -> dict[str, Any]:
    """The state of an optimizer whose weights get other names, or numbers."""
    return {
        "state": {names[key]: value for key, value in state["state"].items()},
        "param_groups": [
            {**group, "params": [names[key] for key in group["params"]]} for group in state["param_groups"]
        ],
    }


# --- safety --------------------------------------------------------------------------------------------------------


class SafePlanner(DefaultLoadPlanner):
    """Torch's planner, which reads what is no tensor with no pickle but torch's own, restricted one."""

    def load_bytes(self, read_item: Any, value: io.BytesIO) -> None:
        """Refuses whatever is more than numbers, texts and lists of them."""
        content = torch.load(value, weights_only=True)
        buffer = io.BytesIO()
        torch.save(content, buffer)
        super().load_bytes(read_item, io.BytesIO(buffer.getvalue()))


class SafeReader(dcp.FileSystemReader):
    """Torch's reader, whose list of tensors may hold nothing but descriptions of tensors."""

    def read_metadata(self, *arguments: Any, **options: Any) -> Metadata:
        """Reads the list.

        Raises:
            ConfigError: It is damaged, or names anything else.
        """
        file = Path(self.path) / ".metadata"
        try:
            with file.open("rb") as stream:
                metadata = _Descriptions(stream).load()
        except Exception as error:
            raise ConfigError(f"{self.path}: not a whole checkpoint, or not one of tensors alone ({error})") from error
        if getattr(metadata, "storage_meta", None) is None:
            metadata.storage_meta = dcp.metadata.StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


_DESCRIPTIONS = (
    "Metadata",
    "MetadataIndex",
    "StorageMeta",
    "BytesStorageMetadata",
    "ChunkStorageMetadata",
    "TensorProperties",
    "TensorStorageMetadata",
    "_MEM_FORMAT_ENCODING",
)


class _Descriptions(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in ("PosixPath", "WindowsPath") and module.partition(".")[0] == "pathlib":
            return lambda *parts: "/".join(map(str, parts))  # the folder that it was written to
        if (module, name) in _KNOWN:
            return super().find_class(module, name)
        found = getattr(torch, name, None) if module == "torch" else None
        if isinstance(found, (torch.dtype, torch.layout, torch.memory_format)) or found is torch.Size:
            return found
        raise pickle.UnpicklingError(f"{module}.{name} is no description of a tensor")


# Names one by one: the modules that they are in import others, such as `os`, which a dotted name would reach.
_KNOWN = {
    *((Metadata.__module__, name) for name in _DESCRIPTIONS),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("collections", "OrderedDict"),
    ("builtins", "set"),
}
