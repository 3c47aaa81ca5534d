"""Log-probabilities against a plain forward pass; the reference stays what it was and where it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from halo_lightning.data.batches import Sequences
from halo_lightning.errors import ConfigError
from halo_lightning.policy import PolicyAndReference, completion_logps
from halo_lightning.pretrained import load_model, resolve_path
from tests.conftest import make_sequences, tiny_llama


def one_by_one(model: torch.nn.Module, sequences: Sequences) -> torch.Tensor:
    """log π(y_t|x, y_<t) from the full logits of each row alone, without padding or masks."""
    result = torch.zeros(sequences.input_ids.shape)
    for row in range(len(result)):
        length = int(sequences.attention_mask[row].sum())
        ids = sequences.input_ids[row, :length]
        logps = model(input_ids=ids[None]).logits[0].float().log_softmax(-1)
        for t in range(1, length):
            if sequences.completion_mask[row, t]:
                result[row, t] = logps[t - 1, ids[t]]
    return result


def test_equals_a_plain_forward_pass_of_each_row(sequences: Sequences) -> None:
    model = tiny_llama()
    logps = completion_logps(model, sequences)
    expected = one_by_one(model, sequences)
    assert expected.abs().max() > 1  # not all zero
    torch.testing.assert_close(logps, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padding_token", [0, 60])
def test_padding_changes_nothing(padding_token: int) -> None:
    model = tiny_llama()
    sequences = make_sequences([12, 5], [3, 2])
    ids = sequences.input_ids.masked_fill(~sequences.attention_mask, padding_token)
    longer = torch.nn.functional.pad
    padded = Sequences(
        longer(ids, (0, 6), value=padding_token),
        longer(sequences.attention_mask, (0, 6)),
        longer(sequences.completion_mask, (0, 6)),
    )
    torch.testing.assert_close(
        completion_logps(model, padded).sum(-1), completion_logps(model, sequences).sum(-1), rtol=1e-5, atol=1e-5
    )


def architectures() -> list[object]:
    import transformers as t

    small = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    llama_like = {**small, "intermediate_size": 64, "max_position_embeddings": 64, "num_key_value_heads": 2}
    return [
        t.GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=64),
        t.GPTNeoXConfig(**small, intermediate_size=64, max_position_embeddings=64),
        t.MistralConfig(**llama_like),
        t.Qwen2Config(**llama_like),
        t.Gemma2Config(**llama_like, head_dim=8, final_logit_softcapping=3.0),
        t.CohereConfig(**llama_like, logit_scale=0.25),
        t.GraniteConfig(**llama_like, logits_scaling=4.0),
        t.PhiConfig(**llama_like),
    ]


@pytest.mark.parametrize("config", architectures(), ids=lambda config: config.model_type)
def test_heads_of_other_architectures(config: object) -> None:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for parameter in model.parameters():
        parameter.data.mul_(4.0)  # far enough from zero for caps and scales to matter
    sequences = make_sequences([12, 9], [3, 4])
    torch.testing.assert_close(completion_logps(model, sequences), one_by_one(model, sequences), rtol=1e-4, atol=1e-4)


def test_reference_is_frozen_separate_and_not_saved(sequences: Sequences) -> None:
    policy = tiny_llama()
    pair = PolicyAndReference(policy, tiny_llama())
    torch.testing.assert_close(pair.policy_logps(sequences), pair.reference_logps(sequences))
    assert not pair.reference_logps(sequences).requires_grad
    assert not any(parameter.requires_grad for parameter in pair.reference.parameters())

    before = pair.reference_logps(sequences)
    optimizer = torch.optim.SGD([p for p in pair.parameters() if p.requires_grad], lr=0.1)
    pair.policy_logps(sequences).sum().backward()
    optimizer.step()
    assert (pair.policy_logps(sequences) - before).abs().max() > 0.01
    torch.testing.assert_close(pair.reference_logps(sequences), before)

    state = pair.state_dict()
    assert state
    assert all(name.startswith("policy.") for name in state)
    other = PolicyAndReference(tiny_llama(1), tiny_llama(2))
    other_reference = other.reference_logps(sequences)
    other.load_state_dict(state)
    torch.testing.assert_close(other.policy_logps(sequences), pair.policy_logps(sequences))
    torch.testing.assert_close(other.reference_logps(sequences), other_reference)
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({name: value for name, value in state.items() if "norm" not in name})


def test_reference_stays_in_evaluation_mode() -> None:
    pair = PolicyAndReference(tiny_llama(), tiny_llama())
    pair.train()
    assert pair.policy.training
    assert not pair.reference.training


def test_dropout_is_off(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = str(tmp_path)
    GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=32, n_layer=1, n_head=2, n_positions=32)).save_pretrained(folder)
    pair = PolicyAndReference.load(folder)
    assert pair.policy.training
    sequences = make_sequences([8, 6], [2, 2])
    torch.testing.assert_close(pair.policy_logps(sequences), pair.reference_logps(sequences))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("./nowhere/at/all", "no such folder"),
        ("/nowhere/at/all", "no such folder"),
        ("embedded:other", "embedded:base"),
    ],
)
def test_a_missing_model_is_named(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        resolve_path(name)


def test_a_folder_without_a_model_is_named(tmp_path: object) -> None:
    with pytest.raises(ConfigError, match="holds no model"):
        load_model(str(tmp_path))
