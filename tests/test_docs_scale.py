"""The commands of docs/scale.md: bash runs every block, with stand-ins for what starts processes, and what they were
given is built up to where training would begin."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry

from halo_lightning.data.division import Division
from halo_lightning.errors import ConfigError
from halo_lightning.strategies import FSDP, FSDP2, register_names
from tests.conftest import REPOSITORY
from tests.page_blocks import blocks, check
from tests.test_archangel import Built, shape

BLOCKS = [block.code for block in blocks((REPOSITORY / "docs" / "scale.md").read_text())]
RECORD = """#!{python}
import json, os, sys
words = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
with open({log!r}, "a") as log:
    log.write(json.dumps(words) + "\\n")
"""

TORCHRUN = {
    **{"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "1"},
    **{"MASTER_ADDR": "node1", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "1"},
}
SLURM = {
    **{"SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4", "SLURM_PROCID": "5", "SLURM_LOCALID": "1"},
    **{"SLURM_NODEID": "1", "SLURM_NODELIST": "node[1-2]", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "sft_kto_llama30b"},
}


def typed(code: str, folder: Path) -> list[list[str]]:
    """The words of each command that a block gives to python, torchrun, srun or sbatch."""
    log = folder / "log"
    log.write_text("")
    (folder / "bin").mkdir(exist_ok=True)
    for name in ("python", "torchrun", "srun", "sbatch"):
        (folder / "bin" / name).write_text(RECORD.format(python=sys.executable, log=str(log)))
        (folder / "bin" / name).chmod(0o755)
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", code], cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in log.read_text().splitlines()]


def built(words: list[str], folder: Path) -> Built:
    """What `cli.py fit` builds of these words, for a model that has a shape alone."""
    config = words[words.index("--config") + 1]
    (folder / "config.json").write_text(json.dumps(shape(Path(config).stem.rsplit("_", 1)[1])))
    Built.policy = str(folder)
    arguments = [str(REPOSITORY / word) if word == config else word for word in words[words.index("cli.py") + 1 :]]
    return Built(args=[*arguments, f"--model.policy={folder}", f"--run_dir={folder / 'run'}"])


def fits() -> list[str]:
    """Each command `python cli.py fit` of the page."""
    joined = "\n".join(BLOCKS).replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.startswith("python cli.py fit")]


@pytest.mark.parametrize("command", [line for line in fits() if "deepspeed" not in line and "offload" not in line])
def test_a_run_on_one_machine(command: str, tmp_path: Path) -> None:
    (words,) = typed(command, tmp_path)
    cli = built(words, tmp_path)
    trainer = cli.trainer
    assert isinstance(trainer._accelerator_connector.cluster_environment, LightningEnvironment)
    assert trainer.precision == "bf16-mixed"
    asked = command.partition("--trainer.strategy ")[2].split(" ")[0] or "fsdp"
    assert isinstance(trainer.strategy, FSDP) == asked.startswith("fsdp")
    assert isinstance(trainer.strategy, DDPStrategy) == (asked == "ddp")
    if "--model.lora" in command:
        module: Any = cli.model
        assert (module.lora.rank, module.lora.quantize) == (16, "4bit" if "quantize" in command else None)


@pytest.mark.parametrize(
    ("strategy", "says"),
    [
        ("deepspeed_stage_2", "you must have DeepSpeed installed"),
        ("fsdp_cpu_offload", "requires a GPU accelerator"),
    ],
)
def test_what_cannot_be_built_here_is_known_by_name(strategy: str, says: str, tmp_path: Path) -> None:
    (command,) = (line for line in fits() if strategy in line)
    (words,) = typed(command, tmp_path)
    with pytest.raises(Exception, match=says):
        built(words, tmp_path)


def test_names_of_the_strategies() -> None:
    register_names()
    for name, kind in (("fsdp", FSDP), ("fsdp2", FSDP2), ("halo_lightning.strategies.fsdp2", FSDP2)):
        assert type(StrategyRegistry.get(name)) is kind
    assert StrategyRegistry.get("fsdp_cpu_offload").cpu_offload.offload_params
    assert StrategyRegistry.get("fsdp2_cpu_offload").cpu_offload is True


def test_torchrun_on_two_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = (code for code in BLOCKS if "torchrun" in code)
    (words,) = typed(block, tmp_path)
    options = dict(pairwise(words))
    assert options["--rdzv_endpoint"] == "node1:29500"
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    trainer = built(words, tmp_path).trainer
    environment = trainer._accelerator_connector.cluster_environment
    assert isinstance(environment, TorchElasticEnvironment)
    assert (trainer.num_nodes, trainer.num_devices) == (int(options["--nnodes"]), int(options["--nproc_per_node"]))
    assert (trainer.world_size, trainer.global_rank, trainer.local_rank, trainer.node_rank) == (8, 5, 1, 1)
    assert (environment.main_address, environment.main_port) == ("node1", 29500)


def test_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = (code for code in BLOCKS if "sbatch" in code)
    assert typed(block, tmp_path) == [["sbatch", "train.sbatch"]]
    script = (tmp_path / "train.sbatch").read_text()
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", script, flags=re.MULTILINE))
    (words,) = typed(script, tmp_path)
    assert words[0] == "srun"
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    trainer = built(words, tmp_path).trainer
    environment = trainer._accelerator_connector.cluster_environment
    assert isinstance(environment, SLURMEnvironment)
    assert (trainer.num_nodes, trainer.num_devices) == (int(asked["nodes"]), int(asked["ntasks-per-node"]))
    assert (trainer.world_size, trainer.global_rank, trainer.local_rank, trainer.node_rank) == (8, 5, 1, 1)
    assert environment.main_address == "node1"
    with pytest.raises(ValueError, match="Set `devices=4`"):
        environment.validate_settings(num_devices=8, num_nodes=2)


def test_other_commands_are_understood() -> None:
    others = [
        line
        for line in "\n".join(BLOCKS).replace("\\\n", " ").splitlines()
        if line.startswith("python cli.py") and not line.startswith("python cli.py fit")
    ]
    assert [line.split()[2] for line in others] == ["plan", "export"]
    for line in others:
        check(line)


def test_the_reports_batch_on_any_number_of_devices() -> None:
    """As the page says: 8 are the most for KTO's groups of 4."""
    from halo_lightning.data.division import divide
    from halo_lightning.modules.scope import check_scope

    class Data:
        division: Division

    for devices, fits in ((1, True), (2, True), (4, True), (8, True), (16, False)):
        Data.division = divide(32, devices)
        if fits:
            check_scope("kl_over", 4, Data)
        else:
            with pytest.raises(ConfigError, match="Use at most 8 processes"):
                check_scope("kl_over", 4, Data)


