"""Preparing unary feedback, from a file of rows to tokens, beside TRL's preparation of the same file for KTO.

`python -m benchmarks.preparation --data FILE` writes rows made of the text of an HH file, and lets everybody prepare
them, each in a process of its own, in turns. TRL is run as its trainer runs it (`KTOTrainer._prepare_dataset`, after
`datasets.load_dataset`), in one process and in as many as there are processors, and is compared at its best.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import resource
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

OURS, AGAIN = "halo_lightning", "halo_lightning, second start"
CONTENDERS = (OURS, AGAIN, "TRL, one process", "TRL, all processors")
TRAINING = "training"
STEPS, BATCH = 10, 16
DISK = 20_000
"""Bytes that a row takes on disk at most: TRL keeps each stage of its preparation."""
HALF = 560
"""Fewest characters of a prompt, and of a completion: together about 300 tokens."""


def write_rows(data: Path, rows: int, path: Path, *, conversational: bool = False) -> None:
    """Writes unary feedback made of turns of an HH file, drawn and joined at random."""
    with gzip.open(data, "rt") as stream:
        dialogues = [json.loads(line)["chosen"] for line in stream]
    turns = [turn.split(": ", 1)[-1].strip() for text in dialogues for turn in text.split("\n\n")]
    turns = [turn for turn in turns if turn]
    chance = random.Random(1)

    def text() -> str:
        drawn = chance.choice(turns)
        while len(drawn) < HALF:
            drawn += " " + chance.choice(turns)
        return drawn

    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            prompt: Any = text()
            completion: Any = text()
            if conversational:
                prompt = [{"role": "user", "content": prompt}]
                completion = [{"role": "assistant", "content": completion}]
            row = {"prompt": prompt, "completion": completion, "label": chance.random() < 0.5}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_model(data: Path, folder: Path, vocabulary: int) -> None:
    """A tokenizer trained on the HH file, and a model of next to no weights."""
    from halo_lightning.initialize import initialize_model

    with redirect_stdout(sys.stderr):
        initialize_model(str(data), str(folder), vocabulary, hidden_size=32, layers=1, heads=1)


# --- one contender, in a process of its own ------------------------------------------------------------------------


def ours(folder: Path) -> dict[str, Any]:
    """The data module's setup, from the file or from its cache."""
    data = data_module(folder)
    data._load_tokenizer()  # as TRL's is, before the clock runs
    with Measured() as measured:
        data.setup()
        next(iter(data.train_dataloader()))
    tokens = data.train_dataset.tokens
    return {**measured.values, "rows": len(data.train_dataset), "tokens": len(tokens), "sum": int(tokens.sum())}


def data_module(folder: Path) -> Any:
    """The rows, with a cache beside them."""
    from halo_lightning import UnaryDataModule

    rows, cache = str(folder / "rows.jsonl"), str(folder / "cache")
    return UnaryDataModule(
        rows, tokenizer=str(folder / "model"), validation_fraction=0.0, batch_size=BATCH, cache=cache
    )


def training(folder: Path) -> dict[str, Any]:
    """Some steps of KTO on what is in the cache, in a process that may not have as much memory as that is large."""
    from lightning import Trainer

    from halo_lightning import KTO

    data = data_module(folder)
    kept = sum(file.stat().st_size for file in (folder / "cache" / "data").rglob("*.bin"))
    limit = int(os.environ["HALO_BENCHMARK_MEMORY"])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))  # counts no mapped files
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_steps=STEPS, accelerator="cpu", devices=1, enable_model_summary=False, **options)
    with Measured() as measured:
        trainer.fit(KTO(policy=str(folder / "model"), reference_mode="frozen"), datamodule=data)
    return {**measured.values, "rows": BATCH * trainer.global_step, "kept": kept, "limit": limit}


def trl(folder: Path, processes: int | None) -> dict[str, Any]:
    """What `KTOTrainer` does before it trains."""
    from types import SimpleNamespace

    from datasets import load_dataset
    from transformers import AutoTokenizer
    from trl import KTOConfig, KTOTrainer

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    arguments = KTOConfig(
        output_dir=str(folder / "trl"),
        dataset_num_proc=processes,
        per_device_train_batch_size=32,
        max_length=1024,
        report_to=[],
        use_cpu=True,
        bf16=False,
    )
    trainer: Any = SimpleNamespace(
        _tokenizer=tokenizer, calculate_KL=True, desirable_weight=1.0, undesirable_weight=1.0
    )
    with Measured() as measured:
        rows = load_dataset("json", data_files=str(folder / "rows.jsonl"), split="train")
        prepared = KTOTrainer._prepare_dataset(trainer, rows, tokenizer, arguments, "train")
    return {**measured.values, "rows": len(prepared)}


class Measured:
    """Wall time, processor time with that of children, and the largest memory that is not a mapped file."""

    def __enter__(self) -> Measured:
        self.values: dict[str, float] = {}
        self._done = threading.Event()
        self._before = anonymous_bytes(os.getpid())
        self._peak = self._before
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        self._time, self._processor = time.perf_counter(), os.times()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.25):
            self._look()

    def _look(self) -> None:
        self._peak = max(self._peak, sum(map(anonymous_bytes, [os.getpid(), *children(os.getpid())])))

    def __exit__(self, *_: object) -> None:
        seconds, after = time.perf_counter() - self._time, os.times()
        self._look()
        self._done.set()
        self._watcher.join()
        processor = sum(after[:4]) - sum(self._processor[:4])
        self.values = {
            "seconds": seconds,
            "processor_seconds": processor,
            "memory": self._peak,
            "memory_before": self._before,
        }


