"""Models without weights: built from their configuration alone, on no device."""

from __future__ import annotations

import copy
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from halo_lightning.adapters import LoRA, add_adapter
from halo_lightning.errors import ConfigError, first_line
from halo_lightning.forward import Checkpointing, Ways, blocks_of, checkpoint_activations, plain, ways_of
from halo_lightning.model_folders import check_config_file
from halo_lightning.pretrained import Task, model_class, resolve_path, switch_dropout_off

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def _pythia(hidden: int, layers: int, heads: int, vocabulary: int) -> dict[str, Any]:
    return {
        "model_type": "gpt_neox",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
        "vocab_size": vocabulary,
        "rotary_pct": 0.25,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
    }


def _llama(hidden: int, layers: int, heads: int, intermediate: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
        "vocab_size": 32000,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
    }


REPORT: dict[str, dict[str, Any]] = {
    "EleutherAI/pythia-1.4b": _pythia(2048, 24, 16, 50304),
    "EleutherAI/pythia-2.8b": _pythia(2560, 32, 32, 50304),
    "EleutherAI/pythia-6.9b": _pythia(4096, 32, 32, 50432),
    "EleutherAI/pythia-12b": _pythia(5120, 36, 40, 50688),
    "huggyllama/llama-7b": _llama(4096, 32, 32, 11008),
    "huggyllama/llama-13b": _llama(5120, 40, 40, 13824),
    "huggyllama/llama-30b": _llama(6656, 60, 52, 17920),
}
"""The report's models, so that they can be planned without network."""


def model_config(policy: str, file: str | None = None) -> PretrainedConfig:
    """The configuration of a model.

    Args:
        policy: A folder, a hub id, or `embedded:base`.
        file: Its `config.json`, or a folder with one, to be read instead.

    Raises:
        ConfigError: There is none, and what to do about it.
    """
    from transformers import AutoConfig

    known = {name.lower(): shape for name, shape in REPORT.items()}.get(policy.lower())
    if file is None and known is not None:
        return AutoConfig.for_model(**known)
    path = os.fspath(Path(file).expanduser()) if file is not None else resolve_path(policy)
    if file is not None:
        check_config_file(Path(path))
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # a file of somebody else's can make libraries fail in any way
        first = first_line(error)
        if file is not None:
            raise ConfigError(f"--model_config {file}: this is not the config.json of a model: {first}") from error
        raise ConfigError(
            f"the shape of {policy!r} is not known: its config.json could not be read ({first}). Without network, give"
            f" the file: --model_config PATH/config.json. Known without it: {', '.join(REPORT)}"
        ) from error


def ways_of_shape(config: PretrainedConfig, task: Task = "causal", packing: bool = True) -> Ways:
    """How a model of this kind is run, tried out on a tiny one with random weights.

    One that cannot be made tiny is taken to be run without padding.
    """
    if not packing:
        return Ways(packed=False)
    tiny = copy.deepcopy(config)
    text = tiny.get_text_config()
    grouped = getattr(text, "num_key_value_heads", None) not in (None, getattr(text, "num_attention_heads", None))
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2 if grouped else 4, "head_dim": 16, "vocab_size": 256}
    try:
        for name, value in sizes.items():
            if getattr(text, name, None) is not None:
                setattr(text, name, value)
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[:2]
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(text, name, 0)
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            return ways_of(model_class(task).from_config(tiny, dtype=torch.float32))
    except Exception:  # whatever an unknown architecture says to sizes that are not its own
        return Ways()


@dataclass(frozen=True)
class Shape:
    """A model without weights, of which three blocks are left where all are equal, and the size of the whole.

    Attributes:
        model: The model, on the meta device.
        blocks: The blocks that are left in it.
        omitted: How many blocks were taken out; each is like the second one that is left.
        trained: Number of trained weights of the whole model.
        frozen: Number of its other weights.
        buffers: Bytes of its buffers.
        largest_block: Number of weights of its largest block.
        outside_blocks: Number of weights outside of blocks: embeddings, last norm, head.
        trained_in_block: How many weights of a block are trained.
        can_checkpoint: Whether activations can be computed again.
    """

    model: Any
    blocks: list[nn.Module]
    omitted: int
    trained: int
    frozen: int
    buffers: int
    largest_block: int
    outside_blocks: int
    trained_in_block: int
    can_checkpoint: bool

    @property
    def trained_outside(self) -> int:
        """Number of trained weights outside of blocks."""
        return self.outside_blocks if self.frozen == 0 else 0

    @property
    def parameters(self) -> int:
        """Number of weights of the whole model."""
        return self.trained + self.frozen


def shape_of(
    config: PretrainedConfig,
    *,
    task: Task = "causal",
    lora: LoRA | None = None,
    checkpointing: Checkpointing = "none",
    attention: str | None = None,
) -> Shape:
    """The shape of a model as `PolicyAndReference.load` would load it.

    Args:
        config: Of the model.
        task: What it does.
        lora: The adapter that is trained instead of its weights.
        checkpointing: Which activations are computed again; not `auto`, which is decided for each batch.
        attention: The attention implementation; None is the model's default.

    Raises:
        ConfigError: There is no such model, or it cannot do what is asked for.
    """
    options = {} if attention is None else {"attn_implementation": attention}
    config = copy.deepcopy(config)
    if task == "reward":
        config.num_labels = 1
    try:
        with torch.device("meta"):
            model = model_class(task).from_config(config, dtype=torch.float32, **options)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"a model of type {config.model_type!r} cannot be built: {error}") from error
    switch_dropout_off(model)
    model.config.use_cache = False
    model.train()
    checkpoint_activations(model, checkpointing)
    if lora is not None:
        with torch.device("meta"):
            model = add_adapter(model, lora, task)
    return _with_three_blocks(model)


def _with_three_blocks(model: Any) -> Shape:
    found = blocks_of(plain(model))
    blocks = list(found) if found is not None else []
    sizes = [sum(p.numel() for p in block.parameters()) for block in blocks]
    parameters = list(model.parameters())
    total = sum(p.numel() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    omitted = len(blocks) - 3
    alike = len({tuple((name, p.shape) for name, p in block.named_parameters()) for block in blocks}) == 1
    if found is None or omitted < 1 or not alike:
        omitted = 0
    else:
        del found[2:-1]
        plain(model).config.get_text_config().num_hidden_layers = 3
        blocks = list(found)
    return Shape(
        model,
        blocks,
        omitted,
        trained=trained,
        frozen=total - trained,
        buffers=buffers,
        largest_block=max(sizes, default=0),
        outside_blocks=total - sum(sizes),
        trained_in_block=max((sum(p.numel() for p in b.parameters() if p.requires_grad) for b in blocks), default=0),
        can_checkpoint=plain(model).supports_gradient_checkpointing,
    )


def materialize(model: nn.Module, dtype: torch.dtype) -> None:
    """Puts a model from the meta device to where tensors are made now: its weights in this dtype, with no values."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in made:
                    empty = torch.empty(parameter.shape, dtype=dtype)
                    made[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
                module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
