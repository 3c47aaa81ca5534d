"""Sampling one model to a file of generations, from where it was left."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, GenerationConfig

from halo_lightning.errors import ConfigError, first_line
from halo_lightning.evaluation.generate_command import Backend, DType
from halo_lightning.evaluation.generation import (
    Generation,
    Prompts,
    as_read,
    context_of,
    room_for_prompts,
    sample_batches,
)
from halo_lightning.evaluation.progress import Counter
from halo_lightning.evaluation.prompts import Question
from halo_lightning.evaluation.records import GENERATION, Record, open_records
from halo_lightning.evaluation.sampling import Sampling, end_tokens
from halo_lightning.pretrained import load_model, load_tokenizer, resolve_path
from halo_lightning.reference import weights_fingerprint

LONGEST = 512
"""Tokens of a completion at most, where nothing else is said and the model's context has room for twice as many."""


def default_limit(policy: str) -> int:
    """Most tokens of a completion of a model, where nothing else is said."""
    context = context_of(_config_of(policy))
    return LONGEST if context is None else min(LONGEST, context // 2)


def _config_of(policy: str) -> Any:
    try:
        return AutoConfig.from_pretrained(resolve_path(policy), trust_remote_code=False)
    except Exception as error:  # a folder of somebody else's can make libraries fail in any way
        raise ConfigError(f"the model {policy!r} could not be loaded: {first_line(error)}") from error


@dataclass(frozen=True)
class GenerationJob:
    """One model, some prompts, and how it is sampled."""

    policy: str
    name: str
    group: str
    questions: list[Question]
    sampling: Sampling
    batch_size: int
    device: str
    dtype: DType | None
    backend: Backend
    backend_options: dict[str, Any]

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size is {self.batch_size}: expected 1 or more")
        if self.backend not in ("transformers", "vllm"):
            raise ConfigError(f"backend is {self.backend!r}: expected 'transformers' or 'vllm'")

    @property
    def used_dtype(self) -> str:
        """The type of the weights."""
        return self.dtype or ("bfloat16" if self.device.startswith("cuda") else "float32")

    def settings(self, origin: Any) -> dict[str, Any]:
        """Everything that the completions depend on."""
        texts = [
            [question.id, question.chosen, question.tools, question.template_options] for question in self.questions
        ]
        digest = hashlib.blake2b(json.dumps(texts).encode(), digest_size=16).hexdigest()
        return {
            "policy": self.policy,
            "weights": weights_fingerprint(resolve_path(self.policy)),
            "name": self.name,
            "group": self.group,
            "prompts": {"from": origin, "count": len(self.questions), "digest": digest},
            "sampling": self.sampling.as_plain_data(),
            "dtype": self.used_dtype,
            "backend": self.backend,
        }

    def run(self, out: Path, origin: Any) -> None:
        """Samples what is not in the file yet.

        Args:
            out: The file.
            origin: Where the prompts come from, for its settings.
        """
        tokenizer = load_tokenizer(self.policy)
        notes = {"batch_size": self.batch_size, "device": self.device, "backend_options": self.backend_options}
        total = len(self.questions)
        with open_records(out, self.settings(origin), notes, GENERATION) as records:
            done = {record["number"] for record in records.found}
            print(
                f"{self.name}: {total} prompts, {len(done)} of them done" if done else f"{self.name}: {total} prompts"
            )
            if len(done) < total:
                lengths = self.lengths_of_chosen(tokenizer)
                with Counter(f"{self.name}, completions", total, len(done)) as counter:
                    for prompts, batch in self.sampled(tokenizer, done):
                        records.add(self.record(number, made, prompts, lengths) for number, made in batch)
                        counter.add(len(batch))
        print(f"{total} completions are in {out}")

    def lengths_of_chosen(self, tokenizer: Any) -> list[int]:
        """How many tokens each chosen completion has, with an end-of-sequence token, as sampled ones are counted."""
        encoded = tokenizer([question.chosen for question in self.questions], add_special_tokens=False)
        return [len(ids) + 1 for ids in encoded["input_ids"]]

    def read(self, tokenizer: Any, room: int | None) -> Prompts:
        """The prompts as the model reads them: as training has rendered them."""
        return as_read(
            tokenizer,
            [question.prompt for question in self.questions],
            self.sampling,
            room,
            tools=[question.tools for question in self.questions],
            template_options=[question.template_options for question in self.questions],
        )

    def sampled(self, tokenizer: Any, done: Collection[int]) -> Iterator[tuple[Prompts, list[tuple[int, Generation]]]]:
        """The batches that are not done, as the backend samples them."""
        if self.backend == "vllm":
            from halo_lightning.evaluation.vllm_backend import sample_with_vllm

            path = resolve_path(self.policy)
            room = room_for_prompts(context_of(_config_of(self.policy)), self.sampling)
            prompts = self.read(tokenizer, room)
            for batch in sample_with_vllm(
                path,
                tokenizer,
                prompts,
                self.sampling,
                dtype=self.used_dtype,
                batch_size=self.batch_size,
                ends=end_tokens(_generation_config_of(path), tokenizer),
                done=done,
                options=self.backend_options,
            ):
                yield prompts, batch
            return
        model = load_model(self.policy, dtype=self.used_dtype).to(self.device)  # type: ignore[arg-type]
        room = room_for_prompts(context_of(model.config), self.sampling)
        prompts = self.read(tokenizer, room)
        for batch in sample_batches(model, tokenizer, prompts, self.sampling, batch_size=self.batch_size, done=done):
            yield prompts, batch

    def record(self, number: int, made: Generation, prompts: Prompts, lengths: list[int]) -> Record:
        """What is written of one completion."""
        question = self.questions[number]
        return {
            "number": number,
            "id": question.id,
            "model": self.name,
            "prompt": list(question.prompt),
            "completion": made.text,
            "tokens": made.tokens,
            "finished": made.finished,
            "chosen": question.chosen,
            "chosen_tokens": lengths[number],
            "prompt_tokens": len(prompts.tokens[number]),
            "prompt_cut": number in prompts.cut,
        }


def _generation_config_of(path: str) -> Any:
    """The generation configuration of a model; None where it has none."""
    try:
        return GenerationConfig.from_pretrained(path)
    except OSError:
        return None
