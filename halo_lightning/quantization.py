"""Weights of 4 bits under an adapter (QLoRA, arXiv 2305.14314), by bitsandbytes."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from halo_lightning.errors import ConfigError
from halo_lightning.pretrained import DType, Task, load_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SETTINGS = ("quantization_config", "_pre_quantization_dtype")
"""What transformers adds to the configuration of a quantised model."""

BYTES = 0.516
"""Of a weight: 4 bits, and 8 for the scale of 64 weights, whose own scales are shared by 256 of them."""


def check_installed() -> None:
    """Makes sure that there is what quantises.

    Raises:
        ConfigError: bitsandbytes, or accelerate, is not installed.
    """
    missing = [name for name in ("bitsandbytes", "accelerate") if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f'lora.quantize needs the package {" and ".join(missing)}: pip install "halo-lightning[qlora]"'
        )


def load_quantized(
    path: str,
    task: Task = "causal",
    *,
    dtype: DType = "float32",
    attention: str | None = None,
    device: torch.device | str = "cpu",
    compute: torch.dtype | None = None,
) -> PreTrainedModel:
    """Loads a model whose linear layers have weights of 4 bits (NF4, with quantised scales); the head stays as it is.

    Args:
        path: A folder, a hub id, or `embedded:base`.
        task: What the model is to do.
        dtype: Of the weights that are not quantised.
        attention: The attention implementation; None is the model's default.
        device: Where to; a quantised weight stays on its device.
        compute: What quantised layers compute in; None is the dtype of the others.

    Raises:
        ConfigError: There is no such model, or what quantises is not installed.
    """
    check_installed()
    from transformers import BitsAndBytesConfig

    others = None if dtype == "auto" else getattr(torch, dtype)
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute or others or torch.bfloat16,
    )
    options: dict[str, Any] = {"quantization_config": settings, "device_map": {"": device}}
    model = load_model(path, task, dtype=dtype, attention=attention, **options)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # On such CPUs bitsandbytes would repack weights in evaluation, and give no gradient from then on.
            module.support_avx512bf16_for_cpu = False
    return model


def load_dequantized(path: str, task: Task, *, dtype: DType) -> PreTrainedModel:
    """Loads a model on the CPU with the values that its quantised weights have, as plain weights of a dtype."""
    loaded: Any = load_quantized(path, task, dtype=dtype)
    model: PreTrainedModel = loaded.dequantize()
    for name in SETTINGS:
        vars(model.config).pop(name, None)
    return model
