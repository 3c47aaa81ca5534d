"""What every data module shares: reading, tokenising, holding out, and handing out batches."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, get_args

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.utils.data import DataLoader

from halo_lightning.data.batching import TokenizedDataset, TokenizedDatasetBuilder
from halo_lightning.data.cache import TokenCache
from halo_lightning.data.division import Division, divide, divide_for
from halo_lightning.data.feedback import Feedback
from halo_lightning.data.loading import ResumableDataLoader
from halo_lightning.data.preparation import Preparation, prepare, require_examples
from halo_lightning.data.rendering import prepare_tokenizer
from halo_lightning.data.sampling import (
    Balance,
    BatchSampler,
    EpochBatchSampler,
    FixedEpochSampler,
    interleaved,
)
from halo_lightning.data.sources.bad_rows import BadRows, OnBadRow
from halo_lightning.data.sources.config import KeepPrompt, Sources, sources_of
from halo_lightning.data.streaming import (
    Stream,
    StreamedDataset,
    StreamLoader,
    StreamReport,
    batches_begun,
    check_trainer,
    notes_of_stream,
    tokenize_alone,
)
from halo_lightning.data.summary import DataSummary
from halo_lightning.data.truncation import Limits, TooLong
from halo_lightning.errors import ConfigError
from halo_lightning.ranges import Range
from halo_lightning.workers import check_processes

logger = logging.getLogger(__name__)


class FeedbackDataModule(L.LightningDataModule):
    """Reads feedback, tokenises it once, and hands out batches of it.

    Args:
        train: One or several sources to train on: paths of files or folders, `hub:owner/name`,
            `embedded:NAME?examples=2000&seed=1`, or a `Source` that says more (columns, labels, weight, …).
        validation: One or several sources to validate on; None holds out a part of `train`.
        validation_fraction: How large a part of the prompts of `train` is held out if `validation` is None. Which
            ones is decided by a hash of the prompt and the seed, so no prompt is on both sides. 0 holds out nothing.
        validation_examples: Most examples to validate on, drawn by the seed; None is all of them.
        tokenizer: The folder or hub id of a tokenizer, or `embedded:base`; None takes that of the policy. In Python
            it may be a tokenizer object.
        batch_size: Examples (pairs, for paired feedback) in an optimizer step, however many devices there are: the
            effective batch size. It is divided among them, and among micro-batches whose gradients are accumulated.
        micro_batch_size: Most examples that one device computes at one time; fewer take less memory and more time.
            None divides the batch among the devices alone.
        max_length: Most tokens of prompt and completion together, the end-of-sequence token included.
        max_prompt_length: Where the whole is too long, the prompt is cut from its start, to no fewer tokens than
            this; then the completion is cut at its end. None is half of `max_length`.
        too_long: What happens to a longer example: `truncate` cuts and counts it, `drop` leaves it out and counts it,
            `error` stops.
        keep_prompt: Which part of a prompt stays where it has to be cut, for sources that do not say: `end` or
            `start`. None is what the report's runs did: the start in SHP and OpenAssistant, else the end.
        share_prompts: Whether a prompt that several completions of a batch have in common (both of a pair) is
            computed once. The results are the same.
        num_workers: Processes that make batches in advance. Batches are cut from arrays in memory, so 0 is mostly
            best.
        seed: Of the order of the examples, of what is held out, and of what sources draw at random.
        on_bad_row: What happens to a row that cannot be used: `error` stops with its file, line and key; `skip` counts
            it and lists it in `bad_rows_file`.
        bad_rows_file: The file that skipped rows are listed in, as JSON Lines; None is `bad_rows.jsonl` in the folder
            of the run.
        group_by_length: Whether the examples of a batch are to have similar lengths, for models that need padded rows,
            and so that all devices have about as much to do. The order is still one of (seed, epoch).
        cache: Where tokens are kept, to be made once and mapped from disk: a folder; true for the user's own
            (`~/.cache/halo_lightning`, or what the environment variable `HALO_LIGHTNING_CACHE` says), in which small
            files and the embedded feedback are not; false keeps them in memory, and makes them every time.
        streaming: Whether the training sources are read while the model trains, and nothing of them is kept. Then
            `max_steps` says how long the run is, and validation has sources of its own, or none.
        shuffle_buffer: With `streaming`, how many examples are in memory, among which the next one is drawn.

    Raises:
        ConfigError: A setting cannot work.
    """

    feedback: ClassVar[Feedback]
    """The kind of feedback that the batches are of: `sft`, `paired` or `unary`."""

    all_turns: bool = False
    """Whether the loss is on all turns of the assistant, and not on the last one alone."""

    most: int | None = None
    """Most examples that are read of the training sources, the first ones; None is all of them."""

    def __init__(
        self,
        train: Sources,
        *,
        validation: Sources | None = None,
        validation_fraction: float = 0.1,
        validation_examples: int | None = None,
        tokenizer: str | None = None,
        batch_size: int = 32,
        micro_batch_size: int | None = None,
        max_length: int = 1024,
        max_prompt_length: int | None = None,
        too_long: TooLong = "truncate",
        keep_prompt: KeepPrompt | None = None,
        share_prompts: bool = True,
        num_workers: int = 0,
        seed: int = 1,
        on_bad_row: OnBadRow = "error",
        bad_rows_file: str | None = None,
        group_by_length: bool = False,
        cache: bool | str = True,
        streaming: bool = False,
        shuffle_buffer: int = 10_000,
    ) -> None:
        super().__init__()
        self.train_sources = sources_of("train", train)
        self.validation_sources = [] if validation is None else sources_of("validation", validation)
        for name, value, low, high in (
            ("batch_size", batch_size, 1, 2**20),
            ("micro_batch_size", micro_batch_size, 1, math.inf),
            ("validation_examples", validation_examples, 1, math.inf),
            ("seed", seed, 0, math.inf),
            ("shuffle_buffer", shuffle_buffer, 1, math.inf),
        ):
            if value is not None or name == "batch_size":
                Range(low, high, whole=True).check(name, value)
        check_processes("num_workers", num_workers, 0)
        Range(0, 1, open_high=True).check("validation_fraction", validation_fraction)
        if streaming and not self.validation_sources and validation_fraction:
            raise ConfigError(
                f"validation_fraction is {validation_fraction}, and streaming is true: nothing can be held out of what"
                " is read only when it is needed. Name validation sources, or set validation_fraction to 0"
            )
        if streaming and group_by_length:
            raise ConfigError("group_by_length and streaming are both true: a stream has no lengths to group by")
        self.streaming, self.shuffle_buffer = streaming, shuffle_buffer
        self.limits = Limits(max_length, max_length // 2 if max_prompt_length is None else max_prompt_length, too_long)
        self.validation_fraction, self.validation_examples = validation_fraction, validation_examples
        self.batch_size, self.micro_batch_size = batch_size, micro_batch_size
        self._division: Division | None = None
        if keep_prompt not in (None, *get_args(KeepPrompt)):
            raise ConfigError(f"keep_prompt is {keep_prompt!r}: expected 'end', 'start' or null")
        self.keep_prompt = keep_prompt
        self.share_prompts = share_prompts
        self.num_workers = num_workers
        self.seed = seed
        if on_bad_row not in get_args(OnBadRow):
            raise ConfigError(f"on_bad_row is {on_bad_row!r}: expected 'error' or 'skip'")
        self.on_bad_row, self.bad_rows_file = on_bad_row, bad_rows_file
        self.group_by_length = group_by_length
        cache = cache if isinstance(cache, bool) else os.fspath(cache)
        self.cache = None if cache is False else TokenCache(None if cache is True else cache)
        self.tokenizer_path: str | None = None
        """Where the tokenizer comes from; None where it is an object, or not known before `setup`."""
        self.tokenizer: Any = None
        """The tokenizer; None where it is still to be loaded by `setup`."""
        if tokenizer is None or isinstance(tokenizer, (str, os.PathLike)):
            self.tokenizer_path = None if tokenizer is None else os.fspath(tokenizer)
        else:
            self.tokenizer = prepare_tokenizer(tokenizer)
        # Checkpoints are read without pickle, so hyper-parameters have to be primitives.
        self.save_hyperparameters(ignore=["train", "validation", "tokenizer", "cache"])
        self.save_hyperparameters(
            {
                "train": [source.as_plain_data() for source in self.train_sources],
                "validation": [source.as_plain_data() for source in self.validation_sources] or None,
                "tokenizer": self.tokenizer_path,
                "cache": cache,
            }
        )
        self._train: TokenizedDataset | None = None
        self._validation: TokenizedDataset | None = None
        self._summary: DataSummary | None = None

    # --- preparing -------------------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Lets one process of a machine fill the cache, while the others wait, which map it then."""
        if self.trainer is None or self.trainer.world_size == 1 or self._summary is not None or self.cache is None:
            return
        tokenizer, bad = self._load_tokenizer(), self._bad_rows()
        for preparation in self._preparations().values():
            if self.cache.key(preparation, tokenizer, bad) is not None:
                self.cache.prepare(preparation, tokenizer, bad)

    def setup(self, stage: str | None = None) -> None:
        """Divides the batch among the devices; reads and tokenises everything, the first time that it is called."""
        self._division = self._divided()
        if self._summary is not None:
            return
        tokenizer = self._load_tokenizer()
        bad, preparations = self._bad_rows(), self._preparations()
        train = validation = TokenizedDatasetBuilder(self.feedback).build()
        reports = []
        tokens_of = prepare if self.cache is None else self.cache.prepare
        for name, preparation in preparations.items():
            used, held_out, prepared = tokens_of(preparation, tokenizer, bad)
            require_examples(name, used, held_out, prepared, self.validation_fraction)
            train, validation = (used, held_out) if name == "training" else (train, used)
            reports.append(prepared)
        if self.validation_examples is not None and len(validation) > self.validation_examples:
            drawn = np.random.default_rng([self.seed, 0]).permutation(len(validation))[: self.validation_examples]
            validation = validation.subset(np.sort(drawn))
        summary = DataSummary.of(train, validation, reports)
        if self.streaming:
            summary = DataSummary.of_stream(", ".join(map(str, self.train_sources)), validation, reports)
        for note in summary.notes:
            _warn(note)
        if not (self.streaming or self.validation_sources or len(validation)) and self.validation_fraction:
            _warn(
                f"no example is held out for validation: validation_fraction={self.validation_fraction} of few prompts"
                " happened to be none. Raise it, or name a validation file"
            )
        train.share_prompts = validation.share_prompts = self.share_prompts
        self._train, self._validation, self._summary = train, validation, summary

    needs_even_batches: bool = False
    """Whether each micro-batch has equal halves."""

    balance: Balance = "none"
    """How the halves are made equal, for unary feedback."""

    @property
    def division(self) -> Division:
        """How the batch is divided among processes and micro-batches."""
        if self._division is None:
            self._division = self._divided()
        return self._division

    def _divided(self) -> Division:
        """The division of the batch among the processes that there are, of which the Trainer is told its part."""
        divided = partial(divide, self.batch_size, largest=self.micro_batch_size, even=self.needs_even_batches)
        return divide_for(self.trainer, divided)

    def _preparation(self) -> Preparation:
        """What is to be made of the training sources."""
        return Preparation(
            tuple(self.train_sources),
            self.feedback,
            self.limits,
            held_out=0.0 if self.validation_sources else self.validation_fraction,
            seed=self.seed,
            all_turns=self.all_turns,
            keep_prompt=self.keep_prompt,
            most=self.most,
        )

    def _preparations(self) -> dict[str, Preparation]:
        """What is to be made beforehand: of the training sources, unless they are streamed; of validation sources."""
        training = self._preparation()
        preparations = {} if self.streaming else {"training": training}
        if self.validation_sources:
            preparations["validation"] = replace(training, sources=tuple(self.validation_sources), most=None)
        return preparations

    def _bad_rows(self) -> BadRows:
        folder = "." if self.trainer is None else self.trainer.default_root_dir
        return BadRows(self.on_bad_row, self.bad_rows_file or Path(folder) / "bad_rows.jsonl")

    def _load_tokenizer(self) -> Any:
        if self.tokenizer is None:
            if self.tokenizer_path is None:
                module = None if self.trainer is None else self.trainer.lightning_module
                self.tokenizer_path = getattr(module, "policy_path", None)
            if self.tokenizer_path is None:
                raise ConfigError(
                    f"{type(self).__name__} has no tokenizer: give it one (a folder, a hub id, or a tokenizer object),"
                    " or let a Trainer run it with a module that has a policy"
                )
            from halo_lightning.pretrained import load_tokenizer

            self.tokenizer = load_tokenizer(self.tokenizer_path)
        return self.tokenizer

    def _prepared(self) -> tuple[TokenizedDataset, TokenizedDataset, DataSummary]:
        if self._train is None or self._validation is None or self._summary is None:
            raise ConfigError(f"{type(self).__name__} is not set up: call setup() first, or let a Trainer do it")
        return self._train, self._validation, self._summary

    @property
    def summary(self) -> DataSummary:
        """Counts of examples, of tokens, and of what was left out and cut."""
        return self._prepared()[2]

    @property
    def train_dataset(self) -> TokenizedDataset:
        """The examples to train on.

        Raises:
            ConfigError: They are streamed, or not there yet.
        """
        if self.streaming:
            raise ConfigError(
                "the training sources are streamed, and never all there: to look at them set streaming to false"
            )
        return self._prepared()[0]

    @property
    def validation_dataset(self) -> TokenizedDataset:
        """The examples to validate on."""
        return self._prepared()[1]

    @property
    def datasets(self) -> list[TokenizedDataset]:
        """The examples to train and to validate on, as far as there are any, and they are not streamed."""
        train, validation, _ = self._prepared()
        return [dataset for dataset in (train, validation) if len(dataset)]

    # --- handing out -----------------------------------------------------------------------------------------------

    def train_sampler(self, dataset: TokenizedDataset) -> BatchSampler:
        """Which examples make up which micro-batch in training."""
        size, accumulate, _ = self.division
        lengths = dataset.lengths if self.group_by_length else None
        return EpochBatchSampler(len(dataset), size, accumulate=accumulate, seed=self.seed, lengths=lengths)

    def train_dataloader(self) -> DataLoader | StreamLoader:
        """Batches to train on, in the order of (seed, epoch); resumable in the middle of an epoch."""
        if self.streaming:
            return self._stream_loader()
        dataset = self.train_dataset
        sampler = self.train_sampler(dataset)
        if self.trainer is not None and getattr(self.trainer, "overfit_batches", False):
            return DataLoader(dataset, sampler=FixedEpochSampler(sampler), **self._loader_options())
        return ResumableDataLoader(dataset, sampler=sampler, **self._loader_options())

    def _stream_loader(self) -> StreamLoader:
        trainer = self.trainer
        if trainer is not None:
            check_trainer(trainer)
        bad = self._bad_rows()
        stream = Stream(
            self._preparation(),
            self._load_tokenizer(),
            self.division,
            rank=0 if trainer is None else trainer.global_rank,
            shuffle_buffer=self.shuffle_buffer,
            balance=self.balance,
            share_prompts=self.share_prompts,
            on_bad_row=bad.action,
            bad_rows_file=bad.file,
        )
        options = {**self._loader_options(), "persistent_workers": False, "worker_init_fn": tokenize_alone}
        used = None if trainer is None else partial(batches_begun, trainer)
        return StreamLoader(StreamedDataset(stream), used=used, tell=_tell_of_stream, **options)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """Batches to validate on, each example once, always in the same order; an empty list if there are none."""
        dataset = self.validation_dataset
        if not len(dataset):
            return []
        order = np.arange(len(dataset)) if dataset.desirable is None else interleaved(dataset.desirable)
        sampler = FixedEpochSampler(EpochBatchSampler(len(dataset), self.division.micro_batch, order=order))
        return DataLoader(dataset, sampler=sampler, **self._loader_options())

    def test_dataloader(self) -> DataLoader | list[DataLoader]:
        """The same as `val_dataloader`."""
        return self.val_dataloader()

    def _loader_options(self) -> dict[str, Any]:
        return {
            "batch_size": None,
            "collate_fn": _as_it_is,
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
            # Its own: iterating draws a number, which would not be drawn again where a run goes on in an epoch.
            "generator": torch.Generator(),
        }


def _as_it_is(batch: Any) -> Any:
    """The data set makes whole batches already."""
    return batch


@rank_zero_only
def _warn(message: str) -> None:
    logger.warning(message)


def _tell_of_stream(reports: list[StreamReport]) -> None:
    for note in notes_of_stream(reports):
        _warn(f"streamed: {note}")
