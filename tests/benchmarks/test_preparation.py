"""The benchmark of preparation: everybody prepares the same rows, and its arithmetic is right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.preparation import AGAIN, HALF, OURS, Measured, children, table, write_rows
from tests.benchmarks.test_training import hh_file
from tests.conftest import REPOSITORY


def test_rows_are_those_that_were_asked_for(tmp_path: Path) -> None:
    for conversational in (False, True):
        path = tmp_path / f"{conversational}.jsonl"
        write_rows(hh_file(tmp_path), 50, path, conversational=conversational)
        rows = [json.loads(line) for line in path.open()]
        assert len(rows) == 50
        assert {type(row["prompt"]) for row in rows} == {list if conversational else str}
        assert len({json.dumps(row["prompt"]) for row in rows}) == 50
        assert 10 < sum(row["label"] for row in rows) < 40
        if not conversational:
            assert all(len(row[key]) >= HALF for row in rows for key in ("prompt", "completion"))


def test_the_whole_of_it_on_few_rows(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.preparation", "--data", str(hh_file(tmp_path)), "--rows", "200"]
    command += ["--vocabulary", "400", "--contenders", OURS, AGAIN]
    command += ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, env={**os.environ})
    assert done.returncode == 0, done.stderr[-2000:]
    written = (tmp_path / "out" / "preparation.md").read_text()
    assert written.startswith("## preparation\n\n200 rows of unary feedback")
    assert f"| {AGAIN} |" in written
    assert "10 steps of KTO on them, mapped from" in written
    assert not (tmp_path / "work").exists()


def test_memory_that_is_mapped_from_a_file_does_not_count(tmp_path: Path) -> None:
    size = 50 * 2**20
    (tmp_path / "file").write_bytes(bytes(size))
    with Measured() as mapped:
        numbers = np.memmap(tmp_path / "file", dtype=np.uint8, mode="r")
        assert numbers.sum() == 0
    with Measured() as own:
        numbers = np.ones(size, dtype=np.uint8)
        assert numbers.all()
    assert mapped.values["memory"] - mapped.values["memory_before"] < size / 4
    assert own.values["memory"] - own.values["memory_before"] > 0.9 * size


def test_memory_of_children_counts() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert child.pid in children(os.getpid())
    finally:
        child.communicate(b"\n")


def test_arithmetic_of_the_table() -> None:
    def result(seconds: float, processor: float, memory: int) -> dict[str, float]:
        values = {"seconds": seconds, "processor_seconds": processor, "memory": memory, "memory_before": 10**8}
        return {**values, "rows": 1000}

    text = table({OURS: result(2.0, 3.0, 2 * 10**8), "other": result(5.0, 9.0, 5 * 10**8)})
    assert "| other | 5.0 | 200 | 2.5× | 9.0 | 3× | 500 MB | 400 MB |" in text
