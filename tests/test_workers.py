"""Processes that compute for another one end with it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from halo_lightning.cli import main
from halo_lightning.workers import worker_pool
from tests.conftest import REPOSITORY

PROGRAM = """
import os, time
from halo_lightning.workers import worker_pool

if __name__ == "__main__":
    with worker_pool(2) as pool:
        print(*{pool.submit(os.getpid).result() for _ in range(8)}, flush=True)
        pool.submit(time.sleep, 10_000).result()
"""


def test_they_end_when_the_process_is_killed(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen([sys.executable, program], env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline().split()[0]) != process.pid
        process.kill()
        process.stdout.read()  # ends when nobody can write there any more


def test_what_they_compute_is_given_up_when_the_command_is_interrupted() -> None:
    before = set(multiprocessing.active_children())
    with contextlib.suppress(KeyboardInterrupt), worker_pool(1) as pool:
        assert pool.submit(os.getpid).result() != os.getpid()
        sleeping = pool.submit(time.sleep, 10_000)
        raise KeyboardInterrupt
    assert sleeping.done()
    assert set(multiprocessing.active_children()) <= before


def test_they_begin_with_what_they_are_told() -> None:
    with worker_pool(1, os.chdir, "/") as pool:
        assert pool.submit(os.getcwd).result() == "/"


@pytest.mark.parametrize(
    "command",
    [
        ["fit", "--config", "configs/tiny_kto.yaml", "--data.num_workers=100000"],
        [
            "label",
            "--data=embedded:thumbs",
            "--scorer=embedded:rules",
            "--threshold=1",
            "--workers=100000",
            "--out=a.jsonl",
        ],
        ["compare", "--processes=100000", "--run_dir=runs"],
    ],
    ids=lambda command: command[0],
)
def test_far_too_many_are_refused(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    with contextlib.chdir(tmp_path):
        assert main(command) == 2
    assert "is 100000: expected at most" in capsys.readouterr().err
