"""The planner's estimate beside the memory that training takes: `python -m benchmarks.memory`.

Every case trains a randomly initialised model for two steps in a process of its own. On a CPU its memory is the
largest resident size during these steps, over what the same process takes after it has trained a tiny model, so that
the libraries are not in it; and glibc is told to give freed memory back at once, so that what is measured is what
tensors take. On a GPU it is what CUDA counts as allocated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

GLIBC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""One arena, a mapping of its own for whatever is larger than 128 KiB, and nothing kept that was freed."""

STEPS = 2
"""Optimizer steps; the second is the first one with a state of the optimizer."""


@dataclass(frozen=True)
class Case:
    """One training run.

    Attributes:
        family: The architecture: `llama`, `gpt_neox`, `gpt2`, …
        hidden: Width of the model; a feed-forward layer is four times as wide (8/3 for `llama`).
        layers: Number of blocks.
        heads: Attention heads.
        vocabulary: Size of the vocabulary.
        method: `DPO`, `KTO`, `SFT`, …
        batch: Examples in a batch.
        tokens: Mean tokens of a completion with its prompt; their lengths are between half of it and one and a half.
        checkpointing: Activation checkpointing.
        reference: `cached` or `frozen`.
        lora: Rank of an adapter; 0 trains the weights.
        optimizer: `AdamW` (fused), `RMSprop` or `SGD`.
        accumulate: Micro-batches in an optimizer step.
        precision: Lightning's name.
    """

    family: str = "llama"
    hidden: int = 512
    layers: int = 8
    heads: int = 8
    vocabulary: int = 16_000
    method: str = "DPO"
    batch: int = 4
    tokens: int = 300
    checkpointing: str = "none"
    reference: str = "cached"
    lora: int = 0
    optimizer: str = "AdamW"
    accumulate: int = 1
    precision: str = "32-true"

    def config(self) -> Any:
        """The model's configuration."""
        from transformers import AutoConfig

        wide = -(-8 * self.hidden // 3 // 32) * 32 if self.family == "llama" else 4 * self.hidden
        settings: dict[str, Any] = {
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "vocab_size": self.vocabulary,
            "bos_token_id": 0,
            "eos_token_id": 0,
        }
        if self.family != "gpt2":
            settings |= {"intermediate_size": wide, "tie_word_embeddings": False}
        if self.family == "opt":
            settings |= {"ffn_dim": wide, "word_embed_proj_dim": self.hidden}
        if self.family.startswith("gemma"):
            settings |= {"head_dim": self.hidden // self.heads}
        if self.family in ("qwen2", "mistral", "gemma"):
            settings |= {"num_key_value_heads": self.heads // 2}
        return AutoConfig.for_model(self.family, **settings)

    def dataset(self, steps: int) -> Any:
        """As many examples as are needed, with random tokens and lengths."""
        import numpy as np

        from halo_lightning import modules
        from halo_lightning.data.batching import TokenizedDatasetBuilder
        from halo_lightning.data.rendering import Encoded

        feedback = getattr(modules, self.method).feedback[0]
        random = np.random.default_rng(1)
        builder = TokenizedDatasetBuilder(feedback)
        for number in range(self.batch * steps * self.accumulate):
            prompt = random.integers(0, self.vocabulary, random.integers(self.tokens // 4, 3 * self.tokens // 4 + 1))
            completions = [
                random.integers(0, self.vocabulary, random.integers(self.tokens // 4, 3 * self.tokens // 4 + 1))
                for _ in range(2 if feedback == "paired" else 1)
            ]
            rows = [Encoded(prompt.tolist(), completion.tolist()) for completion in completions]
            builder.add(rows, [1.0], [number % 2 == 0] if feedback == "unary" else [])
        return builder.build()

    def module(self, policy: str) -> Any:
        """The method."""
        import torch

        from halo_lightning import modules

        make = {
            "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=1e-5, fused=True),
            "RMSprop": lambda parameters: torch.optim.RMSprop(parameters, lr=1e-5),
            "SGD": lambda parameters: torch.optim.SGD(parameters, lr=1e-5),
        }[self.optimizer]
        return getattr(modules, self.method)(
            policy,
            optimizer=make,
            scheduler=lambda optimizer: torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
            activation_checkpointing=self.checkpointing,
            reference_mode=self.reference,
            lora={"rank": self.lora, "alpha": self.lora} if self.lora else None,
        )


def train(case: Case, device: str, steps: int = STEPS) -> int:
    """Trains, and says how much memory that took, in bytes."""
    import lightning as L
    import numpy as np
    import torch
    from torch.utils.data import DataLoader
    from transformers import AutoModelForCausalLM

    class Watch(L.Callback):
        before: dict[str, int]

        def on_train_start(self, *_: Any) -> None:
            forget_peak(device)

    torch.manual_seed(0)
    dataset = case.dataset(steps)
    if case.reference == "cached":
        dataset.reference_logps = np.full(dataset.completion_offsets[-1], -9.0, dtype=np.float32)
    numbers = range(len(dataset))
    batches = [list(numbers[first : first + case.batch]) for first in numbers[:: case.batch]]
    # The largest one last: the optimizer has no state in the first step.
    batches.sort(key=lambda batch: len(dataset[batch].sequences.input_ids))
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(case.config()).save_pretrained(folder)
        module = case.module(folder)
        trainer = L.Trainer(
            accelerator="cpu" if device == "cpu" else "gpu",
            devices=1,
            precision=case.precision,  # type: ignore[arg-type]
            max_epochs=1,
            accumulate_grad_batches=case.accumulate,
            gradient_clip_val=1.0,
            logger=False,
            callbacks=[Watch()],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(module, DataLoader(dataset, sampler=batches, batch_size=None, collate_fn=lambda batch: batch))
        return peak(device)


def forget_peak(device: str) -> None:
    """Lets the largest size so far be that of now."""
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")
    else:
        import torch

        torch.cuda.reset_peak_memory_stats()


def status() -> dict[str, int]:
    """What the kernel says of the memory of this process, in bytes."""
    lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
    return {line[0].rstrip(":"): int(line[1]) * 1024 for line in lines if len(line) == 3 and line[2] == "kB"}


def peak(device: str) -> int:
    """The largest size since it was forgotten, in bytes."""
    if device == "cpu":
        return status()["VmHWM"]
    import torch

    return torch.cuda.max_memory_allocated()


def measure(case: Case, device: str) -> int:
    """Bytes that training takes over what the libraries take; in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", "--device", device, "--worker", json.dumps(asdict(case))]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **GLIBC})
    if done.returncode:
        raise RuntimeError(f"{case} failed:\n{done.stderr[-3000:]}")
    return int(json.loads(done.stdout.strip().splitlines()[-1])["bytes"])


def work(case: Case, device: str) -> int:
    """What a process of its own does: a tiny model first, so that libraries are loaded, then the case."""
    import gc

    import torch

    tiny = replace(case, hidden=32, layers=4, heads=2, vocabulary=64, batch=2, tokens=16, lora=min(case.lora, 2))
    train(tiny, device)
    gc.collect()
    before = status()["VmRSS"] if device == "cpu" else torch.cuda.memory_allocated()
    return train(case, device) - before


def estimate(case: Case, device: str, steps: int = STEPS) -> tuple[float, int]:
    """What the planner says of the same case, in bytes, and the number of weights."""
    from halo_lightning.planning.accounting import Strategy
    from halo_lightning.planning.estimate import Choice, Estimator
    from halo_lightning.planning.workload import Read

    dataset, module = case.dataset(steps), case.module("nowhere")
    estimator = Estimator(module, case.config(), Read(dataset, range(len(dataset)), "random rows"))
    choice = Choice(
        devices=1,
        micro_batch=case.batch,
        accumulated=case.accumulate > 1,
        strategy=Strategy("single"),
        precision=case.precision,
        checkpointing=module.activation_checkpointing,
        reference_mode=module.reference_mode,
        lora=module.lora,
        on_gpu=device == "cuda",
    )
    parts = estimator.memory(choice).parts
    # What CUDA itself takes is not among what it counts as allocated.
    return parts.total - parts.overhead, estimator.policy(choice).parameters


SMALL = Case(hidden=256, tokens=200)
MIDDLE = Case(hidden=512, tokens=200)
CASES = (
    SMALL,
    replace(SMALL, checkpointing="full"),
    replace(SMALL, checkpointing="selective", family="gpt_neox"),
    replace(SMALL, method="KTO", batch=16, reference="frozen"),
    replace(SMALL, method="KTO", batch=8, vocabulary=48_000),
    replace(SMALL, method="SFT", family="gpt2", batch=8, accumulate=2),
    replace(SMALL, lora=8),
    replace(SMALL, lora=8, method="KTO", family="gpt_neox", batch=8, checkpointing="full"),
    replace(SMALL, precision="bf16-true", method="SFT", batch=8),
    replace(MIDDLE, checkpointing="full", batch=8),
    replace(MIDDLE, family="gpt_neox", method="SFT", optimizer="RMSprop"),
    replace(MIDDLE, family="gpt2", method="OfflinePPO", optimizer="SGD"),
    Case(hidden=768, layers=12, heads=12, vocabulary=32_000, tokens=100, checkpointing="full"),
    Case(hidden=1024, layers=12, heads=16, vocabulary=32_000, tokens=50, method="KTO", family="gpt_neox"),
)

OTHERS = (
    replace(SMALL, family="qwen2", batch=8),
    replace(MIDDLE, family="mistral", checkpointing="full", method="KTO", batch=8),
    replace(SMALL, family="gemma", method="SFT", batch=8),
    replace(MIDDLE, family="opt", method="SLiC"),
    replace(SMALL, family="phi", method="KTO", batch=8, checkpointing="selective"),
    replace(MIDDLE, family="gpt2", lora=8, checkpointing="full"),
    Case(hidden=768, layers=12, heads=12, vocabulary=32_000, tokens=100, family="qwen2", method="KTO"),
)
"""Architectures that the planner's own tests and `CASES` do not have."""


def row(case: Case, weights: int, planned: float, measured: float) -> str:
    """A row of the table."""
    changes = [f"LoRA {case.lora}"] * bool(case.lora) + [f"{case.accumulate} accumulated"] * (case.accumulate > 1)
    what = [case.checkpointing, case.reference, case.optimizer, case.precision, *changes]
    return (
        f"| {case.family} | {weights / 1e6:.0f} M | {case.method} | {case.batch} × {case.tokens} | {', '.join(what)} |"
        f" {measured / 1e6:,.0f} MB | {planned / 1e6:,.0f} MB | {planned / measured - 1:+.1%} |"
    )


def main() -> None:
    """Measures all cases, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--others", action="store_true", help="other architectures, in a table of their own")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps({"bytes": work(Case(**json.loads(options.worker)), options.device)}))
        return
    from benchmarks.training import machine

    rows, errors = [], []
    for case in OTHERS if options.others else CASES:
        planned, weights = estimate(case, options.device)
        measured = measure(case, options.device)
        rows.append(row(case, weights, planned, measured))
        errors.append(abs(planned / measured - 1))
        print(rows[-1], flush=True)
    text = [
        f"## memory {options.device}" + ", other architectures" * options.others,
        "",
        "What `python cli.py plan` would say beside what training takes: two steps of a model with random weights, in a"
        f" process of its own, on {machine()}. Batches are examples × mean tokens; the options are activation"
        " checkpointing, reference, optimizer, precision.",
        "",
        "    python -m benchmarks.memory " + " ".join(sys.argv[1:]),
        "",
        "| model | weights | method | batch | options | measured | planned | error |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
        "",
        f"Largest error {max(errors):.1%}, mean {sum(errors) / len(errors):.1%}.",
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    name = f"memory_{options.device}" + "_others" * options.others
    (options.out / f"{name}.md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
