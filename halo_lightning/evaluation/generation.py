"""Sampling completions of prompts, in batches of about the same length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from halo_lightning.data.conversion import prompt_key
from halo_lightning.data.rendering import encode_prompts, generation_tail
from halo_lightning.data.truncation import truncate
from halo_lightning.errors import ConfigError
from halo_lightning.evaluation.sampling import Sampling, end_tokens, sample_tokens, stream_key
from halo_lightning.forward import plain

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


@dataclass(frozen=True)
class Prompts:
    """Prompts as a model reads them, each with the stream of random numbers that is its own.

    Attributes:
        tokens: The tokens of each.
        keys: What each one's stream starts from.
        cut: Numbers of those that were cut, because the model's context has no room for the whole.
    """

    tokens: list[list[int]]
    keys: list[int]
    cut: frozenset[int]

    def batches(self, size: int) -> list[list[int]]:
        """The numbers of the prompts, in batches, the shortest prompts first."""
        by_length = sorted(range(len(self.tokens)), key=lambda number: len(self.tokens[number]))
        return [by_length[start : start + size] for start in range(0, len(by_length), size)]


def context_of(config: Any) -> int | None:
    """The tokens of prompt and completion that a model of this configuration can read; None where it has no limit."""
    context: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return context


def room_for_prompts(context: int | None, sampling: Sampling) -> int | None:
    """The most tokens that a prompt may have; None where there is no limit.

    Args:
        context: The tokens that a model can read, from `context_of`.
        sampling: Says how many of them a completion may take.

    Raises:
        ConfigError: The completion alone would fill the model's context.
    """
    if context is None:
        return None
    if sampling.max_new_tokens >= context:
        raise ConfigError(
            f"max_new_tokens is {sampling.max_new_tokens}: expected less than the {context} tokens that the model's"
            " context has for prompt and completion together"
        )
    return context - sampling.max_new_tokens


def as_read(
    tokenizer: Any,
    prompts: Sequence[Sequence[Mapping[str, Any]]],
    sampling: Sampling,
    room: int | None,
    *,
    tools: Sequence[Any] | None = None,
    template_options: Sequence[dict[str, Any] | None] | None = None,
) -> Prompts:
    """Renders, tokenises and, where there is no room for it, cuts prompts at their start.

    The stream of a prompt is that of (seed, prompt). Where the same prompt comes again, the second one has a stream of
    its own, and so on.

    Args:
        tokenizer: A tokenizer that went through `prepare_tokenizer`.
        prompts: Conversations, each a list of messages that ends with the user's.
        sampling: Its seed is used.
        room: The most tokens that a prompt may have; None is no limit.
        tools: The tools that each prompt offers, for the chat template.
        template_options: What else the chat template is given for each prompt, by name.
    """
    conversations: list[Any] = [tuple(prompt) for prompt in prompts]
    encoded = encode_prompts(tokenizer, conversations, tools, template_options)
    cut = frozenset(number for number, ids in enumerate(encoded) if room is not None and len(ids) > room)
    if cut and room is not None:
        tail = generation_tail(tokenizer)
        for number in cut:
            encoded[number] = truncate(encoded[number], [0], room + 1, room, tokenizer.bos_token_id, "end", tail)[0]
    seen: Counter[str] = Counter()
    keys = []
    for conversation in conversations:
        name = prompt_key(conversation)
        keys.append(stream_key(sampling.seed, name if not seen[name] else f"{name}\n{seen[name]}"))
        seen[name] += 1
    return Prompts(encoded, keys, cut)


def sample_batches(
    model: PreTrainedModel,
    tokenizer: Any,
    prompts: Prompts,
    sampling: Sampling,
    *,
    batch_size: int,
    done: Collection[int] = (),
) -> Iterator[list[tuple[int, Generation]]]:
    """Samples completions batch by batch.

    Which prompts make up a batch does not depend on what is done. A batch of which a part is done is sampled whole
    again and the rest of it given out, so that it is, to the last bit, what it would have been.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        prompts: From `as_read`.
        sampling: How.
        batch_size: Prompts in a batch.
        done: Numbers of the prompts that have a completion already.

    Yields:
        For each batch the numbers of its prompts that were not done, each with its completion.
    """
    ends = end_tokens(plain(model).generation_config, tokenizer)
    for batch in prompts.batches(batch_size):
        if all(number in done for number in batch):
            continue
        sampled = sample_tokens(
            model, [prompts.tokens[n] for n in batch], [prompts.keys[n] for n in batch], sampling, tokenizer
        )
        made = zip(batch, sampled, strict=True)
        yield [(number, generation_of(tokenizer, tokens, ends)) for number, tokens in made if number not in done]


def generation_of(tokenizer: Any, tokens: Sequence[int], ends: Collection[int]) -> Generation:
    """A completion from its tokens."""
    text = tokenizer.decode(tokens, skip_special_tokens=True).strip()
    return Generation(text, len(tokens), bool(tokens) and tokens[-1] in ends)


def generate(
    model: PreTrainedModel,
    tokenizer: Any,
    prompts: Sequence[Sequence[Mapping[str, Any]]],
    *,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_p: float = 0.95,
    seed: int = 1,
    batch_size: int = 64,
) -> list[Generation]:
    """Samples one completion for each prompt, as in the report (top-p 0.95, temperature 1).

    What a prompt gets depends on the model, the seed and the prompt, not on the other prompts or on their order; see
    `halo_lightning.evaluation.sampling`. The caller's random state is not touched.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer, with a chat template.
        prompts: Conversations, each a list of messages that ends with the user's. One that the model's context has no
            room for is cut at its start.
        max_new_tokens: Limit of a completion's length.
        temperature: Of the sampling; 0 takes the most likely token each time.
        top_p: Samples from the smallest set of tokens that has this probability.
        seed: Of the sampling.
        batch_size: Number of prompts sampled at one time.

    Returns:
        One generation per prompt, in the order of the prompts.
    """
    sampling = Sampling(max_new_tokens, temperature, top_p, seed)
    read = as_read(tokenizer, prompts, sampling, room_for_prompts(context_of(model.config), sampling))
    batches = sample_batches(model, tokenizer, read, sampling, batch_size=batch_size)
    results = dict(pair for batch in batches for pair in batch)
    return [results[number] for number in range(len(prompts))]
