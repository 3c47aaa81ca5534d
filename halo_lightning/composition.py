"""Configurations that are composed of parts.

A configuration, or a part, may name others under `include`, relative to itself:

    include: [parts/archangel/kto.yaml, parts/models/llama13b.yaml]

They are merged in that order, key by key, and what stands beside `include` comes last and wins. A list is a value: it
is replaced, not continued. Where a group (`model`, `data`, `trainer`) is the path of a file, as LightningCLI knows it,
that file is the group, and keys of it may be set as well, which LightningCLI alone cannot do.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from halo_lightning.errors import ConfigError
from halo_lightning.files import why_no_file

LARGEST = 2**18
"""Bytes of a configuration at most."""
MOST_NODES, DEEPEST = 5_000, 60
"""Values in a configuration at most, what aliases repeat counted each time; and how deep they may be nested."""

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


def read_yaml(path: str | Path, named_by: Path | None = None) -> Any:
    """A file of YAML, read in bounded time and memory, with no tag that makes objects.

    Args:
        path: The file.
        named_by: The file that names it, for messages.

    Raises:
        ConfigError: It is missing, too large, too deeply nested, or no YAML.
    """
    file = Path(path)
    place = f"{path} (named in {named_by})" if named_by else str(path)
    try:
        if (why := why_no_file(file)) is not None:
            raise ConfigError(f"{place}: {why}")
        with file.open("rb") as stream:
            content = stream.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ConfigError(f"{place}: found more than {LARGEST:,} bytes, which no configuration has")
        text = content.decode()
        _check_size(yaml.compose(text, Loader=yaml.SafeLoader), place)
        return yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"{place}: this file cannot be read ({error.strerror})") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        raise ConfigError(f"{place}:{where} this is not YAML ({error.problem or error.context})") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{place}: this is not YAML: {error}") from error
    except (RecursionError, ValueError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise ConfigError(f"{place}: this is not YAML that can be used: {reason}") from error


def _check_size(root: Any, place: str) -> None:
    """Refuses what would become more than it looks like: aliases of aliases, a value in itself."""
    sizes: dict[int, int] = {}

    def size(node: Any, within: tuple[int, ...]) -> int:
        if id(node) in within:
            raise ConfigError(f"{place}: found a value that contains itself")
        if len(within) > DEEPEST:
            raise ConfigError(f"{place}: found values nested more than {DEEPEST} deep")
        if id(node) not in sizes:
            children: list[Any] = []
            if isinstance(node, yaml.MappingNode):
                keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
                if twice := next((key for key, count in Counter(keys).items() if count > 1), None):
                    line = node.start_mark.line + 1
                    raise ConfigError(f"{place}: found the key {twice!r} twice in what starts in line {line}")
                children = [child for pair in node.value for child in pair]
            elif isinstance(node, yaml.SequenceNode):
                children = node.value
            sizes[id(node)] = 1 + sum(size(child, (*within, id(node))) for child in children)
        return sizes[id(node)]

    if root is not None and size(root, ()) > MOST_NODES:
        raise ConfigError(f"{place}: found aliases that make more than {MOST_NODES:,} values of it")


def is_composed(path: str | Path) -> bool:
    """Whether a file is a configuration that includes others; what is no readable YAML mapping is none."""
    try:
        settings = read_yaml(path)
    except ConfigError:
        return False
    return isinstance(settings, dict) and INCLUDE in settings


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
    settings = read_yaml(path, named_by)
    if not isinstance(settings, dict):
        place = f"{path} (named in {named_by})" if named_by else str(path)
        raise ConfigError(f"{place}: found {type(settings).__name__}, expected keys with values")
    return settings


def _merged(base: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Both, where they have the same key the other's value."""
    result = dict(base)
    for key, value in other.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both else value
    return result
