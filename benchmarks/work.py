"""The work that all contenders do: the same model, the same rows, in the same batches."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from halo_lightning import PairedDataModule, SFTDataModule, UnaryDataModule
from halo_lightning.initialize import train_tokenizer

POOL = 512
"""How many rows of the file the rows of a work are drawn from."""

BETA, LEARNING_RATE, CLIP = 0.1, 1e-5, 1.0
DATA_MODULES = {"dpo": PairedDataModule, "kto": UnaryDataModule, "sft": SFTDataModule}


@dataclass(frozen=True)
class Shape:
    """The size of a Llama-shaped model with random weights."""

    hidden: int = 512
    layers: int = 6
    heads: int = 8
    feed_forward: int = 1376
    vocabulary: int = 32_000

    @property
    def parameters(self) -> int:
        """Number of weights, embeddings included."""
        block = 4 * self.hidden**2 + 3 * self.hidden * self.feed_forward + 2 * self.hidden
        return self.layers * block + 2 * self.hidden * self.vocabulary + self.hidden


SHAPES = {
    "50M": Shape(),
    "30M": Shape(hidden=256, layers=4, heads=4, feed_forward=704, vocabulary=48_000),
    "1.4B": Shape(hidden=2048, layers=24, heads=16, feed_forward=5504),
}


@dataclass(frozen=True)
class Work:
    """One measurement's work.

    Attributes:
        method: `dpo`, `kto` or `sft`.
        shape: A name in `SHAPES`, or `hidden,layers,heads,feed_forward,vocabulary`.
        batch: Examples (pairs, for DPO) in a step.
        steps: Optimizer steps, the first of which is not timed.
        max_length: Longest sequence; longer ones are cut beforehand, the same for everybody.
        dtype: Of the weights: `float32` or `bfloat16`.
        device: `cpu` or `cuda`.
        long_rows: Whether each row is made of many, and cut to `max_length`: half prompt, half completion.
        lora: Rank of the adapter that is trained on all linear layers; 0 trains the weights.
    """

    method: str = "dpo"
    shape: str = "50M"
    batch: int = 8
    steps: int = 7
    max_length: int = 512
    dtype: str = "float32"
    device: str = "cpu"
    long_rows: bool = False
    lora: int = 0

    @property
    def model_shape(self) -> Shape:
        """The shape by its name or its numbers."""
        return SHAPES[self.shape] if self.shape in SHAPES else Shape(*map(int, self.shape.split(",")))

    def data_module(self, folder: Path, **options: Any) -> Any:
        """The data module of this package over the rows of the work."""
        return DATA_MODULES[self.method](
            str(folder / "rows.jsonl"),
            tokenizer=str(folder / "model"),
            validation_fraction=0.0,
            batch_size=self.batch,
            max_length=self.max_length,
            max_prompt_length=self.max_length // 2,
            **options,
        )


def prepare(work: Work, data: Path, folder: Path) -> None:
    """Writes a model with its tokenizer, rows as text, and the same rows as batches of tokens, into a folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    shape = work.model_shape
    with gzip.open(data, "rt") as stream:
        lines = stream.readlines()
    model_folder = folder / "model"
    if not model_folder.exists():
        texts = (json.loads(line)[key] for line in lines for key in ("chosen", "rejected"))
        tokenizer = train_tokenizer(texts, shape.vocabulary)
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=shape.vocabulary,
                hidden_size=shape.hidden,
                intermediate_size=shape.feed_forward,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                max_position_embeddings=max(2048, work.max_length),
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                tie_word_embeddings=False,
                dtype=work.dtype,
            )
        ).to(getattr(torch, work.dtype))
        model.save_pretrained(model_folder)
        tokenizer.save_pretrained(model_folder)
    write_rows(work, lines, folder)
    (folder / "work.json").write_text(json.dumps(asdict(work)))


def write_rows(work: Work, lines: list[str], folder: Path) -> None:
    """Writes as many rows as the work needs, drawn from the first `POOL` usable ones, as text and as tokens."""
    wanted = work.batch * work.steps // (2 if work.method == "kto" else 1)
    if work.long_rows:
        chosen = long_rows(lines, wanted)
    else:
        pool = [line for line in lines if usable(json.loads(line))][:POOL]
        (folder / "rows.jsonl").write_text("".join(pool))
        chosen = [pool[number] for number in representable(work, folder)[:wanted]]
    (folder / "rows.jsonl").write_text("".join(chosen))
    module = work.data_module(folder)
    module.setup()
    dataset, sampler = module.train_dataset, module.train_sampler(module.train_dataset)
    batches = [[tokenised(work, dataset, example) for example in batch] for batch in sampler]
    (folder / "batches.json").write_text(json.dumps(batches))


def representable(work: Work, folder: Path) -> list[int]:
    """Pairs in random order, without those of which truncation leaves two prompts: TRL has one prompt for both."""
    module = replace(work, method="dpo").data_module(folder)
    module.setup()
    pairs = [
        tokenised(replace(work, method="dpo"), module.train_dataset, number)
        for number in range(len(module.train_dataset))
    ]
    same = [
        number
        for number, pair in enumerate(pairs)
        if len({tuple(ids[:n]) for ids, n in zip(pair["sequences"], pair["prompt_lengths"], strict=True)}) == 1
    ]
    return random.Random(1).sample(same, len(same))


def tokenised(work: Work, dataset: Any, example: int) -> dict[str, Any]:
    """An example's sequences of tokens, the lengths of their prompts, and its label."""
    numbers = [2 * example, 2 * example + 1] if work.method == "dpo" else [example]
    return {
        "sequences": [dataset.tokens[dataset.offsets[n] : dataset.offsets[n + 1]].tolist() for n in numbers],
        "prompt_lengths": [int(dataset.prompt_lengths[n]) for n in numbers],
        "label": None if dataset.desirable is None else bool(dataset.desirable[example]),
    }


def long_rows(lines: list[str], wanted: int) -> list[str]:
    """Rows whose prompts and completions are longer than anybody's limit."""
    size = len(lines) // (3 * wanted)
    texts = ["\n".join(json.loads(line)["chosen"] for line in lines[i : i + size]) for i in range(0, len(lines), size)]
    return [
        json.dumps(dict(zip(("prompt", "chosen", "rejected"), texts[3 * row : 3 * row + 3], strict=True))) + "\n"
        for row in range(wanted)
    ]


def usable(row: dict[str, str]) -> bool:
    """Whether both dialogues have the same prompt and a completion: some rows as published do not."""
    ends = [row[key].rfind("\n\nAssistant:") for key in ("chosen", "rejected")]
    same = row["chosen"][: ends[0]] == row["rejected"][: ends[1]]
    return same and all(row[key][end + 12 :].strip() for key, end in zip(("chosen", "rejected"), ends, strict=True))


def real_tokens(batches: list[list[dict[str, Any]]]) -> list[int]:
    """Tokens of prompts and completions in each batch, without padding, whoever computes more."""
    return [sum(len(sequence) for row in batch for sequence in row["sequences"]) for batch in batches]
