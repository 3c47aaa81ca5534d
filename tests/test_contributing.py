"""CONTRIBUTING.md's worked example, followed to the letter on a copy of the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPOSITORY

GUIDE = (REPOSITORY / "CONTRIBUTING.md").read_text()


@pytest.mark.slow
def test_adding_a_halo(tmp_path: Path) -> None:
    for name in ("halo_lightning", "configs"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("cli.py", "pyproject.toml", "tests/__init__.py", "tests/conftest.py", "docs/reference/modules.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    steps = re.findall(r"^```bash\n(.*?)^```", GUIDE.split("## Add a HALO")[1], flags=re.MULTILINE | re.DOTALL)
    assert len(steps) == 6
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for step in steps:
        done = subprocess.run(
            ["bash", "-euc", step], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{step}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    assert (tmp_path / "runs" / "hinge" / "export" / "model.safetensors").is_file()
    checked = ["halo_lightning/losses.py", "halo_lightning/modules", "tests/test_hinge.py"]
    for command in (["ruff", "format", "--check"], ["ruff", "check"]):
        done = subprocess.run(
            [*command, *checked], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout


def test_the_forms_for_issues_are_forms() -> None:
    forms = sorted((REPOSITORY / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert len(forms) == 2
    for form in forms:
        content = yaml.safe_load(form.read_text())
        assert {"name", "description", "body"} <= content.keys()
        assert all({"type", "attributes"} <= part.keys() for part in content["body"])
