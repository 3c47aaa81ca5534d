"""Lightning's own DeepSpeed strategy, as far as the modules of this package go with it: ZeRO stages 1 and 2."""

from __future__ import annotations

from functools import partial
from typing import Any

from lightning.pytorch.strategies import DeepSpeedStrategy

from halo_lightning.errors import ConfigError


def prepare_deepspeed(strategy: Any, data: Any) -> None:
    """Tells DeepSpeed what it would otherwise ask the data loader for, which must not be made so early.

    Args:
        strategy: A Trainer's; nothing is done with another one than Lightning's DeepSpeedStrategy.
        data: The data module.

    Raises:
        ConfigError: This stage of ZeRO cannot be used.
    """
    if not isinstance(strategy, DeepSpeedStrategy):
        return
    assert isinstance(strategy.config, dict)
    if strategy.zero_stage_3:
        raise ConfigError(
            "DeepSpeed's ZeRO stage 3 divides weights while a model is built, which is not supported: use FSDP, which"
            " divides as much (--trainer.strategy fsdp), or stage 2"
            " (--trainer.strategy deepspeed_stage_2)"
        )
    division = getattr(data, "division", None)
    strategy.config.setdefault("train_micro_batch_size_per_gpu", 1 if division is None else division.micro_batch)


def divide_loss_once(strategy: Any) -> None:
    """Lets DeepSpeed take the loss of a micro-batch as it is: Lightning has divided it by their number already.

    Divided twice, gradients would be too small for the bound that they are clipped to.

    Args:
        strategy: A Trainer's, set up; nothing is done with another one than Lightning's DeepSpeedStrategy.
    """
    if isinstance(strategy, DeepSpeedStrategy):
        engine: Any = strategy.model
        engine.backward = partial(engine.backward, scale_wrt_gas=False)


def refuse_deepspeed(strategy: Any, what: str) -> None:
    """Stops what DeepSpeed would silently do in another way: it has one precision, and clips all gradients together.

    Args:
        strategy: A Trainer's.
        what: What has a precision, or a bound of its gradient, of its own.

    Raises:
        ConfigError: The strategy is DeepSpeed.
    """
    if isinstance(strategy, DeepSpeedStrategy):
        raise ConfigError(
            f"DeepSpeed has one precision, and clips all gradients together, but {what} has its own: use"
            " --trainer.strategy fsdp, or ddp"
        )
