"""Limits what a configuration can name to classes that are known not to be a stranger's.

`class_path` in YAML is code by design: it imports what it names. Whoever runs configurations of others can switch
that off for a command, with `--trusted_classes_only` or the environment variable `HALO_TRUSTED_CLASSES_ONLY=1`.
"""

from __future__ import annotations

import os

from halo_lightning.errors import ConfigError

OPTION = "--trusted_classes_only"
VARIABLE = "HALO_TRUSTED_CLASSES_ONLY"

PACKAGES = ("halo_lightning", "lightning", "pytorch_lightning", "torch.optim")
"""Packages whose classes may be named."""

_YES, _NO = {"1", "true", "yes"}, {"", "0", "false", "no"}
_active = False


def take_option(arguments: list[str]) -> tuple[list[str], bool]:
    """The arguments of a command without the option, and whether it, or the environment variable, is set.

    Args:
        arguments: As they were typed.

    Raises:
        ConfigError: The value is neither true nor false.
    """
    rest: list[str] = []
    value = os.environ.get(VARIABLE, "")
    where, waiting = VARIABLE, list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if argument.split("=")[0] != OPTION:
            rest.append(argument)
            continue
        where = OPTION
        if "=" in argument:
            value = argument.split("=", 1)[1]
        else:
            value = waiting.pop(0) if waiting and waiting[0].lower() in _YES | _NO else "true"
    if value.lower() not in _YES | _NO:
        raise ConfigError(f"{where} is {value!r}: expected true or false")
    return rest, value.lower() in _YES


def trust_known_classes_only() -> None:
    """From here on, this process and those that it starts import nothing by name but from `PACKAGES`."""
    global _active
    from jsonargparse import set_parsing_settings

    os.environ[VARIABLE] = "1"
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=list(PACKAGES))
    _active = True


def check_trusted(path: str) -> None:
    """Refuses code that an option names, where known classes alone are trusted.

    Args:
        path: Its import path.

    Raises:
        ConfigError: It is not of a trusted package.
    """
    if _active and not path.startswith(tuple(f"{package}." for package in PACKAGES)):
        raise ConfigError(f"{path!r} is not imported: {OPTION} allows for {', '.join(PACKAGES)} alone")
