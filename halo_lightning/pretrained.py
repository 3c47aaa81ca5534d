"""Models and tokenizers from Hugging Face folders, hub ids, or the package itself."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_warn
from torch import nn

from halo_lightning.errors import ConfigError, first_line, is_panic, no_space
from halo_lightning.hub import check_hub
from halo_lightning.model_folders import (
    QUANTIZED,
    check_files,
    check_model,
    check_normalizer,
    check_not_quantized,
    check_vocabulary,
    check_vocabulary_file,
    read_manifest,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EMBEDDED_BASE = "embedded:base"
"""The name of the tiny base model that the package ships."""

DType = Literal["auto", "float64", "float32", "bfloat16", "float16"]


def compute_dtype(precision: str) -> torch.dtype | None:
    """What a Trainer's mixed precision computes in; None where nothing is mixed."""
    return {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)


def resolve_path(path_or_id: str) -> str:
    """The folder or hub id behind a name: `embedded:base` is a model that the package ships.

    Raises:
        ConfigError: The name looks like a local folder, and there is no model in it, or one that cannot be used: its
            files are not what a model has, or not those that an export wrote. Or it is no model of the hub.
    """
    if path_or_id.startswith("embedded:"):
        from halo_lightning.world import MODELS

        if path_or_id not in MODELS:
            raise ConfigError(f"there is no embedded model {path_or_id!r}; there is {', '.join(map(repr, MODELS))}")
        return str(MODELS[path_or_id])
    folder = Path(path_or_id).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"{path_or_id}: this folder holds no model (no config.json in it)")
        check_files(folder)
        read_manifest(folder, weights=False)
        return str(folder)
    if path_or_id.startswith((".", "/", "~")) or path_or_id.count("/") > 1:
        raise ConfigError(
            f"{path_or_id}: no such folder. A policy is the folder of a Hugging Face model, a hub id"
            f" (owner/name), or {EMBEDDED_BASE!r}"
        )
    check_hub(path_or_id, "model")
    return path_or_id


Task = Literal["causal", "reward"]


def model_class(task: Task) -> Any:
    """The transformers class that loads a `causal` language model, or a `reward` model (one output a sequence)."""
    import transformers

    return {
        "causal": transformers.AutoModelForCausalLM,
        "reward": transformers.AutoModelForSequenceClassification,
    }[task]


