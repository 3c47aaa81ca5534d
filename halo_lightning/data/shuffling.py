"""Shuffling a stream: the order of examples that are read one after the other, and never all in memory.

What comes out depends on what comes in and on the random numbers only, so that every process can follow the same
stream and take its own part.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Generic, Literal, TypeVar

import numpy as np

from halo_lightning.errors import DataError

T = TypeVar("T")


class _Buffer(Generic[T]):
    """Items in no order."""

    def __init__(self, random: np.random.Generator) -> None:
        self._items: list[T] = []
        self._random = random

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: T) -> None:
        self._items.append(item)

    def take(self) -> T:
        """Any of the items, which is not here any more then."""
        number = int(self._random.integers(len(self._items)))
        self._items[number], self._items[-1] = self._items[-1], self._items[number]
        return self._items.pop()


def shuffled(items: Iterable[T], size: int, random: np.random.Generator) -> Iterator[T]:
    """Every item once, each drawn from a buffer of the items that are next.

    Args:
        items: In the order in which they are read.
        size: Of the buffer, in items.
        random: Draws.
    """
    buffer = _Buffer[T](random)
    for item in items:
        buffer.add(item)
        if len(buffer) > size:
            yield buffer.take()
    while len(buffer):
        yield buffer.take()


def in_turns(
    items: Iterable[T],
    is_desirable: Callable[[T], bool],
    size: int,
    random: np.random.Generator,
    balance: Literal["oversample", "undersample"] = "oversample",
) -> Iterator[tuple[T, T]]:
    """Pairs of a desirable and an undesirable item, each drawn from a buffer of the items of its kind.

    Where the buffers are full and one kind is lacking, `oversample` takes those of it again that were seen before, the
    longest ago first, and `undersample` leaves one of the other kind out. So with `oversample` every item is seen, and
    with `undersample` none twice.

    Args:
        items: In the order in which they are read.
        is_desirable: Which kind an item is of.
        size: Of both buffers together, in items; with `oversample` as many of each kind that were seen stay in memory.
        random: Draws.
        balance: `oversample` or `undersample`.

    Raises:
        DataError: The buffers are full of one kind, or all items are of one kind.
    """
    buffers = {kind: _Buffer[T](random) for kind in (True, False)}
    seen: dict[bool, deque[T]] = {kind: deque(maxlen=size) for kind in (True, False)}

    def drawn(kind: bool) -> T:
        item = buffers[kind].take() if len(buffers[kind]) else seen[kind].popleft()
        if balance == "oversample":
            seen[kind].append(item)
        return item

    met = {True: False, False: False}

    def pairs(left: int) -> Iterator[tuple[T, T]]:
        while len(buffers[True]) + len(buffers[False]) > left:
            if not all(met.values()):
                raise DataError(_one_kind(len(buffers[True]), len(buffers[False]), whole=not left))
            lacking = next((kind for kind in (True, False) if not len(buffers[kind])), None)
            if lacking is not None and balance == "undersample":
                buffers[not lacking].take()
            else:
                yield drawn(True), drawn(False)

    for item in items:
        kind = is_desirable(item)
        met[kind] = True
        buffers[kind].add(item)
        yield from pairs(size)
    yield from pairs(0)


def _one_kind(desirable: int, undesirable: int, *, whole: bool) -> str:
    found = f"{desirable} desirable and {undesirable} undesirable examples"
    lacking = "undesirable" if desirable else "desirable"
    if whole:
        return (
            f"found {found}, and batches with as many of each need both: add {lacking} examples, or set balance to"
            " 'none'"
        )
    return (
        f"the first {desirable + undesirable} examples are {found}, and batches with as many of each need both: raise"
        " shuffle_buffer, mix the files, or set balance to 'none'"
    )


def steps(units: Iterable[T], size: int, parts: int) -> Iterator[list[list[T]]]:
    """What is in each optimizer step, cut into equal parts.

    The last step has what is left. Where that does not divide by the number of parts, the first units fill it.

    Args:
        units: In the order in which they are used.
        size: Units in a step; a multiple of `parts`.
        parts: Micro-batches in a step, of all processes together.
    """
    stream = iter(units)
    first: list[T] = []
    while step := list(islice(stream, size)):
        first = first or step[: parts - 1]
        each = -(-len(step) // parts)
        while len(step) < each * parts:
            step += islice(chain(first or step), each * parts - len(step))
        yield [step[part * each : (part + 1) * each] for part in range(parts)]
