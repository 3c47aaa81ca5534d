"""Log-probabilities of tokens, computed from the hidden states that predict them.

The logits of a batch, `[rows, time, vocabulary]`, are the largest tensor of alignment training by far, and most of
them are thrown away: those of the prompt, of padding, and all but one entry of each vocabulary row. Here logits exist
for completion tokens alone, and for one chunk of those at a time, in the forward pass and in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

CHUNK_BYTES = 128 * 2**20
"""Upper bound of the float32 logits that exist at one time."""

_BLOCK = 2**20
"""How many logits a CPU works on at one time: those that its cache holds."""

Head = Callable[[Tensor], Tensor]


def token_logps(
    hidden: Tensor, targets: Tensor, head: Head, *, vocabulary: int, chunk_bytes: int = CHUNK_BYTES
) -> Tensor:
    """Log-probability of each target token given the hidden state that predicts it.

    The straightforward form, which this equals, is

        head(hidden).float().log_softmax(-1).gather(-1, targets[:, None])[:, 0]

    The last chunk's logits stay until the backward pass; those of earlier chunks are computed again there.

    Args:
        hidden: `[K, H]`, last hidden states at the positions before the targets.
        targets: int64 `[K]`, the tokens.
        head: The output embedding, `[k, H] -> [k, V]`. Its result has to be a tensor of its own, because it is
            overwritten: that of a linear layer is, that of `tanh` is not.
        vocabulary: V, which sets the length of a chunk.
        chunk_bytes: Upper bound of the bytes of one chunk of float32 logits.

    Returns:
        float32 `[K]` (float64 where the logits are), in nats.
    """

    def one_chunk(hidden: Tensor, targets: Tensor) -> Tensor:
        logps: Tensor = _TargetLogps.apply(_at_least_float32(head(hidden)), targets)
        return logps

    chunks, done = [], 0
    for part in _chunks(vocabulary, chunk_bytes, hidden, targets):
        done += len(part[1])
        again = torch.is_grad_enabled() and done < len(targets)
        chunks.append(checkpoint(one_chunk, *part, use_reentrant=False) if again else one_chunk(*part))
    return torch.cat(chunks) if chunks else hidden.new_zeros(0, dtype=torch.float32)


class TokenStatistics(NamedTuple):
    """What a model predicts at K positions.

    Attributes:
        entropy: Of the next token's distribution, float32 `[K]`, in nats.
        correct: Whether the target is the most likely token, bool `[K]`.
    """

    entropy: Tensor
    correct: Tensor


@torch.no_grad()
def token_statistics(
    hidden: Tensor, targets: Tensor, head: Head, *, vocabulary: int, chunk_bytes: int = CHUNK_BYTES
) -> TokenStatistics:
    """Entropy, and whether the target is the most likely token, without gradient. Arguments as of `token_logps`."""
    entropy, correct = [hidden.new_zeros(0, dtype=torch.float32)], [targets.new_zeros(0, dtype=torch.bool)]
    for states, tokens in _chunks(vocabulary, chunk_bytes, hidden, targets):
        logps = _at_least_float32(head(states)).log_softmax(-1)
        entropy.append(-(logps.exp() * logps).sum(-1).to(entropy[0]))
        correct.append(logps.argmax(-1) == tokens)
    return TokenStatistics(torch.cat(entropy), torch.cat(correct))


def _chunks(vocabulary: int, chunk_bytes: int, hidden: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    rows = max(1, chunk_bytes // (4 * vocabulary))
    return zip(hidden.split(rows), targets.split(rows), strict=True) if len(targets) else iter(())


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


class _TargetLogps(torch.autograd.Function):
    """log softmax(logits)[target] of each row, with one tensor of the size of the logits and not three.

    The logits are overwritten by exp(logits - max), and these, in the backward pass, by the gradient
    g · (1[target] - softmax).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        logps, sums = logits.new_empty(len(targets)), logits.new_empty(len(targets))
        rows = max(1, _BLOCK // logits.shape[1]) if logits.device.type == "cpu" else len(targets)
        # `.data`: whoever made the logits has no use for them, so that overwriting them needs no new version of them.
        for block, which, logp, total in zip(
            *(tensor.split(rows) for tensor in (logits.data, targets, logps, sums)), strict=True
        ):
            target = block.gather(1, which[:, None])[:, 0]
            highest = block.amax(1, keepdim=True)
            torch.sum(block.sub_(highest).exp_(), 1, out=total)
            torch.sub(target - highest[:, 0], total.log(), out=logp)
        ctx.save_for_backward(logits, sums, targets)
        return logps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        exps, sums, targets = ctx.saved_tensors
        result = exps.mul_((-gradient / sums)[:, None])
        result[torch.arange(len(targets), device=targets.device), targets] += gradient
        return result, None
