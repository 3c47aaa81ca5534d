"""Training with weights that are spread over processes is training with weights that are not.

FSDP2 runs on CPUs as it is. FSDP of Lightning says that it needs a GPU; what it does with weights, gradients and
checkpoints runs on CPUs all the same (see `tests.strategies.train.FSDPOnCPUs`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from halo_lightning.errors import ConfigError
from halo_lightning.sharded_checkpoints import write_parts
from halo_lightning.strategies import FSDP2
from halo_lightning.world import BASE_MODEL, rows
from tests.conftest import REPOSITORY
from tests.strategies.train import FSDPOnCPUs

DEFAULT = ["dpo", "kto", "ppo", "lora"]
OTHERS = ["lora_cached", "padded", "mismatched", "bco", "sft", "reward"]


def models() -> dict[str, dict[str, Any]]:
    size = len(AutoTokenizer.from_pretrained(BASE_MODEL))
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    llama = {
        "model_type": "llama",
        "vocab_size": size,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        "initializer_range": 0.1,
    }
    shape = {"vocab_size": size, "n_layer": 2, "n_head": 4, **ends}
    return {
        "llama": llama,
        "other": llama,
        "tied": {**llama, "tie_word_embeddings": True},
        "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_positions": 128, **shape},
        "bloom": {"model_type": "bloom", "hidden_size": 32, **shape},
    }


def prepare(folder: Path) -> None:
    """Feedback and tiny random models."""
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows("pairs", examples=160, seed=3)))
    tokenizer = AutoTokenizer.from_pretrained(BASE_MODEL)
    torch.manual_seed(0)
    for name, settings in models().items():
        config = AutoConfig.for_model(**settings)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def train(folder: Path, *jobs: str) -> None:
    """Runs jobs of `tests.strategies.train`."""
    outside = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    environment = {key: value for key, value in os.environ.items() if key not in outside}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(
        [sys.executable, "-m", "tests.strategies.train", str(folder), *jobs],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert done.returncode == 0, done.stderr[-4000:]


RESUMED = [
    ("single", 1, "kto", "fsdp2-4"),
    ("fsdp2", 2, "lora", "fsdp2-2"),
    ("fsdp2", 2, "kto", "fsdp-2"),
]
MORE_RESUMED = [
    ("fsdp2", 1, "kto", "fsdp2-2"),
    ("fsdp", 2, "kto", "single-1"),
    ("fsdp2", 2, "ppo", "single-1"),
    ("fsdp2", 4, "dpo", "fsdp2-2"),
    ("single", 1, "ppo", "fsdp-2"),
]


def resumed(runs: list[tuple[str, int, str, str]]) -> list[str]:
    return [
        f"{strategy}:{processes}:{case}:" + json.dumps({"resume": origin, "name": f"{strategy}-from-{origin}"})
        for strategy, processes, case, origin in runs
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("strategies")
    prepare(folder)
    cases = ",".join(DEFAULT)
    train(folder, f"single:1:{cases}", f"fsdp2:2:{cases}", "fsdp2:4:kto", "fsdp:2:kto", *resumed(RESUMED))
    return folder


@pytest.fixture(scope="module")
def more(folder: Path) -> Path:
    """The same folder after further runs."""
    train(folder, "fsdp2:4:dpo,lora", "fsdp:2:ppo", "fsdp:4:dpo", *resumed(MORE_RESUMED))
    return folder


def same(folder: Path, run: str, case: str, other: str = "single-1", looser: float = 1.0) -> None:
    """Loss, metrics, norms of gradients and exported weights of one run are those of another."""
    expected, found = (json.loads((folder / name / case / "result.json").read_text()) for name in (other, run))
    assert found["steps"] == 4
    assert {"loss", "val/loss"} <= found["metrics"].keys()
    assert found["metrics"] == pytest.approx(expected["metrics"], rel=1e-4 * looser, abs=1e-5 * looser)
    if not run.startswith("deepspeed"):  # which has gradients of its own
        norms = expected["norms"][-len(found["norms"]) :]
        assert found["norms"] == pytest.approx(norms, rel=1e-5 * looser)
    assert found["samples"] == expected["samples"][len(expected["samples"]) - len(found["samples"]) :]
    assert bool(found["samples"]) == (case != "reward")
    before, ours, theirs = (
        load_file(path / "model.safetensors")
        for path in (start(folder, case), folder / run / case / "export", folder / other / case / "export")
    )
    assert ours.keys() == theirs.keys()
    for name, weights in theirs.items():
        torch.testing.assert_close(ours[name], weights, rtol=0, atol=1e-6 * looser, msg=name)
    common = theirs.keys() & before.keys()  # a reward model's head is new
    assert max(float((theirs[name] - before[name]).abs().max()) for name in common) > 1e-3


def start(folder: Path, case: str) -> Path:
    return folder / {"kto": "tied", "ppo": "gpt2", "sft": "gpt2", "padded": "bloom"}.get(case, "llama")


@pytest.mark.parametrize("case", DEFAULT)
def test_fsdp2_of_two_processes(case: str, folder: Path) -> None:
    same(folder, "fsdp2-2", case)


@pytest.mark.parametrize(("run", "case"), [("fsdp2-4", "kto"), ("fsdp-2", "kto")])
def test_four_processes_and_the_other_fsdp(run: str, case: str, folder: Path) -> None:
    same(folder, run, case)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "case"), [*(("fsdp2-4", case) for case in ("dpo", "lora")), ("fsdp-2", "ppo"), ("fsdp-4", "dpo")]
)
def test_four_processes_and_the_other_fsdp_with_more_methods(run: str, case: str, more: Path) -> None:
    same(more, run, case)


@pytest.mark.parametrize(("strategy", "processes", "case", "origin"), RESUMED)
def test_resumed_with_another_number_of_processes(
    strategy: str, processes: int, case: str, origin: str, folder: Path
) -> None:
    same(folder, f"{strategy}-from-{origin}", case)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "processes", "case", "origin"), MORE_RESUMED)
def test_resumed_with_another_number_of_processes_with_more_methods(
    strategy: str, processes: int, case: str, origin: str, more: Path
) -> None:
    same(more, f"{strategy}-from-{origin}", case)


@pytest.mark.parametrize("run", ["fsdp2-2", "fsdp-2", "fsdp2-4"])
def test_checkpoints_are_folders_of_parts(run: str, folder: Path) -> None:
    checkpoint = folder / run / "kto" / "checkpoints" / "step=2.ckpt"
    parts = sorted(path.name for path in checkpoint.iterdir())
    assert parts == [".metadata", *(f"__{rank}_0.distcp" for rank in range(int(run[-1]))), "meta.pt"]
    assert not list(checkpoint.parent.glob(".*"))


@pytest.mark.parametrize(("run", "case"), [("fsdp2-4", "kto"), ("fsdp-2", "kto"), ("fsdp2-2", "lora")])
def test_a_checkpoint_of_several_processes_is_exported_by_one(
    run: str, case: str, folder: Path, tmp_path: Path
) -> None:
    from halo_lightning.export import export_checkpoint

    export_checkpoint(str(folder / run / case / "checkpoints" / "step=4.ckpt"), str(tmp_path / "out"))
    ours = load_file(tmp_path / "out" / "model.safetensors")
    theirs = load_file(folder / run / case / "export" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours)
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp2", "fsdp"])
def test_every_case_under_every_strategy(strategy: str, tmp_path: Path) -> None:
    prepare(tmp_path)
    train(tmp_path, f"single:1:{','.join(OTHERS)}", f"{strategy}:2:{','.join(OTHERS)}")
    for case in OTHERS:
        same(tmp_path, f"{strategy}-2", case)


@pytest.mark.slow
def test_mixed_precision_over_processes(tmp_path: Path) -> None:
    """The report's configurations: FSDP in bfloat16, with gradients that are added up in float32."""
    prepare(tmp_path)
    mixed = json.dumps({"precision": "bf16-mixed"})
    train(tmp_path, *(f"{run}:dpo,kto,sft:{mixed}" for run in ("single:1", "fsdp2:2", "fsdp:2")))
    for case in ("dpo", "kto", "sft"):
        expected, *others = (
            json.loads((tmp_path / run / case / "result.json").read_text()) for run in ("single-1", "fsdp2-2", "fsdp-2")
        )
        for found in others:
            assert found["steps"] == 4
            assert found["norms"] == pytest.approx(expected["norms"], rel=0.05)
            assert found["metrics"] == pytest.approx(expected["metrics"], rel=0.05, abs=0.05)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="`make test-deepspeed` installs it")
