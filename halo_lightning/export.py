"""From a trained module or a Lightning checkpoint to a Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from halo_lightning.adapters import LoRA, add_adapter, merged
from halo_lightning.errors import ConfigError
from halo_lightning.files import replaced_folder
from halo_lightning.pretrained import load_tokenizer, model_class

if TYPE_CHECKING:
    from transformers import PreTrainedModel

POLICY_PREFIX = "models.policy."
MANIFEST = "halo_lightning.json"
"""The file of an export that says where it comes from; written last, so its presence means that all is there."""


def write_export(
    folder: str | Path,
    model: PreTrainedModel,
    tokenizer: Any,
    *,
    state_dict: dict[str, torch.Tensor] | None = None,
    origin: dict[str, Any] | None = None,
) -> Path:
    """Writes a folder that `AutoModelForCausalLM` and `AutoTokenizer` load with no line of ours.

    Weights (safetensors), configuration, tokenizer with its chat template, and generation configuration are written
    aside and renamed when all of them are on disk.

    Args:
        folder: Where to; an existing export there is replaced.
        model: The policy.
        tokenizer: Its tokenizer.
        state_dict: Weights to save instead of the model's own (gathered ones of a sharded model, say).
        origin: What the export was made from, for its manifest; JSON values.

    Returns:
        The folder.
    """
    from halo_lightning import __version__

    if model.can_generate():
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    use_cache, model.config.use_cache = model.config.use_cache, True
    try:
        with replaced_folder(folder) as partial:
            model.save_pretrained(partial, state_dict=state_dict)
            tokenizer.save_pretrained(partial)
            manifest = {"halo_lightning": __version__, **(origin or {})}
            (partial / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    finally:
        model.config.use_cache = use_cache
    return Path(folder)


def read_manifest(folder: str | Path) -> dict[str, Any] | None:
    """The manifest of a finished export, or None where there is no finished export."""
    path = Path(folder) / MANIFEST
    return json.loads(path.read_text()) if path.is_file() else None


def policy_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The policy's weights in the state of a module."""
    return {name.removeprefix(POLICY_PREFIX): value for name, value in state.items() if name.startswith(POLICY_PREFIX)}


def export_checkpoint(checkpoint: str, out: str, tokenizer: str | None = None) -> None:
    """Makes a Hugging Face folder from a Lightning checkpoint.

    Args:
        checkpoint: A `.ckpt` file that a run wrote.
        out: The folder to write; an export that is already there is replaced.
        tokenizer: Path or id of the tokenizer; None is the one that the run used.

    Raises:
        ConfigError: The checkpoint is missing, damaged, or not one of this package.
    """
    from transformers import AutoConfig

    path = Path(checkpoint)
    if not path.exists():
        raise ConfigError(f"{checkpoint}: no such checkpoint (a run keeps them in its checkpoints/ folder)")
    if path.is_dir():
        raise ConfigError(f"{checkpoint}: this is a folder, and a checkpoint is a .ckpt file in it")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        notes = saved["halo_lightning"]
        weights = policy_weights(saved["state_dict"])
    except Exception as error:
        raise ConfigError(
            f"{checkpoint}: not a whole checkpoint of a halo_lightning module ({type(error).__name__})"
        ) from error
    config = dict(notes["config"])
    model = model_class(notes["task"]).from_config(
        AutoConfig.for_model(config.pop("model_type"), **config), trust_remote_code=False
    )
    model.to(next(iter(weights.values())).dtype)
    if notes.get("lora"):
        model = add_adapter(model, LoRA(**notes["lora"]), notes["task"])
    model.load_state_dict(weights)
    write_export(
        out,
        merged(model),
        load_tokenizer(tokenizer or notes["tokenizer"] or notes["policy"]),
        origin={"module": notes["module"], "checkpoint": path.name, "global_step": saved["global_step"]},
    )
    print(f"exported {checkpoint} (step {saved['global_step']}) to {out}")
