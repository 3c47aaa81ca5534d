"""Random choices that come out the same under every Python version and on every machine.

Python promises the sequence of `random.Random(seed).random()` and nothing more: how `choice` or `shuffle`
use it may change. Everything random in the world goes through the functions here, which use it alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def stream(*name: object) -> random.Random:
    """A generator of its own for everything that has a name of its own.

    Args:
        name: What the generator is for, such as `("pairs", seed, 17)`; its text is the seed.
    """
    return random.Random("/".join(str(part) for part in name))


def chance(rng: random.Random, probability: float) -> bool:
    """True with the given probability."""
    return rng.random() < probability


def pick(rng: random.Random, options: Sequence[T]) -> T:
    """One of the options, each equally likely."""
    return options[int(rng.random() * len(options))]


def shuffled(rng: random.Random, options: Sequence[T]) -> list[T]:
    """All options in random order."""
    order = sorted((rng.random(), position) for position in range(len(options)))
    return [options[position] for _, position in order]
