"""Traces of training steps, of the reference pass and of the optimizer, for models without weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._pytree import tree_leaves, tree_map_only

from halo_lightning import logprobs
from halo_lightning.attention import fits_kernel
from halo_lightning.data.batches import Batch, Sequences
from halo_lightning.errors import ConfigError
from halo_lightning.forward import Ways, plain, run_as, target_logps, vocabulary_of
from halo_lightning.modules.base import HaloModule
from halo_lightning.planning.shapes import Shape, materialize
from halo_lightning.planning.tracing import Trace, Tracer, attended_pairs
from halo_lightning.policy import FrozenModel, PolicyAndReference


@dataclass(frozen=True)
class Numbers:
    """The numbers that a forward pass computes with.

    Attributes:
        weights: Dtype of the weights in it.
        autocast: What layers compute with under mixed precision; None is the weights' dtype.
        on_gpu: Whether it is as on a GPU: torch's kernel for attention in half precision, norms in float32 under
            mixed precision.
    """

    weights: torch.dtype
    autocast: torch.dtype | None = None
    on_gpu: bool = True

    @property
    def kernel(self) -> bool:
        """Whether attention is torch's variable-length kernel, where this torch has it."""
        return self.on_gpu and fits_kernel(self.autocast or self.weights)


@dataclass(frozen=True)
class StepTrace:
    """A training step.

    Attributes:
        trace: Of forward and backward pass.
        with_reference: Whether a second model was in memory.
        other_weights: Weights beside those of policy and reference, such as a value head's.
    """

    trace: Trace
    with_reference: bool
    other_weights: int


def trace_step(
    module: HaloModule,
    policy: Shape,
    reference: Shape | None,
    batch: Batch,
    numbers: Numbers,
    *,
    frozen: bool = False,
    accumulated: bool = False,
    ways: Ways = Ways(),  # noqa: B008  # a tuple
) -> StepTrace:
    """Runs forward and backward pass of one micro-batch.

    Args:
        module: The method; what it has for models is replaced.
        policy: The model that it trains.
        reference: The model that it compares with, where it is another one; it is in memory if it is asked for
            log-probabilities, or `frozen`.
        batch: The micro-batch, with log-probabilities of the reference where those are cached.
        numbers: What is computed with.
        frozen: Whether the reference is in memory from the start.
        accumulated: Whether there are gradients of an earlier micro-batch already.
        ways: How the models are run.
    """
    # What a method adds to a batch may be a text, and the tokenizer not at hand: it is a few tokens.
    with suppress(ConfigError):
        batch = module.on_before_batch_transfer(batch, 0)
    sequences = batch.sequences
    own, second = copy.deepcopy(policy), copy.deepcopy(reference)
    with _fake(numbers), _own_buffers(module):
        for shape in (own, second):
            if shape is not None:
                _make(shape, numbers, ways)
        model = None if second is None else second.model
        module.models = PolicyAndReference(own.model, model if frozen or model is None else lambda: FrozenModel(model))
        if hasattr(module, "value_head"):
            setattr(module, "value_head", None)  # noqa: B010  # of another model
        module.configure_model()
        fake = _faked(batch)
        known = [*_tensors(module, *([] if second is None else [second.model])), *_leaves(fake)]
        tracer = Tracer(
            known,
            vocabulary=vocabulary_of(plain(own.model)),
            omitted=own.omitted,
            pairs=attended_pairs(sequences.segments.query_lengths, sequences.segments.key_lengths),
        )
        tracer.watch(module.parameters(), own.blocks)
        if second is not None:
            tracer.watch([], second.blocks)
        with tracer:
            for _ in range(1 + accumulated):
                with _autocast(numbers):
                    loss, values = module.loss_and_metrics(fake)
                del values
                loss.backward()
                del loss
        others = sum(p.numel() for name, p in module.named_parameters() if not name.startswith("models."))
        return StepTrace(tracer.trace(), module.models.reference is not None, others)


def trace_reference_pass(policy: Shape, sequences: Sequences, numbers: Numbers, ways: Ways = Ways()) -> Trace:  # noqa: B008
    """Runs a model over sequences without gradient, as a reference pass does."""
    own = copy.deepcopy(policy)
    with _fake(numbers), torch.no_grad():
        _make(own, numbers, ways)
        fake = _faked(sequences)
        segments = sequences.segments
        tracer = Tracer(
            [*_tensors(own.model), *_leaves(fake)],
            vocabulary=vocabulary_of(plain(own.model)),
            omitted=own.omitted,
            pairs=attended_pairs(segments.query_lengths, segments.key_lengths),
        )
        tracer.watch([], own.blocks)
        with tracer, _autocast(numbers):
            target_logps(own.model, fake)
        return tracer.trace()


