"""Tab completion: a script for the shell with all commands, options and choices, read from the source as help is.

The script is static, so that a completion does not wait for imports.
"""

from __future__ import annotations

import argparse
import ast
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from halo_lightning.errors import ConfigError
from halo_lightning.quick_help import RUN, Parameter, first_clause, parameters, parameters_in

MODULES = Path(__file__).resolve().parent / "modules"


def completion(shell: Literal["bash", "zsh", "tcsh"] = "bash") -> None:
    """Prints a script that completes commands, options and choices of an installed `halo`.

    For bash: `halo completion > ~/.local/share/bash-completion/completions/halo`. For zsh: `halo completion --shell
    zsh > DIR/_halo` with DIR in `fpath`.

    Args:
        shell: The shell that is to complete.

    Raises:
        ConfigError: The package shtab, which writes such scripts, is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise ConfigError('completion needs shtab: pip install "halo-lightning[completion]"') from error
    print(shtab.complete(command_line(), shell=shell))


def command_line() -> argparse.ArgumentParser:
    """A parser with every command and option, for shtab to read; nothing is parsed with it."""
    from halo_lightning.cli import FUNCTIONS, TRAINING

    parser = argparse.ArgumentParser(prog="halo")
    commands = parser.add_subparsers()
    for name, text in TRAINING.items():
        command = commands.add_parser(name, help=text)
        for option, known in training_options().items():
            add_option(command, option, known)
    for name, (path, text) in FUNCTIONS.items():
        command = commands.add_parser(name, help=text)
        module, function = path.split(":")
        for known in parameters(module, function):
            add_option(command, known.name, known)
    return parser


def add_option(parser: argparse.ArgumentParser, name: str, known: Parameter) -> None:
    """Adds an option with its choices; other options are completed as the names of files."""
    choices = choices_of(known)
    text = first_clause(known.text).replace("%", "%%")
    action = parser.add_argument(f"--{name}", choices=choices or None, help=text, metavar="VALUE")
    numbers = known.type.removesuffix(" | None").removeprefix("Optional[").rstrip("]") in ("int", "float")
    if not choices and not numbers:
        action.complete = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}  # type: ignore[attr-defined]


def choices_of(known: Parameter) -> list[str]:
    """The values that a parameter can have, where they can be listed."""
    kind = known.type.removesuffix(" | None").removeprefix("Optional[").rstrip("]")
    if kind.startswith("Literal["):
        return [str(value) for value in _values(kind.removeprefix("Literal["))]
    return {"bool": ["true", "false"]}.get(kind, [])


def _values(text: str) -> tuple[object, ...]:
    values = ast.literal_eval(f"({text},)")
    assert isinstance(values, tuple)
    return values


def training_options() -> dict[str, Parameter]:
    """The options of `fit`: those of the run, of every method, of data, of the Trainer and of checkpoints."""
    run = [option.split()[0].removeprefix("--") for option in RUN]
    options = {name: Parameter(name, "str", None, "") for name in run}
    shared = parameters("halo_lightning.modules.base", "HaloModule")
    methods = {name: own for path in sorted(MODULES.glob("*.py")) for name, own in classes(path).items()}
    public = _public_names("modules")
    options["model"] = Parameter("model", f"Literal[{', '.join(map(repr, public))}]", None, "The method")
    for known in [*shared, *(known for name in public for known in methods.get(name, []))]:
        options.setdefault(f"model.{known.name}", known)
    data = _public_names("data")
    options["data"] = Parameter("data", f"Literal[{', '.join(map(repr, data))}]", None, "The kind of feedback")
    every = parameters("halo_lightning.data.base", "FeedbackDataModule")
    for name in data:
        every += parameters("halo_lightning.data.datamodules", name)
    for known in every:
        options.setdefault(f"data.{known.name}", known)
    for group, path, name in (
        ("trainer", "trainer/trainer.py", "Trainer"),
        ("checkpoint", "callbacks/model_checkpoint.py", "ModelCheckpoint"),
    ):
        for known in parameters_in(lightning() / path, name):
            options[f"{group}.{known.name}"] = known
    for group, module, name in (
        ("export", "halo_lightning.callbacks.export", "HuggingFaceExport"),
        ("pictures", "halo_lightning.callbacks.pictures", "RewardPictures"),
        ("samples", "halo_lightning.callbacks.samples", "SampleCompletions"),
        ("watch", "halo_lightning.callbacks.watch", "WatchNumbers"),
    ):
        for known in parameters(module, name):
            options[f"{group}.{known.name}"] = known
    return options


def classes(path: Path) -> dict[str, list[Parameter]]:
    """The classes of a file, with the parameters of their constructors."""
    names = [node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)]
    return {name: parameters_in(path, name) for name in names}


def lightning() -> Path:
    """The folder of Lightning's Trainer and callbacks, found without importing it."""
    spec = find_spec("lightning")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pytorch"


def _public_names(home: str) -> list[str]:
    from halo_lightning import _HOMES

    return [name for name, place in _HOMES.items() if place == home and name != "HaloModule"]
