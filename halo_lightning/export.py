"""From a trained module or a checkpoint to a Hugging Face folder."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from halo_lightning.adapters import LoRA, add_adapter, has_adapter
from halo_lightning.caches import cache_folder, content_hash
from halo_lightning.checkpoints import check, files_as_json, load, sha256
from halo_lightning.errors import ConfigError
from halo_lightning.files import replaced_folder
from halo_lightning.model_folders import MANIFEST, check_config
from halo_lightning.pretrained import load_model, load_tokenizer, model_class

if TYPE_CHECKING:
    from transformers import PreTrainedModel

POLICY_PREFIX = "models.policy."
ADAPTER = "adapter"
"""The folder in an export that holds an adapter alone."""
SHARD_SIZE = "5GB"
"""Size of a file of weights; one at a time is copied while it is written."""


def write_export(
    folder: str | Path,
    model: PreTrainedModel,
    tokenizer: Any,
    *,
    adapter_only: bool = False,
    origin: dict[str, Any] | None = None,
) -> Path:
    """Writes a folder that `AutoModelForCausalLM` and `AutoTokenizer` load with no line of ours.

    Weights (safetensors), configuration, tokenizer with its chat template, and generation configuration are written
    aside and renamed when all of them are on disk, with a manifest of their sizes and hashes. An adapter is written
    twice: alone, into the folder `adapter`, as peft loads it, and merged into the model's weights.

    Args:
        folder: Where to; an existing export there is replaced.
        model: The policy. Its adapter is merged into it, if it has one.
        tokenizer: Its tokenizer.
        adapter_only: Whether to leave out the merged model.
        origin: What the export was made from, for its manifest; JSON values.

    Returns:
        The folder.

    Raises:
        DiskFullError: There is no room.
    """
    from halo_lightning import __version__

    with replaced_folder(folder) as partial:
        if has_adapter(model):
            adapter: Any = model
            adapter.save_pretrained(partial / ADAPTER)
            model = adapter.merge_and_unload()
        if not adapter_only:
            _write_model(partial, model, tokenizer)
        tokenizer.save_pretrained(partial)
        files = {
            path.relative_to(partial).as_posix(): (path.stat().st_size, sha256(path))
            for path in sorted(partial.rglob("*"))
            if path.is_file()
        }
        manifest = {"halo_lightning": __version__, **(origin or {}), "files": files_as_json(files)}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    for name, (_, digest) in files.items():  # whoever starts from it here need not read it all
        content_hash(Path(folder) / name, cache_folder("hashes"), written_here=digest)
    return Path(folder)


def _write_model(folder: Path, model: PreTrainedModel, tokenizer: Any) -> None:
    if model.can_generate():
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    use_cache, model.config.use_cache = model.config.use_cache, True
    try:
        model.save_pretrained(folder, max_shard_size=SHARD_SIZE)
    finally:
        model.config.use_cache = use_cache


def policy_weights(state: dict[str, Any]) -> dict[str, Any]:
    """The policy's weights in the state of a module."""
    return {name.removeprefix(POLICY_PREFIX): value for name, value in state.items() if name.startswith(POLICY_PREFIX)}


def gathered(weights: dict[str, Any], keep: bool) -> dict[str, Tensor]:
    """Weights that are spread over processes, whole, on the CPU. Every process has to take part.

    Args:
        weights: By name; two names of the same weight stay that.
        keep: Whether this process gets them.

    Returns:
        The weights, or nothing.
    """
    result: dict[str, Tensor] = {}
    known: dict[int, str] = {}
    for name, value in weights.items():
        first = known.setdefault(_place(value), name)
        if first == name:
            whole = value.full_tensor() if hasattr(value, "full_tensor") else value
            if keep:
                result[name] = whole.detach().cpu()
        elif keep:
            result[name] = result[first]
    return result


def _place(value: Any) -> int:
    """What two names of one weight have in common; an empty part of a weight has no place, and stands for itself."""
    own: Tensor = value.to_local() if hasattr(value, "to_local") else value
    return own.data_ptr() or id(value)


