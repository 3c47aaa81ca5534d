"""Sampling: seeds, order, padding, limits."""

from __future__ import annotations

import pytest
import torch

from halo_lightning.errors import ConfigError
from halo_lightning.evaluation import generate
from halo_lightning.evaluation.generation import as_read, room_for_prompts, sample_batches
from halo_lightning.evaluation.sampling import Sampling
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


def test_sampled_text_does_not_depend_on_the_other_prompts(model, tokenizer) -> None:
    together = generate(model, tokenizer, PROMPTS, max_new_tokens=12)
    assert generate(model, tokenizer, PROMPTS[::-1], max_new_tokens=12, batch_size=2) == together[::-1]
    assert generate(model, tokenizer, PROMPTS[1:2], max_new_tokens=12) == together[1:2]


def test_a_prompt_that_comes_again_has_a_stream_of_its_own(model, tokenizer) -> None:
    once = generate(model, tokenizer, PROMPTS[:1], max_new_tokens=12)
    again = generate(model, tokenizer, PROMPTS[:1] * 5, max_new_tokens=12)
    assert again[0] == once[0]
    assert len({generation.text for generation in again}) > 1


def test_a_batch_of_which_a_part_is_done_is_what_it_would_have_been(model, tokenizer) -> None:
    sampling = Sampling(max_new_tokens=12)
    read = as_read(tokenizer, PROMPTS * 3, sampling, None)
    whole = list(sample_batches(model, tokenizer, read, sampling, batch_size=4))
    assert [len(batch) for batch in whole] == [4, 4, 1]
    lengths = [len(read.tokens[number]) for batch in whole for number, _ in batch]
    assert lengths == sorted(lengths)
    done = {number for number, _ in [*whole[0], *whole[1][:1]]}
    rest = list(sample_batches(model, tokenizer, read, sampling, batch_size=4, done=done))
    assert rest == [whole[1][1:], whole[2]]


def test_prompts_without_room_are_cut_at_their_start(tokenizer) -> None:
    sampling = Sampling(max_new_tokens=10)
    short, long = PROMPTS[1], [{"role": "user", "content": "a b c d " * 20}]
    whole = as_read(tokenizer, [short, long], sampling, None)
    cut = as_read(tokenizer, [short, long], sampling, 30)
    assert cut.cut == {1}
    assert cut.tokens == [whole.tokens[0], whole.tokens[1][-30:]]
    assert cut.keys == whole.keys
    assert room_for_prompts(40, sampling) == 30
    assert room_for_prompts(None, sampling) is None
    with pytest.raises(ConfigError, match="max_new_tokens is 10: expected less than the 10 tokens"):
        room_for_prompts(10, sampling)
