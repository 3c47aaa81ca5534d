"""Help that is read from the source agrees with the code, and imports nothing that takes seconds."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from importlib import import_module

import pytest

from halo_lightning.cli import FUNCTIONS, TRAINING, main
from halo_lightning.quick_help import arguments_section, first_clause, parameters
from tests.conftest import REPOSITORY


@pytest.mark.parametrize("command", [*TRAINING, *FUNCTIONS, ""])
def test_help_imports_nothing_that_takes_seconds(command: str) -> None:
    code = (
        "import sys; from halo_lightning.cli import main; main([*sys.argv[1:], '--help'])\n"
        "slow = {'torch', 'lightning', 'transformers', 'datasets', 'jsonargparse', 'numpy'} & set(sys.modules)\n"
        "assert not slow, slow"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command.split()], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120


@pytest.mark.parametrize("command", FUNCTIONS)
def test_every_option_is_shown_with_what_it_does(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    module, name = FUNCTIONS[command][0].split(":")
    signature = inspect.signature(getattr(import_module(module), name)).parameters
    shown = {parameter.name: parameter for parameter in parameters(module, name)}
    assert list(shown) == list(signature)
    for option, parameter in signature.items():
        assert f"--{option} " in text
        assert shown[option].text, f"{command}: the docstring says nothing of {option}"
        assert (shown[option].default is None) == (parameter.default is inspect.Parameter.empty)


def test_every_option_of_fit_that_is_shown_exists(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--help"]) == 0
    shown = set(re.findall(r"--([a-z_]+(?:\.[a-z_]+)*)", capsys.readouterr().out))
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--help_all"])
    assert stop.value.code == 0
    every = capsys.readouterr().out
    from halo_lightning.data import FeedbackDataModule
    from halo_lightning.modules import HaloModule

    for option in shown - {"help_all", "model.beta", "config"}:
        group, _, name = option.partition(".")
        known = {"model": HaloModule, "data": FeedbackDataModule}.get(group)
        if known is not None and name and name != "help":
            assert name in inspect.signature(known.__init__).parameters, option
        else:
            assert f"--{option.removesuffix('.config')}" in every, option
    assert {"model.policy", "model.lora", "data.train", "data.batch_size", "run_dir", "trainer.max_epochs"} <= shown


def test_what_a_docstring_says() -> None:
    said = arguments_section(
        "Does.\n\nArgs:\n    one: First\n        and more.\n    two: `a: b`. More.\n\nReturns:\n    x: y"
    )
    assert said == {"one": "First and more.", "two": "`a: b`. More."}
    assert first_clause("`a: b` is this: or that. More.") == "`a: b` is this"
    assert first_clause("From 1.5 on.") == "From 1.5 on"
