"""Who gets which examples, on one, two and three processes."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import numpy as np
import pytest
from torch.utils.data import DistributedSampler

from halo_lightning.data.sampling import BalancedBatchSampler, BatchSampler, EpochBatchSampler, interleaved
from halo_lightning.errors import ConfigError, DataError

Batches = list[list[int]]


def epoch(number: int, examples: int, batch_size: int, world: int = 1, **options) -> list[Batches]:
    """The batches of every process."""
    samplers = [
        EpochBatchSampler(examples, batch_size, world_size=world, rank=rank, **options) for rank in range(world)
    ]
    return [batches(sampler, number) for sampler in samplers]


def batches(sampler: BatchSampler, number: int) -> Batches:
    sampler.set_epoch(number)
    result = list(sampler)
    assert len(result) == len(sampler)
    return result


def labels(desirable: int, undesirable: int) -> np.ndarray:
    """Shuffled labels, so that a class is not a range."""
    return np.random.default_rng(0).permutation(np.arange(desirable + undesirable) < desirable)


def balanced(number: int, data: np.ndarray, batch_size: int, world: int = 1, **options) -> list[Batches]:
    samplers = [BalancedBatchSampler(data, batch_size, world_size=world, rank=rank, **options) for rank in range(world)]
    return [batches(sampler, number) for sampler in samplers]


def flat(processes: list[Batches]) -> list[int]:
    return list(chain.from_iterable(chain.from_iterable(processes)))


# --- every example once -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("examples", [1, 2, 6, 12, 23, 24, 25])
def test_every_example_once_and_the_same_sizes_everywhere(world: int, examples: int) -> None:
    processes = epoch(0, examples, 2, world)
    counts = Counter(flat(processes))
    assert sorted(counts) == list(range(examples))
    assert counts.total() - examples < world
    sizes = [[len(batch) for batch in process] for process in processes]
    assert all(one == sizes[0] for one in sizes)
    if examples % world == 0:
        assert set(counts.values()) == {1}


@pytest.mark.parametrize("world", [2, 3])
def test_a_global_batch_does_not_depend_on_the_number_of_processes(world: int) -> None:
    (alone,) = epoch(5, 25, 2 * world, 1)
    together = epoch(5, 25, 2, world)
    assert [set(batch) for batch in alone[:-1]] == [set().union(*parts) for parts in zip(*together, strict=True)][:-1]
    # In order, even: process r holds the r-th part, as micro-batch r of accumulated ones.
    assert alone[:-1] == [list(chain(*parts)) for parts in zip(*together, strict=True)][:-1]
    assert set(alone[-1]) <= set().union(*(process[-1] for process in together))


@pytest.mark.parametrize(("world", "accumulate"), [(1, 4), (2, 2), (4, 1)])
@pytest.mark.parametrize("kind", ["epoch", "balanced"])
def test_accumulated_micro_batches_and_processes_are_parts_of_the_same_batch(
    world: int, accumulate: int, kind: str
) -> None:
    def parts(world: int, accumulate: int, size: int) -> list[list[list[int]]]:
        """Of each step its parts, in the order of the batch."""
        make = epoch if kind == "epoch" else balanced
        data = 70 if kind == "epoch" else labels(35, 30)
        processes = make(1, data, size, world, accumulate=accumulate)
        together = [part for micro_batch in zip(*processes, strict=True) for part in micro_batch]
        return [together[start : start + world * accumulate] for start in range(0, len(together), world * accumulate)]

    whole, divided = parts(1, 1, 16), parts(world, accumulate, 4)
    assert len(divided) == len(whole) == 5
    assert all(len(step) == 4 for step in divided)
    for step, expected in zip(divided[:-1], whole[:-1], strict=True):
        assert list(chain(*step)) == expected[0]
    # The last one, of 6 examples (2 × 3), has parts of the same size, and each of its examples.
    assert len({len(part) for part in divided[-1]}) == 1
    assert set(whole[-1][0]) <= set(chain(*divided[-1]))


def test_the_last_global_batch_is_divided_evenly() -> None:
    # 10 examples, global batches of 2 × 4: the second has 2 examples, one for each process.
    assert [[len(batch) for batch in process] for process in epoch(0, 10, 4, 2)] == [[4, 1], [4, 1]]
    # 3 left for 2 processes: 2 each, one of them again.
    first, second = epoch(0, 11, 4, 2)
    assert [len(first[1]), len(second[1])] == [2, 2]
    assert second[1][-1] == first[0][0]


def test_the_order_is_that_of_seed_and_epoch() -> None:
    assert epoch(0, 50, 8) == epoch(0, 50, 8)
    assert epoch(0, 50, 8) != epoch(1, 50, 8)
    assert epoch(0, 50, 8, seed=1) != epoch(0, 50, 8, seed=2)
    assert flat(epoch(0, 50, 8)) != list(range(50))
    # Written out: an order that a new version of this package, or of numpy, must not change unnoticed.
    assert epoch(3, 8, 4, seed=7) == [[[3, 5, 0, 4], [2, 7, 1, 6]]]


def test_a_fixed_order() -> None:
    order = np.array([3, 1, 0, 2, 4])
    assert epoch(0, 5, 2, order=order) == [[[3, 1], [0, 2], [4]]] == epoch(9, 5, 2, order=order)


def test_lightning_leaves_it_in_place() -> None:
    assert isinstance(EpochBatchSampler(4, 2), DistributedSampler)
    assert isinstance(BalancedBatchSampler(labels(2, 2), 2), DistributedSampler)


@pytest.mark.parametrize("sampler", [EpochBatchSampler(23, 4), BalancedBatchSampler(labels(13, 10), 4)])
def test_starts_in_the_middle(sampler: BatchSampler) -> None:
    whole = batches(sampler, 2)
    sampler.start_at(3)
    assert list(sampler) == whole[3:]
    sampler.start_at(0)
    assert list(sampler) == whole


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": 4, "seed": -1}])
def test_numbers_that_cannot_be(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        EpochBatchSampler(4, **options)


# --- equal halves -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("balance", ["oversample", "undersample"])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("counts", [(12, 12), (13, 5), (5, 13), (1, 9), (1, 1), (50, 3)])
def test_every_batch_of_every_process_has_equal_halves_in_turns(
    counts: tuple[int, int], world: int, balance: str
) -> None:
    data = labels(*counts)
    for number in (0, 1, 7):
        processes = balanced(number, data, 4, world, balance=balance)
        for process in processes:
            for batch in process:
                assert data[batch].tolist() == [True, False] * (len(batch) // 2)
        sizes = [[len(batch) for batch in process] for process in processes]
        assert all(one == sizes[0] for one in sizes)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_oversampling_sees_the_larger_class_once_and_the_smaller_evenly(world: int) -> None:
    data = labels(24, 10)
    seen = Counter(flat(balanced(4, data, 4, world)))
    assert {seen[example] for example in np.flatnonzero(data)} == {1}
    assert {seen[example] for example in np.flatnonzero(~data)} == {2, 3}


def test_oversampling_evens_out_over_the_epochs() -> None:
    data = labels(7, 3)
    seen = Counter(chain.from_iterable(flat(balanced(number, data, 2)) for number in range(10)))
    assert {seen[example] for example in np.flatnonzero(data)} == {10}
    assert {seen[example] for example in np.flatnonzero(~data)} == {23, 24}


def test_undersampling_takes_another_part_in_the_next_epoch() -> None:
    data = labels(30, 10)
    epochs = [flat(balanced(number, data, 4, balance="undersample")) for number in range(3)]
    for examples in epochs:
        assert len(set(examples)) == len(examples) == 20
        assert set(np.flatnonzero(~data)) <= set(examples)
    assert set().union(*epochs) == set(range(40))


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("counts", [(10, 7), (7, 10), (100, 9), (12, 12)])
def test_undersampling_repeats_nothing_where_the_larger_class_starts_again(counts: tuple[int, int], world: int) -> None:
    data = labels(*counts)
    larger, smaller = sorted((np.flatnonzero(data), np.flatnonzero(~data)), key=len, reverse=True)
    seen = Counter[int]()
    for number in range(40):
        epoch = Counter(flat(balanced(number, data, 2, world, balance="undersample")))
        fill = epoch.total() // 2 - len(smaller)  # for a last global batch that does not divide
        assert 0 <= fill < world
        if len(smaller) + fill <= len(larger):
            assert {epoch[example] for example in larger} <= {0, 1}
        assert (epoch - Counter(smaller.tolist() + larger.tolist())).total() <= 2 * fill
        assert set(smaller) <= set(epoch)
        seen += epoch
    if len(smaller) % world == 0:
        counts_of_larger = {seen[example] for example in larger}
        assert max(counts_of_larger) - min(counts_of_larger) <= 1


@pytest.mark.parametrize("world", [2, 3])
def test_balanced_global_batches_do_not_depend_on_the_number_of_processes(world: int) -> None:
    data = labels(25, 11)
    (alone,) = balanced(2, data, 4 * world, 1)
    together = balanced(2, data, 4, world)
    assert alone[:-1] == [list(chain(*parts)) for parts in zip(*together, strict=True)][:-1]


def test_balanced_order_is_that_of_seed_and_epoch() -> None:
    data = labels(20, 20)
    assert balanced(0, data, 4) == balanced(0, data, 4)
    assert balanced(0, data, 4) != balanced(1, data, 4)
    assert balanced(0, data, 4, seed=1) != balanced(0, data, 4, seed=2)


@pytest.mark.parametrize("balance", ["oversample", "undersample"])
@pytest.mark.parametrize(
    ("data", "says"), [(labels(4, 0), "4 desirable and 0 undesirable"), (labels(0, 3), "0 desirable and 3 undesirable")]
)
def test_one_kind_only_says_how_many_and_what_to_do(data: np.ndarray, says: str, balance: str) -> None:
    with pytest.raises(DataError, match=f"{says}.*add .* examples, or set balance to 'none'"):
        BalancedBatchSampler(data, 2, balance=balance)  # type: ignore[arg-type]


def test_an_odd_batch_has_no_halves() -> None:
    with pytest.raises(ConfigError, match="batch_size is 3: expected an even number"):
        BalancedBatchSampler(labels(2, 2), 3)


def test_validation_mixes_both_kinds_in_proportion() -> None:
    data = np.array([True] * 9 + [False] * 3)
    order = interleaved(data)
    assert sorted(order) == list(range(12))
    assert [int(data[order[start : start + 4]].sum()) for start in (0, 4, 8)] == [3, 3, 3]
    assert list(interleaved(np.array([True, True]))) == [0, 1]


# --- batches of similar length ------------------------------------------------------------------------------------

LENGTHS = np.random.default_rng(3).integers(1, 1000, 500)


def spread(lengths: np.ndarray, processes: list[Batches]) -> float:
    """Mean difference between the longest and the shortest example of a micro-batch."""
    return float(np.mean([np.ptp(lengths[batch]) for batch in chain.from_iterable(processes)]))


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("examples", [1, 7, 499, 500])
def test_grouped_by_length_every_example_is_seen_once(world: int, examples: int) -> None:
    processes = epoch(1, examples, 2, world, lengths=LENGTHS)
    counts = Counter(flat(processes))
    assert sorted(counts) == list(range(examples))
    assert counts.total() - examples < world
    assert epoch(1, examples, 2, world, lengths=LENGTHS) == processes
    if examples > 7:
        assert epoch(2, examples, 2, world, lengths=LENGTHS) != processes


def test_grouped_batches_are_of_similar_length_and_in_no_order_of_length() -> None:
    shuffled, sorted_by_length = epoch(0, 500, 4), epoch(0, 500, 4, lengths=LENGTHS)
    assert spread(LENGTHS, sorted_by_length) < 0.1 * spread(LENGTHS, shuffled)
    means = [LENGTHS[batch].mean() for batch in sorted_by_length[0]]
    neighbours = np.corrcoef(means[:-1], means[1:])[0, 1]
    assert abs(neighbours) < 0.3
    # Written out, as above: of the shuffled 3 5 0 4 2 7 1 6 two batches by length (0 4 5 1 and 2 6 3 7), shuffled.
    assert epoch(3, 8, 4, seed=7, lengths=np.arange(8) % 4) == [[[2, 6, 3, 7], [0, 4, 5, 1]]]


@pytest.mark.parametrize("world", [2, 4])
def test_grouped_global_batches_do_not_depend_on_the_number_of_processes(world: int) -> None:
    (alone,) = epoch(5, 500, 2 * world, 1, lengths=LENGTHS)
    together = epoch(5, 500, 2, world, lengths=LENGTHS)
    assert [set(batch) for batch in alone] == [set().union(*parts) for parts in zip(*together, strict=True)]
    samplers = [
        EpochBatchSampler(500, 2, accumulate=world // 2, world_size=2, rank=rank, lengths=LENGTHS) for rank in (0, 1)
    ]
    micro_batches = [batches(sampler, 5) for sampler in samplers]
    assert flat([together[0][:1], together[1][:1]]) == flat([micro_batches[0][:1], micro_batches[1][:1]])


def test_grouped_processes_have_about_as_many_tokens() -> None:
    first, second = epoch(0, 500, 4, 2, lengths=LENGTHS)
    tokens = [np.array([LENGTHS[batch].sum() for batch in process]) for process in (first, second)]
    assert np.abs(tokens[0] - tokens[1]).mean() < 0.03 * tokens[0].mean()


@pytest.mark.parametrize("balance", ["oversample", "undersample"])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_grouping_and_balance_work_together(world: int, balance: str) -> None:
    data = labels(300, 200)
    plain = balanced(1, data, 4, world, balance=balance)
    processes = balanced(1, data, 4, world, balance=balance, lengths=LENGTHS)
    for batch in chain.from_iterable(processes):
        assert data[batch].tolist() == [True, False] * (len(batch) // 2)
    # The same examples in the same epoch, but for the few that fill the last global batch.
    assert (Counter(flat(processes)) - Counter(flat(plain))).total() <= 2 * (world - 1)
    assert spread(LENGTHS, processes) < 0.3 * spread(LENGTHS, plain)


@pytest.mark.parametrize(
    "sampler", [EpochBatchSampler(123, 4, lengths=LENGTHS), BalancedBatchSampler(labels(63, 60), 4, lengths=LENGTHS)]
)
def test_grouped_batches_start_in_the_middle(sampler: BatchSampler) -> None:
    whole = batches(sampler, 2)
    sampler.start_at(3)
    assert list(sampler) == whole[3:]
    sampler.start_at(0)
