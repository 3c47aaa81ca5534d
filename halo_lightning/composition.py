"""Configurations that are composed of parts.

A configuration, or a part, may name others under `include`, relative to itself:

    include: [parts/archangel/kto.yaml, parts/models/llama13b.yaml]

They are merged in that order, key by key, and what stands beside `include` comes last and wins. A list is a value: it
is replaced, not continued. Where a group (`model`, `data`, `trainer`) is the path of a file, as LightningCLI knows it,
that file is the group, and keys of it may be set as well, which LightningCLI alone cannot do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from halo_lightning.errors import ConfigError

INCLUDE = "include"
GROUPS = ("model", "data", "trainer")


def composed(path: str | Path) -> dict[str, Any]:
    """A configuration with everything in it that it includes.

    Args:
        path: The file.

    Returns:
        The settings as nested dictionaries, with no `include` and no group that is a path.

    Raises:
        ConfigError: A file is missing, is no YAML mapping, or includes itself.
    """
    return _composed(Path(path), ())


def is_composed(path: str | Path) -> bool:
    """Whether a file is a configuration that includes others; what is no readable YAML mapping is none."""
    try:
        settings = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    return isinstance(settings, dict) and INCLUDE in settings


def check_syntax(path: str | Path) -> None:
    """Says where in which file YAML is not YAML; what cannot be read at all is left to who reads it.

    Raises:
        ConfigError: The file is no YAML.
    """
    try:
        yaml.safe_load(Path(path).read_text())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        raise ConfigError(f"{path}:{where} this is not YAML ({error.problem or error.context})") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return


def _composed(path: Path, within: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in within:
        raise ConfigError(f"{path}: this file includes itself, by way of {within[-1]}")
    within = (*within, path.resolve())
    settings = _mapping(path, within[-2] if len(within) > 1 else None)
    included = settings.pop(INCLUDE, None) or []
    if not isinstance(included, list) or not all(isinstance(name, str) for name in included):
        raise ConfigError(f"{path}: 'include' is {included!r}, expected a list of files")
    for group in GROUPS:
        if isinstance(settings.get(group), str) and settings[group].endswith((".yaml", ".yml")):
            settings[group] = _mapping(path.parent / settings[group], path)
    result: dict[str, Any] = {}
    for part in [*(_composed(path.parent / name, within) for name in included), settings]:
        result = _merged(result, part)
    return result


def _mapping(path: Path, named_by: Path | None) -> dict[str, Any]:
    place = f"{path} (named in {named_by})" if named_by else str(path)
    try:
        settings = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{place}: this file cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{place}: this is no YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{place}: found {type(settings).__name__}, expected keys with values")
    return settings


def _merged(base: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Both, where they have the same key the other's value."""
    result = dict(base)
    for key, value in other.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both else value
    return result