@pytest.mark.slow
def test_two_processes_of_torchrun_train_and_one_goes_on_and_exports(tmp_path: Path) -> None:
    """As from the command line, an SFT stage included, which is computed on the same processes."""
    for name in ("cli.py", "configs", "halo_lightning"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    fit = ["cli.py", "fit", "--config", "configs/tiny_sft_kto.yaml", "--data.train=embedded:thumbs?examples=64"]
    fit += ["--trainer.accelerator=cpu", "--sft_stage.arguments=[--trainer.max_steps=2]"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    commands = [
        [*torchrun, *fit, "--trainer.strategy=fsdp2", "--trainer.devices=2", "--trainer.max_steps=2"],
        [sys.executable, *fit, "--trainer.devices=1", "--trainer.max_steps=3", "--ckpt_path=last"],
    ]
    last = "runs/tiny_sft_kto/checkpoints/last.ckpt"
    export = [sys.executable, "cli.py", "export", "--checkpoint"]
    commands.insert(1, [*export, last, "--out=two"])
    commands.append([*export, "runs/tiny_sft/checkpoints/last.ckpt", "--out=sft"])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for command in commands:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr[-3000:]
        if "--ckpt_path=last" not in command:
            continue
        assert "going on from" in done.stdout
        assert "the finished export in runs/tiny_sft/export is reused\n" in done.stdout
    assert (tmp_path / "runs" / "tiny_sft_kto" / "export" / "model.safetensors").is_file()
    ours, theirs = (tmp_path / name / "model.safetensors" for name in ("sft", "runs/tiny_sft/export"))
    assert ours.read_bytes() == theirs.read_bytes()
    assert (tmp_path / "two" / "model.safetensors").is_file()
