"""Selection: which examples of each source are kept, and the mixture of several sources.

What is drawn at random is drawn once, by a seed, from examples that were counted in a first pass over the source. So
the fractions are exact, and the same configuration gives the same examples in the same order. Memory holds nine bytes
an example for it.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halo_lightning.data.conversion import prompt_key
from halo_lightning.data.feedback import Example, Feedback, Unary, known_by
from halo_lightning.data.reading import SourceReader
from halo_lightning.data.sources.bad_rows import BadRows
from halo_lightning.data.sources.config import KeepPrompt, Source
from halo_lightning.data.sources.left_out import LeftOut
from halo_lightning.errors import ConfigError, DataError


@dataclass
class _Counted:
    """The examples of a source, as far as a selection has to know them."""

    prompts: NDArray[np.uint64]
    desirable: NDArray[np.bool_]
    keep: NDArray[np.bool_]
    lost: dict[str, int]

    def drop(self, dropped: NDArray[np.int64], reason: str) -> None:
        self.keep[dropped] = False
        self.lost[reason] = len(dropped)


class Mixture:
    """The examples of several sources.

    If no source has a weight, they follow each other as they are listed. With weights, no example is repeated: each
    source gives the largest number of examples with which the shares are right, drawn at random, and the sources are
    interleaved so that every part of the mixture has the shares of the whole.

    Args:
        sources: The sources.
        feedback: The kind of feedback that is wanted.
        seed: Of what is drawn at random, for sources that have no seed of their own.
        keep_prompt: Which part of a prompt stays where it has to be cut, for sources that do not say.

    Attributes:
        left_out: For each source, the rows that gave no example.
        notes: What the selection left out, one line for each source that has one.
    """

    def __init__(
        self,
        sources: Iterable[str | Source],
        feedback: Feedback,
        seed: int = 1,
        keep_prompt: KeepPrompt | None = None,
    ) -> None:
        self.readers = [SourceReader(Source.of(source), feedback, seed, keep_prompt) for source in sources]
        self.left_out: dict[str, LeftOut] = {}
        self.notes: list[str] = []
        for reader in self.readers:
            source = reader.source
            if feedback != "unary" and (source.keep_desirable, source.keep_undesirable) != (1.0, 1.0):
                raise ConfigError(
                    f"{source}: keep_desirable and keep_undesirable are for unary feedback, and {feedback} feedback is"
                    " wanted; expected them not to be set"
                )

    def examples(self, bad: BadRows) -> Iterator[Example]:
        """Reads the sources.

        Args:
            bad: What happens to a row that cannot be used.
        """
        counted = [self._count(reader, bad) for reader in self.readers]
        if any(reader.source.weight is not None for reader in self.readers):
            self._share(counted)
        streams = [self._selected(*pair, bad) for pair in zip(self.readers, counted, strict=True)]
        for reader, counts in zip(self.readers, counted, strict=True):
            if counts is not None and counts.lost:
                reasons = ", ".join(f"{reason} left out {count}" for reason, count in counts.lost.items())
                self.notes.append(
                    f"{reader.source}: {int(counts.keep.sum())} of {len(counts.keep)} examples are kept ({reasons})"
                )
        if all(reader.source.weight is None for reader in self.readers):
            return itertools.chain.from_iterable(streams)
        return _interleaved(streams, [int(counts.keep.sum()) for counts in counted if counts is not None])

    def _count(self, reader: SourceReader, bad: BadRows) -> _Counted | None:
        """A first pass over a source that needs one, and the selection within it."""
        source = reader.source
        whole = source.keep_desirable == source.keep_undesirable == 1 and not source.one_per_prompt
        if whole and all(other.source.weight is None for other in self.readers):
            return None
        prompts, desirable = [], []
        for example in reader.examples(LeftOut(), bad.quiet()):
            digest = hashlib.blake2b(prompt_key(known_by(example)).encode(), digest_size=8).digest()
            prompts.append(np.frombuffer(digest, dtype=np.uint64)[0])
            desirable.append(not isinstance(example, Unary) or example.desirable)
        counts = _Counted(
            np.array(prompts, dtype=np.uint64),
            np.array(desirable, dtype=np.bool_),
            np.ones(len(prompts), dtype=np.bool_),
            {},
        )
        random = np.random.default_rng(reader.seed)
        if source.one_per_prompt:
            order = random.permutation(len(prompts))
            _, first = np.unique(counts.prompts[order], return_index=True)
            others = np.setdiff1d(np.arange(len(prompts)), order[first])
            counts.drop(others, "one_per_prompt")
        for name, fraction, kind in (
            ("keep_desirable", source.keep_desirable, counts.desirable),
            ("keep_undesirable", source.keep_undesirable, ~counts.desirable),
        ):
            if fraction < 1:
                mine = np.flatnonzero(counts.keep & kind)
                dropped = random.permutation(mine)[round(fraction * len(mine)) :]
                counts.drop(dropped, f"{name}={fraction:g}")
        return counts

    def _share(self, counted: list[_Counted | None]) -> None:
        """Leaves each source as many examples as its share of the largest mixture."""
        weights = [1.0 if reader.source.weight is None else reader.source.weight for reader in self.readers]
        numbers = [int(counts.keep.sum()) for counts in counted if counts is not None]
        for reader, number in zip(self.readers, numbers, strict=True):
            if not number:
                raise DataError("found no example to mix, expected some", file=str(reader.source))
        unit = min(number / weight for number, weight in zip(numbers, weights, strict=True))
        for reader, counts, weight in zip(self.readers, counted, weights, strict=True):
            assert counts is not None
            mine = np.flatnonzero(counts.keep)
            share = max(1, int(unit * weight + 1e-9))
            if share < len(mine):
                # A stream of its own, so that the draw does not depend on the selections before it.
                dropped = np.random.default_rng([reader.seed, 1]).permutation(mine)[share:]
                counts.drop(dropped, f"its share ({weight:g} of {sum(weights):g})")

    def _selected(self, reader: SourceReader, counts: _Counted | None, bad: BadRows) -> Iterator[Example]:
        name, number = str(reader.source), 2
        while name in self.left_out:
            name, number = f"{reader.source} ({number})", number + 1
        left_out = self.left_out[name] = LeftOut()
        examples = reader.examples(left_out, bad)
        return examples if counts is None else itertools.compress(examples, counts.keep)


def _interleaved(streams: list[Iterator[Example]], numbers: list[int]) -> Iterator[Example]:
    """Several streams as one, each spread evenly over the whole.

    Example:
        Four examples `a` and two `b` give a, b, a, a, b, a.
    """

    def positions(stream: Iterator[Example], number: int, index: int) -> Iterator[tuple[float, int, Example]]:
        for count, example in enumerate(stream):
            yield (count + 0.5) / number, index, example

    spread = [
        positions(stream, number, index) for index, (stream, number) in enumerate(zip(streams, numbers, strict=True))
    ]
    return (example for _, _, example in heapq.merge(*spread, key=lambda entry: entry[:2]))
