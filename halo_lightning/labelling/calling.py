"""Calling a scorer's function; imports nothing heavy, since every process of the scorer imports this."""

from __future__ import annotations

import inspect
import os
import sys
from functools import lru_cache
from importlib import import_module
from typing import Any

from halo_lightning.errors import ConfigError
from halo_lightning.trust import check_trusted

Answers = list[tuple[Any, str]]
"""A value, or why there is none, for each completion."""


def look_here(path: list[str]) -> None:
    """Lets modules be found where the first process finds them."""
    sys.path[:] = path


@lru_cache(maxsize=1)
def load(path: str) -> Any:
    """The function with this path.

    Raises:
        ConfigError: There is none, or it is not trusted.
    """
    check_trusted(path.replace(":", "."))
    name, function = path.split(":")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = import_module(name)
        for part in function.split("."):
            found = getattr(found, part)
    except Exception as error:  # a module is a program of somebody else, and can fail in any way
        raise ConfigError(f"scorer {path}: cannot be imported ({type(error).__name__}: {error})") from error
    if not callable(found):
        raise ConfigError(f"scorer {path}: found {type(found).__name__}, expected a function of prompt and completion")
    return found


def answers(path: str, pairs: list[tuple[Any, str]]) -> Answers:
    """What a function says of prompts with their completions."""
    function = load(path)
    if takes_lists(function):
        try:
            values = list(function(prompts=[prompt for prompt, _ in pairs], completions=[text for _, text in pairs]))
            if len(values) == len(pairs):
                return [(_number(value), "") for value in values]
            problem = f"the scorer gave {len(values)} scores for {len(pairs)} completions, expected as many"
        except Exception as error:
            problem = _said(error)
        # One by one, so that it is known which of them it is.
        return [(None, problem)] if len(pairs) == 1 else [one for pair in pairs for one in answers(path, [pair])]
    given: Answers = []
    for prompt, completion in pairs:
        try:
            given.append((_number(function(prompt, completion)), ""))
        except Exception as error:
            given.append((None, _said(error)))
    return given


def takes_lists(function: Any) -> bool:
    """Whether a function wants lists of prompts and completions."""
    try:
        return {"prompts", "completions"} <= inspect.signature(function).parameters.keys()
    except (TypeError, ValueError):
        return False


def _number(value: Any) -> Any:
    """A number as Python has it, so that no array or tensor travels between processes; anything else as it is."""
    item = getattr(value, "item", None)
    return item() if callable(item) else value


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return f"the scorer failed ({type(error).__name__}{f': {text}' if text else ''})"


def rules(prompt: Any, completion: str) -> int:
    """How many of the embedded world's three criteria a completion meets."""
    from halo_lightning.world import judge

    return judge(prompt, completion).score
