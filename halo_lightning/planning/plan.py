"""The plan of a run: what fits where, how long it takes, and what would change that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from halo_lightning.adapters import LoRA
from halo_lightning.errors import ConfigError
from halo_lightning.planning.accounting import Memory, Strategy
from halo_lightning.planning.estimate import Choice, Estimator, numbers_of
from halo_lightning.planning.gpus import GPU
from halo_lightning.planning.job import Job
from halo_lightning.planning.workload import Workload


@dataclass(frozen=True)
class Offer:
    """A kind and number of GPUs.

    Attributes:
        gpu: The kind.
        devices: How many.
        micro_batch: The largest one that fits; None where none does.
        bytes: What one GPU needs with it, or with the smallest one where none fits.
        tokens_per_second: Real tokens, of all GPUs.
        hours: Of the run, the reference pass included.
    """

    gpu: GPU
    devices: int
    micro_batch: int | None
    bytes: float
    tokens_per_second: float
    hours: float


@dataclass(frozen=True)
class Change:
    """Something that would change how much memory is needed, and no result (or, for an adapter, little).

    Attributes:
        what: In words.
        option: What to set.
        bytes: Difference for one GPU; below 0 it needs less.
    """

    what: str
    option: str
    bytes: float


@dataclass(frozen=True)
class Plan:
    """The plan of one run.

    Attributes:
        job: The run.
        parameters: Number of weights of the policy, its adapter included.
        workload: What it is trained on.
        memory: By number of devices: the choice that the configuration makes, and its memory.
        not_divided: Numbers of devices that the batch cannot be divided among.
        offers: What fits where.
        devices: The number that `changes` are for.
        changes: What would change the memory.
        mfu: The share of the peak rate that times are for.
    """

    job: Job
    parameters: int
    workload: Workload
    memory: dict[int, tuple[Choice, Memory]]
    not_divided: tuple[int, ...]
    offers: tuple[Offer, ...]
    devices: int
    changes: tuple[Change, ...]
    mfu: float

    def as_plain_data(self) -> dict[str, Any]:
        """The plan as JSON values, in bytes, seconds and examples."""
        from dataclasses import asdict

        return {
            "config": self.job.name,
            "method": type(self.job.module).__name__,
            "policy": self.job.module.policy_path,
            "parameters": self.parameters,
            "data": self.workload.described,
            "examples": self.workload.examples,
            "real_tokens": self.workload.real_tokens,
            "mfu": self.mfu,
            "memory": [
                {
                    "devices": devices,
                    "micro_batch": choice.micro_batch,
                    "strategy": str(choice.strategy),
                    "parts": {**asdict(memory.parts), "total": memory.parts.total},
                    "host": memory.host,
                }
                for devices, (choice, memory) in self.memory.items()
            ],
            "not_divided": list(self.not_divided),
            "gpus": [
                {**asdict(offer), "gpu": offer.gpu.name, "fits": offer.micro_batch is not None} for offer in self.offers
            ],
            "changes": {"devices": self.devices, "effects": [asdict(change) for change in self.changes]},
        }


def plan(
    job: Job, estimator: Estimator, counts: Sequence[int], gpus: Sequence[GPU], mfu: float, changes: bool = True
) -> Plan:
    """Plans a run.

    Args:
        job: The run.
        estimator: Of its memory and FLOPs.
        counts: Numbers of devices.
        gpus: Kinds of GPUs.
        mfu: Share of a GPU's peak rate that the FLOPs reach.
        changes: Whether to look for what would change the memory.

    Raises:
        ConfigError: The batch cannot be divided among any of these numbers of devices.
    """
    memory: dict[int, tuple[Choice, Memory]] = {}
    not_divided: dict[int, ConfigError] = {}
    for devices in counts:
        try:
            choice = job.choice(devices)
        except ConfigError as error:
            not_divided[devices] = error
            continue
        memory[devices] = (choice, estimator.memory(choice))
    if not memory:
        raise next(iter(not_divided.values()))
    of_changes = job.devices if job.devices in memory else max(memory)
    chosen = memory[of_changes][0]
    return Plan(
        job,
        estimator.policy(chosen).parameters,
        estimator.workload,
        memory,
        tuple(not_divided),
        tuple(offer for devices in memory for offer in _offers(job, estimator, devices, gpus, mfu)),
        of_changes,
        tuple(_changes(job, estimator, chosen)) if changes else (),
        mfu,
    )


def _offers(job: Job, estimator: Estimator, devices: int, gpus: Sequence[GPU], mfu: float) -> Iterator[Offer]:
    sizes = job.micro_batches(devices)
    limit = job.data.micro_batch_size
    choices = [job.choice(devices, size) for size in sizes if limit is None or size <= limit]
    for gpu in gpus:
        fitting, needed = None, 0.0
        for choice in choices:
            needed = estimator.memory(choice).parts.total
            if needed <= gpu.bytes:
                fitting = choice
                break
        choice = fitting or choices[-1]
        flops, before = estimator.flops(choice)
        rate = devices * mfu * gpu.flops(8 * _computed_size(job, estimator, choice))
        workload = estimator.workload
        work = job.tokens(workload.real_tokens, workload.examples) * flops + workload.real_tokens * before
        size = None if fitting is None else fitting.micro_batch
        yield Offer(gpu, devices, size, needed, rate / flops, work / rate / 3600)


def _computed_size(job: Job, estimator: Estimator, choice: Choice) -> int:
    numbers, _ = numbers_of(choice, estimator.config, job.module)
    return (numbers.autocast or numbers.weights).itemsize


def _changes(job: Job, estimator: Estimator, choice: Choice) -> Iterator[Change]:
    before = estimator.memory(choice).parts.total
    for what, option, changed in _alternatives(job, estimator, choice):
        difference = estimator.memory(changed).parts.total - before
        if abs(difference) > 1e6:
            yield Change(what, option, difference)


def _alternatives(job: Job, estimator: Estimator, choice: Choice) -> Iterator[tuple[str, str, Choice]]:
    module, strategy = job.module, choice.strategy
    if choice.lora is None:
        mode = "cached" if choice.reference_mode == "frozen" else choice.reference_mode
        rank = LoRA()
        yield (
            "train an adapter, not the weights",
            f"--model.lora '{{rank: {rank.rank}, alpha: {rank.alpha}}}'",
            replace(choice, lora=rank, reference_mode=mode),
        )
    if module.needs_reference and choice.reference_mode == "frozen":
        yield "cache the reference", "--model.reference_mode cached", replace(choice, reference_mode="cached")
    for checkpointing in ("none", "selective", "full"):
        if checkpointing != choice.checkpointing:
            option = f"--model.activation_checkpointing {checkpointing}"
            yield f"activation checkpointing: {checkpointing}", option, replace(choice, checkpointing=checkpointing)
    if not choice.precision.endswith("true"):
        yield (
            "weights and optimizer in bfloat16",
            "--trainer.precision bf16-true",
            replace(choice, precision="bf16-true"),
        )
    elif choice.precision.startswith("32"):
        yield "compute in bfloat16", "--trainer.precision bf16-mixed", replace(choice, precision="bf16-mixed")
    if not strategy.sharded and choice.devices > 1:
        option = "--trainer.strategy fsdp"
        yield "shard the model", option, replace(choice, strategy=Strategy("FSDP"))
    if strategy.sharded and not strategy.offload:
        option = "--trainer.strategy.init_args.cpu_offload true"
        yield (
            "keep weights and optimizer in the host",
            option,
            replace(choice, strategy=replace(strategy, offload=True)),
        )
    smaller = [size for size in job.micro_batches(choice.devices) if size < choice.micro_batch]
    if smaller:
        yield (
            f"smaller micro-batch: {smaller[0]}",
            f"--data.micro_batch_size {smaller[0]}",
            replace(choice, micro_batch=smaller[0], accumulated=True),
        )
    more = 2 * choice.devices
    if job.micro_batches(more):
        yield f"twice the devices: {more}", f"--trainer.devices {more}", job.choice(more)
