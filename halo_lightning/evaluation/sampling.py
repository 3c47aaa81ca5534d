"""Sampling tokens so that what a prompt gets depends on the model, the prompt and the seed, and on nothing else.

A library's own sampling draws from one stream of random numbers for a whole batch, so a completion depends on which
prompts stand beside it, and on all that was drawn before. Here every prompt has a stream of its own: one uniform number
for each token, which picks the token by the cumulative distribution. All models draw with the same numbers (common
random numbers), in every batch, in every order, on every device, and the caller's random state is not touched.

What is left is rounding: a batch of another shape may add up its float32 numbers in another order, and in bfloat16 that
can be enough to choose another token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, distributed

from halo_lightning.errors import ConfigError
from halo_lightning.evaluation.streams import stream_key as stream_key
from halo_lightning.evaluation.streams import uniforms as uniforms
from halo_lightning.forward import check_tokens, plain

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Sampling:
    """How completions are sampled; the defaults are the report's.

    Args:
        max_new_tokens: Most tokens of a completion, the end-of-sequence token included.
        temperature: What the logits are divided by; 0 takes the most likely token each time.
        top_p: Samples from the smallest set of tokens that has this probability.
        seed: The streams of random numbers are those of this seed.

    Raises:
        ConfigError: A setting cannot work.
    """

    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 0.95
    seed: int = 1

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens is {self.max_new_tokens}: expected 1 or more")
        if not 0 <= self.temperature < 2**31:
            raise ConfigError(f"temperature is {self.temperature}: expected 0 (the most likely token) or more")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}: expected a number above 0, up to 1")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}: expected 0 or more")

    def as_plain_data(self) -> dict[str, Any]:
        """The settings by name."""
        return asdict(self)


class StreamSampling:
    """A logits processor that leaves one token possible in each row: the one that the row's own stream picks.

    Of the tokens in the order of their numbers, it is the first at which the cumulative probability passes the uniform
    number. The most likely token is that one then, so a greedy search samples.

    Args:
        keys: The stream of each row.
        width: Tokens of the (padded) prompts.
        sampling: Temperature, top-p and limit.
        device: Of the logits.
    """

    def __init__(self, keys: Sequence[int], width: int, sampling: Sampling, device: torch.device) -> None:
        from transformers import TemperatureLogitsWarper, TopPLogitsWarper

        self.dtype = torch.float32 if device.type == "mps" else torch.float64  # which has no float64
        numbers = np.stack([uniforms(key, sampling.max_new_tokens) for key in keys])
        self.numbers = torch.from_numpy(numbers).to(device, self.dtype)
        self.width = width
        self.warpers = [TemperatureLogitsWarper(float(sampling.temperature))]
        if sampling.top_p < 1:
            self.warpers.append(TopPLogitsWarper(sampling.top_p))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores `[R, V]`: 0 for the sampled token of each row, −∞ for every other one."""
        logits = scores.to(self.dtype)
        for warper in self.warpers:
            logits = warper(input_ids, logits)
        cumulative = logits.softmax(-1).cumsum(-1)
        total = cumulative[:, -1:]
        if not bool(torch.isfinite(total).all()):
            raise ConfigError("the model gives logits that are not finite, so nothing can be sampled from it")
        number = self.numbers[:, input_ids.shape[1] - self.width, None]
        below_total = torch.nextafter(total, torch.zeros_like(total))
        chosen = torch.searchsorted(cumulative, torch.minimum(number * total, below_total), right=True)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)


class FirstProcess:
    """A logits processor after which every process goes on with the tokens of the first one.

    A token that rounding makes another one in one of them would let it end earlier than those that wait for its part of
    the weights.
    """

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores `[R, V]`: 0 for the first process's most likely token of each row, −∞ for every other one."""
        chosen = scores.argmax(-1, keepdim=True)
        distributed.broadcast(chosen, 0)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)


@torch.no_grad()
def sample_tokens(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[int],
    sampling: Sampling,
    tokenizer: Any,
    *,
    device: torch.device | None = None,
    together: bool = False,
) -> list[list[int]]:
    """Samples one completion for each prompt, all in one batch.

    Nothing of the model's own generation configuration is used but its end-of-sequence tokens: other settings in it (a
    repetition penalty, say) would make models incomparable.

    Args:
        model: A causal language model; it is in evaluation mode meanwhile, and then as it was.
        prompts: The tokens of each prompt.
        keys: The stream of random numbers of each prompt, from `stream_key`.
        sampling: How.
        tokenizer: Says what padding and the end of a sequence are.
        device: Where the model computes; None is where its weights are.
        together: Whether all processes sample the same, because each of them has a part of the weights only.

    Returns:
        The tokens of each completion, up to its end-of-sequence token.
    """
    from transformers import GenerationConfig, LogitsProcessorList

    bare, device = plain(model), device or model.device
    ends = end_tokens(bare.generation_config, tokenizer)
    # Padding on the left, whatever the tokenizer's habit: generation goes on at the right end.
    check_tokens(bare, tokenizer, max(tokenizer.pad_token_id, *map(max, prompts)))
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), tokenizer.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    processors: list[Any] = [StreamSampling(keys, width, sampling, device)] if sampling.temperature > 0 else []
    if together:
        processors.append(FirstProcess())
    modes = {module: module.training for module in model.modules()}
    own_settings, bare.generation_config = bare.generation_config, GenerationConfig()
    model.eval()
    try:
        output = bare.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            logits_processor=LogitsProcessorList(processors),
            max_new_tokens=sampling.max_new_tokens,
            do_sample=False,
            use_cache=True,
            eos_token_id=sorted(ends),
            pad_token_id=tokenizer.pad_token_id,
            synced_gpus=False,
        )
    finally:
        bare.generation_config = own_settings
        for module, training in modes.items():
            module.training = training
    return [_up_to_end(row, ends) for row in output[:, width:].tolist()]


def end_tokens(generation_config: Any, tokenizer: Any) -> set[int]:
    """The tokens that end a completion: the tokenizer's, and those of a model's generation configuration.

    Raises:
        ConfigError: Those are no token ids.
    """
    own = getattr(generation_config, "eos_token_id", None)
    listed = own if isinstance(own, list) else [] if own is None else [own]
    if not all(isinstance(token, int) for token in listed):
        raise ConfigError(f"generation_config.json, key 'eos_token_id': found {str(own)[:60]}, expected token ids")
    return {tokenizer.eos_token_id, *listed}


def _up_to_end(tokens: list[int], ends: set[int]) -> list[int]:
    end = next((position for position, token in enumerate(tokens) if token in ends), None)
    return tokens if end is None else tokens[: end + 1]
