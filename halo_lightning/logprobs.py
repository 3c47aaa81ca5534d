"""Log-probabilities of completions, computed from hidden states at completion positions only.

The logits of a batch, `[rows, time, vocabulary]`, are the largest tensor of alignment training by far, and most of
them are thrown away: those of the prompt, of padding, and all but one entry of each vocabulary row. Here logits exist
for completion positions alone, and for one chunk of those at a time, in the forward pass and in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_BYTES = 64 * 2**20
"""Upper bound of the float32 logits that exist at one time."""


def token_logps(
    hidden: Tensor,
    targets: Tensor,
    head: Callable[[Tensor], Tensor],
    *,
    vocabulary: int,
    chunk_bytes: int = CHUNK_BYTES,
) -> Tensor:
    """Log-probability of each target token given the hidden state that predicts it.

    The straightforward form, which this equals, is

        head(hidden).float().log_softmax(-1).gather(-1, targets[:, None])[:, 0]

    Args:
        hidden: `[K, H]`, last hidden states at the positions before the targets.
        targets: int64 `[K]`, the tokens.
        head: The output embedding, `[k, H] -> [k, V]`.
        vocabulary: V, which sets the length of a chunk.
        chunk_bytes: Upper bound of the bytes of one chunk of float32 logits.

    Returns:
        float32 `[K]` (float64 where the logits are), in nats.
    """

    def one_chunk(hidden: Tensor, targets: Tensor) -> Tensor:
        logits = head(hidden)
        if logits.dtype != torch.float64:
            logits = logits.float()
        return -F.cross_entropy(logits, targets, reduction="none")

    rows = max(1, chunk_bytes // (4 * vocabulary))
    needs_grad = torch.is_grad_enabled()
    chunks = []
    for start in range(0, len(targets), rows):
        part = hidden[start : start + rows], targets[start : start + rows]
        # The chunk's logits are computed again in the backward pass rather than kept for it.
        chunks.append(checkpoint(one_chunk, *part, use_reentrant=False) if needs_grad else one_chunk(*part))
    if not chunks:
        return hidden.new_zeros(0, dtype=torch.float32)
    return torch.cat(chunks)


def scatter_to_positions(values: Tensor, mask: Tensor) -> Tensor:
    """Puts one value per true position of a mask back into the mask's shape, with 0 elsewhere.

    Args:
        values: `[K]`, in the order of `mask.nonzero()`.
        mask: bool `[R, T]` with K true entries.

    Returns:
        `[R, T]`, in the dtype of `values`.
    """
    return values.new_zeros(mask.shape).masked_scatter(mask, values)
