"""The order of a stream."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import numpy as np
import pytest

from halo_lightning.data.sampling import EpochBatchSampler
from halo_lightning.data.shuffling import in_turns, shuffled, steps
from halo_lightning.errors import DataError


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("size", [1, 2, 10, 99, 100, 1000])
@pytest.mark.parametrize("count", [0, 1, 100])
def test_every_item_once(size: int, count: int) -> None:
    order = list(shuffled(range(count), size, random()))
    assert sorted(order) == list(range(count))
    assert order == list(shuffled(range(count), size, random()))
    assert all(item <= place + size for place, item in enumerate(order))  # nothing comes before it was read
    if count > 1 and size > 1:
        assert order != list(shuffled(range(count), size, random(1)))


def test_a_large_buffer_shuffles_evenly() -> None:
    places = np.array([np.argsort(list(shuffled(range(6), 10, random(seed)))) for seed in range(3000)])
    # Each item is in each place a sixth of the time: 500 of 3000, with a standard deviation of 20.
    for item in range(6):
        assert np.abs(np.bincount(places[:, item], minlength=6) - 500).max() < 100


def test_only_as_many_items_as_the_buffer_holds_are_read_ahead() -> None:
    read = []

    def items():
        for item in range(1000):
            read.append(item)
            yield item

    next(iter(shuffled(items(), 10, random())))
    assert len(read) == 11


def kinds(labels: list[bool], size: int, balance: str = "oversample", seed: int = 0) -> list[tuple[int, int]]:
    return list(in_turns(range(len(labels)), lambda item: labels[item], size, random(seed), balance))  # type: ignore[arg-type]


def labels(desirable: int, undesirable: int) -> list[bool]:
    return random(5).permutation(np.arange(desirable + undesirable) < desirable).tolist()


@pytest.mark.parametrize("balance", ["oversample", "undersample"])
@pytest.mark.parametrize("counts", [(50, 50), (90, 10), (10, 90), (1, 1), (1, 30)])
def test_a_desirable_and_an_undesirable_one_in_turns(counts: tuple[int, int], balance: str) -> None:
    data = labels(*counts)
    pairs = kinds(data, 40, balance)
    assert all(data[one] and not data[other] for one, other in pairs)
    assert pairs == kinds(data, 40, balance)
    seen = Counter(chain.from_iterable(pairs))
    if balance == "undersample":
        assert set(seen.values()) == {1}
        assert len(pairs) == min(counts)
    else:
        assert set(seen) == set(range(sum(counts)))
        rarer = min((True, False), key=data.count)
        assert {seen[item] for item, kind in enumerate(data) if kind != rarer or counts[0] == counts[1]} <= {1, 2}
        assert len(pairs) <= 1.2 * max(counts) + 1


def test_of_the_rarer_kind_the_one_that_was_longest_ago_is_repeated() -> None:
    data = labels(900, 100)
    rarer = [item for _, item in kinds(data, 60)]
    assert len(rarer) == 900
    last: dict[int, int] = {}
    for place, item in enumerate(rarer):
        if item in last:
            between = set(rarer[last[item] + 1 : place])
            assert len(between) >= min(len(last), 60) - 1  # all others in memory
        last[item] = place


@pytest.mark.parametrize("balance", ["oversample", "undersample"])
def test_one_kind_alone(balance: str) -> None:
    with pytest.raises(DataError, match=r"found 5 desirable and 0 undesirable examples.*add undesirable examples, or"):
        kinds([True] * 5, 40, balance)
    with pytest.raises(DataError, match=r"the first 21 examples are 0 desirable and 21 undesirable.*shuffle_buffer"):
        kinds([False] * 100 + [True] * 100, 20, balance)


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 1), (2, 1), (3, 1), (1, 2), (2, 3)])
@pytest.mark.parametrize("examples", [1, 5, 24, 25, 47])
def test_a_step_is_divided_as_by_the_sampler(processes: int, accumulate: int, examples: int) -> None:
    parts = processes * accumulate
    mine = list(steps(range(examples), 4 * parts, parts))
    for rank in range(processes):
        sampler = EpochBatchSampler(
            examples, 4, accumulate=accumulate, order=np.arange(examples), world_size=processes, rank=rank
        )
        batches = [step[number * processes + rank] for step in mine for number in range(accumulate)]
        assert batches == list(sampler)
