"""Training steps of this package, TRL and straightforward PyTorch, side by side: `make bench`.

Every contender runs in a process of its own, in turns, on the same model, rows and batches (`benchmarks/work.py`).
Ratios are between runs of the same round, so that a slow minute of the machine meets all of them. A round in which
the machine had other work is measured again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

from benchmarks.work import Work, prepare, real_tokens

PEERS = ("halo_lightning, full checkpointing", "TRL, defaults", "TRL, best settings", "straightforward PyTorch")
OURS = "halo_lightning"
ALONE = (
    "halo_lightning, no checkpointing",
    "halo_lightning, selective checkpointing",
    "halo_lightning, full checkpointing",
    "halo_lightning, padded rows",
    "halo_lightning, prompts not shared",
    "halo_lightning, frozen reference",
    "halo_lightning, optimizer not fused",
    "halo_lightning, torch.compile",
)
LARGEST_LOAD = 0.5
"""Cores that other processes may use while a contender runs; above this the run is thrown away."""


@dataclass(frozen=True)
class Run:
    """One contender's run of the work.

    Attributes:
        step_seconds: Of each step but the first, which is warm-up.
        tokens: Real tokens of each of these steps.
        reference_seconds: The reference pass over all rows, apart; 0 where it is in the steps.
        all_tokens: Real tokens of all rows.
        peak_bytes: Peak memory of the process, or of the GPU.
        losses: Of all steps.
    """

    step_seconds: list[float]
    tokens: list[int]
    reference_seconds: float
    all_tokens: int
    peak_bytes: int
    losses: list[float]

    @property
    def rate(self) -> float:
        """Real tokens a second."""
        return sum(self.tokens) / sum(self.step_seconds)

    @property
    def rate_with_reference(self) -> float:
        """Real tokens a second with the reference pass of a first run counted in."""
        return self.all_tokens / (self.all_tokens / self.rate + self.reference_seconds)


def busy_cores(before: tuple[float, float], own: float) -> float:
    """Cores that others used since `before`, given the processor time of the own processes."""
    now, total = processor_time()
    return max(0.0, (total - before[1] - own) / max(now - before[0], 1e-9))


def processor_time() -> tuple[float, float]:
    """The time, and the processor time that all processes of the machine have used, in seconds."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    busy = sum(int(fields[index]) for index in (0, 1, 2, 5, 6)) / os.sysconf("SC_CLK_TCK")
    return time.monotonic(), busy


def run(contender: str, folder: Path, attempts: int = 3) -> Run:
    """Runs a contender until it was not disturbed.

    Raises:
        RuntimeError: It fails, or the machine is busy all the time.
    """
    for _ in range(attempts):
        shutil.rmtree(folder / "cache", ignore_errors=True)  # the reference pass is measured, too
        before, children = processor_time(), os.times()
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.worker", contender, str(folder)], capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{contender} failed:\n{done.stderr[-3000:]}")
        after = os.times()
        own = after.children_user + after.children_system - children.children_user - children.children_system
        others = busy_cores(before, own)
        if others <= LARGEST_LOAD:
            return as_run(json.loads(done.stdout.strip().splitlines()[-1]), folder)
        print(f"  {contender}: others used {others:.1f} cores; once more", flush=True)
    raise RuntimeError(f"other processes used more than {LARGEST_LOAD} cores in each of {attempts} runs: stop them")


def as_run(measured: dict[str, Any], folder: Path) -> Run:
    """What a worker printed, with the tokens of its steps."""
    tokens = real_tokens(json.loads((folder / "batches.json").read_text()))
    ends = measured["ends"]
    return Run(
        [after - before for before, after in itertools.pairwise(ends)],
        tokens[1 : len(ends)],
        measured["reference"],
        sum(tokens),
        measured["peak_bytes"],
        measured["losses"],
    )


def measure(work: Work, contenders: Iterable[str], rounds: int, data: Path, folder: Path) -> dict[str, list[Run]]:
    """Runs all contenders in turns, in every round in another order."""
    prepare(work, data, folder)
    contenders = list(contenders)
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name in contenders[number:] + contenders[:number]:
            runs[name].append(run(name, folder))
            last = runs[name][-1]
            print(
                f"  {work.method} round {number + 1}: {name}: {last.rate:,.0f} tokens/s,"
                f" {last.peak_bytes / 1e9:.2f} GB",
                flush=True,
            )
    return runs


