"""Shared by all tests: a tiny random model, and no network."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # tiny models are faster without a second thread, and do not wait for it

from pathlib import Path

import pytest
import torch

from halo_lightning.data.batches import Sequences

REPOSITORY = Path(__file__).resolve().parent.parent
HH_FILE = REPOSITORY.parent / "shared" / "data" / "hh-rlhf" / "harmless-base-test.jsonl.gz"


def tiny_llama(seed: int = 0, **changes: object):
    """A Llama-shaped model of two blocks with random weights and a vocabulary of 61 tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = {
        "vocab_size": 61,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
        **changes,
    }
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**settings))


def make_sequences(lengths: list[int], prompts: list[int], *, vocabulary: int = 61, seed: int = 0) -> Sequences:
    """Random rows with these total lengths and prompt lengths."""
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths)
    position = torch.arange(width)[None]
    real = position < torch.tensor(lengths)[:, None]
    ids = torch.randint(0, vocabulary, (len(lengths), width), generator=generator)
    return Sequences(ids, real, real & (position >= torch.tensor(prompts)[:, None]))


@pytest.fixture
def sequences() -> Sequences:
    return make_sequences([12, 9, 7, 10], [3, 4, 6, 1])
