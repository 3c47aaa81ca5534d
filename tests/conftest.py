"""Shared by all tests: a tiny random model, and no network."""

from __future__ import annotations

import logging
import os
import random
import tempfile
from collections.abc import Iterator

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HALO_LIGHTNING_CACHE"] = tempfile.mkdtemp(prefix="halo_lightning_cache_")
os.environ["OMP_NUM_THREADS"] = "1"  # tiny models are faster without a second thread, and do not wait for it

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_utilities.core.rank_zero import rank_zero_only

from halo_lightning.data.batches import Sequences, pack

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
    """Random sequences with these total lengths and prompt lengths."""
    generator = np.random.default_rng(seed)
    rows = [generator.integers(0, vocabulary, length) for length in lengths]
    return pack(
        [row[:n] for row, n in zip(rows, prompts, strict=True)], [row[n:] for row, n in zip(rows, prompts, strict=True)]
    )


def one_by_one(model: torch.nn.Module, sequences: Sequences) -> torch.Tensor:
    """log π(y_t|x, y_<t) from the full logits of each sequence alone, without packing, padding or masks, `[R, C]`."""
    rows = []
    for (prompt, completion), learned in zip(sequences.unpacked(), sequences.learned(), strict=True):
        ids = torch.from_numpy(np.concatenate([prompt, completion]))
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
        logps = (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(-1)
        every = logps[len(prompt) - 1 : -1].gather(1, torch.from_numpy(completion)[:, None])[:, 0]
        rows.append(every[torch.from_numpy(learned)])
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


@pytest.fixture(autouse=True)
def every_test_has_a_cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALO_LIGHTNING_CACHE", str(tmp_path / "halo_lightning_cache"))


@pytest.fixture(autouse=True)
def every_test_draws_the_same_numbers() -> None:
    """Whatever ran before it in the same process."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def what_a_command_leaves_behind_is_undone() -> Iterator[None]:
    """One that ran in this process makes a logger quiet, and may have had another rank.

    Undone before a test, since a fixture of a whole file may have run a command, and after it, before the next such.
    """

    def undo() -> None:
        logging.getLogger("halo_lightning.data").setLevel(logging.NOTSET)
        rank_zero_only.rank = 0

    undo()
    yield
    undo()


@pytest.fixture
def sequences() -> Sequences:
    return make_sequences([12, 9, 7, 10], [3, 4, 6, 1])