def empty_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A model of the same kind with no memory for its weights."""
    with torch.device("meta"):
        result: PreTrainedModel = type(model)(copy.deepcopy(model.config))
    if model.can_generate():
        result.generation_config = model.generation_config
    return result


def filled(model: PreTrainedModel, weights: dict[str, Tensor]) -> PreTrainedModel:
    """A model without memory gets weights, which are not copied.

    Raises:
        ConfigError: They are not those of the model.
    """
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ConfigError(f"the weights do not fit the model: {str(error)[:500]}") from error
    model.tie_weights()
    return model


def with_adapter(policy: str, dtype: Any, task: Any, lora: LoRA, weights: dict[str, Tensor]) -> Any:
    """A policy as it was before training, on the CPU, with a trained adapter.

    Args:
        policy: The folder or hub id of the policy.
        dtype: Of its weights.
        task: What it does.
        lora: Size and place of the adapter.
        weights: The adapter's.

    Raises:
        ConfigError: The policy is not where it was, or the adapter does not fit it.
    """
    if lora.quantize is not None:
        from halo_lightning.quantization import load_dequantized

        base = load_dequantized(policy, task, dtype=dtype)  # what the adapter was trained on
    else:
        base = load_model(policy, task, dtype=dtype)
    model: Any = add_adapter(base, lora, task)
    unknown = model.load_state_dict(weights, strict=False).unexpected_keys
    if unknown:
        raise ConfigError(f"the adapter does not fit {policy}, which has no {unknown[0]}")
    return model


ExportDType = Literal["auto", "float32", "bfloat16", "float16"]


def export_checkpoint(
    checkpoint: str,
    out: str,
    tokenizer: str | None = None,
    dtype: ExportDType = "auto",
    adapter_only: bool = False,
) -> None:
    """Makes a Hugging Face folder from a Lightning checkpoint: a file, or a folder that several processes have written.

    The files are compared with their manifest first. The weights are read once. So much memory of the CPU is needed,
    and no GPU.

    Args:
        checkpoint: A checkpoint that a run wrote, in its folder `checkpoints`.
        out: The folder to write; an export that is already there is replaced.
        tokenizer: Path or id of the tokenizer; None is the one that the run used.
        dtype: Of the weights; `auto` is that of the checkpoint.
        adapter_only: Whether to write an adapter alone, and not merged into the model as well.

    Raises:
        ConfigError: The checkpoint is missing, damaged, or not one of this package.
    """
    path = Path(checkpoint)
    if not path.exists():
        raise ConfigError(f"{checkpoint}: no such checkpoint (a run keeps them in its checkpoints/ folder)")
    kind = None if dtype == "auto" else getattr(torch, dtype)
    notes, weights, step = _read_folder(path, kind) if path.is_dir() else _read_file(path, kind)
    model: Any
    try:
        if notes.get("lora"):
            lora, own = LoRA(**notes["lora"]), notes["dtype"] if kind is None else dtype
            model = with_adapter(notes["policy"], own, notes["task"], lora, weights)
        else:
            check_config(notes["config"], str(path), len(weights))
            model = filled(_empty(notes), weights)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: what it says of its model cannot be ({type(error).__name__}: {error})") from error
    write_export(
        out,
        model,
        load_tokenizer(tokenizer or notes["tokenizer"] or notes["policy"]),
        adapter_only=adapter_only and bool(notes.get("lora")),
        origin={"module": notes["module"], "checkpoint": path.name, "global_step": step},
    )
    print(f"exported {checkpoint} (step {step}) to {out}")


def _empty(notes: dict[str, Any]) -> PreTrainedModel:
    from transformers import AutoConfig

    config = dict(notes["config"])
    with torch.device("meta"):
        model: PreTrainedModel = model_class(notes["task"]).from_config(
            AutoConfig.for_model(config.pop("model_type"), **config), trust_remote_code=False
        )
    return model


Read = tuple[dict[str, Any], dict[str, Tensor], int]


def _read_file(path: Path, dtype: torch.dtype | None) -> Read:
    try:
        saved = load(path, mmap=True)
        notes, weights, step = saved["halo_lightning"], policy_weights(saved["state_dict"]), saved["global_step"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: not a checkpoint of a halo_lightning module ({type(error).__name__})") from error
    return notes, {name: _as(value, dtype) for name, value in weights.items()}, step


def _read_folder(path: Path, dtype: torch.dtype | None) -> Read:
    from halo_lightning.sharded_checkpoints import WEIGHTS, is_sharded, read_rest, read_tensors

    if not is_sharded(path):
        inside = _names(path.glob("*.ckpt"))
        if (path / "latest").is_file():
            raise ConfigError(
                f"{path}: a checkpoint of DeepSpeed. A run that has ended has an export already; else --ckpt_path last"
                " goes on from it, and DeepSpeed's own zero_to_fp32.py makes a file of weights from it"
            )
        hint = f": it holds {inside}" if inside else ""
        raise ConfigError(f"{path}: this folder is no checkpoint{hint}")
    check(path)
    rest = read_rest(path)
    if "halo_lightning" not in rest:
        raise ConfigError(f"{path}: not a checkpoint of a halo_lightning module")
    prefix = f"{WEIGHTS}.{POLICY_PREFIX}"
    tensors = read_tensors(path, lambda name: name.startswith(prefix), dtype)
    return rest["halo_lightning"], policy_weights(tensors[WEIGHTS]), rest["global_step"]


def _as(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    return value.to(dtype) if dtype is not None and value.is_floating_point() else value


def _names(paths: Iterable[Path]) -> str:
    return ", ".join(sorted(path.name for path in paths))
