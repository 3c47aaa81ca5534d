"""Trains several cases for a few steps under strategies, and writes what came out.

    python -m tests.strategies.train FOLDER STRATEGY:PROCESSES:CASE,CASE,...[:OPTIONS] ...

Processes are forked, so that torch and transformers are imported once, and find an environment like torchrun's.
FOLDER holds `pairs.jsonl` and models in folders; it gets STRATEGY-PROCESSES/CASE with an export, checkpoints and
`result.json`.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from torch.distributed.fsdp import _init_utils

from halo_lightning import (
    DPO,
    KTO,
    SFT,
    HuggingFaceExport,
    OfflinePPO,
    PairedDataModule,
    SFTDataModule,
    UnaryDataModule,
)
from halo_lightning.callbacks.samples import SampleCompletions
from halo_lightning.modules import BCO, RewardModel
from halo_lightning.quiet import quieten
from halo_lightning.strategies import FSDP, FSDP2
from halo_lightning.strategies.reading import AnyCheckpointIO

LLAMA, GPT2 = {"policy": "llama"}, {"policy": "gpt2"}
GAE = {"advantage": "gae", "whiten_over": 4, "value_coefficient": 1.0, "value_clip": 0.05}

CASES: dict[str, tuple[Any, dict[str, Any], Any]] = {
    # The reference is the policy itself, whose log-probabilities are cached.
    "dpo": (DPO, LLAMA, PairedDataModule),
    # Tied embeddings, a second model for the reference, a gradient through the KL, blocks computed again.
    "kto": (
        KTO,
        {
            "policy": "tied",
            "reference": "other",
            "reference_mode": "frozen",
            "beta": 0.5,
            "kl_gradient": True,
            "kl_over": 4,
            "activation_checkpointing": "full",
        },
        UnaryDataModule,
    ),
    # A module beside the policy, with a gradient clipped on its own; the cache is of another model.
    "ppo": (OfflinePPO, {**GPT2, **GAE, "reference": "other"}, UnaryDataModule),
    "lora": (DPO, {**LLAMA, "lora": {"rank": 2, "alpha": 4}, "reference_mode": "adapter"}, PairedDataModule),
    "lora_cached": (DPO, {**LLAMA, "lora": {"rank": 2, "alpha": 4}}, PairedDataModule),
    "padded": (DPO, {"policy": "bloom"}, PairedDataModule),
    "mismatched": (
        KTO,
        {**LLAMA, "beta": 0.01, "kl": "mismatched", "kl_over": 4, "reference": "other"},
        UnaryDataModule,
    ),
    "bco": (BCO, {**LLAMA, "beta": 0.5, "micro_batch_size": None}, UnaryDataModule),
    "sft": (SFT, {**GPT2, "micro_batch_size": None}, SFTDataModule),
    "reward": (RewardModel, LLAMA, PairedDataModule),
}


class FSDPOnCPUs(FSDP):
    """FSDP where there is no GPU, as far as it goes."""

    needs_gpu = False


# Torch would refuse to send weights that are on CPUs; gloo does it.
_init_utils._check_module_states_for_sync_module_states = lambda states: None


class DeepSpeedOnCPUs(DeepSpeedStrategy):
    """Lightning's DeepSpeed where there is no GPU: DeepSpeed itself runs on CPUs (with DS_ACCELERATOR=cpu)."""

    root_device = property(lambda self: torch.device("cpu", 0))  # DeepSpeed wants its number

    def setup_environment(self) -> None:
        """Without the check for GPUs."""
        super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self) -> None:
        """Without the check that processes have the GPUs of their ranks."""
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def _get_process_group_backend(self) -> str:
        return "gloo"


STRATEGIES: dict[str, Any] = {
    "single": lambda: "auto",
    "ddp": lambda: DDPStrategy(process_group_backend="gloo"),
    "fsdp2": FSDP2,
    "fsdp2_offload": lambda: FSDP2(cpu_offload=True),
    "fsdp": FSDPOnCPUs,
    "fsdp_offload": lambda: FSDPOnCPUs(cpu_offload=True),
    "deepspeed1": lambda: DeepSpeedOnCPUs(stage=1),
    "deepspeed2": lambda: DeepSpeedOnCPUs(stage=2),
}


class Samples(SampleCompletions):
    """Notes what it would show."""

    def __init__(self) -> None:
        super().__init__(2, every_n_steps=2, max_new_tokens=4)
        self.said: list[Any] = []

    def table(self, said: Any) -> str:
        """Of the policy, and of the reference."""
        self.said.append([said, self._reference])
        return super().table(said)


