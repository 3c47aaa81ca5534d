"""Memory and time of training with one method, for any way to spread and to save."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from halo_lightning.adapters import LoRA
from halo_lightning.data.batches import Batch
from halo_lightning.errors import ConfigError
from halo_lightning.forward import Checkpointing, Ways, activations_are_large
from halo_lightning.modules.base import HaloModule
from halo_lightning.planning.accounting import Memory, Sizes, Strategy, memory
from halo_lightning.planning.shapes import Shape, shape_of
from halo_lightning.planning.steps import (
    Numbers,
    OptimizerBytes,
    StepTrace,
    optimizer_bytes,
    trace_reference_pass,
    trace_step,
)
from halo_lightning.planning.tracing import Trace
from halo_lightning.planning.workload import Workload
from halo_lightning.policy import ReferenceMode
from halo_lightning.quantization import BYTES
from halo_lightning.reference import TOKENS_AT_ONCE

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Kept = TypeVar("Kept")

TYPICAL = 16
"""Examples of the batch whose FLOPs are counted."""

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PRECISIONS = {"64": torch.float64, "bf16": torch.bfloat16, "16": torch.float16}


@dataclass(frozen=True)
class Choice:
    """What may be decided about a run without another result.

    Attributes:
        devices: How many there are, on all nodes.
        micro_batch: Examples that a device computes at one time.
        accumulated: Whether gradients of several micro-batches are added up.
        strategy: How the model is spread.
        precision: Lightning's name of the numbers, such as `bf16-mixed`.
        checkpointing: Which activations are computed again.
        reference_mode: Where the reference's log-probabilities come from.
        lora: The adapter that is trained instead of the weights.
        on_gpu: Whether devices are GPUs.
    """

    devices: int
    micro_batch: int
    accumulated: bool
    strategy: Strategy
    precision: str
    checkpointing: Checkpointing
    reference_mode: ReferenceMode
    lora: LoRA | None = None
    on_gpu: bool = True


class Estimator:
    """Estimates for one method on one model and one workload.

    What is traced is kept, since many choices have it in common.

    Args:
        module: The method; its policy need not exist.
        config: Of the policy.
        workload: What is trained on.
        reference: Configuration of the reference, where it is another model.
        ways: How the models are run.
    """

    def __init__(
        self,
        module: HaloModule,
        config: PretrainedConfig,
        workload: Workload,
        *,
        reference: PretrainedConfig | None = None,
        ways: Ways = Ways(),  # noqa: B008  # a tuple
    ) -> None:
        self.module, self.config, self.workload = module, config, workload
        self.reference, self.ways = reference, ways
        self._kept: dict[Any, Any] = {}

    # --- memory ----------------------------------------------------------------------------------------------------

    def memory(self, choice: Choice) -> Memory:
        """Memory of one device."""
        numbers, storage = numbers_of(choice, self.config, self.module)
        policy, step, second = self.policy(choice), self.step(choice), self._second_model(choice)
        size, compute = storage.itemsize, numbers.weights.itemsize
        second_bytes = second.parameters * size + second.buffers if second is not None else 0
        quantized = 0
        if choice.lora is not None and choice.lora.quantize:
            quantized = max(0, policy.frozen - policy.outside_blocks)
        sizes = Sizes(
            weights=int(
                (policy.parameters - quantized + step.other_weights) * size + quantized * BYTES + policy.buffers
            ),
            reference=second_bytes if step.with_reference else 0,
            gradients=(policy.trained + step.other_weights) * size,
            optimizer=self._optimizer(choice),
            computed=(policy.parameters + step.other_weights) * compute,
            block=policy.largest_block * compute,
            outside=(policy.outside_blocks + step.other_weights) * compute,
            block_gradients=policy.trained_in_block * compute,
            outside_gradients=(policy.trained_outside + step.other_weights) * compute,
            reduced=max(1, 4 // compute) if choice.strategy.sharded else 1,  # summed in float32
        )
        own = choice.lora is not None or self.reference is None
        return memory(
            sizes,
            step.trace,
            choice.strategy,
            choice.devices,
            reference_pass=self._reference_pass(choice),
            separate_reference=0 if own else second_bytes,
            gpu=choice.on_gpu,
        )

    def policy(self, choice: Choice) -> Shape:
        """The policy."""
        checkpointing = self.checkpointing(choice, self._largest(choice))
        return self._shape(self.config, choice.lora, checkpointing)

    def checkpointing(self, choice: Choice, batch: Batch) -> Checkpointing:
        """What is computed again for a batch, where that is left to be decided."""
        if choice.checkpointing != "auto":
            return choice.checkpointing
        plain = self._shape(self.config, choice.lora, "none")
        if not plain.can_checkpoint:
            return "none"
        if choice.devices > 1:
            return "full"  # sharded processes have to do the same at the same time
        size = numbers_of(choice, self.config, self.module)[1].itemsize
        tokens = len(batch.sequences.input_ids) if self.ways.packed else batch.sequences.real_tokens
        state = (4 * plain.trained + plain.frozen) * size
        return "full" if activations_are_large(self.config.get_text_config(), tokens, size, state) else "none"

    def step(self, choice: Choice) -> StepTrace:
        """Forward and backward pass of the largest micro-batch."""
        return self._step(choice, self._largest(choice))

    # --- time ------------------------------------------------------------------------------------------------------

    def flops(self, choice: Choice) -> tuple[float, float]:
        """FLOPs of a real token in training, and of one in the reference pass before it (0 without one)."""
        batch = self.workload.typical(TYPICAL, self._cached(choice))
        tokens = batch.sequences.real_tokens
        # A batch of this size says nothing of the one that is trained on: `auto` is decided for that.
        choice = replace(choice, checkpointing=self.checkpointing(choice, self._largest(choice)), accumulated=False)
        step = self._step(choice, batch).trace.flops / tokens
        before = self._reference_pass(choice)
        if before is None:
            return step, 0.0
        numbers, _ = numbers_of(choice, self.config, self.module)
        policy = self._shape(self.reference or self.config, None, "none")
        return step, trace_reference_pass(policy, batch.sequences, numbers, self.ways).flops / tokens

    # --- what is kept ----------------------------------------------------------------------------------------------

    def _cached(self, choice: Choice) -> bool:
        return self.module.needs_reference and choice.reference_mode == "cached"

    def _largest(self, choice: Choice) -> Batch:
        return self._once(
            ("batch", choice.micro_batch, self._cached(choice)),
            lambda: self.workload.largest(choice.micro_batch, self._cached(choice)),
        )

    def _second_model(self, choice: Choice) -> Shape | None:
        """The model that would be loaded as reference, as `PolicyAndReference.load` decides it."""
        mode = choice.reference_mode
        if not self.module.needs_reference or mode == "adapter":
            return None
        if mode == "cached" and choice.lora is not None and self.reference is None:
            return None
        return self._shape(self.reference or self.config, None, "none")

    def _step(self, choice: Choice, batch: Batch) -> StepTrace:
        numbers, _ = numbers_of(choice, self.config, self.module)
        checkpointing = self.checkpointing(choice, batch)
        key = ("step", numbers, checkpointing, repr(choice.lora), choice.reference_mode, choice.accumulated)
        return self._once(
            (
                *key,
                batch.sequences.segments.query_lengths,
                batch.sequences.segments.key_lengths,
                len(batch.sequences.targets),
            ),
            lambda: trace_step(
                self.module,
                self._shape(self.config, choice.lora, checkpointing),
                self._second_model(choice),
                batch,
                numbers,
                frozen=choice.reference_mode == "frozen",
                accumulated=choice.accumulated,
                ways=self.ways,
            ),
        )

    def _reference_pass(self, choice: Choice) -> Trace | None:
        if not self._cached(choice):
            return None
        numbers, _ = numbers_of(choice, self.config, self.module)
        shape = self._shape(self.reference or self.config, None, "none")

        def run() -> Trace:
            of_one = self.workload.largest(1, False).sequences.real_tokens
            batch = self.workload.largest(max(1, TOKENS_AT_ONCE // of_one), False)
            return trace_reference_pass(shape, batch.sequences, numbers, self.ways)

        return self._once(("reference", numbers), run)

    def _optimizer(self, choice: Choice) -> OptimizerBytes:
        numbers, storage = numbers_of(choice, self.config, self.module)
        kept = replace(numbers, weights=storage)
        others = self.step(choice).other_weights
        shape = self._shape(self.config, choice.lora, "none")
        return self._once(
            ("optimizer", kept, repr(choice.lora)), lambda: optimizer_bytes(self.module, shape, others, kept)
        )

    def _shape(self, config: PretrainedConfig, lora: LoRA | None, checkpointing: Checkpointing) -> Shape:
        module = self.module
        key = ("shape", id(config), repr(lora), checkpointing)
        return self._once(
            key,
            lambda: shape_of(
                config, task=module.task, lora=lora, checkpointing=checkpointing, attention=module.attention
            ),
        )

    def _once(self, key: Any, make: Callable[[], Kept]) -> Kept:
        if key not in self._kept:
            self._kept[key] = make()
        result: Kept = self._kept[key]
        return result


def numbers_of(choice: Choice, config: PretrainedConfig, module: HaloModule) -> tuple[Numbers, torch.dtype]:
    """What is computed with, and the dtype in which weights and the optimizer's state are kept.

    Raises:
        ConfigError: The precision is not known here.
    """
    name, _, kind = choice.precision.partition("-")
    stored = DTYPES.get(module.dtype_of_weights) or config.dtype or torch.float32
    if name == "32":
        return Numbers(stored, None, choice.on_gpu), stored
    if name not in PRECISIONS or kind not in ("true", "mixed", ""):
        raise ConfigError(
            f"trainer.precision is {choice.precision!r}: expected 32-true, 64-true, bf16-true,"
            " bf16-mixed, 16-true or 16-mixed"
        )
    half = PRECISIONS[name]
    if kind == "mixed" and choice.lora is not None and choice.lora.quantize:
        return Numbers(half, None, choice.on_gpu), stored  # no copies of weights are kept for the backward pass
    if kind == "mixed":
        return Numbers(half if choice.strategy.sharded else stored, half, choice.on_gpu), stored
    return Numbers(half, None, choice.on_gpu), half
