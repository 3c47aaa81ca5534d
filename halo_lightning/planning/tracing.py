"""What a step of training allocates, seen by running it on tensors without contents.

The forward and backward pass of a module run on fake tensors, which have shapes and storages but no memory, while
every storage that comes and goes is counted. So nothing is assumed about an architecture or about what autograd keeps.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


@dataclass(frozen=True)
class Moment:
    """What is in memory at one moment of a step, in bytes, beside weights and the optimizer's state.

    Attributes:
        activations: Everything that is not listed below.
        logits: Tensors with an entry for each token of the vocabulary.
        gradients: Gradients of weights.
    """

    activations: int
    logits: int
    gradients: int

    @property
    def kept(self) -> int:
        """Bytes of what is not a gradient of a weight."""
        return self.activations + self.logits


@dataclass(frozen=True)
class Trace:
    """What running something took.

    Attributes:
        moments: Those at which memory may be at its peak, however much of the gradients this device has.
        flops: Floating-point operations of matrix products and attention, those that are done again included.
    """

    moments: tuple[Moment, ...]
    flops: int

    def peak(self, share_of_gradients: float = 1.0) -> Moment:
        """The moment with most in memory on a device that has this share of the gradients."""
        return max(self.moments, key=lambda moment: moment.kept + share_of_gradients * moment.gradients)


@dataclass
class _Pass:
    """A forward pass, and how far its backward pass has come in the stack of blocks.

    Attributes:
        gradient: Whether there will be a backward pass.
        entered: Bytes in memory, and FLOPs done, when the second and the third of the traced blocks began.
        left: FLOPs done when the backward pass of the third and of the second one was over.
    """

    gradient: bool
    entered: list[tuple[int, int]] = field(default_factory=list)
    left: list[int] = field(default_factory=list)

    @property
    def kept(self) -> int:
        """Bytes that the second block keeps for its backward pass."""
        return self.entered[1][0] - self.entered[0][0] if self.gradient and len(self.entered) == 2 else 0

    @property
    def flops(self) -> int:
        """FLOPs of the second block, forward and backward."""
        forward = self.entered[1][1] - self.entered[0][1]
        return forward + (self.left[1] - self.left[0] if self.left else 0)


class Tracer(TorchDispatchMode):
    """Counts the bytes in memory while it is active, and keeps the moments at which they may be at their peak.

    Of a model with many equal blocks only three need to be run: the first, one of those between, and the last. What
    the others would add is known from the second: each keeps as many bytes until its backward pass, has as many bytes
    of gradients after it, and takes as many FLOPs.

    Args:
        known: Tensors that are not counted: weights, buffers, the batch.
        vocabulary: Size of the vocabulary, by which logits are recognised.
        omitted: Number of blocks that are not run.
        pairs: How many pairs of tokens attend to each other in a batch, for the FLOPs of attention.
    """

    def __init__(self, known: Iterable[Tensor], *, vocabulary: int, omitted: int, pairs: int) -> None:
        super().__init__()
        self.vocabulary, self.omitted, self.pairs = vocabulary, omitted, pairs
        self._flops = 0
        self._bytes = {"activations": 0, "logits": 0, "gradients": 0}
        self._kind: dict[int, str | None] = {tensor.untyped_storage()._cdata: None for tensor in known}
        self._passes: list[_Pass] = []
        self._gradients_of_block = 0
        self._has_gradients = False
        """Whether the blocks that are not run have gradients of their weights now."""
        self._moments: set[tuple[int, int, int]] = set()

    def trace(self) -> Trace:
        """What was seen."""
        moments: list[Moment] = []
        for moment in sorted((Moment(*numbers) for numbers in self._moments), key=lambda m: (-m.kept, -m.gradients)):
            if not moments or moment.gradients > moments[-1].gradients:
                moments.append(moment)
        return Trace(tuple(moments), self._flops + self.omitted * sum(one.flops for one in self._passes))

    # --- where in a step it is -------------------------------------------------------------------------------------

    def watch(self, parameters: Iterable[nn.Parameter], blocks: list[nn.Module]) -> None:
        """Takes what arrives in `.grad` for gradients, and notes how far passes have come in the blocks.

        Args:
            parameters: The trained weights.
            blocks: Of a model that is run: three of its blocks, or all.
        """
        for parameter in parameters:
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._has_gradient)
        if self.omitted:
            first, middle, last = blocks
            self._gradients_of_block = max(
                self._gradients_of_block, sum(p.nbytes for p in middle.parameters() if p.requires_grad)
            )
            for block in (first, middle):
                block.register_forward_hook(partial(self._at_output, is_first=block is first))
            for block in (middle, last):
                block.register_forward_pre_hook(partial(self._at_input, is_last=block is last))

    def _has_gradient(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        storage = parameter.grad.untyped_storage()
        kind = self._kind[storage._cdata]
        if kind not in (None, "gradients"):
            self._bytes[kind] -= storage.nbytes()
            self._bytes["gradients"] += storage.nbytes()
            self._kind[storage._cdata] = "gradients"
            self._note()

    def _at_input(self, *_: Any, is_last: bool) -> None:
        if not _in_backward():
            if not is_last:
                self._passes.append(_Pass(torch.is_grad_enabled()))
            self._passes[-1].entered.append((self._bytes["activations"], self._flops))

    def _at_output(self, _: Any, __: Any, output: Any, *, is_first: bool) -> None:
        """Lets the gradient of a block's output tell that the backward pass of the block after it is over."""
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.requires_grad and not _in_backward():
            # The pass is noted where its second block begins, which is after the first one's output.
            hidden.register_hook(partial(self._left, len(self._passes) - (not is_first)))

    def _left(self, number: int, _: Tensor) -> None:
        self._passes[number].left.append(self._flops)
        self._has_gradients |= len(self._passes[number].left) == 2
        self._note()

    def _note(self, hidden: int = 0) -> None:
        """Notes the moment, with what the blocks that are not run would have in memory.

        While the backward pass is in the second block, it stands for the first and for the last of those that are not
        run: either they all still keep their activations, or they all have their gradients.
        """
        own = self._bytes
        waiting = sum(one.kept for one in self._passes if not one.left) * self.omitted
        between = sum(one.kept for one in self._passes if len(one.left) == 1) * self.omitted
        gradients = self._gradients_of_block * self.omitted
        kept = own["activations"] + hidden + waiting
        before = own["gradients"] + (gradients if self._has_gradients else 0)
        self._moments.add((kept + between, own["logits"], before))
        if between:
            self._moments.add((kept, own["logits"], own["gradients"] + gradients))

    # --- counting --------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs one operation, and counts what it allocates."""
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return func(*args, **kwargs)
        if func is torch.ops.aten.index.Tensor:
            # How many entries a mask picks is not known without contents: as if it were all.
            args = (args[0], [_all_places(index) for index in args[1]])
        out = func(*args, **kwargs)
        self._flops += _flops(func, args, kwargs, out, self.pairs)
        new = [self._is_new(leaf) for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        if any(new):
            self._note(_hidden_bytes(func, args))
        return out

    def _is_new(self, tensor: Tensor) -> bool:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._kind:
            return False
        is_logits = tensor.ndim > 1 and tensor.shape[-1] == self.vocabulary and tensor.is_floating_point()
        kind = "logits" if is_logits else "activations"
        self._kind[key] = kind
        self._bytes[kind] += size
        weakref.finalize(storage, self._dropped, key, size)
        return True

    def _dropped(self, key: int, size: int) -> None:
        kind = self._kind.pop(key)
        assert kind is not None
        self._bytes[kind] -= size


def _in_backward() -> bool:
    """Whether a block runs a second time, for its backward pass."""
    return torch._C._current_graph_task_id() != -1


def _all_places(index: Tensor | None) -> Tensor | None:
    if index is None or index.dtype != torch.bool:
        return index
    return index.new_zeros(index.numel(), dtype=torch.int64)


def _flops(func: Any, args: Any, kwargs: Any, out: Any, pairs: int) -> int:
    """FLOPs of one operation: a multiplication and an addition are two.

    The backward pass of attention is counted as twice its forward pass, without the scores that kernels compute again.
    """
    name = func._overloadpacket.__name__
    if name.startswith(("_varlen_attn", "_scaled_dot_product")):
        query, key = args[1:3] if name.endswith("_backward") else args[:2]
        heads, width = (query.shape[-2], query.shape[-1]) if name.startswith("_varlen") else query.shape[1::2]
        if not name.startswith("_varlen"):
            length, all_keys = query.shape[2], key.shape[2]
            pairs = len(query) * attended_pairs([length], [all_keys])
        return (8 if name.endswith("_backward") else 4) * heads * width * pairs
    count = flop_registry.get(func._overloadpacket)
    return 0 if count is None else int(count(*args, **kwargs, out_val=out))


def attended_pairs(query_lengths: Iterable[int], key_lengths: Iterable[int]) -> int:
    """How many pairs of tokens attend to each other: each with all before it in its sequence, and with itself."""
    return sum(q * (k - q) + q * (q + 1) // 2 for q, k in zip(query_lengths, key_lengths, strict=True))


def _hidden_bytes(func: Any, args: Any) -> int:
    """Bytes that a kernel allocates for itself while it runs: the backward pass of attention sums in float32."""
    if func._overloadpacket.__name__ != "_varlen_attn_backward":
        return 0
    tokens, heads, width = args[1].shape
    return int(4 * tokens * heads * -(-width // 32) * 32)
