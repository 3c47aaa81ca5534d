"""Adapters (LoRA): a few weights are trained, and the model without them is its own reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from halo_lightning.errors import ConfigError
from halo_lightning.pretrained import Task
from halo_lightning.ranges import POSITIVE, Range

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class LoRA:
    """Low-rank adapters (arXiv 2106.09685) by peft, with no dropout: it would make policy and reference differ.

    Args:
        rank: Rank of the update of each weight.
        alpha: The update is scaled by alpha / rank.
        target_modules: Names of the layers that get one; `all-linear` is every linear layer but the output embedding.
        quantize: `4bit` keeps the weights that are not trained in 4 bits each (QLoRA, arXiv 2305.14314): with
            bitsandbytes, on one device or under DDP.
    """

    rank: int = 16
    alpha: int = 32
    target_modules: str | list[str] = "all-linear"
    quantize: Literal["4bit"] | None = None

    def __post_init__(self) -> None:
        Range(low=1, high=2**16, whole=True).check("lora.rank", self.rank)
        POSITIVE.check("lora.alpha", self.alpha)

    @property
    def described(self) -> str:
        """Its size, for who reads the run's output."""
        return f"LoRA of rank {self.rank}" + (", on weights of 4 bits" if self.quantize else "")


def add_adapter(model: PreTrainedModel, lora: LoRA, task: Task = "causal") -> Any:
    """The model with a new adapter, which changes nothing before it is trained; the other weights are frozen.

    Args:
        model: The model.
        lora: Size and place of the adapter.
        task: What the model does; the scalar head of a `reward` model is trained as a whole.

    Raises:
        ConfigError: peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ConfigError('LoRA needs the package peft: pip install "halo-lightning[lora]"') from error
    model.enable_input_require_grads()  # or activation checkpointing would find nothing that needs a gradient
    return get_peft_model(
        model,
        LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=0.0,
            target_modules=lora.target_modules,
            task_type={"causal": "CAUSAL_LM", "reward": "SEQ_CLS"}[task],
        ),
    )


def has_adapter(model: Any) -> bool:
    """Whether a model has an adapter."""
    return hasattr(model, "peft_config")


def keep_adapter_alone(state: dict[str, Any], prefix: str) -> None:
    """Takes out of a state what an adapter does not change: it is where the policy was loaded from."""
    for name in [name for name in state if name.startswith(prefix)]:
        if ".lora_" not in name and ".modules_to_save." not in name:
            del state[name]
