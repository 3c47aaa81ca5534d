"""What docs/evaluation.md shows is what happens."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from halo_lightning.cli import FUNCTIONS, TRAINING
from halo_lightning.evaluation import judges
from tests.conftest import REPOSITORY
from tests.test_cli import printed_config

DOCUMENT = (REPOSITORY / "docs" / "evaluation.md").read_text()
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"^```(?:bash)?\n(.*?)^```", DOCUMENT, flags=re.MULTILINE | re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("python cli.py")
]


def test_the_first_block_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"^```bash\n(.*?)^```", DOCUMENT, flags=re.MULTILINE | re.DOTALL)
    for name in ("cli.py", "configs", "halo_lightning"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    run = subprocess.run(
        ["bash", "-euc", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert (tmp_path / "runs" / "eval" / "report" / "report.html").stat().st_size > 10_000
    assert "win rate" in run.stdout


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_options_of_every_command_exist(command: list[str]) -> None:
    from halo_lightning.arguments import HaloArgumentParser
    from halo_lightning.cli import _load, named

    _, _, name, *arguments = command
    assert name in {**TRAINING, **FUNCTIONS}
    if name in TRAINING:
        assert (REPOSITORY / arguments[1]).is_file()
        return
    function = _load(FUNCTIONS[name][0])
    parser = HaloArgumentParser()
    parser.add_function_arguments(function)
    parser.parse_args(named(arguments, function))


def test_every_judge_is_described() -> None:
    for name in judges.__all__:
        if name.endswith("Judge"):
            assert f"`{name}" in DOCUMENT or name == "Judge"


def test_the_yaml_is_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```", DOCUMENT, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "samples.yaml").write_text(text)
    config = REPOSITORY / "configs" / "tiny_kto.yaml"
    settings = printed_config(capsys, f"--config={config}", f"--config={tmp_path / 'samples.yaml'}")
    assert settings["samples"]["prompts"] == ["Name two animals."]
    assert settings["samples"]["every_n_steps"] == 50
