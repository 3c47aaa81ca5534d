"""Streaming: batches made while the sources are read, for data that is neither to be kept on disk nor in memory.

Every process reads all rows, in the same order, through the same shuffle buffer; so all of them know what is in every
optimizer step, without a word to each other. Rendering and tokenising, which take most of the time, each does for its
own part of a step alone, and so does each of its data-loading workers for its own batches. The batches depend on
(seed, epoch) and on the size of an optimizer step only, as those of `sampling` do.

Where an example turns out to be unusable when its tokens are made, another one of its batch, of the same label, takes
its place: the processes have as many examples as ever, and what was replaced is counted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, cycle
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from halo_lightning.data.batches import Batch
from halo_lightning.data.batching import TokenizedDatasetBuilder
from halo_lightning.data.division import Division
from halo_lightning.data.feedback import Example, Unary
from halo_lightning.data.loading import rescaled
from halo_lightning.data.preparation import Encoder, Preparation, Prepared, Tokenized, add
from halo_lightning.data.sampling import Balance
from halo_lightning.data.shuffling import in_turns, shuffled, steps
from halo_lightning.data.sources.bad_rows import BadRows, OnBadRow
from halo_lightning.data.summary import notes_of
from halo_lightning.errors import ConfigError, DataError


class Numbered(NamedTuple):
    """An example with its number in the order in which it is read."""

    number: int
    example: Example


@dataclass(frozen=True)
class Stream:
    """What is streamed, to whom, in which order.

    Args:
        preparation: What is to be made of which sources.
        tokenizer: A tokenizer that went through `prepare_tokenizer`.
        division: How an optimizer step is divided.
        rank: Which process this is.
        shuffle_buffer: Examples in memory, among which the next one is drawn.
        balance: Whether every batch has as many desirable as undesirable examples, for unary feedback: see `in_turns`;
            `none` for any other.
        share_prompts: Whether a prompt that occurs several times in a batch is computed once.
        on_bad_row: What happens to a row that cannot be used.
        bad_rows_file: The file that skipped rows are listed in.
    """

    preparation: Preparation
    tokenizer: Any
    division: Division
    rank: int = 0
    shuffle_buffer: int = 10_000
    balance: Balance = "none"
    share_prompts: bool = True
    on_bad_row: OnBadRow = "error"
    bad_rows_file: Path | None = None

    def steps(self, examples: Iterable[Example], epoch: int) -> Iterator[list[list[Numbered]]]:
        """The examples of each part of each optimizer step."""
        random = np.random.default_rng([self.preparation.seed, epoch])
        numbered = (Numbered(number, example) for number, example in enumerate(examples))
        units: Iterable[tuple[Numbered, ...]]
        if self.balance == "none":
            units = ((one,) for one in shuffled(numbered, self.shuffle_buffer, random))
        else:
            units = in_turns(numbered, _is_desirable, self.shuffle_buffer, random, self.balance)
        each = 1 if self.balance == "none" else 2
        parts = self.division.accumulate * self.division.processes
        for step in steps(units, self.division.batch_size // each, parts):
            yield [list(chain.from_iterable(part)) for part in step]

    def fingerprint(self) -> dict[str, Any]:
        """What has to be the same for an epoch that was left in the middle to be continued."""
        return {
            "sources": [str(source) for source in self.preparation.sources],
            "global_batch_size": self.division.batch_size,
            "shuffle_buffer": self.shuffle_buffer,
            "balance": self.balance,
            "seed": self.preparation.seed,
        }


@dataclass
class StreamReport:
    """What came of an epoch, as far as one worker knows; the last thing that it hands out."""

    prepared: Prepared
    replaced: int = 0
    unusable: list[BadRows] = field(default_factory=list)


class StreamedDataset(IterableDataset[Batch | StreamReport | DataError]):
    """The micro-batches of one process in one epoch, from one on; then, of each worker, a report, or what stopped it.

    Args:
        stream: What is streamed.

    Attributes:
        epoch: The epoch.
        start: The micro-batch to begin with.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.epoch = self.start = 0

    def __iter__(self) -> Iterator[Batch | StreamReport | DataError]:
        worker = get_worker_info()
        mine, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        try:
            yield from self._batches(mine, workers)
        except DataError as error:
            yield error  # raised by a worker, it would come with torch's traceback in its message

    def _batches(self, mine: int, workers: int) -> Iterator[Batch | StreamReport]:
        stream = self.stream
        encoder = Encoder(stream.tokenizer, stream.preparation.limits, all_turns=stream.preparation.all_turns)
        # All workers meet the rows that cannot be read, and one of them lists those; each lists what it alone meets.
        bad = BadRows(stream.on_bad_row, stream.bad_rows_file if mine == 0 else None)
        file = stream.bad_rows_file
        unusable = bad if mine == 0 else BadRows(stream.on_bad_row, file and file.with_suffix(f".{mine}{file.suffix}"))
        mixture = stream.preparation.mixture()
        report = StreamReport(Prepared(encoder.truncation, mixture.left_out, mixture.notes, bad))
        if unusable is not bad:
            report.unusable.append(unusable)
        accumulate, processes = stream.division.accumulate, stream.division.processes
        number = -1
        for step in stream.steps(mixture.examples(bad), self.epoch):
            for micro_batch in range(accumulate):
                number += 1
                if number >= self.start and (number - self.start) % workers == mine:
                    part = step[micro_batch * processes + stream.rank]
                    yield self._batch(part, encoder, unusable, report)
        if number < 0:
            raise DataError(_nothing(report.prepared))
        yield report

    def _batch(self, part: list[Numbered], encoder: Encoder, bad: BadRows, report: StreamReport) -> Batch:
        tokenized: list[Tokenized | None] = [None] * len(part)
        made = encoder([one.example for one in part], bad)
        waiting = enumerate(part)
        for done in made:  # in the order of the part, without those that cannot be used
            place = next(place for place, one in waiting if one.example is done[0])
            tokenized[place] = done
        usable = [(one, done) for one, done in zip(part, tokenized, strict=True) if done is not None]
        if len(usable) < len(part):
            report.replaced += len(part) - len(usable)
            usable = _filled(part, usable)
        builder = TokenizedDatasetBuilder(self.stream.preparation.feedback)
        add(builder, [done for _, done in usable])
        dataset = builder.build()
        dataset.share_prompts = self.stream.share_prompts
        batch = dataset[range(len(usable))]
        return batch._replace(index=torch.tensor([one.number for one, _ in usable]))


