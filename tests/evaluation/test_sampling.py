"""Sampling with a stream of random numbers for each prompt, against the definition in plain Python."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest

from halo_lightning.errors import ConfigError
from halo_lightning.evaluation.sampling import Sampling, StreamSampling, end_tokens, sample_tokens, stream_key, uniforms
from tests.conftest import tiny_llama

CPU = torch.device("cpu")
TOKENIZER = SimpleNamespace(eos_token_id=60, pad_token_id=60)


def nucleus(logits: list[float], temperature: float, top_p: float) -> list[float]:
    """The probabilities that are sampled from: those of the smallest set of tokens that has top_p, in one sum."""
    weights = [math.exp(logit / temperature) for logit in logits]
    probabilities = [weight / sum(weights) for weight in weights]
    kept: set[int] = set()
    for token in sorted(range(len(logits)), key=lambda token: -probabilities[token]):
        if sum(probabilities[one] for one in kept) >= top_p:
            break
        kept.add(token)
    mass = sum(probabilities[token] for token in kept)
    return [probabilities[token] / mass if token in kept else 0.0 for token in range(len(logits))]


def picked(sampler: StreamSampling, logits: torch.Tensor, step: int) -> list[int]:
    scores = sampler(torch.zeros(len(logits), sampler.width + step, dtype=torch.long), logits)
    assert (scores == 0).sum(-1).tolist() == [1] * len(logits)
    assert torch.isneginf(scores).sum() == scores.numel() - len(logits)
    return scores.argmax(-1).tolist()


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 0.95), (0.7, 1.0), (1.5, 0.3), (1.0, 0.01)])
def test_the_token_is_the_one_at_which_the_cumulative_probability_passes_the_number(
    temperature: float, top_p: float
) -> None:
    sampling = Sampling(max_new_tokens=20, temperature=temperature, top_p=top_p)
    keys = [stream_key(1, str(row)) for row in range(8)]
    sampler = StreamSampling(keys, 3, sampling, CPU)
    logits = 2 * torch.randn(20, 8, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for step in range(20):
        for row, token in enumerate(picked(sampler, logits[step].float(), step)):
            probabilities = nucleus(logits[step, row].float().tolist(), temperature, top_p)
            number, below = uniforms(keys[row], 20)[step], sum(probabilities[:token])
            assert probabilities[token] > 0
            assert below - 1e-6 <= number <= below + probabilities[token] + 1e-6


def test_tokens_are_as_frequent_as_they_are_probable() -> None:
    logits = [1.0, 0.0, -1.0, 0.5, -9.0, 0.2]
    keys = [stream_key(7, str(row)) for row in range(4000)]
    sampler = StreamSampling(keys, 1, Sampling(max_new_tokens=1), CPU)
    tokens = picked(sampler, torch.tensor([logits] * 4000), 0)
    probabilities = nucleus(logits, 1.0, 0.95)
    assert probabilities.count(0.0) == 1
    kept = [token for token, probability in enumerate(probabilities) if probability]
    assert set(tokens) == set(kept)
    expected = [4000 * probabilities[token] for token in kept]
    assert chisquare([tokens.count(token) for token in kept], expected).pvalue > 1e-3


def test_the_last_token_with_a_probability_is_picked_at_the_end() -> None:
    sampler = StreamSampling([0, 0], 0, Sampling(max_new_tokens=1, top_p=1.0), CPU)
    sampler.numbers = torch.tensor([[1 - 2.0**-53], [0.0]], dtype=torch.float64)
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf, -torch.inf]] * 2)
    assert picked(sampler, logits, 0) == [2, 1]


def test_logits_that_are_not_finite_are_an_error() -> None:
    sampler = StreamSampling([0], 0, Sampling(max_new_tokens=1), CPU)
    with pytest.raises(ConfigError, match="not finite"):
        sampler(torch.zeros(1, 0), torch.tensor([[0.0, torch.nan]]))


def test_streams() -> None:
    # Philox-4x64-10 is a public algorithm; these are what it gives for the key 0, so that no version changes them.
    assert uniforms(0, 2).tolist() == [(raw >> 11) / 2**53 for raw in np.random.Philox(key=0).random_raw(2).tolist()]
    assert uniforms(stream_key(1, "a"), 3).tolist() == uniforms(stream_key(1, "a"), 9)[:3].tolist()
    firsts = [uniforms(stream_key(seed, name), 1)[0] for seed in range(20) for name in "abcdefghijklmnopqrst"]
    assert len(set(firsts)) == 400
    assert kstest(firsts, "uniform").pvalue > 1e-3
    assert all(0 <= number < 1 for number in firsts)


def test_a_stream_stays_what_it_is() -> None:
    assert stream_key(1, "prompt") == 0xD8DF576942C72420EDC640A825A82AAE
    assert uniforms(stream_key(1, "prompt"), 2).tolist() == [0.7181975339915067, 0.5986766363980398]


@pytest.fixture(scope="module")
def model():
    return tiny_llama(initializer_range=0.1)


def prompts(number: int) -> list[list[int]]:
    dice = random.Random(number)
    return [[dice.randrange(60) for _ in range(dice.randrange(1, 12))] for _ in range(number)]


def test_nothing_but_model_prompt_and_seed_matters(model) -> None:
    rows = prompts(24)
    keys = [stream_key(1, str(row)) for row in rows]
    sampling = Sampling(max_new_tokens=16)
    together = sample_tokens(model, rows, keys, sampling, TOKENIZER)
    order = random.Random(3).sample(range(24), 24)
    for size in (1, 5, 24):
        for start in range(0, 24, size):
            batch = order[start : start + size]
            torch.manual_seed(start)
            apart = sample_tokens(model, [rows[n] for n in batch], [keys[n] for n in batch], sampling, TOKENIZER)
            assert apart == [together[n] for n in batch]
    assert len({tuple(row) for row in together}) >= 22  # two may end at once
    shorter = sample_tokens(model, rows, keys, Sampling(max_new_tokens=4), TOKENIZER)
    assert shorter == [row[:4] for row in together]
    others = sample_tokens(model, rows, [stream_key(2, str(row)) for row in rows], sampling, TOKENIZER)
    assert sum(a == b for a, b in zip(others, together, strict=True)) <= 2


def test_the_model_is_left_as_it_was(model) -> None:
    model.train()
    model.model.layers[0].eval()
    model.generation_config.repetition_penalty = 1.7
    before = torch.random.get_rng_state()
    numpy_before = np.random.get_state()[1].tolist()
    versions = [parameter._version for parameter in model.parameters()]
    modes = [module.training for module in model.modules()]
    sample_tokens(model, [[1, 2]], [0], Sampling(max_new_tokens=4), TOKENIZER)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.random.get_state()[1].tolist() == numpy_before
    assert [parameter._version for parameter in model.parameters()] == versions
    assert model.generation_config.repetition_penalty == 1.7
    model.generation_config.repetition_penalty = None


def test_settings_of_the_model_itself_do_not_change_the_sampling(model) -> None:
    rows, keys, sampling = prompts(6), list(range(6)), Sampling(max_new_tokens=12)
    plain = sample_tokens(model, rows, keys, sampling, TOKENIZER)
    own = model.generation_config
    settings = {"repetition_penalty": 5.0, "top_k": 1, "min_new_tokens": 12, "suppress_tokens": list(range(30))}
    try:
        for name, value in settings.items():
            setattr(own, name, value)
        assert sample_tokens(model, rows, keys, sampling, TOKENIZER) == plain
        # What ends a completion belongs to the model.
        longest = max(range(6), key=lambda row: len(plain[row]))
        end = plain[longest][3]
        own.eos_token_id = [end]
        ended = sample_tokens(model, rows, keys, sampling, TOKENIZER)
        assert ended[longest] == plain[longest][: plain[longest].index(end) + 1]
    finally:
        for name in (*settings, "eos_token_id"):
            setattr(own, name, None)


def test_the_most_likely_tokens(model) -> None:
    sampled = sample_tokens(model, [[5, 9, 3]], [0], Sampling(max_new_tokens=6, temperature=0), TOKENIZER)[0]
    ids = [5, 9, 3]
    for token in sampled:
        with torch.no_grad():
            assert model(input_ids=torch.tensor([ids])).logits[0, -1].argmax() == token
        ids.append(token)


@pytest.mark.parametrize(
    "wrong", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"seed": -1}]
)
def test_settings_that_cannot_work(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Sampling(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("own", ["x", ["x"], [[1]], 1.5, {"a": 1}], ids=str)
def test_ends_that_are_no_tokens(own: object) -> None:
    with pytest.raises(ConfigError, match=r"key 'eos_token_id': found .*, expected token ids"):
        end_tokens(SimpleNamespace(eos_token_id=own), TOKENIZER)
