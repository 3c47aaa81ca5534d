"""docs/interoperation.md, run block by block; and that models and adapters say the same on both sides."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "interoperation.md").read_text()


def run(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict[str, Any]:
    """What the blocks of a section define."""
    blocks = re.findall(rf"^```python {name}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert blocks
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, f"docs/interoperation.md: {name}", "exec"), names)
    return names


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(5, 25)[None], use_cache=False).logits


def test_every_block_is_run() -> None:
    assert set(re.findall(r"^```python (\w+)$", PAGE, flags=re.MULTILINE)) == {"trl", "peft", "trainer", "metrics"}
    assert not re.findall(r"^```python$", PAGE, flags=re.MULTILINE)


@pytest.mark.slow
def test_trl_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl")
    from transformers import AutoModelForCausalLM

    from halo_lightning.pretrained import load_model

    names = run("trl", monkeypatch, tmp_path)
    there, here = AutoModelForCausalLM.from_pretrained("trl_model"), load_model("trl_model")
    assert torch.equal(logits(there), logits(here))
    ours = AutoModelForCausalLM.from_pretrained("ours")
    assert not torch.equal(logits(ours), logits(there))  # it was trained here
    assert names["again"].state.global_step == 1


def test_peft_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    from halo_lightning import KTO
    from halo_lightning.adapters import LoRA

    monkeypatch.setattr("peft.tuners.lora.layer.LoraLayer.reset_lora_parameters", _random_adapter)
    names = run("peft", monkeypatch, tmp_path)
    ours = logits(names["module"].pair.policy)
    base = KTO("embedded:base")
    base.configure_model()
    assert not torch.allclose(ours, logits(base.pair.policy))
    assert isinstance(names["module"].lora, LoRA)
    torch.testing.assert_close(logits(names["policy"]), ours, rtol=1e-4, atol=1e-4)


def _random_adapter(layer: Any, name: str, *_: Any, **__: Any) -> None:
    """An adapter that changes something, as a trained one does; a new one does not."""
    torch.manual_seed(0)
    for part in (layer.lora_A, layer.lora_B):
        if name in part:
            torch.nn.init.normal_(part[name].weight, std=0.1)


def test_trainer_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run("trainer", monkeypatch, tmp_path)
    assert not torch.equal(logits(names["policy"]), logits(names["KTOWithTrainer"].reference))


def test_metrics_in_a_foreign_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    names = run("metrics", monkeypatch, tmp_path)
    assert names["trainer"].callback_metrics["accuracy"] > 0.8