def _is_desirable(one: Numbered) -> bool:
    assert isinstance(one.example, Unary)
    return one.example.desirable


def _filled(part: list[Numbered], usable: list[tuple[Numbered, Tokenized]]) -> list[tuple[Numbered, Tokenized]]:
    """A batch in which others of the same label stand for the examples that cannot be used."""
    by_label: dict[bool | None, list[tuple[Numbered, Tokenized]]] = {}
    for entry in usable:
        by_label.setdefault(_label(entry[0]), []).append(entry)
    own = {entry[0].number: entry for entry in usable}
    substitutes = {label: cycle(entries) for label, entries in by_label.items()}
    filled = []
    for one in part:
        if one.number not in own and _label(one) not in substitutes:
            raise DataError(
                "none of the examples of a batch (or of one label in it) can be used: see what was skipped, and raise"
                " max_length or micro_batch_size",
                file=one.example.file,
                line=one.example.line,
            )
        filled.append(own[one.number] if one.number in own else next(substitutes[_label(one)]))
    return filled


def _label(one: Numbered) -> bool | None:
    return one.example.desirable if isinstance(one.example, Unary) else None


def _nothing(prepared: Prepared) -> str:
    return "; ".join(["there is no example for training", *prepared.reasons()])


class StreamLoader:
    """Hands out the batches of a `StreamedDataset`, epoch after epoch, and resumes at the very next batch.

    To go on in the middle of an epoch, the rows before are read again, and not tokenised. It has no length: nobody
    knows how many examples there are.

    Args:
        dataset: The batches.
        used: How many of an epoch's batches were used; None takes those that were handed out. (Lightning asks for one
            batch in advance where it does not know how many there are, and that one has to be handed out again.)
        tell: Is told what came of an epoch.
        options: Of the `DataLoader`.
    """

    def __init__(
        self,
        dataset: StreamedDataset,
        *,
        used: Callable[[], int] | None = None,
        tell: Callable[[list[StreamReport]], None] | None = None,
        **options: Any,
    ) -> None:
        self.dataset = dataset
        self._used, self._tell, self._options = used, tell, options
        self._epoch = 0
        self._handed_out = (0, 0)
        self._resume: tuple[int, int] | None = None
        self._exhausted = False

    @property
    def sampler(self) -> StreamLoader:
        """What Lightning tells the epoch: the loader itself."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch comes next."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        # Nothing is read before the first batch is asked for, as in `ResumableDataLoader`.
        epoch, start = self._epoch, 0
        if self._resume is not None:
            (epoch, start), self._resume = self._resume, None
        self._handed_out, self._exhausted = (epoch, start), False
        self.dataset.epoch, self.dataset.start = epoch, start
        reports = []
        for item in DataLoader(self.dataset, **self._options):
            if isinstance(item, DataError):
                raise item
            if isinstance(item, StreamReport):
                reports.append(item)
                continue
            self._handed_out = epoch, self._handed_out[1] + 1
            yield item
        self._exhausted = True
        if self._tell is not None:
            self._tell(reports)

    def state_dict(self) -> dict[str, Any]:
        """Epoch and batches used in it, as primitives."""
        epoch, batches = self._resume or self._handed_out
        if self._resume is None and self._used is not None:
            batches = min(batches, self._used())
        if self._resume is None and self._exhausted and batches == self._handed_out[1]:
            epoch, batches = epoch + 1, 0
        division = self.dataset.stream.division
        counts = {"epoch": epoch, "batches": batches, "accumulate": division.accumulate}
        return {**counts, **self.dataset.stream.fingerprint()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues after the batches that a state counts, also where a step is divided otherwise now.

        Raises:
            ConfigError: The state is of the middle of an epoch of other data, or with other settings.
        """
        state = dict(state)
        epoch, batches, accumulate = (int(state.pop(key)) for key in ("epoch", "batches", "accumulate"))
        expected = self.dataset.stream.fingerprint()
        if batches and state != expected:
            keys = sorted(key for key in state.keys() | expected.keys() if state.get(key) != expected.get(key))
            differences = ", ".join(f"{key} was {state.get(key)} and is {expected.get(key)}" for key in keys)
            raise ConfigError(
                f"the checkpoint was made in the middle of an epoch ({batches} batches of a stream), and cannot be"
                f" continued with other data or batches: {differences}. Use the same, or a checkpoint from the end of"
                " an epoch"
            )
        self._resume = epoch, rescaled(batches, accumulate, self.dataset.stream.division.accumulate)
        self._epoch = epoch