def anonymous_bytes(process: int) -> int:
    """Memory of a process that is its own: not the pages of mapped files, which the system can take back.

    What processes share since one has forked the other counts once, in equal parts for each.
    """
    try:
        rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss_Anon:"))


def children(process: int) -> Iterator[int]:
    """All processes that a process has started, and those that they have."""
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            found = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        for child in found:
            yield child
            yield from children(child)


WORKERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    OURS: ours,
    AGAIN: ours,
    "TRL, one process": lambda folder: trl(folder, None),
    "TRL, all processors": lambda folder: trl(folder, os.cpu_count()),
    TRAINING: training,
}


# --- all of them ---------------------------------------------------------------------------------------------------


def run(contender: str, folder: Path) -> dict[str, Any]:
    """One contender's run.

    Raises:
        RuntimeError: It fails.
    """
    environment = {**os.environ, "HF_DATASETS_CACHE": str(folder / "datasets"), "HF_HUB_OFFLINE": "1"}
    environment.pop("OMP_NUM_THREADS", None)
    if contender == OURS:
        shutil.rmtree(folder / "cache", ignore_errors=True)
    if contender == TRAINING:
        environment["OMP_NUM_THREADS"] = "1"
    if contender.startswith("TRL"):
        environment["TOKENIZERS_PARALLELISM"] = "false"  # its rows are tokenised one by one: threads only cost
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.preparation", "--worker", contender, "--work", str(folder)],
        capture_output=True,
        text=True,
        env=environment,
    )
    shutil.rmtree(folder / "datasets", ignore_errors=True)
    if done.returncode:
        raise RuntimeError(f"{contender} failed:\n{done.stderr[-3000:]}")
    measured: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"  {contender}: {measured['rows'] / measured['seconds']:,.0f} rows/s", flush=True)
    return measured


def table(results: dict[str, dict[str, Any]]) -> str:
    """A Markdown table, each contender compared with this package."""
    mine = results[OURS]
    lines = [
        "| contender | seconds | rows/s | halo_lightning is faster by | processor seconds | as many times ours |"
        " peak memory | of it for the work |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, its in results.items():
        lines.append(
            f"| {name} | {its['seconds']:,.1f} | {its['rows'] / its['seconds']:,.0f} |"
            f" {its['seconds'] / mine['seconds']:.3g}× | {its['processor_seconds']:,.1f} |"
            f" {its['processor_seconds'] / mine['processor_seconds']:.3g}× | {its['memory'] / 1e6:,.0f} MB |"
            f" {(its['memory'] - its['memory_before']) / 1e6:,.0f} MB |"
        )
    return "\n".join(lines)


def training_line(trained: dict[str, Any]) -> str:
    """What training takes, in a sentence."""
    return (
        f"{trained['rows'] // BATCH} steps of KTO on them, mapped from {trained['kept']:,} bytes on disk, in a process"
        f" that is refused more than {trained['limit']:,} bytes of memory of its own (`RLIMIT_DATA`): it peaks at"
        f" {trained['memory'] / 1e6:,.0f} MB, {trained['memory_before'] / 1e6:,.0f} MB of them from before it starts."
    )


def main() -> None:
    """Measures, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="an HH file as published, gzipped")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--conversational", action="store_true", help="prompts and completions as messages")
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--contenders", nargs="+", default=CONTENDERS, choices=CONTENDERS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--name", help="of the table; by default made from the options")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark/preparation"))
    parser.add_argument("--memory", type=int, default=10**9, help="bytes that some steps of training may have")
    parser.add_argument("--worker", choices=[*CONTENDERS, TRAINING], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(WORKERS[options.worker](options.work)))
        return
    if options.data is None:
        parser.error("--data is needed")
    from benchmarks.training import machine

    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    if shutil.disk_usage(options.work).free < options.rows * DISK:
        parser.error(f"{options.rows} rows may take {options.rows * DISK:,} bytes of disk: there are fewer")
    write_model(options.data, options.work / "model", options.vocabulary)
    rows = options.work / "rows.jsonl"
    write_rows(options.data, options.rows, rows, conversational=options.conversational)
    results = {contender: run(contender, options.work) for contender in options.contenders}
    os.environ["HALO_BENCHMARK_MEMORY"] = str(options.memory)
    trained = run(TRAINING, options.work)
    first, second = results[OURS], results.get(AGAIN)
    if second is not None and (first["tokens"], first["sum"]) != (second["tokens"], second["sum"]):
        raise RuntimeError("the second start found other tokens than the first one made")
    name = options.name or "preparation" + "_conversational" * options.conversational
    text = [
        f"## {name.replace('_', ' ')}",
        "",
        f"{options.rows:,} rows of unary feedback{' as messages' * options.conversational}, {rows.stat().st_size:,}"
        f" bytes, {first['tokens'] / first['rows']:.0f} tokens a row; from the file to tokens on disk, one run each, on"
        f" {machine()}. Memory is without mapped files, and with that of child processes.",
        "",
        "    python -m benchmarks.preparation " + shlex.join(sys.argv[1:]),
        "",
        table(results),
        "",
        training_line(trained),
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{name}.md").write_text("\n".join(text) + "\n")
    print("\n".join(text))
    shutil.rmtree(options.work)


if __name__ == "__main__":
    main()
