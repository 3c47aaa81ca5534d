"""An argument parser whose errors fit one screen."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from halo_lightning.errors import ConfigError, users_error


def nearest(name: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'?` for the known name that is most like a mistyped one, or nothing."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f", did you mean {found[0]!r}?" if found else ""


NOISE = re.compile(
    r"\s*(- )?(Does not validate against any of|Subtypes:|Errors:|Expected a <class 'NoneType'>"
    r"|Given value(?! *:)|Given value *:.{80}"
    r"|Not a valid subclass of Source|Not of type Path|Subclass types expect one of|a class path \(str\)|a dict with)"
)
"""Lines of jsonargparse's messages that say nothing to who wrote the configuration."""


def short(message: str) -> str:
    """A message of jsonargparse that fits one screen."""
    lines = [line for line in message.splitlines() if line.strip() and not NOISE.match(line)]
    text = "\n".join(lines[:12] + ["…"] * (len(lines) > 12))
    return text if len(text) <= 1500 else text[:1500] + " …"


class OneScreenErrors(ArgumentParser):
    """Mixin: an error names the key, what was expected and the nearest known key, with no usage dump before it.

    Options are not abbreviated: `--trainer.max_epoch` is a mistake and not `--trainer.max_epochs`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises the error as one of the user's.

        Raises:
            ConfigError: Always, unless jsonargparse itself is trying alternatives.
        """
        if not self.exit_on_error:
            super().error(message, ex)
        raise ConfigError(self.explain(message)) from ex

    def explain(self, message: str) -> str:
        """The message without repetitions, with a suggestion for a mistyped key."""
        text = short(message) + suggestion(message, self.known_keys())
        program = self.prog.split(" [")[0]
        if program.endswith("cli.py"):  # Lightning's parser of all training commands
            program = f"python {program} fit"
        return f"{text}\n({program} --help lists what is accepted)"

    def known_keys(self) -> set[str]:
        """Every key that the parser knows at its top level, and the arguments of this package's classes."""
        keys = {action.dest for action in self._actions if action.dest}
        for action in self._actions:
            # The parsers of subcommands are the choices of an action of this one.
            for parser in (action.choices if isinstance(action.choices, dict) else {}).values():
                if isinstance(parser, OneScreenErrors):
                    keys |= parser.known_keys()
        return keys | class_arguments()


MISTYPED = re.compile(
    r"(?:[Kk]ey|Option|option|argument) ['\"]?([\w.\-]+)['\"]? is not (?:accepted|expected)|"
    r"does not accept option '([\w.\-]+)'|"
    r"No action for key ['\"]([\w.\-]+)['\"]|"
    r"[Uu]nrecognized arguments: (?:--)?([\w.\-]+)|"
    r"[Uu]nrecognized.*?['\"]?--([\w.\-]+)"
)
"""What jsonargparse calls a key that it does not know."""


def suggestion(message: str, known_keys: Iterable[str]) -> str:
    """`, did you mean 'x'?` for the key, class, choice or file that a message of jsonargparse says is not known.

    Args:
        message: Of jsonargparse.
        known_keys: The keys that there are.
    """
    if found := MISTYPED.search(message):
        return nearest_key(next(group for group in found.groups() if group), known_keys)
    if found := re.search(r"'halo_lightning' has no attribute '(\w+)'|dot import path string: (\w+)", message):
        from halo_lightning import __all__ as classes

        return nearest(found.group(1) or found.group(2), classes)
    if found := re.search(r"Literal\[([^]]+)\]\. Got value: (\S+)", message):
        return nearest(found.group(2), re.findall(r"'([^']+)'", found.group(1)))
    if found := re.search(r"File does not exist: '?([^'\n]+)", message):
        path = Path(found.group(1))
        return nearest(path.name, [file.name for file in path.parent.glob(f"*{path.suffix}")])
    return ""


def nearest_key(key: str, known: Iterable[str]) -> str:
    """As `nearest`, comparing whole keys, then their first parts where that is not known, then their last ones."""
    known = list(known)
    firsts = {name.split(".")[0] for name in known}
    first = key.split(".")[0]
    return (
        nearest(key, known)
        or (nearest(first, firsts) if first not in firsts else "")
        or nearest(key.split(".")[-1], {name.split(".")[-1] for name in known})
    )


def class_arguments() -> set[str]:
    """Names of the arguments of the modules and data modules that are loaded."""
    import inspect
    import sys

    names: set[str] = set()
    for home in ("halo_lightning.modules", "halo_lightning.data"):
        module = sys.modules.get(home)
        for name in getattr(module, "__all__", []):
            value = getattr(module, name)
            if isinstance(value, type):
                for base in value.__mro__:
                    if base.__module__.startswith("halo_lightning") and "__init__" in vars(base):
                        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
                        names |= {one.name for one in parameters if one.kind is not one.VAR_KEYWORD}
    return names - {"self", "base"}


@contextmanager
def refusals_are_said() -> Iterator[None]:
    """Within, a class that refuses its settings, or a callable that is no class, gives an error of the user's.

    Raises:
        ConfigError: With what was said.
    """
    try:
        yield
    except (TypeError, ValueError, OverflowError) as error:
        if users_error(error) is not None:
            raise
        raise ConfigError(f"these settings are refused: {short(str(error)).lstrip(' -')}") from error


class HaloArgumentParser(OneScreenErrors):
    """The parser of the commands that are plain functions."""


def with_settings(arguments: list[str], parser: ArgumentParser) -> list[str]:
    """The arguments of a command that takes those of `fit` as well: the latter as a list, in its option `settings`.

    Args:
        arguments: As they were typed.
        parser: Of the command, which knows its own.
    """
    import json

    own = {action.dest.split(".")[0] for action in parser._actions}
    mine: list[str] = []
    settings: list[str] = []
    taking = mine
    for argument in arguments:
        if argument.startswith("--"):
            taking = mine if re.split(r"[.=+]", argument[2:])[0] in own else settings
        taking.append(argument)
    return [*mine, f"--settings={json.dumps(settings)}"] if settings else mine
