"""Sampling completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Generation(NamedTuple):
    """One sampled completion.

    Attributes:
        text: The completion, without special tokens and surrounding white space.
        tokens: Its number of tokens, the end-of-sequence token included.
        finished: Whether it ended by itself, and not at the limit.
    """

    text: str
    tokens: int
    finished: bool


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    tokenizer: Any,
    prompts: Sequence[Sequence[dict[str, str]]],
    *,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_p: float = 0.95,
    seed: int = 1,
    batch_size: int = 64,
) -> list[Generation]:
    """Samples one completion for each prompt, as in the report (top-p 0.95, temperature 1).

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer, with a chat template.
        prompts: Conversations, each a list of messages that ends with the user's.
        max_new_tokens: Limit of a completion's length.
        temperature: Of the sampling; 0 takes the most likely token each time.
        top_p: Samples from the smallest set of tokens that has this probability.
        seed: Of the sampling; the caller's random state is left as it was.
        batch_size: Number of prompts sampled at one time.

    Returns:
        One generation per prompt, in the order of the prompts.
    """
    texts = [tokenizer.apply_chat_template(list(p), tokenize=False, add_generation_prompt=True) for p in prompts]
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    by_length = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
    results: dict[int, Generation] = {}
    was_training = model.training
    model.eval()
    sampling: dict[str, Any] = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    if temperature == 0:
        sampling = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    try:
        with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
            torch.manual_seed(seed)
            for start in range(0, len(by_length), batch_size):
                chosen = by_length[start : start + batch_size]
                # Padding on the left, whatever the tokenizer's habit: generation goes on at the right end.
                width = max(len(encoded[index]) for index in chosen)
                ids = torch.full((len(chosen), width), tokenizer.pad_token_id)
                mask = torch.zeros_like(ids)
                for row, index in enumerate(chosen):
                    ids[row, width - len(encoded[index]) :] = torch.tensor(encoded[index])
                    mask[row, width - len(encoded[index]) :] = 1
                output = model.generate(
                    input_ids=ids.to(model.device),
                    attention_mask=mask.to(model.device),
                    max_new_tokens=max_new_tokens,
                    use_cache=True,
                    eos_token_id=tokenizer.eos_token_id,
                    pad_token_id=tokenizer.pad_token_id,
                    **sampling,
                )
                for index, tokens in zip(chosen, output[:, width:].tolist(), strict=True):
                    results[index] = _generation(tokenizer, tokens)
    finally:
        model.train(was_training)
    return [results[index] for index in range(len(prompts))]


def _generation(tokenizer: Any, tokens: list[int]) -> Generation:
    finished = tokenizer.eos_token_id in tokens
    if finished:
        tokens = tokens[: tokens.index(tokenizer.eos_token_id) + 1]
    return Generation(tokenizer.decode(tokens, skip_special_tokens=True).strip(), len(tokens), finished)
