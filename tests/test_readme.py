"""What the README shows is what happens; its links are looked at in `test_docs.py`."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from halo_lightning.methods import methods_table
from tests.conftest import REPOSITORY
from tests.page_blocks import blocks, check, commands, like_a_clone, run

README = (REPOSITORY / "README.md").read_text()
FEW = ("--data.train=embedded:thumbs?examples=200", "--samples.prompts=0", "--pictures.every_n_steps=0")
"""Makes the main job quicker; `tests/test_demo.py` has it as it is."""


def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, since later blocks use files of earlier ones, as a reader does."""
    monkeypatch.chdir(like_a_clone(tmp_path))
    for block in blocks(README):
        if block.language == "python":
            exec(compile(block.code, "README.md", "exec"), {"__name__": "page"})
            continue
        for command in commands(block.code):
            if block.not_run:
                check(command)
            else:
                run(command, () if "--data.train" in command else FEW)
    for name in ("export/model.safetensors", "checkpoints/last.ckpt", "tensorboard"):
        assert Path("runs", "tiny_sft_kto", name).exists()
    assert Path("runs", "curves.png").is_file()
    assert Path("runs", "my_model", "model.safetensors").is_file()


def test_the_table_of_methods_is_the_one_of_the_code() -> None:
    shown = re.search(r"<!-- methods -->\n(.*?)\n<!-- /methods -->", README, flags=re.DOTALL)
    assert shown
    assert shown.group(1) == methods_table()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`make ([\w-]+)`", README))))
def test_make_targets_exist(target: str) -> None:
    run = subprocess.run(["make", "--dry-run", target], cwd=REPOSITORY, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_it_is_short() -> None:
    assert len(README.splitlines()) < 220


def test_it_shows_a_picture_early() -> None:
    assert README[: len(README) // 3].count("](docs/images/") >= 2
