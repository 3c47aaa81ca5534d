"""What the README shows is what happens: every block is run, in order, in a fresh folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from halo_lightning.methods import methods_table
from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like a clone, without the environment and earlier runs."""
    folder = tmp_path
    for name in ("cli.py", "configs", "halo_lightning"):
        (folder / name).symlink_to(REPOSITORY / name)
    return folder


def test_every_block_runs(folder: Path) -> None:
    """In order, since later blocks use files of earlier ones, as a reader does."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for language, code in BLOCKS:
        command = {"bash": ["bash", "-euc", code], "python": [sys.executable, "-c", code]}[language]
        run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        assert run.returncode == 0, f"{code}\n{run.stderr[-3000:]}"
    for name in ("export/model.safetensors", "checkpoints/last.ckpt", "tensorboard"):
        assert (folder / "runs" / "tiny_sft_kto" / name).exists()


def test_the_table_of_methods_is_the_one_of_the_code() -> None:
    shown = re.search(r"<!-- methods -->\n(.*?)\n<!-- /methods -->", README, flags=re.DOTALL)
    assert shown
    assert shown.group(1) == methods_table()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`make ([\w-]+)`", README))))
def test_make_targets_exist(target: str) -> None:
    run = subprocess.run(["make", "--dry-run", target], cwd=REPOSITORY, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([\w/.-]+)\)", README))))
def test_pictures_and_links_exist(path: str) -> None:
    assert (REPOSITORY / path).is_file()
