"""Log-probabilities against a plain forward pass; the reference stays what it was and where it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from halo_lightning.adapters import LoRA
from halo_lightning.data.batches import Sequences
from halo_lightning.errors import ConfigError
from halo_lightning.policy import PolicyAndReference
from halo_lightning.pretrained import load_model, resolve_path
from tests.conftest import make_sequences, one_by_one, tiny_llama


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


@pytest.fixture
def folder(tmp_path: Path) -> str:
    tiny_llama(1).save_pretrained(tmp_path / "policy")
    return str(tmp_path / "policy")


def moved(pair: PolicyAndReference) -> None:
    """Changes what is trained."""
    with torch.no_grad():
        for parameter in pair.policy.parameters():
            if parameter.requires_grad:
                parameter += 0.1


@pytest.mark.parametrize("mode", ["cached", "frozen", "adapter"])
@pytest.mark.parametrize("lora", [None, LoRA(rank=2)], ids=["weights", "adapter"])
def test_every_kind_of_reference_stays_what_the_policy_was(
    mode: str, lora: LoRA | None, folder: str, sequences: Sequences
) -> None:
    if mode == "adapter" and lora is None:
        pytest.skip("no adapter to switch off")
    expected = one_by_one(tiny_llama(1), sequences)
    pair = PolicyAndReference.load(folder, reference_mode=mode, lora=lora)
    torch.testing.assert_close(pair.policy_token_logps(sequences), expected, rtol=1e-4, atol=1e-5)
    moved(pair)
    assert (pair.policy_token_logps(sequences) - expected).abs().max() > 0.1
    torch.testing.assert_close(pair.reference_token_logps(sequences), expected, rtol=1e-4, atol=1e-5)
    in_memory = pair.reference is not None
    assert in_memory == (mode == "frozen" or lora is None)
    assert not any("_frozen" in name for name in pair.state_dict())


def test_what_a_batch_brings_is_the_reference(folder: str, sequences: Sequences) -> None:
    pair = PolicyAndReference.load(folder, reference_mode="cached")
    known = sequences._replace(reference_logps=-torch.arange(len(sequences.targets), dtype=torch.float32))
    torch.testing.assert_close(pair.reference_token_logps(known), known.table(known.reference_logps))
    assert pair.reference is None


def test_whatever_writes_to_the_policy_is_noticed(folder: str) -> None:
    """An untrained policy may stand in for its reference; one that is not certain to be untrained may not."""
    other = tiny_llama(2).state_dict()
    writes = (
        lambda pair: pair.policy.load_state_dict(other),
        lambda pair: pair.load_state_dict({f"policy.{name}": value for name, value in other.items()}),
        moved,
        lambda pair: pair.training_begins(),
    )
    for write in writes:
        pair = PolicyAndReference.load(folder, reference_mode="cached")
        assert pair.untrained
        write(pair)
        assert not pair.untrained


def test_no_reference_is_said(sequences: Sequences) -> None:
    with pytest.raises(ConfigError, match="without a reference"):
        PolicyAndReference(tiny_llama()).reference_logps(sequences)


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
