"""What scores completions, and which scorer a name means."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from halo_lightning.errors import ConfigError
from halo_lightning.evaluation.judges.http import Retries
from halo_lightning.labelling.items import Item

RULES = "embedded:rules"
"""The name of the scorer that the package ships: how many of the embedded world's three criteria are met, 0 to 3."""

FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


class Scored(NamedTuple):
    """What became of a completion.

    Attributes:
        item: The completion.
        score: Its score; None where it cannot be scored.
        problem: Why it cannot.
    """

    item: Item
    score: float | None
    problem: str = ""


Keep = Callable[[list[Scored]], None]
"""Is given what is scored as soon as it is."""


class Scorer(ABC):
    """Scores completions, the higher the better."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What the scores depend on, JSON values; no secret."""

    @abstractmethod
    def score(self, items: Iterable[Item], keep: Keep) -> None:
        """Scores completions, in any order, and hands out each one when it is done.

        Raises:
            ConfigError: The scorer cannot work at all.
        """


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of this length, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def scored(item: Item, value: Any) -> Scored:
    """A completion with the value that a scorer gave, if that is a finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return Scored(item, None, f"the scorer gave {str(value)[:60]!r}, expected a finite number")
    if isinstance(value, str) or not math.isfinite(number):
        return Scored(item, None, f"the scorer gave {str(value)[:60]!r}, expected a finite number")
    return Scored(item, number)


def scorer_of(
    name: str,
    *,
    workers: int | None,
    batch_size: int,
    positive: str | None,
    score_key: str,
    key_variable: str,
    retries: Retries,
) -> Scorer:
    """The scorer that a name means; see `label` for the arguments.

    Raises:
        ConfigError: There is no such scorer.
    """
    if name.startswith("embedded:") and name != RULES:
        raise ConfigError(f"there is no embedded scorer {name!r}; the one that exists is {RULES!r}")
    if name.startswith(("http://", "https://")):
        from halo_lightning.labelling.endpoint import EndpointScorer

        return EndpointScorer(name, score_key, key_variable, retries, workers or 8)
    if name == RULES or FUNCTION.fullmatch(name):
        from halo_lightning.labelling.functions import FunctionScorer

        path = "halo_lightning.labelling.calling:rules" if name == RULES else name
        return FunctionScorer(path, workers, batch_size)
    from halo_lightning.labelling.classifier import ClassifierScorer

    return ClassifierScorer(name, batch_size, positive)