def test_deepspeed(tmp_path: Path) -> None:
    """DeepSpeed itself, on CPUs: what it divides among processes, and what it goes on from."""
    prepare(tmp_path)
    train(
        tmp_path,
        "single:1:dpo,kto,lora,sft,reward",
        "deepspeed2:2:dpo,kto,lora,sft,reward",
        "deepspeed1:2:dpo",
        "deepspeed2:1:dpo",
        'deepspeed2:2:dpo:{"resume": "deepspeed2-2", "name": "deepspeed2-from-deepspeed2-2"}',
    )
    for case in ("dpo", "kto", "lora", "sft", "reward"):
        same(tmp_path, "deepspeed2-2", case)
    for run in ("deepspeed1-2", "deepspeed2-1", "deepspeed2-from-deepspeed2-2"):
        same(tmp_path, run, "dpo")


def test_offloading_without_a_gpu_is_refused() -> None:
    trainer = L.Trainer(accelerator="cpu", devices=1, strategy=FSDP2(cpu_offload=True), logger=False)
    with pytest.raises(ConfigError, match=r"there is none\. On CPUs: --trainer\.strategy fsdp2"):
        trainer.strategy.setup_environment()


def test_fsdp_of_one_device_is_refused_with_mixed_precision() -> None:
    """Torch's FSDP does not divide anything there, and fails in the backward pass."""
    trainer = L.Trainer(accelerator="cpu", devices=1, strategy=FSDPOnCPUs(), precision="bf16-mixed", logger=False)
    with pytest.raises(ConfigError, match=r"use --trainer\.strategy auto, or fsdp2"):
        trainer.strategy.setup_environment()


