"""What a configuration asks for, read without loading a model or building a Trainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from halo_lightning.data import FeedbackDataModule
from halo_lightning.data.division import divide
from halo_lightning.errors import ConfigError
from halo_lightning.modules import HaloModule
from halo_lightning.planning.accounting import Strategy
from halo_lightning.planning.estimate import Choice
from halo_lightning.training_cli import HaloCLI


@dataclass(frozen=True)
class Job:
    """One run of training.

    Attributes:
        name: Its configuration.
        module: The method, without models.
        data: The data module, which has read nothing yet.
        strategy: The setting `trainer.strategy`.
        strategy_options: The arguments of its class.
        precision: Lightning's name.
        devices: On all nodes; None is as many as there are.
        accumulate: Micro-batches in an optimizer step as the configuration says; 1 where it follows from the rest.
        epochs: How often the data is seen; None where `max_steps` alone ends the run.
        max_steps: Most optimizer steps; -1 for no limit.
    """

    name: str
    module: HaloModule
    data: FeedbackDataModule
    strategy: str
    strategy_options: dict[str, Any]
    precision: str
    devices: int | None
    accumulate: int
    epochs: int | None
    max_steps: int

    @property
    def group(self) -> int:
        """Examples that a micro-batch has to be a multiple of, because a statistic is taken over so many."""
        scopes = [getattr(self.module, name, None) for name in ("kl_over", "whiten_over")]
        used = [scope for scope in scopes if isinstance(scope, int)]
        return max([*used, 2 if self.data.needs_even_batches else 1])

    def micro_batches(self, devices: int) -> list[int]:
        """The sizes of micro-batches that the batch can be divided into, the largest first; none where it cannot."""
        share, left = divmod(self.data.batch_size, devices)
        sizes = [size for size in range(share, 0, -1) if share % size == 0 and size % self.group == 0]
        return [] if left else sizes

    def choice(self, devices: int, micro_batch: int | None = None) -> Choice:
        """What the configuration decides on so many devices, with another size of micro-batches if one is given.

        Raises:
            ConfigError: The batch cannot be divided so.
        """
        division = divide(
            self.data.batch_size,
            devices,
            largest=micro_batch or self.data.micro_batch_size,
            accumulate=self.accumulate if self.accumulate > 1 and micro_batch is None else None,
            even=self.data.needs_even_batches,
        )
        if division.micro_batch % self.group:
            raise ConfigError(
                f"batch_size {self.data.batch_size} on {devices} devices makes micro-batches of"
                f" {division.micro_batch}, and this method needs multiples of {self.group}"
            )
        module = self.module
        return Choice(
            devices=devices,
            micro_batch=division.micro_batch,
            accumulated=division.accumulate > 1,
            strategy=strategy_on(self.strategy, self.strategy_options, devices),
            precision=self.precision,
            checkpointing=module.activation_checkpointing,
            reference_mode=module.reference_mode,
            lora=module.lora,
        )

    def tokens(self, real_tokens: int, examples: int) -> float:
        """Real tokens of the whole run, given those of an epoch."""
        epochs = float("inf") if self.epochs is None else float(self.epochs)
        if self.max_steps >= 0:
            epochs = min(epochs, self.max_steps * self.data.batch_size / max(examples, 1))
        return real_tokens * (1.0 if epochs == float("inf") else epochs)


def jobs(configs: list[str], settings: list[str]) -> list[Job]:
    """The runs that configurations ask for: a stage of supervised finetuning first, where there is one.

    Args:
        configs: Files, of which later ones win.
        settings: Further options of `fit`.

    Raises:
        ConfigError: They are wrong.
    """
    arguments = [argument for config in configs for argument in ("--config", config)]
    read = _Reader(["fit", *arguments, *settings])
    name = " ".join(configs) or "the given settings"
    stage = read.settings.sft_stage
    before = [] if stage is None else jobs([str(read.find_config(stage.config))], stage.arguments)
    return [*before, _job(name, read)]


class _Reader(HaloCLI):
    """Parses, makes module and data module, and does nothing else."""

    module: HaloModule
    data: FeedbackDataModule

    def before_instantiate_classes(self) -> None:
        """Runs no stage."""

    def instantiate_classes(self) -> None:
        """No Trainer: it would want the devices that are planned for."""
        made = self.parser.instantiate_classes(self.config)[self.config.subcommand]
        self.module, self.data = made.model, made.data

    def after_instantiate_classes(self) -> None:
        """Nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing."""


def _job(name: str, read: _Reader) -> Job:
    trainer = read.settings.trainer
    strategy = trainer.strategy
    options: dict[str, Any] = {}
    if not isinstance(strategy, str):
        options = dict(strategy.get("init_args") or {})
        strategy = strategy["class_path"].rsplit(".", 1)[-1]
    max_steps = -1 if trainer.max_steps is None else int(trainer.max_steps)
    return Job(
        name=name,
        module=read.module,
        data=read.data,
        strategy=strategy,
        strategy_options=options,
        precision=str(trainer.precision or "32-true"),
        devices=_devices(trainer.devices, int(trainer.num_nodes or 1)),
        accumulate=int(trainer.accumulate_grad_batches or 1),
        epochs=trainer.max_epochs if trainer.max_epochs is not None or max_steps >= 0 else 1000,
        max_steps=max_steps,
    )


def _devices(setting: Any, nodes: int) -> int | None:
    if isinstance(setting, list):
        return len(setting) * nodes
    try:
        count = int(setting)
    except ValueError:
        found = [part for part in str(setting).split(",") if part.strip().isdigit()]
        return len(found) * nodes if found else None
    return count * nodes if count > 0 else None


def strategy_on(name: str, options: dict[str, Any], devices: int) -> Strategy:
    """What a setting of `trainer.strategy` means on so many devices.

    Raises:
        ConfigError: It is one that is not known here.
    """
    plain = name.lower().replace("strategy", "").replace("-", "_")
    offload = bool(options.get("cpu_offload")) or plain.endswith("offload")
    keeps = "GRAD_OP" in str(options.get("sharding_strategy", ""))
    if plain == "modelparallel" or plain.startswith("fsdp"):
        second = plain == "modelparallel" or plain.startswith("fsdp2")
        return Strategy("FSDP2" if second else "FSDP", offload, keeps_weights=keeps)
    if plain in ("auto", "singledevice", "single_device") or plain.startswith("ddp"):
        view = bool(options.get("gradient_as_bucket_view"))
        return Strategy("single") if devices == 1 else Strategy("DDP", bucket_view=view)
    raise ConfigError(
        f"trainer.strategy is {name!r}, which cannot be planned: expected auto, ddp, fsdp, fsdp2 or"
        " ModelParallelStrategy"
        + (
            " (DeepSpeed's memory is not known here; that of its stage 2 is close to that of fsdp with"
            " sharding_strategy SHARD_GRAD_OP, and stage 3 is refused by `fit`)"
            if "deepspeed" in plain
            else ""
        )
    )
