"""Findings: what is odd about tokenised examples, computed from arrays, so that it works for millions of them."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from halo_lightning.data.batching import TokenizedDataset

Digests = NDArray[np.uint64]
Numbers = NDArray[np.int64]

LISTED = 5
"""How many groups of examples are listed of each finding, and how many examples of a group."""

_TOKENS_AT_ONCE = 2**24
_MIX = np.uint64(0x9E3779B97F4A7C15)


class Finding(NamedTuple):
    """Examples that have something in common.

    Attributes:
        examples: How many examples it concerns.
        groups: The numbers of some of them, those that belong together in one list.
    """

    examples: int
    groups: list[list[int]]


class Fingerprints(NamedTuple):
    """What identifies prompts, and prompts with their completion: 64 bits of a hash of their tokens.

    Attributes:
        prompts: uint64 `[sequences]`; of a text without a prompt, which has a prompt of one token, that of the whole.
        wholes: uint64 `[sequences]`.
    """

    prompts: Digests
    wholes: Digests


def fingerprints(data: TokenizedDataset) -> Fingerprints:
    """The fingerprints of all sequences of a data set."""
    tokens: Any = np.ascontiguousarray(data.tokens, dtype=np.int32)
    raw = memoryview(tokens).cast("B") if len(tokens) else memoryview(b"")
    prompts, wholes = bytearray(), bytearray()
    starts = np.asarray(data.offsets) * 4
    middles = (starts[:-1] + 4 * data.prompt_lengths.astype(np.int64)).tolist()
    starts = starts.tolist()
    for number, middle in enumerate(middles):
        prompt = hashlib.blake2b(raw[starts[number] : middle], digest_size=8).digest()
        whole = hashlib.blake2b(prompt + raw[middle : starts[number + 1]], digest_size=8).digest()
        prompts += prompt if middle > starts[number] + 4 else whole
        wholes += whole
    return Fingerprints(np.frombuffer(prompts, np.uint64), np.frombuffer(wholes, np.uint64))


def duplicates(data: TokenizedDataset, found: Fingerprints) -> Finding:
    """Examples that are there already: the same prompt, the same completion (both of a pair) and the same label."""
    keys = _keys(data, found)
    if data.desirable is not None:
        keys = keys * np.uint64(2) + data.desirable.astype(np.uint64)
    numbers, counts = _numbered(keys)
    return Finding(int((counts - 1).sum()), _groups(numbers, counts > 1))


def contradictions(data: TokenizedDataset, found: Fingerprints) -> Finding:
    """Examples that say the opposite of another one.

    For unary feedback: the same prompt and completion labelled both ways. For pairs: the same two completions the
    other way round. Demonstrations cannot contradict each other.
    """
    keys = _keys(data, found)
    if data.desirable is not None:
        numbers, counts = _numbered(keys)
        desirable = np.bincount(numbers, weights=data.desirable, minlength=len(counts))
        both = (desirable > 0) & (desirable < counts)
    elif data.feedback == "paired":
        chosen, rejected = found.wholes[0::2], found.wholes[1::2]
        opposite = np.isin(keys, _paired(rejected, chosen)) & (chosen != rejected)
        numbers, counts = _numbered(np.minimum(keys, _paired(rejected, chosen)))
        both = np.zeros(len(counts), np.bool_)
        both[numbers[opposite]] = True
    else:
        return Finding(0, [])
    return Finding(int(counts[both].sum()), _groups(numbers, both))


def same_on_both_sides(data: TokenizedDataset, found: Fingerprints) -> Finding:
    """Pairs whose two completions are the same, from which nothing can be learned."""
    if data.feedback != "paired":
        return Finding(0, [])
    return _listed(found.wholes[0::2] == found.wholes[1::2])


def leakage(validation: TokenizedDataset, found: Fingerprints, of_training: Fingerprints, *, whole: bool) -> Finding:
    """Examples to validate on whose prompt is also trained on; with `whole`, whose prompt and completion are."""
    mine, theirs = (one.wholes if whole else one.prompts for one in (found, of_training))
    return _listed(_any_sequence(np.isin(mine, theirs), validation))


def prompts_of(data: TokenizedDataset, found: Fingerprints) -> NDArray[np.int64]:
    """How many examples each different prompt has."""
    return np.unique(found.prompts[:: data.per_example], return_counts=True)[1]


def cut_examples(data: TokenizedDataset, what: str) -> Finding:
    """Examples of which something was cut: `prompt_cut` or `completion_cut`."""
    if data.origins is None:
        return Finding(0, [])
    return _listed(_any_sequence(data.origins[what] > 0, data))


def ends_inside(data: TokenizedDataset, eos: int) -> Finding:
    """Examples with an end-of-sequence token before the end of a completion: the model learns to stop there."""
    if data.learned is not None:  # every turn of the assistant ends with one
        return Finding(0, [])
    places = places_of(data, eos)
    sequences = np.searchsorted(data.offsets, places, side="right") - 1
    inside = places >= data.offsets[sequences] + data.prompt_lengths[sequences]
    inside &= places < data.offsets[sequences + 1] - 1
    mask = np.zeros(len(data), np.bool_)
    mask[sequences[inside] // data.per_example] = True
    return _listed(mask)


def places_of(data: TokenizedDataset, token: int) -> Numbers:
    """Where a token is among all tokens."""
    parts = [
        np.flatnonzero(data.tokens[start : start + _TOKENS_AT_ONCE] == token) + start
        for start in range(0, len(data.tokens), _TOKENS_AT_ONCE)
    ]
    return np.concatenate([np.zeros(0, np.int64), *parts])


class Lengths(NamedTuple):
    """How long some things are, in tokens.

    Attributes:
        smallest: The shortest.
        median: Half of them are not longer.
        mean: Their mean.
        p95: 95 % of them are not longer.
        largest: The longest.
        total: Of all of them together.
        edges: Of a histogram's bins, one more than there are bins, each the first of the next bin.
        counts: How many are in each bin.
    """

    smallest: int
    median: float
    mean: float
    p95: float
    largest: int
    total: int
    edges: list[int]
    counts: list[int]

    @classmethod
    def of(cls, lengths: NDArray[Any]) -> Lengths:
        """The lengths in an array, which has at least one."""
        smallest, largest = int(lengths.min()), int(lengths.max())
        edges = nice_edges(smallest, largest)
        median, p95 = np.quantile(lengths, [0.5, 0.95], method="higher")
        counts = np.histogram(lengths, edges)[0]
        return cls(
            smallest,
            float(median),
            float(lengths.mean()),
            float(p95),
            largest,
            int(lengths.sum()),
            edges,
            counts.tolist(),
        )


def nice_edges(smallest: int, largest: int, bins: int = 12) -> list[int]:
    """Round numbers that divide a range of whole numbers into at most so many bins; the last one is beyond it."""
    width = 1
    while largest // width - smallest // width >= bins:
        width = _next_width(width)
    return list(range(smallest // width * width, (largest // width + 1) * width + 1, width))


def _next_width(width: int) -> int:
    """The next of the widths 1, 2, 5, 10, 20, 50 and so on."""
    power = 10 ** (len(str(width)) - 1)
    return {1: 2, 2: 5, 5: 10}[width // power] * power


def _keys(data: TokenizedDataset, found: Fingerprints) -> Digests:
    """One fingerprint for each example."""
    return _paired(found.wholes[0::2], found.wholes[1::2]) if data.feedback == "paired" else found.wholes


def _paired(first: Digests, second: Digests) -> Digests:
    return first * _MIX + second


def _numbered(keys: Digests) -> tuple[Numbers, Numbers]:
    """The number of each example's key among all different keys, and how often each of these occurs."""
    _, numbers, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return numbers.reshape(-1), counts


def _groups(numbers: Numbers, chosen: NDArray[np.bool_]) -> list[list[int]]:
    """Examples of the chosen keys, by key, in the order in which the keys occur first."""
    members = np.flatnonzero(chosen[numbers])
    groups: dict[int, list[int]] = {}
    for member in members.tolist():
        key = int(numbers[member])
        if key not in groups and len(groups) == LISTED:
            if all(len(group) >= 2 for group in groups.values()):
                break
            continue
        group = groups.setdefault(key, [])
        if len(group) < LISTED:
            group.append(member)
    return list(groups.values())


def _any_sequence(mask: NDArray[np.bool_], data: TokenizedDataset) -> NDArray[np.bool_]:
    """Of each example, whether something is true of any of its sequences."""
    return mask[0::2] | mask[1::2] if data.per_example == 2 else mask


def _listed(mask: NDArray[np.bool_]) -> Finding:
    """Single examples, each a group of its own."""
    numbers = np.flatnonzero(mask)
    return Finding(len(numbers), [[number] for number in numbers[:LISTED].tolist()])