@dataclass(frozen=True)
class OptimizerBytes:
    """What an optimizer takes for a model.

    Attributes:
        state: Bytes that stay.
        temporary: Bytes that it needs in addition during its step.
    """

    state: int
    temporary: int


def optimizer_bytes(module: HaloModule, policy: Shape, other_weights: int, numbers: Numbers) -> OptimizerBytes:
    """Runs the optimizer's step, for the blocks that are there with and without the middle one.

    Args:
        module: The method, which makes the optimizer.
        policy: The model.
        other_weights: Weights beside the model's.
        numbers: Its weights' dtype.
    """
    middle = {id(p) for p in policy.blocks[1].parameters()} if policy.omitted else set()
    trained = [(p.shape, id(p) in middle) for p in policy.model.parameters() if p.requires_grad]
    sizes = [shape for shape, _ in trained] + [torch.Size([other_weights])] * bool(other_weights)
    whole = _optimizer_step(module, sizes, numbers)
    if not policy.omitted:
        return whole
    less = _optimizer_step(module, [shape for shape, inside in trained if not inside], numbers)
    own = _optimizer_step(module, [shape for shape, inside in trained], numbers)
    return OptimizerBytes(
        whole.state + policy.omitted * (own.state - less.state),
        whole.temporary + policy.omitted * (own.temporary - less.temporary),
    )


def _optimizer_step(module: HaloModule, sizes: list[torch.Size], numbers: Numbers) -> OptimizerBytes:
    with _fake(numbers):
        parameters = [nn.Parameter(torch.empty(size, dtype=numbers.weights)) for size in sizes]
        optimizer = module.make_optimizer(parameters)
        for group in optimizer.param_groups:
            # On a GPU torch takes all tensors at one time unless told otherwise; it does not know fake ones.
            if numbers.on_gpu and group.get("foreach", True) is None and not group.get("fused"):
                group["foreach"] = True
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter)
        known = [*parameters, *(p.grad for p in parameters if p.grad is not None)]
        tracer = Tracer(known, vocabulary=-1, omitted=0, pairs=0)
        with tracer:
            optimizer.step()
        state = sum(
            value.nbytes for values in optimizer.state.values() for value in values.values() if torch.is_tensor(value)
        )
        peak = max((moment.kept for moment in tracer.trace().moments), default=0)
        return OptimizerBytes(state, max(0, peak - state))


@contextmanager
def _own_buffers(module: HaloModule) -> Iterator[None]:
    """Within, what a method itself keeps between batches (a running mean, say) has no contents either."""
    kept = dict(module._buffers)
    try:
        for name, buffer in kept.items():
            module._buffers[name] = None if buffer is None else torch.empty(buffer.shape, dtype=buffer.dtype)
        yield
    finally:
        module._buffers.update(kept)
        module.models = None


@contextmanager
def _fake(numbers: Numbers) -> Iterator[None]:
    """Within, tensors have no contents, and are made on a device that stands for the CPU or a GPU."""
    norms = _norms_in_float32() if numbers.on_gpu and numbers.autocast is not None else nullcontext()
    block, logprobs._BLOCK = logprobs._BLOCK, 2**62  # in one piece, as on a GPU: on a CPU that takes as much memory
    try:
        with warnings.catch_warnings(), FakeTensorMode(), norms:
            warnings.simplefilter("ignore")
            yield
    finally:
        logprobs._BLOCK = block


@contextmanager
def _norms_in_float32() -> Iterator[None]:
    """Within, layer norms under mixed precision are as on a GPU: in float32. On a CPU autocast leaves them as they are.

    The function itself is replaced: a mode of torch would not be active where the backward pass computes blocks again.
    """
    plain_norm = functional.layer_norm

    def norm(*arguments: Any, **options: Any) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            arguments, options = tree_map_only(Tensor, lambda t: t.float(), (arguments, options))
        return plain_norm(*arguments, **options)

    functional.layer_norm = norm
    try:
        yield
    finally:
        functional.layer_norm = plain_norm


def _autocast(numbers: Numbers) -> AbstractContextManager[Any]:
    return nullcontext() if numbers.autocast is None else torch.autocast("cpu", dtype=numbers.autocast)


def _make(shape: Shape, numbers: Numbers, ways: Ways) -> None:
    materialize(shape.model, numbers.weights)
    run_as(shape.model, ways, numbers.kernel)


def _tensors(*modules: nn.Module) -> list[Tensor]:
    return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]


def _leaves(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _faked(value: Any) -> Any:
    """Named tuples of tensors, without contents."""
    if isinstance(value, Tensor):
        return torch.empty(value.shape, dtype=value.dtype)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_faked, value))
    return value