def load_model(
    path_or_id: str,
    task: Task = "causal",
    *,
    dtype: DType = "float32",
    attention: str | None = None,
    **loading: Any,
) -> PreTrainedModel:
    """Loads a model in training mode, with its dropout switched off; its shapes alone where the device is "meta".

    Dropout would make the policy differ from its own reference at step 0, and the implicit reward a random number.

    Args:
        path_or_id: A folder, a hub id, or `embedded:base`.
        task: What the model is to do.
        dtype: Of the weights; `auto` is that of the stored file.
        attention: The attention implementation (`sdpa`, `flash_attention_2`, …); None is the model's default.
        loading: Further options of transformers' `from_pretrained`.

    Raises:
        ConfigError: There is no model there, or it cannot be loaded.
    """
    from transformers.utils import logging

    path = resolve_path(path_or_id)
    options = {**loading, "num_labels": 1} if task == "reward" else loading
    shapes_alone = torch.get_default_device().type == "meta"
    check_model(path, model_class(task), on_cpu=not shapes_alone and "device_map" not in loading)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what is not in the file, or not in the model, is said below, in a line
    load = _load_shapes if shapes_alone else _load_weights
    try:
        model = load(model_class(task), path, dtype, attn_implementation=attention, **options)
    except Exception as error:  # a folder of somebody else's can make libraries fail in any way
        if no_space(error) is not None or isinstance(error, torch.OutOfMemoryError):
            raise
        raise ConfigError(f"the model {path_or_id!r} could not be loaded: {first_line(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
    if QUANTIZED not in loading:  # a model of the hub can be of any kind
        check_not_quantized(getattr(model.config, QUANTIZED, None), path_or_id)
    switch_dropout_off(model)
    model.config.use_cache = False
    return model.train()


def _load_weights(kind: Any, path: str, dtype: DType, **options: Any) -> PreTrainedModel:
    model: PreTrainedModel
    model, found = kind.from_pretrained(
        path, dtype=dtype, trust_remote_code=False, use_safetensors=True, output_loading_info=True, **options
    )
    body = f"{model.base_model_prefix}."
    # The head of a reward model is new, and begins with random weights; nothing else does.
    missing = sorted(name for name in found["missing_keys"] if name.startswith(body) or "num_labels" not in options)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ConfigError(f"its files have no {missing[0]}{more}, which would be random numbers")
    if (unknown := sorted(found["unexpected_keys"])) and "num_labels" not in options:
        more = f" and {len(unknown) - 1:,} more" if len(unknown) > 1 else ""
        rank_zero_warn(f"{path}: its files have {unknown[0][:80]}{more}, which a {type(model).__name__} has not")
    check_finite(model)
    return model


def check_finite(model: nn.Module) -> None:
    """Refuses weights that are NaN or infinite, of which nothing but NaN could come.

    Raises:
        ConfigError: There are such weights.
    """
    for name, parameter in model.named_parameters():
        weights = parameter.detach()
        # Both are NaN where a value is, and are found without an array of booleans as large as the weights.
        if weights.is_floating_point() and weights.numel() and not all(map(torch.isfinite, weights.aminmax())):
            raise ConfigError(f"its weights {name} have values that are NaN or infinite (as {weights.dtype})")


def _load_shapes(kind: Any, path: str, dtype: DType, **options: Any) -> PreTrainedModel:
    """What `_load_weights` gives, with no values."""
    from transformers import AutoConfig, GenerationConfig

    settings = {key: options.pop(key) for key in ("num_labels",) if key in options}
    config = AutoConfig.from_pretrained(path, trust_remote_code=False, **settings)
    stored = config.dtype or torch.float32
    model: PreTrainedModel = kind.from_config(
        config, dtype=stored if dtype == "auto" else getattr(torch, dtype), trust_remote_code=False, **options
    )
    if model.can_generate():
        with suppress(OSError):  # not every model has one
            model.generation_config = GenerationConfig.from_pretrained(path)
    return model


def switch_dropout_off(model: nn.Module) -> None:
    """Switches off every dropout of a model: its layers, and the probabilities that other layers have as numbers."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and name.endswith("dropout"):
                setattr(module, name, 0.0)


def load_tokenizer(path_or_id: str) -> Any:
    """Loads a tokenizer, ready for rendering (see `halo_lightning.data.rendering.prepare_tokenizer`).

    Raises:
        ConfigError: There is no tokenizer there, or it cannot be loaded.
    """
    from halo_lightning.data.rendering import prepare_tokenizer

    return prepare_tokenizer(load_plain_tokenizer(path_or_id))


def load_plain_tokenizer(path_or_id: str) -> Any:
    """Loads a tokenizer as it is: it may have no chat template, and no token that ends a text.

    Raises:
        ConfigError: There is no tokenizer there, or it cannot be loaded.
    """
    from transformers import AutoTokenizer

    from halo_lightning.data.templates import bound_templates

    bound_templates()
    path = resolve_path(path_or_id)
    check_vocabulary_file(Path(path), path_or_id)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        normalizer = tokenizer.backend_tokenizer.normalizer if tokenizer.is_fast else None
        check_normalizer(json.loads(normalizer.__getstate__()) if normalizer is not None else None, path_or_id)
        check_vocabulary(tokenizer.get_vocab(), path_or_id)
    except BaseException as error:  # the same
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        raise ConfigError(f"the tokenizer of {path_or_id!r} could not be loaded: {first_line(error)}") from error
    return tokenizer
