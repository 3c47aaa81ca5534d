"""The benchmark's contenders do the same work; its arithmetic is right."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.training import OURS, Run, median_ratio, table
from benchmarks.work import SHAPES, Shape, Work, prepare, real_tokens
from halo_lightning.world import rows
from tests.conftest import REPOSITORY


def hh_file(folder: Path) -> Path:
    """Feedback of the embedded world in the form of Anthropic's files."""
    path = folder / "rows.jsonl.gz"
    with gzip.open(path, "wt") as stream:
        for row in rows("pairs", examples=40, seed=1):
            start = f"\n\nHuman: {row['prompt']}\n\nAssistant: "
            stream.write(json.dumps({key: start + row[key] for key in ("chosen", "rejected")}) + "\n")
    return path


@pytest.mark.parametrize(("method", "lora"), [("dpo", 0), ("kto", 0), ("dpo", 4)])
def test_losses_of_this_package_are_those_of_straightforward_pytorch(method: str, lora: int, tmp_path: Path) -> None:
    work = Work(method=method, shape="32,2,2,64,600", batch=4, steps=3, max_length=64, lora=lora)
    prepare(work, hh_file(tmp_path), tmp_path / "work")
    losses = []
    for contender in (OURS, "straightforward PyTorch"):
        command = [sys.executable, "-m", "benchmarks.worker", contender, str(tmp_path / "work")]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        measured = json.loads(done.stdout.strip().splitlines()[-1])
        assert len(measured["ends"]) == 3
        assert measured["peak_bytes"] > 0
        losses.append(measured["losses"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert losses[0][0] != losses[0][2]


def test_real_tokens_count_a_prompt_with_each_completion() -> None:
    assert real_tokens([[{"sequences": [[1, 2, 3], [1, 2]]}, {"sequences": [[1], [2]]}], [{"sequences": [[1]]}]]) == [
        7,
        1,
    ]


def run(seconds: list[float], reference: float = 0.0, peak: int = 1) -> Run:
    return Run(seconds, [100, 200], reference, 300, peak, [0.5, 0.4, 0.3])


def test_arithmetic_of_the_table() -> None:
    ours, other = run([1.0, 2.0], reference=1.0, peak=2 * 10**9), run([5.0, 8.0], peak=8 * 10**9)
    assert ours.rate == 100
    assert ours.rate_with_reference == 75
    assert median_ratio([ours], [other]) == 4.5
    text = table(Work(), {OURS: [ours], "other": [other]})
    assert "| other | 23 | 23 | 8.00 GB | 4.5× | 3.2× | 0.25× | 0.0e+00 |" in text


def test_shapes() -> None:
    assert SHAPES["50M"].parameters == pytest.approx(51.7e6, rel=0.01)
    assert Work(shape="8,1,2,16,50").model_shape == Shape(8, 1, 2, 16, 50)
