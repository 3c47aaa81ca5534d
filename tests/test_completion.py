"""Tab completion in a real shell, and that it knows what the command line knows."""

from __future__ import annotations

import inspect
import shutil
import subprocess
from pathlib import Path

import pytest

import halo_lightning
from halo_lightning.cli import FUNCTIONS, TRAINING, main
from halo_lightning.completion import choices_of, training_options
from halo_lightning.quick_help import Parameter
from tests.conftest import REPOSITORY

pytest.importorskip("shtab")

TRY = """
source "$1"; shift
function=$(complete -p halo | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
$function
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from contextlib import redirect_stdout

    path = tmp_path_factory.mktemp("completion") / "halo"
    with path.open("w") as file, redirect_stdout(file):
        assert main(["completion"]) == 0
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        (["fi"], {"fit", "fit-value"}),
        (["inspe"], {"inspect"}),
        (["fit", "--model.be"], {"--model.beta"}),
        (["fit", "--model", "K"], {"KTO"}),
        (["fit", "--model.kl", "mis"], {"mismatched"}),
        (["fit", "--trainer.max_e"], {"--trainer.max_epochs"}),
        (["fit", "--config", "configs/tiny_sft_k"], {"configs/tiny_sft_kto.yaml"}),
        (["export", "--o"], {"--out"}),
    ],
)
def test_bash_completes(typed: list[str], completed: set[str], script: Path) -> None:
    command = ["bash", "-c", TRY, "bash", str(script), "halo", *typed]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=60)
    assert set(done.stdout.split()) == completed, done.stderr


def test_every_option_of_every_method_is_known() -> None:
    options = training_options()
    for home, base in (("modules", "model"), ("data", "data")):
        for name, place in halo_lightning._HOMES.items():
            if place == home:
                for parameter in inspect.signature(getattr(halo_lightning, name)).parameters.values():
                    if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                        assert f"{base}.{parameter.name}" in options, (name, parameter.name)
    assert {
        "run_dir",
        "config",
        "ckpt_path",
        "sft_stage.config",
        "checkpoint.save_top_k",
        "export.folder",
        "watch.not_finite",
    } <= set(options)
    assert "KTO" in choices_of(options["model"])


def test_every_command_is_known(script: Path) -> None:
    text = script.read_text()
    for command in [*TRAINING, *FUNCTIONS]:
        assert f"_shtab_halo_{command.replace('-', '_')}_option_strings" in text


def test_choices() -> None:
    assert choices_of(Parameter("a", "Literal['x', 'y'] | None", None, "")) == ["x", "y"]
    assert choices_of(Parameter("a", "Optional[bool]", None, "")) == ["true", "false"]
    assert choices_of(Parameter("a", "str | Literal['x']", None, "")) == []
