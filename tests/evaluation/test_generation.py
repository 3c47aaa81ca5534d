"""Sampling: seeds, order, padding, limits."""

from __future__ import annotations

import pytest
import torch

from halo_lightning.evaluation import generate
from halo_lightning.pretrained import load_model, load_tokenizer

PROMPTS = [
    [{"role": "user", "content": text}]
    for text in ("Name two animals.", "Hi", "What is the opposite of hot, and why do people say it so often?")
]


@pytest.fixture(scope="module")
def model():
    return load_model("embedded:base")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("embedded:base")


def test_same_seed_same_text(model, tokenizer) -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first = generate(model, tokenizer, PROMPTS, seed=1, max_new_tokens=12)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert generate(model, tokenizer, PROMPTS, seed=1, max_new_tokens=12) == first
    assert generate(model, tokenizer, PROMPTS, seed=2, max_new_tokens=12) != first
    assert model.training  # as it was


def test_greedy_text_does_not_depend_on_the_batch_or_its_padding(model, tokenizer) -> None:
    together = generate(model, tokenizer, PROMPTS, temperature=0, max_new_tokens=12)
    alone = [generate(model, tokenizer, [prompt], temperature=0, max_new_tokens=12)[0] for prompt in PROMPTS]
    assert together == alone
    assert generate(model, tokenizer, PROMPTS, temperature=0, max_new_tokens=12, batch_size=2) == alone


def test_counts_tokens_and_says_what_finished(model, tokenizer) -> None:
    for generation in generate(model, tokenizer, PROMPTS * 10, max_new_tokens=5):
        assert 1 <= generation.tokens <= 5
        assert generation.finished or generation.tokens == 5
        assert tokenizer.eos_token not in generation.text