class GradientNorms(L.Callback):
    """Notes the norm of the gradient, over all processes, before it is clipped."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, module: L.LightningModule, optimizer: Any) -> None:
        """Clipping comes after this hook."""
        squares = 0.0
        spread = False
        for weight in module.parameters():
            gradient = weight.grad
            if gradient is None:
                continue
            if hasattr(gradient, "to_local"):
                gradient, spread = gradient.to_local(), True
            squares += float(gradient.double().square().sum())
        if spread or isinstance(trainer.strategy, FSDP):
            whole = torch.tensor(squares, device=trainer.strategy.root_device)
            squares = float(trainer.strategy.reduce(whole, reduce_op="sum"))
        self.norms.append(squares**0.5)


def run(
    folder: Path,
    strategy: str,
    processes: int,
    case: str,
    resume: str | None = None,
    name: str | None = None,
    dtype: str = "float32",
    **trainer_options: Any,
) -> None:
    """One case.

    Args:
        folder: Where everything is.
        strategy: One of `STRATEGIES`.
        processes: How many there are.
        case: One of `CASES`.
        resume: The run, such as `fsdp2-2`, whose checkpoint of step 2 training goes on from.
        name: Of the run, if not that of the strategy and the number of processes.
        dtype: Of the weights.
        trainer_options: The Trainer's.
    """
    method, settings, feedback = CASES[case]
    settings = {**settings}
    policy = str(folder / settings.pop("policy", "llama"))
    if "reference" in settings:
        settings["reference"] = str(folder / settings["reference"])
    micro_batch_size = settings.pop("micro_batch_size", 4)
    out = folder / (name or f"{strategy}-{processes}") / case
    L.seed_everything(1, verbose=False)
    module = method(
        policy,
        reference_cache=str(out / "cache"),
        dtype=dtype,
        optimizer=lambda parameters: torch.optim.RMSprop(parameters, lr=1e-3, eps=1e-3),
        **settings,
    )
    data = feedback(
        str(folder / "pairs.jsonl"),
        batch_size=16,
        micro_batch_size=micro_batch_size,
        max_length=96,
        max_prompt_length=48,
        validation_examples=8,
    )
    norms, samples = GradientNorms(), Samples()
    trainer = L.Trainer(
        **{
            "accelerator": "cpu",
            "devices": processes,
            "strategy": STRATEGIES[strategy](),
            "max_steps": 4,
            "log_every_n_steps": 1,
            "gradient_clip_val": 0.5,
            "logger": False,
            "callbacks": [
                norms,
                samples,
                HuggingFaceExport(str(out / "export")),
                ModelCheckpoint(out / "checkpoints", filename="{step}", every_n_train_steps=2, save_top_k=-1),
            ],
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "val_check_interval": 4,
            **trainer_options,
        }
    )
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = AnyCheckpointIO()  # as the command line does it
    checkpoint = None if resume is None else folder / resume / case / "checkpoints" / "step=2.ckpt"
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
    if trainer.is_global_zero:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        result = {"metrics": metrics, "norms": norms.norms, "samples": samples.said, "steps": trainer.global_step}
        (out / "result.json").write_text(json.dumps(result))


def work(folder: str, job: str, rank: int, port: int) -> None:
    """What one process does."""
    strategy, processes, cases, *options = job.split(":", 3)
    if int(processes) > 1 or strategy != "single":
        os.environ.update(
            {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": processes,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "TORCHELASTIC_RUN_ID": "none",
            }
        )
    for case in cases.split(","):
        run(Path(folder), strategy, int(processes), case, **json.loads(options[0]) if options else {})


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def fork(count: int, target: Callable[..., None], *arguments: Any) -> bool:
    """Runs a function in forked processes, with its arguments, a rank and a port; whether all of them end well."""
    forked, port = multiprocessing.get_context("fork"), free_port()
    processes = [forked.Process(target=target, args=(*arguments, rank, port)) for rank in range(count)]
    for process in processes:
        process.start()
    running = processes
    while running:
        multiprocessing.connection.wait([process.sentinel for process in running])
        running = [process for process in processes if process.exitcode is None]
        if any(process.exitcode for process in processes):
            # The others would wait for it.
            for process in processes:
                process.kill()
            return False
    return True


def main(folder: str, jobs: list[str]) -> int:
    """Runs jobs, one after the other."""
    for job in jobs:
        if not fork(int(job.split(":")[1]), work, folder, job):
            print(f"{job} failed", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    quieten()
    sys.exit(main(sys.argv[1], sys.argv[2:]))
