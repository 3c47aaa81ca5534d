"""Attention over sequences that stand one after the other in a flat row (see `halo_lightning.data.batches`).

It takes the place of a model's own attention through transformers' attention interface, and steps aside where no
`segments` are given, in generation for example.
"""

from __future__ import annotations

import inspect
import sys
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from halo_lightning.data.batches import Segments

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PREFIX = "halo_segments_over_"


def attend_within_segments(model: PreTrainedModel, kernel: bool | None = None) -> None:
    """Lets a model take `segments` in its forward pass. Whether it did is for `halo_lightning.forward` to check.

    Args:
        model: The model.
        kernel: Whether attention is one call of torch's variable-length kernel; None decides by device and dtype.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

    original: str = model.config._attn_implementation or "eager"
    if original.startswith(PREFIX):
        return
    name = PREFIX + original + {None: "", True: "_by_kernel", False: "_one_by_one"}[kernel]
    AttentionInterface.register(name, partial(segment_attention, original=original, kernel=kernel))
    # The mask that a call without segments gets is the original implementation's.
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[original])
    model.set_attn_implementation(name)


def segment_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    original: str,
    kernel: bool | None = None,
    segments: Segments | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """An attention function as transformers calls it; with `segments`, dropout is off.

    Args:
        module: The attention layer.
        query: `[1, heads, T, D]`.
        key: `[1, key heads, T, D]`.
        value: `[1, key heads, T, D]`.
        attention_mask: Not looked at where there are segments.
        original: The implementation that this one stands in for.
        kernel: Whether torch's variable-length kernel is called; None decides by device and dtype.
        segments: Which tokens attend to which.
        scaling: What the dot products are multiplied by; None is 1/√D.
        sliding_window: How many tokens back, itself included, a token sees; None is all of them.
        softcap: Bound of the logits; None is none.
        options: Further arguments of the original implementation.

    Returns:
        The attended values `[1, T, heads, D]`, and None.

    Raises:
        NotImplementedError: The layer has something in its attention that this function does not know.
    """
    if segments is None:
        attention = _implementation(original, module)
        given = {"scaling": scaling, "sliding_window": sliding_window, "softcap": softcap}
        given = {name: setting for name, setting in given.items() if setting is not None}
        result: tuple[Tensor, Tensor | None] = attention(module, query, key, value, attention_mask, **given, **options)
        return result
    unknown = {name for name in ("s_aux", "position_bias", "cache") if options.get(name) is not None}
    if unknown:
        raise NotImplementedError(f"{type(module).__name__} attends with {', '.join(sorted(unknown))}")
    query, key, value = (states.transpose(1, 2) for states in (query, key, value))
    if segments.order is not None:
        key, value = key.index_select(1, segments.order), value.index_select(1, segments.order)
    if kernel is None:
        kernel = query.is_cuda and fits_kernel(query.dtype, query.shape[-1])
    if kernel and softcap is None:
        return _by_kernel(query, key, value, segments, scaling, sliding_window), None
    return _one_by_one(query, key, value, segments, scaling, sliding_window, softcap), None


def _implementation(name: str, module: torch.nn.Module) -> Any:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if name in ALL_ATTENTION_FUNCTIONS:
        return ALL_ATTENTION_FUNCTIONS[name]
    return sys.modules[type(module).__module__].eager_attention_forward


def fits_kernel(dtype: torch.dtype, head_size: int = 64) -> bool:
    """Whether torch's variable-length kernel is there, and computes with a dtype and D numbers a head."""
    half = dtype in (torch.bfloat16, torch.float16)
    return half and head_size % 8 == 0 and head_size <= 256 and _varlen() is not None


@cache
def _varlen() -> Any:
    """Torch's attention over sequences of different lengths, where this torch has one that knows windows."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if {"scale", "window_size"} <= _options(varlen_attn) else None


@cache
def _options(function: Any) -> frozenset[str]:
    """The names of what a function takes."""
    return frozenset(inspect.signature(function).parameters)


def _by_kernel(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, scaling: float | None, window: int | None
) -> Tensor:
    """All segments in one call. Its causal mask is aligned at the end, so a segment sees the prompt before it."""
    groups = query.shape[2] // key.shape[2]
    options: dict[str, Any] = {}
    if groups > 1 and "enable_gqa" in _options(_varlen()):
        options["enable_gqa"] = True
    elif groups > 1:  # torch before 2.12
        key, value = key.repeat_interleave(groups, dim=2), value.repeat_interleave(groups, dim=2)
    attended: Tensor = _varlen()(
        query[0],
        key[0],
        value[0],
        segments.query_bounds,
        segments.key_bounds,
        max(segments.query_lengths),
        max(segments.key_lengths),
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        **options,
    )
    return attended[None]


def _one_by_one(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """One call for each segment, `[1, T, heads, D]`."""
    groups = query.shape[2] // key.shape[2]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=2), value.repeat_interleave(groups, dim=2)
    attended = []
    # `split`, whose backward pass is one concatenation: that of a slice would fill a tensor as long as the row.
    for q, k, v in zip(
        query.split(segments.query_lengths, 1),
        key.split(segments.key_lengths, 1),
        value.split(segments.key_lengths, 1),
        strict=True,
    ):
        q, k, v = (states.transpose(1, 2) for states in (q, k, v))
        mask = None
        if q.shape[2] != k.shape[2] or softcap is not None or (window is not None and window < k.shape[2]):
            before = k.shape[2] - q.shape[2]
            mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(before)
            if window is not None:
                mask = mask.triu(before - window + 1)
        if softcap is not None:
            attended.append(_with_softcap(q, k, v, mask, scaling, softcap).transpose(1, 2))
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling)
            attended.append(out.transpose(1, 2))
    return torch.cat(attended, dim=1)


def _with_softcap(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None, softcap: float
) -> Tensor:
    assert mask is not None
    logits = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    logits = (softcap * torch.tanh(logits / softcap)).masked_fill(~mask, -torch.inf)
    return logits.softmax(-1, dtype=torch.float32).to(query.dtype) @ value
