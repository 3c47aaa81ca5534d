"""Sampling: which examples make up which batch, on which process, in which epoch.

A sampler yields micro-batches, as lists of example numbers. What is in an optimizer step depends on (seed, epoch) and
on the size of the *global* batch (micro-batch × processes × accumulated ones) only: it is cut into as many parts as
there are micro-batches in it, process after process in the first of the accumulated ones, then in the second one. So
W processes with micro-batches of b are the same as one process with W accumulated ones of b, or with one of W·b. Every
process gets the same number of micro-batches of the same sizes, and the last global batch of an epoch is divided
evenly, too. Where it does not divide, a few more examples (fewer than there are parts) fill it up.

The samplers are `DistributedSampler`s, so Lightning leaves them in place where several processes run, and tells them
the epoch. They are used as `DataLoader(dataset, sampler=sampler, batch_size=None)`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import distributed
from torch.utils.data import DistributedSampler, SequentialSampler

from halo_lightning.errors import ConfigError, DataError

Balance = Literal["oversample", "undersample", "none"]

Indices = NDArray[np.int64]

GROUPED = 50
"""Global batches whose examples are sorted by length together: enough for batches of similar length, few enough for
every epoch to have others."""


class BatchSampler(DistributedSampler[list[int]]):
    """Micro-batches of example numbers for one process.

    Args:
        batch_size: Examples in a micro-batch of one process.
        accumulate: Micro-batches of a process in a global batch, that is, in an optimizer step.
        seed: Of the order.
        world_size: How many processes there are; None asks torch.distributed.
        rank: Which one this is; None asks torch.distributed.
    """

    def __init__(
        self,
        batch_size: int,
        *,
        accumulate: int = 1,
        seed: int = 1,
        world_size: int | None = None,
        rank: int | None = None,
    ) -> None:
        for name, value, low in (("batch_size", batch_size, 1), ("accumulate", accumulate, 1), ("seed", seed, 0)):
            if value < low:
                raise ConfigError(f"{name} is {value}: expected {low} or more")
        running = distributed.is_available() and distributed.is_initialized()
        # DistributedSampler's own constructor wants a data set; these are the attributes that others read.
        self.num_replicas = world_size if world_size is not None else distributed.get_world_size() if running else 1
        self.rank = rank if rank is not None else distributed.get_rank() if running else 0
        self.seed = seed
        self.epoch = 0
        self.batch_size = batch_size
        self.accumulate = accumulate
        self._start = 0

    @property
    def global_batch_size(self) -> int:
        """Examples in an optimizer step, of all processes together."""
        return self.batch_size * self.parts

    @property
    def parts(self) -> int:
        """Micro-batches in an optimizer step, of all processes together."""
        return self.num_replicas * self.accumulate

    def start_at(self, batch: int) -> None:
        """Lets iterations begin with this micro-batch of the epoch, until told otherwise."""
        self._start = batch

    def __iter__(self) -> Iterator[list[int]]:
        return self._batches(self.epoch, self._start)

    @abstractmethod
    def __len__(self) -> int:
        """The number of micro-batches in an epoch, the same on every process."""

    @abstractmethod
    def _batches(self, epoch: int, start: int) -> Iterator[list[int]]:
        """The micro-batches of an epoch from number `start` on."""

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """What has to be the same for an epoch that was left in the middle to be continued."""

    def _share(self, length: int, global_size: int, batch: int) -> tuple[int, int]:
        """Where this process's part of a global batch starts and ends, among `length` ordered examples.

        The end may lie beyond `length`, in the last global batch, by less than the number of parts.
        """
        step, micro_batch = divmod(batch, self.accumulate)
        start = step * global_size
        remaining = min(global_size, length - start)
        size = -(-remaining // self.parts)
        part = micro_batch * self.num_replicas + self.rank
        return start + part * size, start + (part + 1) * size


class EpochBatchSampler(BatchSampler):
    """Every example once an epoch, shuffled anew in every epoch.

    Where the last global batch does not divide by the number of its parts, the first examples of the epoch fill it.

    Args:
        examples: How many examples there are.
        batch_size: Examples in a micro-batch of one process.
        accumulate: Micro-batches of a process in a global batch.
        seed: Of the order.
        order: A fixed order of the examples, instead of a shuffled one.
        lengths: Length of each example, where those of a batch are to have similar lengths: see `grouped`.
        world_size: How many processes there are; None asks torch.distributed.
        rank: Which one this is; None asks torch.distributed.
    """

    def __init__(
        self,
        examples: int,
        batch_size: int,
        *,
        accumulate: int = 1,
        seed: int = 1,
        order: Indices | None = None,
        lengths: NDArray[Any] | None = None,
        world_size: int | None = None,
        rank: int | None = None,
    ) -> None:
        super().__init__(batch_size, accumulate=accumulate, seed=seed, world_size=world_size, rank=rank)
        self.examples = examples
        self.order = order
        self.lengths = lengths

    def __len__(self) -> int:
        return -(-self.examples // self.global_batch_size) * self.accumulate

    def fingerprint(self) -> dict[str, Any]:
        """Number of examples, size of the global batch, seed."""
        return {
            "examples": self.examples,
            "global_batch_size": self.global_batch_size,
            "group_by_length": self.lengths is not None,
            "seed": self.seed,
        }

    def _batches(self, epoch: int, start: int) -> Iterator[list[int]]:
        if self.order is not None:
            order = self.order
        else:
            random = np.random.default_rng([self.seed, epoch])
            order = random.permutation(self.examples)
            if self.lengths is not None:
                order = grouped(order, self.lengths, self.global_batch_size, self.parts, random)
        for batch in range(start, len(self)):
            first, end = self._share(self.examples, self.global_batch_size, batch)
            yield order.take(range(first, end), mode="wrap").tolist()


class BalancedBatchSampler(BatchSampler):
    """Batches of unary feedback with as many desirable as undesirable examples, in turns, on every process.

    Each class is an endless sequence in which all of its examples come before one comes again, and an epoch takes the
    next part of both. So any two examples of a class have been seen equally often, give or take one.

    With `oversample` an epoch is as long as the larger class: every example of that class is seen once, and those of
    the smaller one over again. With `undersample` it is as long as the smaller class, no example is in it twice, and
    the rest of the larger one waits for the next epoch. Where the last global batch does not divide by the number of
    its parts, the smaller class has nothing but examples of this epoch to fill it with.

    Args:
        desirable: bool `[examples]`.
        batch_size: Examples in a micro-batch of one process; an even number.
        accumulate: Micro-batches of a process in a global batch.
        balance: `oversample` or `undersample`.
        seed: Of the order.
        lengths: Length of each example, where those of a batch are to have similar lengths: see `grouped`. Both
            classes are sorted alike.
        world_size: How many processes there are; None asks torch.distributed.
        rank: Which one this is; None asks torch.distributed.

    Raises:
        ConfigError: The batch size is odd.
        DataError: One of the classes is empty.
    """

    def __init__(
        self,
        desirable: NDArray[np.bool_],
        batch_size: int,
        *,
        accumulate: int = 1,
        balance: Literal["oversample", "undersample"] = "oversample",
        seed: int = 1,
        lengths: NDArray[Any] | None = None,
        world_size: int | None = None,
        rank: int | None = None,
    ) -> None:
        super().__init__(batch_size, accumulate=accumulate, seed=seed, world_size=world_size, rank=rank)
        check_even(batch_size)
        self.lengths = lengths
        self.classes = [np.flatnonzero(desirable), np.flatnonzero(~desirable)]
        self.balance = balance
        counts = [len(members) for members in self.classes]
        if not all(counts):
            raise DataError(
                f"the training data has {counts[0]} desirable and {counts[1]} undesirable examples, and batches with"
                f" as many of each need both: add {'undesirable' if counts[0] else 'desirable'} examples, or set"
                " balance to 'none' (the KL of one half is then estimated from nothing, and taken as 0)"
            )
        self.each = max(counts) if balance == "oversample" else min(counts)

    def __len__(self) -> int:
        return -(-self.each // (self.global_batch_size // 2)) * self.accumulate

    def fingerprint(self) -> dict[str, Any]:
        """Sizes of the classes and of the global batch, balance, seed."""
        return {
            "desirable": len(self.classes[0]),
            "undesirable": len(self.classes[1]),
            "balance": self.balance,
            "global_batch_size": self.global_batch_size,
            "group_by_length": self.lengths is not None,
            "seed": self.seed,
        }

    def _batches(self, epoch: int, start: int) -> Iterator[list[int]]:
        half = self.global_batch_size // 2
        part = self._part_of_rounds if self.balance == "oversample" else self._part_of_a_circle
        desirable, undesirable = part(0, epoch), part(1, epoch)
        if self.lengths is not None:
            for sequence in (desirable, undesirable):
                alike = np.random.default_rng([self.seed, 2, epoch])
                sequence[: self.each] = grouped(sequence[: self.each], self.lengths, half, self.parts, alike)
        for batch in range(start, len(self)):
            first, end = self._share(self.each, half, batch)
            yield np.stack([desirable[first:end], undesirable[first:end]], axis=1).reshape(-1).tolist()

    def _part_of_rounds(self, which: int, epoch: int) -> Indices:
        """The part of a class that an epoch takes of rounds which are shuffled anew, one after the other.

        It is a few longer than the epoch, for a last global batch that does not divide by the number of its parts.
        """
        members, start, length = self.classes[which], epoch * self.each, self.each + self.parts - 1
        rounds = range(start // len(members), (start + length - 1) // len(members) + 1)
        sequence = np.concatenate(
            [np.random.default_rng([self.seed, which, number]).permutation(members) for number in rounds]
        )
        offset = start - rounds[0] * len(members)
        return sequence[offset : offset + length]

    def _part_of_a_circle(self, which: int, epoch: int) -> Indices:
        """The same of one shuffled order that is gone round and round; the part itself is shuffled anew.

        Two rounds that were shuffled independently could meet in an epoch, with the same example in both of them.
        """
        members, start, length = self.classes[which], epoch * self.each, self.each + self.parts - 1
        circle = np.random.default_rng([self.seed, 3, which]).permutation(members)
        part: Indices = circle.take(range(start, start + length), mode="wrap")
        part[: self.each] = np.random.default_rng([self.seed, which, epoch]).permutation(part[: self.each])
        return part


def grouped(order: Indices, lengths: NDArray[Any], batch: int, parts: int, random: np.random.Generator) -> Indices:
    """An order with examples of similar length in each global batch, and about as many tokens in each of its parts.

    Fifty global batches at a time are sorted, cut into batches, and these are shuffled. Examples stay among those fifty
    batches that a shuffled order has put them in.

    Args:
        order: Examples in shuffled order.
        lengths: Length of each example.
        batch: Examples in a global batch.
        parts: Micro-batches in a global batch.
        random: Shuffles the batches.
    """
    result = np.empty_like(order)
    for start in range(0, len(order), GROUPED * batch):
        block = order[start : start + GROUPED * batch]
        block = block[np.argsort(lengths[block], kind="stable")]
        whole = len(block) // batch * batch
        # Of every `parts` neighbours in length each part gets one.
        batches = block[:whole].reshape(-1, batch // parts, parts).swapaxes(1, 2).reshape(-1, batch)
        result[start : start + whole] = batches[random.permutation(len(batches))].reshape(-1)
        result[start + whole : start + len(block)] = block[whole:]
    return result


def check_even(batch_size: int) -> None:
    """Refuses a batch that cannot have equal halves.

    Raises:
        ConfigError: The batch size is odd.
    """
    if batch_size % 2:
        raise ConfigError(
            f"batch_size is {batch_size}: expected an even number, because every batch has as many desirable as"
            " undesirable examples (or set balance to 'none')"
        )


class FixedEpochSampler(DistributedSampler[list[int]], SequentialSampler):
    """The batches of one epoch of another sampler, in every epoch.

    It is a `SequentialSampler` in name too, because Lightning replaces any other one under `overfit_batches`.

    Args:
        sampler: The other one, with its epoch set.
    """

    def __init__(self, sampler: BatchSampler) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[list[int]]:  # type: ignore[override]
        return iter(self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """Changes nothing."""


def interleaved(desirable: NDArray[np.bool_]) -> Indices:
    """All examples of unary feedback once, both classes spread evenly, each in its own order.

    So every batch has both kinds in about the proportion of the whole.
    """
    places = np.empty(len(desirable))
    for members in (np.flatnonzero(desirable), np.flatnonzero(~desirable)):
        places[members] = (np.arange(len(members)) + 0.5) / max(len(members), 1)
    return np.argsort(places, kind="stable")
