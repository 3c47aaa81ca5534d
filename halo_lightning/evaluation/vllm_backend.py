"""Sampling with vLLM instead of transformers: many times faster on a GPU, and an optional dependency."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from halo_lightning.errors import ConfigError
from halo_lightning.evaluation.generation import Generation, Prompts, generation_of
from halo_lightning.evaluation.sampling import Sampling

SEEDS = 2**63
"""vLLM takes seeds below this."""


def sample_with_vllm(
    path: str,
    tokenizer: Any,
    prompts: Prompts,
    sampling: Sampling,
    *,
    dtype: str,
    batch_size: int,
    ends: Collection[int],
    done: Collection[int] = (),
    options: dict[str, Any] | None = None,
) -> Iterator[list[tuple[int, Generation]]]:
    """Samples completions with vLLM.

    Every request has a seed of its own, so here too a completion does not depend on the prompts beside it. The random
    numbers are vLLM's: a completion is not the one that transformers would sample, so compare only models that were
    sampled by the same backend.

    Args:
        path: The folder or hub id of the model.
        tokenizer: Its tokenizer.
        prompts: From `as_read`.
        sampling: How.
        dtype: Of the weights.
        batch_size: Prompts that are handed over at one time, and written when all of them are done.
        ends: The tokens that end a completion.
        done: Numbers of the prompts that have a completion already.
        options: Further arguments of `vllm.LLM`, such as `{"tensor_parallel_size": 4}`.

    Yields:
        The numbers of some prompts, each with its completion.

    Raises:
        ConfigError: vLLM is not installed.
    """
    try:
        from vllm import LLM, SamplingParams
    except ImportError as error:
        raise ConfigError(
            f'vLLM cannot be imported ({error}): pip install "halo-lightning[vllm]", or use --backend transformers'
        ) from error
    model = LLM(model=path, dtype=dtype, trust_remote_code=False, generation_config="vllm", **(options or {}))
    todo = [number for batch in prompts.batches(len(prompts.tokens)) for number in batch if number not in done]
    for start in range(0, len(todo), batch_size):
        batch = todo[start : start + batch_size]
        outputs = model.generate(
            [{"prompt_token_ids": prompts.tokens[number]} for number in batch],
            [
                SamplingParams(
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    max_tokens=sampling.max_new_tokens,
                    seed=prompts.keys[number] % SEEDS,
                    stop_token_ids=sorted(ends),
                )
                for number in batch
            ],
            use_tqdm=False,
        )
        yield [
            (number, generation_of(tokenizer, list(output.outputs[0].token_ids), ends))
            for number, output in zip(batch, outputs, strict=True)
        ]
