"""Any Hugging Face causal language model can be trained: one step of each of many architectures."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from halo_lightning import DPO
from halo_lightning.data.batches import PairedBatch
from halo_lightning.policy import PolicyAndReference
from halo_lightning.pretrained import switch_dropout_off
from tests.conftest import make_sequences
from tests.test_forward import CONFIGURATIONS

LIKE_LLAMA_3 = {"num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}}


def shape(name: str) -> Any:
    """A tiny configuration."""
    config = copy.deepcopy(CONFIGURATIONS["llama" if name == "llama3" else name][0])
    if name == "llama3":
        config.update(LIKE_LLAMA_3)
    return config


BATCH = PairedBatch(make_sequences([12, 9, 10, 14], [3, 4, 3, 4]), torch.ones(2), torch.arange(2))
"""Two pairs: the chosen completions first."""


@pytest.mark.parametrize(
    "name", ["llama3", "qwen2", "mistral", "gemma", "pythia", "gpt2", "opt", "phi", "mixtral", "gpt_oss", "bloom"]
)
def test_one_step(name: str) -> None:
    """The first loss is log 2, since the policy is its own reference; after a step on the same batch it is smaller."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    policy = AutoModelForCausalLM.from_config(shape(name))
    switch_dropout_off(policy)
    halo = DPO("nowhere", beta=0.5)
    halo.models = PolicyAndReference(policy.train(), copy.deepcopy(policy))
    optimizer = torch.optim.SGD((weight for weight in halo.parameters() if weight.requires_grad), lr=0.05)
    losses = []
    for _ in range(2):
        loss, _ = halo.loss_and_metrics(BATCH)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)
    assert losses[1] < losses[0] - 1e-4