def median_ratio(ours: list[Run], theirs: list[Run]) -> float:
    """Median over rounds of the median over steps of how many times as long the other's step took."""
    return statistics.median(
        statistics.median(b / a for a, b in zip(one.step_seconds, other.step_seconds, strict=True))
        for one, other in zip(ours, theirs, strict=True)
    )


def table(work: Work, runs: dict[str, list[Run]]) -> str:
    """A Markdown table of one work's runs, each compared with this package."""
    ours = runs[OURS]
    lines = [
        "| contender | tokens/s | with the reference pass | peak memory | halo_lightning is faster by |"
        " with the reference pass | and takes of its memory | largest difference of a loss |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, its in runs.items():
        rate, with_reference, peak = (
            statistics.median(values)
            for values in (
                [one.rate for one in its],
                [one.rate_with_reference for one in its],
                [one.peak_bytes for one in its],
            )
        )
        ratio = median_ratio(ours, its)
        both = statistics.median(a.rate_with_reference / b.rate_with_reference for a, b in zip(ours, its, strict=True))
        memory = statistics.median(a.peak_bytes / b.peak_bytes for a, b in zip(ours, its, strict=True))
        difference = max(abs(a - b) for a, b in zip(ours[0].losses, its[0].losses, strict=True))
        # TRL's KTO estimates its KL from mismatched pairs: another loss.
        shown = "another KL" if work.method == "kto" and name.startswith("TRL") else f"{difference:.1e}"
        lines.append(
            f"| {name} | {rate:,.0f} | {with_reference:,.0f} | {peak / 1e9:.2f} GB | {ratio:.1f}× | {both:.1f}× |"
            f" {memory:.2f}× | {shown} |"
        )
    return "\n".join(lines)


def utilisation(work: Work, rate: float, peak_flops: float) -> float:
    """Model FLOP utilisation: 6 FLOP for a weight and a real token, of what the device can do."""
    return 6 * work.model_shape.parameters * rate / peak_flops


def machine() -> str:
    """Processor, cores, and the versions that matter, in one line."""
    import torch

    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else names[0].split(": ")[1] if names else ""
    installed = {found.name.lower() for found in distributions()}
    named = [name for name in ("torch", "lightning", "transformers", "trl") if name in installed]
    packages = ", ".join(f"{name} {version(name)}" for name in named)
    return f"{device or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {packages}"


def main() -> None:
    """Measures, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="an HH file as published, gzipped")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark"), help="where models and caches go")
    parser.add_argument("--methods", nargs="+", default=["dpo", "kto", "sft"], choices=["dpo", "kto", "sft"])
    parser.add_argument("--contenders", nargs="+", default=[OURS, *PEERS])
    parser.add_argument("--alone", action="store_true", help="each optimisation of this package alone, without peers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak-tflops", type=float, help="of the GPU, for the model FLOP utilisation")
    parser.add_argument("--name", help="of the table; by default made from the work")
    for name, kind in (
        ("shape", str),
        ("batch", int),
        ("steps", int),
        ("max_length", int),
        ("lora", int),
        ("dtype", str),
    ):
        parser.add_argument(f"--{name}", type=kind, default=getattr(Work, name))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    base = Work(**{name: value for name, value in vars(options).items() if name in Work.__dataclass_fields__})
    for method in options.methods:
        work = replace(base, method=method)
        name = options.name or "_".join(
            map(str, (method, work.shape, work.device, *(["lora"] * bool(work.lora)), *(["alone"] * options.alone)))
        )
        contenders = [OURS, *ALONE] if options.alone else options.contenders
        runs = measure(work, contenders, options.rounds, options.data, options.work / name)
        text = [
            f"## {name.replace('_', ' ')}",
            "",
            f"{work}, {work.model_shape.parameters:,} weights; {options.rounds} rounds of {work.steps} steps, on"
            f" {machine()}.",
            "",
            "    python -m benchmarks.training " + " ".join(sys.argv[1:]),
            "",
            table(work, runs),
        ]
        if options.peak_tflops:
            share = utilisation(work, statistics.median(r.rate for r in runs[OURS]), options.peak_tflops * 1e12)
            text += ["", f"Model FLOP utilisation of halo_lightning: {share:.0%}."]
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"{name}.md").write_text("\n".join(text) + "\n")
        print("\n".join(text), flush=True)


if __name__ == "__main__":
    main()