EXPORT = """
import re, sys
from pathlib import Path
from halo_lightning.export import export_checkpoint

def highest() -> int:
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

export_checkpoint(sys.argv[1], sys.argv[3])
Path("/proc/self/clear_refs").write_text("5")  # the highest memory until now is forgotten
libraries = highest()
export_checkpoint(sys.argv[2], sys.argv[4], dtype=sys.argv[5])
print((highest() - libraries) * 1024)
"""


def write_checkpoint(folder: Path, **shape: int) -> int:
    """A checkpoint as a strategy leaves it, of a random model; gives the bytes of its weights."""
    config = AutoConfig.for_model(**{**models()["llama"], **shape})
    weights = AutoModelForCausalLM.from_config(config).state_dict()
    notes = {"module": "KTO", "task": "causal", "policy": str(BASE_MODEL), "tokenizer": None, "lora": None}
    checkpoint = {
        "state_dict": {f"models.policy.{name}": value for name, value in weights.items()},
        "halo_lightning": {**notes, "dtype": "float32", "config": config.to_dict()},
        "global_step": 1,
    }
    folder.mkdir()
    write_parts(folder, checkpoint, 0)
    return sum(value.nbytes for value in weights.values())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux says how much memory a process took")
@pytest.mark.parametrize(("dtype", "at_most"), [("auto", 1.3), ("bfloat16", 0.8)])
def test_an_export_takes_the_memory_of_the_weights_once(dtype: str, at_most: float, tmp_path: Path) -> None:
    """In a process that has exported a tiny checkpoint before, so that the libraries are not counted."""
    write_checkpoint(tmp_path / "tiny.ckpt")
    size = write_checkpoint(
        tmp_path / "large.ckpt", hidden_size=512, intermediate_size=2048, num_hidden_layers=12, vocab_size=16_000
    )
    paths = [tmp_path / name for name in ("tiny.ckpt", "large.ckpt", "tiny", "large")]
    done = subprocess.run(
        [sys.executable, "-c", EXPORT, *map(str, paths), dtype], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert 0.3 * size < int(done.stdout.split()[-1]) < at_most * size


GPU: dict[str, tuple[str, str, dict[str, Any]]] = {
    "fsdp-gpu": ("fsdp", "kto,dpo,ppo", {}),
    "fsdp2-gpu": ("fsdp2", "kto,dpo,lora", {}),
    "fsdp-offload-gpu": ("fsdp_offload", "dpo", {}),
    "fsdp2-offload-gpu": ("fsdp2_offload", "dpo", {}),
    "fsdp-resumed-gpu": ("fsdp", "kto", {"resume": "fsdp-gpu"}),
    "fsdp2-bf16-gpu": ("fsdp2", "kto,dpo", {"precision": "bf16-mixed"}),
}
"""Runs on one GPU: strategy, cases (`kto` computes blocks again), and further options."""


@pytest.fixture(scope="module")
def on_gpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    prepare(folder)
    device = {"accelerator": "gpu", "devices": 1}
    train(
        folder,
        "single:1:kto,dpo,ppo,lora",
        *(
            f"{strategy}:1:{cases}:" + json.dumps({**device, **options, "name": name})
            for name, (strategy, cases, options) in GPU.items()
        ),
    )
    return folder


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("run", "case"), [(run, case) for run, (_, cases, _) in GPU.items() for case in cases.split(",")]
)
def test_one_gpu(run: str, case: str, on_gpu: Path) -> None:
    """The same as a single process on a CPU, as far as the numbers of a GPU go; with bfloat16, about the same loss."""
    if "bf16" not in run:
        same(on_gpu, run, case, looser=100.0)
        return
    expected, found = (
        json.loads((on_gpu / name / case / "result.json").read_text())["metrics"] for name in ("single-1", run)
    )
    assert found["val/loss"] == pytest.approx(expected["val/loss"], rel=0.05)
    weights = load_file(on_gpu / run / case / "export" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
