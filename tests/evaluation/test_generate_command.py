"""`generate`: what it writes, that it survives being killed, and what it refuses."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from halo_lightning.cli import main
from halo_lightning.evaluation import generation_job
from halo_lightning.evaluation.records import read_records, read_settings
from halo_lightning.pretrained import load_model, load_tokenizer
from tests.conftest import REPOSITORY

PROMPTS = "embedded:held_out?examples=14"


def arguments(out: Path, *more: str) -> list[str]:
    return [
        "generate",
        "--policy=embedded:base",
        f"--prompts={PROMPTS}",
        f"--out={out}",
        "--max_new_tokens=8",
        "--batch_size=4",
        *more,
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("generations") / "whole.jsonl"
    assert main(arguments(out)) == 0
    return out


def test_a_line_has_everything(whole: Path) -> None:
    tokenizer = load_tokenizer("embedded:base")
    records = read_records(whole)
    assert sorted(record["number"] for record in records) == list(range(14))
    for record in records:
        assert record["model"] == "base"
        assert record["prompt"][-1]["role"] == "user"
        assert record["finished"] == (record["tokens"] < 8) or record["tokens"] == 8
        assert record["chosen_tokens"] == len(tokenizer(record["chosen"])["input_ids"]) + 1
        assert not record["prompt_cut"]
    settings = read_settings(whole)
    assert settings["sampling"] == {"max_new_tokens": 8, "temperature": 1.0, "top_p": 0.95, "seed": 1}
    assert settings["dtype"] == "float32"
    assert len(settings["weights"]) == 64


KILLED = """
import os, signal, sys
from halo_lightning import cli
from halo_lightning.evaluation import records

added = 0
add = records.Records.add

def add_and_die(self, lines):
    global added
    added += 1
    if added < 3:
        return add(self, lines)
    lines = list(lines)
    add(self, lines[:2])
    self._file.write(b'{"number": 11, "compl')
    self._file.flush()
    os.kill(os.getpid(), signal.SIGKILL)

records.Records.add = add_and_die
cli.main(sys.argv[1:])
"""


def test_killed_in_the_middle_of_a_line_it_goes_on(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed.jsonl"
    run = subprocess.run([sys.executable, "-c", KILLED, *arguments(out)], cwd=REPOSITORY, capture_output=True)
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()
    assert len(read_records(out)) == 10
    assert not out.read_bytes().endswith(b"\n")
    assert main(arguments(out)) == 0
    assert out.read_bytes() == whole.read_bytes()
    assert read_settings(out) == read_settings(whole)


def test_what_is_done_is_not_sampled_again(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(generation_job, "load_model", fail)
    before = whole.read_bytes()
    assert main(arguments(whole)) == 0
    assert whole.read_bytes() == before


def test_other_settings_are_refused(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = whole.read_bytes()
    assert main(arguments(whole, "--seed=2", "--top_p=0.5")) == 2
    error = capsys.readouterr().err
    assert "whole.jsonl: this file was made with other settings" in error
    assert "sampling.seed: 1 → 2" in error
    assert "sampling.top_p: 0.95 → 0.5" in error
    assert whole.read_bytes() == before
    assert main(arguments(whole, "--batch_size=5")) == 0  # nothing depends on it


def test_held_out_prompts_and_the_model_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        f"run_dir: {tmp_path / 'run'}\n"
        "model: {class_path: halo_lightning.KTO, init_args: {policy: 'embedded:base'}}\n"
        "data:\n  class_path: halo_lightning.UnaryDataModule\n"
        "  init_args: {train: 'embedded:thumbs?examples=300', batch_size: 4}\n"
    )
    assert main(["generate", f"--config={config}"]) == 2
    assert "has left no export here; train it first" in capsys.readouterr().err
    export = tmp_path / "run" / "export"
    load_model("embedded:base").save_pretrained(export)
    load_tokenizer("embedded:base").save_pretrained(export)
    manifest = {"module": "KTO", "settings": {"sft_stage.config": "sft.yaml"}}
    (export / "halo_lightning.json").write_text(json.dumps(manifest))
    assert main(["generate", f"--config={config}", "--max_new_tokens=2", "--count=5", "--group=tiny"]) == 0
    out = tmp_path / "run" / "generations.jsonl"
    assert [record["model"] for record in read_records(out)] == ["SFT+KTO"] * 5
    assert read_settings(out)["group"] == "tiny"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--prompts=embedded:held_out"], "found neither policy nor config"),
        (["--policy=embedded:base"], "found neither prompts nor config"),
        (["--config=nothing.yaml"], "nothing.yaml: there is no such configuration"),
        (["--policy=/nowhere", "--prompts=embedded:held_out"], "/nowhere: no such folder"),
        (["--policy=embedded:base", "--prompts=nothing.jsonl"], "nothing.jsonl"),
        (["--policy=embedded:base", f"--prompts={PROMPTS}", "--max_new_tokens=512"], "max_new_tokens is 512"),
        (["--policy=embedded:base", f"--prompts={PROMPTS}", "--batch_size=0"], "batch_size is 0"),
        (["--policy=embedded:base", f"--prompts={PROMPTS}", "--backend=vllm"], "vLLM cannot be imported"),
    ],
)
def test_what_is_missing_or_wrong(
    given: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    assert main(["generate", f"--out={tmp_path / 'out.jsonl'}", *given]) == 2
    assert message in capsys.readouterr().err


def test_vllm_gets_the_same_prompts_and_a_seed_for_each(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for vLLM, which is not installed where there is no GPU."""
    made: dict[str, Any] = {}
    requests: list[tuple[list[int], dict[str, Any]]] = []

    class LLM:
        def __init__(self, **options: Any) -> None:
            made.update(options)

        def generate(self, prompts: list[Any], params: list[Any], use_tqdm: bool) -> list[Any]:
            requests.extend((p["prompt_token_ids"], q) for p, q in zip(prompts, params, strict=True))
            ends = params[0]["stop_token_ids"]
            return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=(5, 6, *ends))]) for _ in prompts]

    fake = ModuleType("vllm")
    fake.LLM, fake.SamplingParams = LLM, dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", fake)
    out = tmp_path / "vllm.jsonl"
    assert main(arguments(out, "--backend=vllm", '--backend_options={"tensor_parallel_size": 2}')) == 0
    assert made["tensor_parallel_size"] == 2
    assert made["trust_remote_code"] is False
    records = read_records(out)
    assert {record["id"] for record in records} == {record["id"] for record in read_records(whole)}
    assert all(record["finished"] and record["tokens"] == 3 for record in records)
    assert len(requests) == 14 == len({request[1]["seed"] for request in requests})
    assert all(0 <= request[1]["seed"] < 2**63 for request in requests)
    tokenizer = load_tokenizer("embedded:base")
    by_tokens = {tuple(tokens) for tokens, _ in requests}
    for record in records:
        text = tokenizer.apply_chat_template(record["prompt"], tokenize=False, add_generation_prompt=True)
        assert tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) in by_tokens
