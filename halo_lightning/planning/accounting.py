"""Memory of one device, part by part, from what was traced and how weights are spread over devices."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from halo_lightning.planning.steps import OptimizerBytes
from halo_lightning.planning.tracing import Trace

CONTEXT_BYTES = 600 * 2**20
"""What CUDA, its kernels and the workspaces of its libraries take of a GPU (assumed, not measured here)."""

COMMUNICATION_BYTES = 500 * 2**20
"""What the library takes by which several GPUs talk to each other (assumed, not measured here)."""

FRAGMENTATION = 0.05
"""Share of activations, logits and gathered weights that is lost between tensors (assumed, not measured here)."""


@dataclass(frozen=True)
class Strategy:
    """How a model is spread over devices.

    Attributes:
        name: `single`, `DDP`, `FSDP` or `FSDP2`.
        offload: Whether weights, gradients and the optimizer's state of a sharded model are in the host's memory.
        bucket_view: DDP: whether gradients lie in the buckets that they are sent in, and not beside them.
        keeps_weights: Whether a sharded model's weights stay gathered from the forward to the backward pass.
    """

    name: str
    offload: bool = False
    bucket_view: bool = False
    keeps_weights: bool = False

    @property
    def sharded(self) -> bool:
        """Whether each device has only its share of weights, gradients and optimizer state."""
        return self.name.startswith("FSDP")

    def __str__(self) -> str:
        return f"{self.name} with CPU offload" if self.offload else self.name


@dataclass(frozen=True)
class Sizes:
    """A training run's tensors that are there all the time, in bytes of the whole model.

    Attributes:
        weights: Of the policy, adapter, value head and buffers included.
        reference: Weights of a second model in memory; 0 without one.
        gradients: Of all trained weights.
        optimizer: State, and what its step needs.
        computed: All weights of the policy in the dtype that is computed with.
        block: Of the largest block, in the dtype that is computed with: what FSDP gathers at one time.
        outside: Of the weights outside of blocks, in that dtype.
        block_gradients: Of a block's trained weights, in that dtype.
        outside_gradients: Of trained weights outside of blocks, in that dtype.
        reduced: How many times larger the gradients are in the dtype in which they are summed over devices.
    """

    weights: int
    reference: int
    gradients: int
    optimizer: OptimizerBytes
    computed: int
    block: int
    outside: int
    block_gradients: int
    outside_gradients: int
    reduced: int = 1


@dataclass(frozen=True)
class Parts:
    """Memory of one device at its peak, in bytes.

    Attributes:
        weights: The policy's.
        gradients: Of its weights, buckets of DDP included.
        optimizer: Its state, and what it needs during its step.
        reference: Weights of the reference model.
        activations: What the backward pass needs, and what the operation of the moment works on.
        logits: Entries for every token of the vocabulary.
        gathered: Weights and gradients of the blocks that FSDP has whole at the moment.
        overhead: What the framework and the device itself take.
    """

    weights: float = 0
    gradients: float = 0
    optimizer: float = 0
    reference: float = 0
    activations: float = 0
    logits: float = 0
    gathered: float = 0
    overhead: float = 0

    @property
    def total(self) -> float:
        """Their sum."""
        return sum(asdict(self).values())


@dataclass(frozen=True)
class Memory:
    """Memory of a run.

    Attributes:
        parts: Of one device.
        host: Bytes of the host's memory for each device, where weights are offloaded to it.
    """

    parts: Parts
    host: float = 0


def memory(
    sizes: Sizes,
    step: Trace,
    strategy: Strategy,
    devices: int,
    *,
    reference_pass: Trace | None = None,
    separate_reference: int = 0,
    gpu: bool = True,
) -> Memory:
    """Memory at the peak of a run: the largest of forward and backward pass, optimizer step, and reference pass.

    Args:
        sizes: What is there all the time.
        step: Forward and backward pass of a micro-batch.
        strategy: How the model is spread.
        devices: Over how many devices.
        reference_pass: The pass before training that fills the cache of the reference; None without one.
        separate_reference: Bytes of the model that this pass runs, if it is not the policy.
        gpu: Whether a device is a GPU, which takes memory for itself.
    """
    share = 1 / devices if strategy.sharded else 1.0
    on_device = 0.0 if strategy.offload else share
    still = Parts(
        weights=sizes.weights * on_device,
        reference=sizes.reference * on_device,
        optimizer=sizes.optimizer.state * on_device,
        gradients=sizes.gradients if strategy.name == "DDP" else 0,  # its buckets
        overhead=(CONTEXT_BYTES + COMMUNICATION_BYTES * (devices > 1)) if gpu else 0,
    )
    whole = whole_gradients = 0
    if strategy.sharded and (devices > 1 or strategy.offload or sizes.reduced > 1):
        # A block is gathered while the one before it is computed.
        whole = sizes.computed if strategy.keeps_weights else sizes.outside + 2 * sizes.block
        whole_gradients = sizes.outside_gradients + sizes.block_gradients * (1 + sizes.reduced)
    traced_gradients = max((moment.gradients for moment in step.moments), default=0)
    of_gradients = on_device * sizes.gradients / max(traced_gradients, 1)
    if strategy.bucket_view:
        of_gradients = 0.0
    moment = step.peak(of_gradients)
    candidates = [
        replace(
            still,
            activations=moment.activations,
            logits=moment.logits,
            gradients=still.gradients + moment.gradients * of_gradients,
            gathered=whole + whole_gradients,
        ),
        replace(
            still,
            gradients=still.gradients + (0 if strategy.bucket_view else sizes.gradients * on_device),
            optimizer=(sizes.optimizer.state + sizes.optimizer.temporary) * on_device,
        ),
    ]
    if reference_pass is not None:
        moment = reference_pass.peak()
        candidates.append(
            replace(
                still,
                optimizer=0,
                reference=separate_reference * on_device,
                activations=moment.activations,
                logits=moment.logits,
                gathered=whole,
            )
        )
    peak = max(candidates, key=lambda parts: parts.total)
    if gpu:
        lost = FRAGMENTATION * (peak.activations + peak.logits + peak.gathered)
        peak = replace(peak, overhead=peak.overhead + lost)
    host = sizes.weights + sizes.reference + sizes.gradients + sizes.optimizer.state + sizes.optimizer.temporary
    return Memory(peak, host * share if strategy.offload else 0)