def check_trainer(trainer: L.Trainer) -> None:
    """Refuses settings of a Trainer that need to know how many examples there are.

    Raises:
        ConfigError: There is one.
    """
    if getattr(trainer, "overfit_batches", False):
        raise ConfigError("overfit_batches needs examples that stay the same: set streaming to false")
    every = trainer.val_check_interval
    if isinstance(every, float) and every != 1.0:
        raise ConfigError(
            f"val_check_interval is {every}, a part of an epoch, and nobody knows how long that of a stream is: set"
            " trainer.val_check_interval to a number of batches, or to 1.0, which is after the epoch"
        )


def batches_begun(trainer: L.Trainer) -> int:
    """How many batches of its epoch a Trainer has begun with, which is one less than it may have asked for."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready


def tokenize_alone(worker: int) -> None:
    """Keeps the tokenizer of a data-loading worker from starting threads: there are as many workers as were wanted."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def notes_of_stream(reports: list[StreamReport]) -> list[str]:
    """What all workers of a process have to say of an epoch, one line each."""
    first = reports[0].prepared  # all of them have read the same rows
    truncation = replace(first.truncation)
    for other in reports[1:]:
        truncation.count(other.prepared.truncation)
    notes = [*notes_of([replace(first, truncation=truncation)])]
    notes += [str(bad) for report in reports for bad in report.unusable if bad.count]
    replaced = sum(report.replaced for report in reports)
    if replaced:
        notes.append(
            f"{replaced} examples that could not be used when their tokens were made were replaced by others of their"
            " batches"
        )
    return notes
