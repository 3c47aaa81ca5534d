"""A small model from scratch, for data that is at hand when no pretrained model is."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from halo_lightning.data.rendering import prepare_tokenizer
from halo_lightning.data.sources import read_rows
from halo_lightning.export import write_export


def initialize_model(
    data: str | list[str],
    out: str,
    vocabulary: int = 4096,
    hidden_size: int = 256,
    layers: int = 4,
    heads: int = 4,
    max_length: int = 2048,
    seed: int = 1,
) -> None:
    """Makes a randomly initialised Llama-shaped model, and a tokenizer trained on feedback files.

    Args:
        data: One or several feedback files, whose text the byte-level BPE tokenizer is trained on.
        out: The Hugging Face folder to write.
        vocabulary: Size of the vocabulary.
        hidden_size: Width of the model.
        layers: Number of transformer blocks.
        heads: Number of attention heads.
        max_length: Longest sequence of tokens.
        seed: Of the random weights.
    """
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    files = [data] if isinstance(data, str) else data
    tokenizer = train_tokenizer(itertools.chain.from_iterable(map(_texts, files)), vocabulary)
    set_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=-(-hidden_size * 8 // 3 // 32) * 32,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=max_length,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=True,
        )
    ).to(torch.float32)
    write_export(out, model, tokenizer, origin={"initialized_from": [Path(path).name for path in files], "seed": seed})
    print(f"made {out}: {model.num_parameters():,} random parameters, a vocabulary of {len(tokenizer):,} tokens")


def train_tokenizer(texts: Iterator[str], vocabulary: int) -> Any:
    """A byte-level BPE tokenizer with end-of-sequence and padding tokens and the default chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>", "<|padding|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return prepare_tokenizer(
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            eos_token="<|endoftext|>",
            pad_token="<|padding|>",
            clean_up_tokenization_spaces=False,
        )
    )


def _texts(file: str) -> Iterator[str]:
    """Every piece of text in a feedback file: the strings of its rows, messages included."""

    def strings(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            for inner in value.values():
                yield from strings(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from strings(inner)

    for row in read_rows(file):
        yield from strings(row.values)
