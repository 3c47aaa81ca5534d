"""`cli.py plan` on configurations, and what it says where it cannot."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging import version

from halo_lightning import modules
from halo_lightning.cli import main
from halo_lightning.errors import ConfigError
from halo_lightning.planning.gpus import GPUS
from halo_lightning.planning.shapes import model_config, shape_of
from halo_lightning.planning.steps import Numbers, trace_step
from halo_lightning.planning.workload import Assumed
from tests.conftest import REPOSITORY
from tests.planning.test_tracing import FLOAT, config_of


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["plan", *arguments, "--json=true"]) == 0, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["plan", *arguments]) == 2
    return capsys.readouterr().err


SMALL = ["--trainer.precision=bf16-true", "--data.batch_size=4"]
QUICK = ["--gpu=A100 80", "--examples=1000", "--tokens_per_example=50", *SMALL]


def test_both_stages_and_the_sums(capsys: pytest.CaptureFixture[str]) -> None:
    stage = f"--sft_stage.arguments={json.dumps(SMALL)}"
    plans = planned(capsys, "--config=configs/tiny_sft_kto.yaml", stage, *QUICK, "--devices=[1, 2]")["plans"]
    assert [plan["method"] for plan in plans] == ["SFT", "KTO"]
    plan = plans[1]
    assert [(entry["devices"], entry["micro_batch"], entry["strategy"]) for entry in plan["memory"]] == [
        (1, 4, "single"),
        (2, 2, "DDP"),
    ]
    for entry in plan["memory"]:
        parts = entry["parts"]
        total = parts.pop("total")
        assert total == pytest.approx(sum(parts.values()))
        assert parts["weights"] >= 2 * plan["parameters"]
    offer = plan["gpus"][0]
    assert (offer["gpu"], offer["devices"], offer["fits"]) == ("A100 80 GB", 1, True)
    # Training and the reference pass take at least 6 and 2 FLOP for a token and a weight.
    rate = 0.4 * GPUS["A100 80 GB"].flops(16)
    assert offer["hours"] * 3600 * rate > 8 * 0.5 * plan["parameters"] * plan["real_tokens"]
    assert offer["hours"] * 3600 * offer["tokens_per_second"] > plan["real_tokens"]


def test_options_of_fit_count(capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(
        capsys,
        "--config=configs/tiny_dpo.yaml",
        *QUICK,
        "--devices=4",
        "--model.lora={rank: 4, alpha: 8}",
        "--trainer.strategy=fsdp",
        "--trainer.precision=bf16-mixed",
        "--model.reference_mode=frozen",
    )["plans"][-1]
    (entry,) = plan["memory"]
    assert (entry["strategy"], entry["micro_batch"]) == ("FSDP", 1)
    parts = entry["parts"]
    assert parts["weights"] == pytest.approx(4 * plan["parameters"] / 4, rel=0.01)
    assert 0 < parts["reference"] < parts["weights"]
    assert parts["optimizer"] < 0.3 * parts["weights"]


def test_a_model_too_large_for_a_gpu(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = yaml.safe_load(Path("configs/tiny_dpo.yaml").read_text())
    config["model"]["init_args"]["policy"] = "huggyllama/llama-7b"
    config["data"] = str(REPOSITORY / "configs/parts/tiny_pairs.yaml")
    config["trainer"] = str(REPOSITORY / "configs/parts/tiny_trainer.yaml")
    config.pop("sft_stage", None)
    path = tmp_path / "large.yaml"
    path.write_text(yaml.safe_dump(config))
    shown = ["--gpu=[H200, L4]", "--devices=[1, 4]", "--read_data=false", "--trainer.strategy=fsdp", SMALL[1]]
    assert main(["plan", f"--config={path}", *shown, "--trainer.precision=bf16-true"]) == 0
    text = capsys.readouterr().out
    assert "6,738,415,616 weights" in text
    (single,) = re.findall(r"^weights +([\d.]+) ", text, flags=re.MULTILINE)
    assert float(single) == pytest.approx(13.5, abs=0.1)
    # 2 bytes each for weight, gradient and two states are 54 GB.
    (large,) = re.findall(r"^H200 141 GB +(.*)$", text, flags=re.MULTILINE)
    assert re.match(r"\d+: [\d,]+/s", large)
    (small,) = re.findall(r"^L4 24 GB +no: ([\d.]+) GB", text, flags=re.MULTILINE)
    assert float(small) > 54
    assert "--model.lora" in text
    assert "cpu_offload" in text
    assert len(text.splitlines()) < 45


def test_what_cannot_be_planned_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    base = ["--config=configs/tiny_dpo.yaml", *QUICK, "--devices=1"]
    message = refused(capsys, *base, "--model.policy=somebody/unknown")
    assert "the shape of 'somebody/unknown' is not known" in message
    assert "--model_config" in message
    (tmp_path / "config.json").write_text("{}")
    assert "not the config.json of a model" in refused(capsys, *base, f"--model_config={tmp_path / 'config.json'}")
    assert "needs a configuration" in refused(capsys, *QUICK[:3])
    assert "--mfu is 40" in refused(capsys, *base, "--mfu=40")
    assert "does not divide" in refused(capsys, *base[:-1], "--devices=3")
    assert "did you mean" in refused(capsys, *base, "--model.bta=0.1")


def test_a_config_json_stands_for_a_hub_id(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config_of("llama", 4).save_pretrained(tmp_path)
    file = f"--model_config={tmp_path / 'config.json'}"
    plan = planned(
        capsys, "--config=configs/tiny_slic.yaml", *QUICK, "--devices=1", "--model.policy=somebody/unknown", file
    )["plans"][-1]
    assert plan["parameters"] == shape_of(config_of("llama", 4)).parameters


HEADS = {"num_key_value_heads": 2}
METHODS = sorted(set(modules.__all__) - {"HaloModule"})


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_traced(name: str) -> None:
    method = getattr(modules, name)
    halo = method("nowhere")
    workload = Assumed(method.feedback[0], 10, 20, 0.5, max_length=24, max_prompt_length=12)
    shape = shape_of(config_of("llama", 1), task=halo.task)
    step = trace_step(halo, shape, None, workload.largest(2, halo.needs_reference), FLOAT)
    assert max(moment.gradients for moment in step.trace.moments) == pytest.approx(
        4 * (shape.trained + step.other_weights)
    )


@pytest.mark.parametrize(
    ("family", "changes"),
    [("qwen3", HEADS), ("mistral", HEADS), ("gemma2", {"head_dim": 16}), ("opt", {"ffn_dim": 64}), ("phi3", {})],
)
def test_other_architectures(family: str, changes: dict[str, Any]) -> None:
    from transformers import AutoConfig

    sizes = {"hidden_size": 64, "num_hidden_layers": 5, "num_attention_heads": 4, "vocab_size": 300}
    config = AutoConfig.for_model(family, **{**sizes, "intermediate_size": 96, "pad_token_id": 0, **changes})
    import torch
    import transformers

    if family == "opt" and version.parse(transformers.__version__) < version.parse("5.20"):
        pytest.skip("the model looks into its mask, which has no contents here")
    workload = Assumed("paired", 10, 20, 0.5, max_length=24, max_prompt_length=12)
    shape = shape_of(config)
    assert shape.omitted == 2
    step = trace_step(modules.DPO("nowhere"), shape, None, workload.largest(1, True), Numbers(torch.bfloat16))
    assert max(moment.gradients for moment in step.trace.moments) == pytest.approx(2 * shape.trained, rel=0.01)


@pytest.mark.slow
def test_measured_memory_is_as_planned() -> None:
    """A shape that is not in the benchmark, trained in a process of its own."""
    from benchmarks.memory import Case, estimate, measure

    case = Case(hidden=320, layers=6, heads=5, vocabulary=20_000, method="SFT", batch=6, tokens=150, family="gpt_neox")
    planned_bytes, _ = estimate(case, "cpu")
    assert planned_bytes == pytest.approx(measure(case, "cpu"), rel=0.1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"model_type": "llama", "num_labels": 1000000000}', "key 'num_labels': found 1000000000"),
        ('{"model_type": "llama", "num_hidden_layers": 1000000000}', "key 'num_hidden_layers': found 1000000000"),
        ('{"a":' * 50_000, "this is not the config.json of a model: maximum recursion depth"),
        ('{"model_type": ["x"]}', "this is not the config.json of a model: unhashable"),
        ('{"model_type": "llama", "hidden_size": "a"}', "this is not the config.json of a model: Validation error"),
    ],
    ids=["labels", "layers", "nested", "no type", "no size"],
)
def test_a_configuration_of_a_stranger(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        model_config("nobody/nothing", str(tmp_path / "config.json"))
