"""How a Hugging Face model is run over sequences in a flat row, and how it is made sure that this is right.

No architecture is trusted: before a model is run in a way that is cheaper than the plain one, it is tried on three
short sequences, and what comes out is compared with a plain forward pass of each of them alone. A model that mixes
sequences (because it has a recurrent state, or an attention of its own), or whose logits are not what its output
embedding makes of its last hidden states, is found here, and run in a way that is right for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from halo_lightning.attention import attend_within_segments
from halo_lightning.data.batches import Sequences, pack
from halo_lightning.errors import ConfigError, first_line
from halo_lightning.logprobs import token_logps

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Ways(NamedTuple):
    """How a model can be run.

    Attributes:
        packed: In one flat row, each token computed once; else in rows padded on the right.
        head: The output embedding on the last hidden states gives the logits; else only the model itself does.
    """

    packed: bool = True
    head: bool = True


def last_hidden_states(model: PreTrainedModel, sequences: Sequences) -> Tensor:
    """What the output embedding of a model is applied to, `[T, H]`, in the order of `sequences.input_ids`."""
    return _hidden_states(plain(model), sequences, ways_of(model, sequences.input_ids.device).packed)


def predicting_states(model: PreTrainedModel, sequences: Sequences) -> Tensor:
    """The last hidden states from which the targets are predicted, `[K, H]`."""
    packed = ways_of(model, sequences.input_ids.device).packed
    return _hidden_states(plain(model), sequences, packed, of_predictors=True)[sequences.predictors]


def target_logps(model: PreTrainedModel, sequences: Sequences, states: Tensor | None = None) -> Tensor:
    """Log-probability of every target given all tokens before it in its sequence.

    Args:
        model: A causal language model.
        sequences: Sequences of K targets.
        states: Its `predicting_states`, where they are known already.

    Returns:
        float32 `[K]` (float64 where the model is), in nats.
    """
    if not ways_of(model, sequences.input_ids.device).head:
        logits = _plain_logits(model, sequences)
        return logits.log_softmax(-1).gather(-1, sequences.targets[:, None])[:, 0]
    if states is None:
        states = predicting_states(model, sequences)
    return token_logps(states, sequences.targets, Head(plain(model)), vocabulary=vocabulary_of(model))


def plain(model: Any) -> PreTrainedModel:
    """The transformers model itself, with its adapters in it, where one of peft is around it."""
    bare: PreTrainedModel = model.get_base_model() if hasattr(model, "peft_config") else model
    return bare


def body(model: PreTrainedModel) -> Any:
    """A model without its head."""
    if model.base_model is not model:
        return model.base_model
    return next((child for child in model.children() if hasattr(child, "config")), model)


def vocabulary_of(model: PreTrainedModel) -> int:
    """Number of tokens that a model knows."""
    size: int = model.config.get_text_config().vocab_size
    return size


def check_tokens(model: PreTrainedModel, tokenizer: Any, largest: int, where: str = "") -> None:
    """Refuses a token that a model does not know, at which torch would stumble, or on a GPU give up the process.

    That a tokenizer has more tokens than its model is no mistake, as long as they are not used; that a model has rows
    for more tokens than there are is usual.

    Args:
        model: The model.
        tokenizer: What made the tokens; None where that is not known.
        largest: The largest token id that the model is to be given.
        where: The place of the largest token, for messages.

    Raises:
        ConfigError: The model does not know it.
    """
    known = vocabulary_of(model)
    if largest >= known:
        token = "" if tokenizer is None else f", {tokenizer.convert_ids_to_tokens(largest)!r}"
        size = "" if tokenizer is None else f" (the tokenizer has {len(tokenizer):,} tokens)"
        raise ConfigError(
            f"{f'{where}: ' if where else ''}found the token {largest}{token}, and the embedding of the model"
            f" {model.name_or_path!r} has rows for {known:,} tokens{size}; expected the tokenizer of this model"
        )


class Head:
    """From hidden states to logits, as a model's own `forward` does it."""

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config.get_text_config()
        self.embedding = model.get_output_embeddings()
        self.softcap = getattr(config, "final_logit_softcapping", None)
        # Cohere multiplies by `logit_scale`, Granite divides by `logits_scaling`.
        self.scale = getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits, `[K, V]`, of last hidden states, `[K, H]`."""
        logits: Tensor = self.embedding(hidden)
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits


# --- running -------------------------------------------------------------------------------------------------------


def _hidden_states(model: PreTrainedModel, sequences: Sequences, packed: bool, of_predictors: bool = False) -> Tensor:
    if torch.is_grad_enabled():
        _decide_about_activations(model, sequences.real_tokens if not packed else len(sequences.input_ids))
    if not packed:
        ids, real = _padded(sequences)
        hidden: Tensor = body(model)(input_ids=ids, attention_mask=real, use_cache=False).last_hidden_state
        rows = torch.arange(len(ids), device=ids.device).repeat_interleave(
            sequences.segments.query_bounds.diff(), output_size=len(sequences.input_ids)
        )
        return hidden.flatten(0, 1).index_select(0, rows * ids.shape[1] + sequences.position_ids)
    with _last_feed_forward_at(model, sequences.predicting if of_predictors else None):
        row: Tensor = body(model)(
            input_ids=sequences.input_ids[None],
            position_ids=sequences.position_ids[None],
            # Four dimensions, so that nobody makes a mask from it, of T × T entries: the segments are the mask.
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=sequences.input_ids.device),
            use_cache=False,
            segments=sequences.segments,
        ).last_hidden_state
    return row[0]


def _padded(sequences: Sequences) -> tuple[Tensor, Tensor]:
    """Rows padded on the right: tokens, and which of them are real, `[R, L]` each."""
    segments, ids = sequences.segments, sequences.input_ids
    if segments.order is not None:
        ids = ids[segments.order]
    column = torch.arange(max(segments.key_lengths), device=ids.device)
    real = column < segments.key_bounds.diff()[:, None]
    return ids.new_zeros(real.shape).masked_scatter(real, ids), real


def _plain_logits(model: PreTrainedModel, sequences: Sequences) -> Tensor:
    """The logits that a model itself gives for all targets, at least float32 `[K, V]`."""
    ids, real = _padded(sequences)
    logits = model(input_ids=ids, attention_mask=real, use_cache=False).logits
    # By places and not by a mask, whose true entries a GPU would have to count before it could go on.
    rows = sequences.cells // sequences.completion_mask.shape[1]
    columns = sequences.position_ids[sequences.predictors]
    logits = logits.flatten(0, 1).index_select(0, rows * ids.shape[1] + columns)
    return logits if logits.dtype == torch.float64 else logits.float()


@contextmanager
def _last_feed_forward_at(model: PreTrainedModel, places: Tensor | None) -> Iterator[None]:
    """Within, the last block's feed-forward layer is computed at these places only, and gives 0 elsewhere.

    Nobody looks at what comes after it at other places. With activation checkpointing, where the block runs a second
    time outside of this context, and in blocks of an unknown form, nothing is left out.
    """
    layer = None if places is None else _last_feed_forward(model)
    if layer is None or places is None:
        yield
        return
    length = 0

    def select(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        nonlocal length
        length = arguments[0].shape[1]
        return (arguments[0].index_select(1, places), *arguments[1:])

    def put_back(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output.new_zeros(1, length, output.shape[-1]).index_copy(1, places, output)

    hooks = [layer.register_forward_pre_hook(select), layer.register_forward_hook(put_back)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _last_feed_forward(model: PreTrainedModel) -> nn.Module | None:
    """The feed-forward layer of the last block, which most architectures call `mlp`."""
    block = last_block(model)
    found = getattr(block, "mlp", None)
    # A block that runs a second time in the backward pass would do so outside of the context.
    return found if isinstance(found, nn.Module) and not getattr(block, "gradient_checkpointing", False) else None


def blocks_of(model: PreTrainedModel) -> nn.ModuleList | None:
    """The blocks that a model is made of, where they are in a list of their own."""
    lists = [module for module in body(model).modules() if isinstance(module, nn.ModuleList)]
    layers = getattr(model.config.get_text_config(), "num_hidden_layers", 0)
    return next((blocks for blocks in lists if len(blocks) == layers), None)


def last_block(model: PreTrainedModel) -> nn.Module | None:
    """The last of the blocks that a model is made of, where they are in a list of their own."""
    blocks = blocks_of(model)
    return blocks[-1] if blocks else None


Checkpointing = Literal["auto", "none", "selective", "full"]


def checkpoint_activations(model: PreTrainedModel, what: Checkpointing) -> None:
    """Lets each block but the last compute activations again in the backward pass.

    The last block's would be needed again at once, so that computing them a second time would save nothing.

    Args:
        model: A transformers model.
        what: `full`, everything but the block's input; `selective`, everything that is cheap to compute: what matrix
            products and attention give is kept; `auto`, as `full` for batches whose activations would otherwise take
            more than half of the memory that weights, gradients and optimizer take, and `none` for smaller ones.

    Raises:
        ConfigError: The model cannot do this.
    """
    if what == "none" or (what == "auto" and not model.supports_gradient_checkpointing):
        return
    if not model.supports_gradient_checkpointing:
        raise ConfigError(f"{type(model).__name__} has no activation checkpointing: set activation_checkpointing: none")
    options: dict[str, Any] = {"use_reentrant": False}
    if what == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _keep_what_is_dear)
    if hasattr(model, "activation_checkpointing_enable"):  # the name since transformers 5.20
        model.activation_checkpointing_enable(options)
    else:
        model.gradient_checkpointing_enable(options)
    block: Any = last_block(model)
    if hasattr(block, "gradient_checkpointing"):
        block.gradient_checkpointing = False
    if what == "auto":
        model._halo_decides = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]


def _decide_about_activations(model: Any, tokens: int) -> None:
    """Switches activation checkpointing on or off for a batch, where that was left to this function."""
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    if several or not hasattr(model, "_halo_decides"):
        return  # with several processes it stays on, because sharded ones have to do the same at the same time
    weights = list(model.parameters())
    state = sum(weight.nbytes * (4 if weight.requires_grad else 1) for weight in weights)
    again = activations_are_large(model.config.get_text_config(), tokens, weights[0].element_size(), state)
    for module in model._halo_decides:
        module.gradient_checkpointing = again


def activations_are_large(config: Any, tokens: int, element_size: int, state: int) -> bool:
    """Whether the activations of a batch would take more than half of the memory of what trains a model.

    Args:
        config: The configuration of the language model.
        tokens: Tokens that are computed at one time.
        element_size: Bytes of a number.
        state: Bytes of weights, gradients and optimizer.
    """
    wide = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    # What the backward pass of a block of Llama's kind keeps of each token; others keep about as much.
    activations = tokens * config.num_hidden_layers * (12 * config.hidden_size + 4 * wide) * element_size
    return activations > max(state / 2, SMALL_BYTES)


SMALL_BYTES = 256 * 2**20
"""Activations that nobody minds."""


def _keep_what_is_dear(_: Any, operation: Any, *arguments: Any, **__: Any) -> CheckpointPolicy:
    """Whether the output of an operation is kept for the backward pass."""
    name = operation.name()
    if "attention" in name or "attn" in name:
        return CheckpointPolicy.MUST_SAVE
    if name in ("aten::mm", "aten::addmm"):
        # Not of a product that makes its input narrower: that is a block's last, whose output nobody needs again.
        inner, outer = arguments[-1].shape
        return CheckpointPolicy.MUST_SAVE if outer >= inner else CheckpointPolicy.PREFER_RECOMPUTE
    return CheckpointPolicy.PREFER_RECOMPUTE


# --- making sure ---------------------------------------------------------------------------------------------------


_WAYS, _PADDED = "_halo_ways", "_halo_padded"


def run_as(model: Any, ways: Ways, kernel: bool | None = None) -> None:
    """Lets a model be run in a certain way without trying it out, because it has no weights to try.

    Args:
        model: A transformers model.
        ways: How it is run.
        kernel: Whether attention is one call of torch's variable-length kernel; None decides by device and dtype.
    """
    bare = plain(model)
    if ways.packed:
        attend_within_segments(bare, kernel)
    setattr(bare, _WAYS, ways)


def pad_rows(model: Any) -> None:
    """Lets a model be run in padded rows, whether or not it can do without padding."""
    setattr(plain(model), _PADDED, True)


def ways_of(model: Any, device: torch.device | None = None) -> Ways:
    """How a causal language model, or a sequence classifier, is run; it is tried out the first time.

    Args:
        model: The model.
        device: Where it computes; None is where its weights are.
    """
    bare = plain(model)
    if not hasattr(bare, _WAYS):
        setattr(bare, _WAYS, _try_out(bare, not hasattr(bare, _PADDED), device or bare.device))
    ways: Ways = getattr(bare, _WAYS)
    return ways


@torch.no_grad()
def _try_out(model: PreTrainedModel, packed: bool, device: torch.device) -> Ways:
    vocabulary, was_training = vocabulary_of(model), model.training
    model.eval()
    try:
        try:
            alone = [_alone(model, ids.to(device)) for ids in _trial(vocabulary).rows]
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise ConfigError(
                f"the model {model.name_or_path!r} cannot be run over a few tokens ({first_line(error)}): does its"
                " config.json go with it?"
            ) from error
        reason = _why_not_packed(model, [states for states, _ in alone], device) if packed else "it was asked not to"
        states, logits = alone[0]
        head = logits is None or _close(Head(model)(states), logits, 1.0)
    finally:
        model.train(was_training)
    if reason is not None and packed:
        rank_zero_warn(
            f"{type(model).__name__} cannot be run over sequences without padding ({reason}); it is run in padded rows"
        )
    if not head:
        rank_zero_warn(
            f"the logits of {type(model).__name__} are not what its output embedding makes of its last hidden states;"
            " all logits of a batch are computed at one time, which takes more memory"
        )
    return Ways(reason is None, head)


class _Trial(NamedTuple):
    sequences: Sequences
    rows: list[Tensor]


def _trial(vocabulary: int, other: int = 0) -> _Trial:
    """Two completions of one prompt, and one of another, always the same; `other` changes all but the last one."""
    numbers = np.arange(64) * 7 + 3
    prompts = [numbers[:5] + other, numbers[:5] + other, numbers[20:24]]
    completions = [numbers[5:9] + other, numbers[10:13] + other, numbers[24:30]]
    rows = [(prompt % vocabulary, completion % vocabulary) for prompt, completion in zip(prompts, completions)]  # noqa: B905
    return _Trial(pack(*zip(*rows, strict=True)), [torch.from_numpy(np.concatenate(row)) for row in rows])


def _alone(model: PreTrainedModel, ids: Tensor) -> tuple[Tensor, Tensor | None]:
    """Last hidden states, `[T, H]`, and logits, `[T, V]`, of one sequence by a plain forward pass."""
    states = body(model)(input_ids=ids[None], use_cache=False).last_hidden_state[0]
    if not model.can_generate():
        return states, None
    return states, model(input_ids=ids[None], use_cache=False).logits[0]


def _why_not_packed(model: PreTrainedModel, alone: list[Tensor], device: torch.device) -> str | None:
    """None if a flat row gives the hidden states that each sequence has alone, else what is wrong with it."""
    vocabulary = vocabulary_of(model)
    before = model.config._attn_implementation
    try:
        attend_within_segments(model)
        sequences, other = (_moved(_trial(vocabulary, change).sequences, device) for change in (0, 1))
        states, changed = (_hidden_states(model, which, packed=True) for which in (sequences, other))
        trimmed = _hidden_states(model, sequences, packed=True, of_predictors=True)
        order, places = sequences.segments.order, sequences.predictors
        assert order is not None
        last = sequences.segments.query_lengths[-1]
        # The sharper test: whatever the sequences before it are, the states of the last one stay what they are.
        if not _close(changed[-last:], states[-last:], 0.01):
            reason = "sequences see each other"
        elif not _close(states[order], torch.cat(alone), 1.0):
            reason = "the hidden states differ from those of each sequence alone"
        elif not _close(trimmed[places], states[places], 0.2):  # products of fewer rows may be rounded differently
            reason = "the last feed-forward layer cannot be computed for some tokens only"
        else:
            return None
    except Exception as error:  # whatever an unknown architecture does with what it does not expect
        reason = f"{type(error).__name__}: {error}"
    model.set_attn_implementation(before)
    return reason


def _moved(sequences: Sequences, device: torch.device) -> Sequences:
    from lightning.fabric.utilities import move_data_to_device

    moved: Sequences = move_data_to_device(sequences, device)
    return moved


def _close(ours: Tensor, expected: Tensor, scale: float) -> bool:
    """Whether two tensors differ by rounding only; a smaller `scale` is stricter."""
    device = expected.device.type
    # With mixed precision, rounding is that of what layers compute with, although what they add to is float32.
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else expected.dtype
    tolerance = scale * {torch.float64: 1e-9, torch.float32: 1e-3}.get(dtype, 0.1)
    size = expected.double().abs().max()
    return bool((ours.double() - expected.double()).abs().max() <= tolerance * size)
