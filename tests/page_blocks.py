"""Runs the command blocks of pages in this process: starting a Python for each command would take most of the time."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

from halo_lightning.arguments import HaloArgumentParser
from halo_lightning.cli import FUNCTIONS, TRAINING, _load, main, named
from tests.conftest import REPOSITORY

BLOCK = re.compile(r"(?:^<!-- not run: ([^\n]+) -->\n)?^```(\w+)[^\n]*\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
"""A block of a page, with the reason why it is only looked at, where there is one."""


class Block(NamedTuple):
    """Language and content of a block; `not_run` says why it cannot be run in a test."""

    not_run: str
    language: str
    code: str


def blocks(page: str) -> list[Block]:
    """All blocks of a page that name their language."""
    return [Block(*found) for found in BLOCK.findall(page)]


def like_a_clone(folder: Path) -> Path:
    """A folder that looks like a clone, without the environment and earlier runs."""
    for name in ("cli.py", "configs", "halo_lightning"):
        (folder / name).symlink_to(REPOSITORY / name)
    return folder


def commands(code: str) -> Iterator[str]:
    """The commands of a block of bash: lines, with those that they go on in, and their here-documents."""
    lines = iter(code.splitlines())
    for line in lines:
        if here := re.search(r"<<'(\w+)'", line):
            body = [line]
            while body[-1] != here.group(1):
                body.append(next(lines))
            yield "\n".join(body)
            continue
        while line.endswith("\\"):
            line = line[:-1] + next(lines).strip()
        if line.strip() and not line.startswith("#"):
            yield line


def run(command: str, extra: tuple[str, ...] = ()) -> None:
    """Runs a command in the working directory, `python cli.py` in this process.

    Args:
        command: As it is typed.
        extra: Further options of `fit`, that make it quick.
    """
    words = shlex.split(command, comments=True)
    if words[:2] != ["python", "cli.py"]:
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = subprocess.run(["bash", "-euc", command], env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"
        return
    arguments = words[2:]
    out = None
    if ">" in arguments:
        *arguments, _, out = arguments
    printed = io.StringIO()
    with redirect_stdout(printed):
        try:
            status = main([*arguments, *extra] if arguments[0] == "fit" else arguments)
        except SystemExit as stop:  # after --print_config
            status = int(stop.code or 0)
    assert status == 0, f"{command}\n{printed.getvalue()[-3000:]}"
    if out is not None:
        Path(out).write_text(printed.getvalue())


def check(command: str) -> None:
    """Has the command line read a command's arguments, and do nothing."""
    words = shlex.split(command, comments=True)
    if words[:2] != ["python", "cli.py"]:
        return
    command_name, *rest = words[2:]
    if command_name in TRAINING:
        run(command, ("--print_config",))
    elif command_name == "plan":  # its own options, and those of `fit`
        from halo_lightning.arguments import with_settings

        parser = HaloArgumentParser()
        parser.add_function_arguments(_load(FUNCTIONS["plan"][0]))
        parser.parse_args(with_settings(rest, parser))
    else:
        function = _load(FUNCTIONS[command_name][0])
        parser = HaloArgumentParser()
        parser.add_function_arguments(function)
        parser.parse_args(named(rest, function))
