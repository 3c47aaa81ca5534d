"""Batches of a stream: the examples of prepared data, each once, on any number of processes and workers."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from halo_lightning.callbacks.validation import ValidateEvery
from halo_lightning.data.datamodules import FeedbackDataModule, PairedDataModule, SFTDataModule, UnaryDataModule
from halo_lightning.data.division import Division
from halo_lightning.data.streaming import StreamedDataset, StreamLoader
from halo_lightning.errors import ConfigError, DataError
from halo_lightning.optimization import LinearWarmup
from tests.data.helpers import CHATML, byte_bpe, pairs, thumbs, write_rows

MODULES = [SFTDataModule, PairedDataModule, UnaryDataModule]
Batches = list[list[int]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


def module(kind: type[FeedbackDataModule], train: str, *, streaming: bool = True, **options: Any) -> Any:
    settings = {"tokenizer": byte_bpe(), "batch_size": 4, "validation_fraction": 0, "shuffle_buffer": 16, **options}
    data = kind(train, streaming=streaming, **settings)
    data.setup("fit")
    return data


def mixed(count: int, desirable: int) -> list[dict[str, Any]]:
    """Unary feedback with both kinds everywhere, numbered in the order of the file."""
    kinds = np.random.default_rng(0).permutation(np.arange(count) < desirable).tolist()
    return [{**row, "label": kind} for row, kind in zip(thumbs(count, 0), kinds, strict=True)]


def loader(data: Any, division: Division | None = None, rank: int = 0, **options: Any) -> StreamLoader:
    """The loader of a process."""
    made = data.train_dataloader()
    stream = replace(made.dataset.stream, division=division or data.division, rank=rank)
    return StreamLoader(StreamedDataset(stream), **{**made._options, **options})


def epoch(number: int, *arguments: Any, **options: Any) -> Batches:
    stream = loader(*arguments, **options)
    stream.set_epoch(number)
    return [batch.index.tolist() for batch in stream]


def contents(batches: Any) -> Counter[tuple[Any, ...]]:
    """Every sequence with what belongs to it."""
    found: Counter[tuple[Any, ...]] = Counter()
    for batch in batches:
        each = 2 if len(batch.sequences.unpacked()) == 2 * len(batch.index) else 1
        labels = batch.desirable.tolist() if hasattr(batch, "desirable") else [None] * each * len(batch.index)
        for (prompt, completion), label, weight in zip(
            batch.sequences.unpacked(), labels, batch.weight.tolist() * each, strict=True
        ):
            found[(*prompt.tolist(), "→", *completion.tolist(), label, weight)] += 1
    return found


# --- the same as prepared -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODULES)
def test_the_examples_are_those_of_prepared_data(file: Path, kind: Any) -> None:
    rows = [{**row, "weight": 1 + number} for number, row in enumerate(pairs(30))]
    options = {"max_length": 14, "max_prompt_length": 10, "batch_size": 6}
    name = write_rows(file, rows)
    streamed = module(kind, name, **options)
    prepared = module(kind, name, streaming=False, **options)
    mine = list(streamed.train_dataloader())
    assert contents(mine) == contents(prepared.train_dataloader())
    assert type(mine[0]) is type(next(iter(prepared.train_dataloader())))
    numbers = [index for batch in mine for index in batch.index.tolist()]
    assert sorted(numbers) == list(range(60 if kind is UnaryDataModule else 30))


# --- who gets what ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("balance", ["none", "oversample", "undersample"])
def test_processes_and_accumulated_batches_share_a_step(file: Path, balance: str) -> None:
    data = module(UnaryDataModule, write_rows(file, mixed(70, 40)), batch_size=12, balance=balance)
    alone = epoch(2, data)
    for division in (Division(6, 1, 2), Division(4, 1, 3), Division(6, 2, 1), Division(2, 3, 2)):
        parts = [epoch(2, data, division, rank) for rank in range(division.processes)]
        assert len({len(part) for part in parts}) == 1
        micro_batches = list(chain.from_iterable(zip(*parts, strict=True)))
        each = division.accumulate * division.processes
        together = [list(chain(*micro_batches[i : i + each])) for i in range(0, len(micro_batches), each)]
        assert together[:-1] == alone[:-1]
        assert set(alone[-1]) <= set(together[-1])
        assert len({tuple(map(len, part)) for part in parts}) == 1
        if balance == "none":
            counts = Counter(chain.from_iterable(micro_batches))
            assert set(counts) == set(range(70))
            assert counts.total() - 70 < each


def test_balanced_batches(file: Path) -> None:
    data = module(UnaryDataModule, write_rows(file, thumbs(40, 30)[::-1]), balance="oversample", shuffle_buffer=32)
    for batch in data.train_dataloader():
        assert batch.desirable.tolist() == [True, False] * (len(batch.index) // 2)


def test_the_order_is_that_of_seed_and_epoch(file: Path) -> None:
    name = write_rows(file, pairs(50))
    data = module(PairedDataModule, name)
    assert epoch(0, data) == epoch(0, module(PairedDataModule, name)) != epoch(1, data)
    assert epoch(0, data) != epoch(0, module(PairedDataModule, name, seed=2))
    stream = data.train_dataloader()
    twice = []
    for number in range(2):
        stream.set_epoch(number)
        twice.append([batch.index.tolist() for batch in stream])
    assert twice == [epoch(0, data), epoch(1, data)]


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(file: Path, workers: int, caplog: Any) -> None:
    name = write_rows(file, [*thumbs(45, 25), {"prompt": "a", "completion": "b", "label": None}])
    options = {"balance": "none", "on_bad_row": "skip", "max_length": 12, "max_prompt_length": 9}
    told = []
    for count in (0, workers):
        data = module(UnaryDataModule, name, num_workers=count, bad_rows_file=str(file.parent / "bad.jsonl"), **options)
        caplog.clear()
        whole = list(data.train_dataloader())
        told.append((contents(whole), [batch.index.tolist() for batch in whole], [r.message for r in caplog.records]))
        assert len((file.parent / "bad.jsonl").read_text().splitlines()) == 1
    assert told[0] == told[1]
    assert [message[:20] for message in told[0][2]] == ["streamed: skipped 1 ", "streamed: cut 45 pro"]


# --- resuming -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_goes_on_at_the_very_next_batch(file: Path, workers: int) -> None:
    data = module(UnaryDataModule, write_rows(file, thumbs(30, 15)), num_workers=workers)
    whole = [epoch(number, data) for number in range(3)]
    for batches in (1, 3, len(whole[1]) - 1) if workers == 0 else (3,):
        first = loader(data)
        first.set_epoch(1)
        iterator = iter(first)
        assert [next(iterator).index.tolist() for _ in range(batches)] == whole[1][:batches]
        state = json.loads(json.dumps(first.state_dict()))
        again = loader(data)
        again.load_state_dict(state)
        assert again.state_dict() == state
        assert [batch.index.tolist() for batch in again] == whole[1][batches:]
        again.set_epoch(2)
        assert [batch.index.tolist() for batch in again] == whole[2]


def test_goes_on_where_a_step_is_divided_otherwise(file: Path) -> None:
    data = module(PairedDataModule, write_rows(file, pairs(30)), batch_size=6)
    iterator = iter(first := loader(data, Division(3, 2, 1)))
    for _ in range(4):
        next(iterator)
    again = loader(data, Division(2, 3, 1))
    again.load_state_dict(first.state_dict())
    assert [batch.index.tolist() for batch in again] == epoch(0, data, Division(2, 3, 1))[6:]


@pytest.mark.parametrize("change", [{"seed": 5}, {"shuffle_buffer": 17}, {"batch_size": 6}])
def test_another_stream_cannot_go_on_in_the_middle(file: Path, change: dict[str, int]) -> None:
    name = write_rows(file, thumbs(30, 15))
    iterator = iter(first := loader(module(UnaryDataModule, name)))
    next(iterator)
    again = loader(module(UnaryDataModule, name, **change))
    with pytest.raises(ConfigError, match=r"middle of an epoch.*was \d+ and is \d+"):
        again.load_state_dict(first.state_dict())
    again.load_state_dict({**first.state_dict(), "batches": 0})  # nothing was begun


class Policy(L.LightningModule):
    """Notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.number = torch.nn.Parameter(torch.zeros(()))
        self.seen: Batches = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen.append(batch.index.tolist())
        return self.number

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(data: Any, folder: Path, ckpt_path: str | None = None, **options: Any) -> Batches:
    policy = Policy()
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", default_root_dir=folder, max_epochs=3, **{**quiet, **options})
    trainer.fit(policy, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return policy.seen


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_trainer_goes_on_at_the_very_next_batch_from_every_checkpoint(
    tmp_path: Path, file: Path, accumulate: int
) -> None:
    name = write_rows(file, pairs(11))
    options = {"batch_size": 4, "micro_batch_size": 4 // accumulate}
    save = ModelCheckpoint(tmp_path / "all", filename="{step}", every_n_train_steps=1, save_top_k=-1)
    whole = fit(module(PairedDataModule, name, **options), tmp_path, callbacks=[save])
    alone = [
        epoch(number, module(PairedDataModule, name), Division(4 // accumulate, accumulate, 1)) for number in range(3)
    ]
    assert whole == list(chain(*alone))
    assert len(whole) == 9 * accumulate
    for step in range(1, 9):
        data = module(PairedDataModule, name, **options)
        rest = fit(data, tmp_path, str(tmp_path / "all" / f"step={step}.ckpt"), enable_checkpointing=False)
        assert rest == whole[step * accumulate :], step


# --- what is reported, and refused --------------------------------------------------------------------------------


def test_the_summary_says_what_is_streamed(tmp_path: Path, file: Path) -> None:
    train, validation = write_rows(file, thumbs(20, 10)), write_rows(tmp_path / "held_out.jsonl", thumbs(6, 3))
    data = module(UnaryDataModule, train, validation=validation)
    assert str(data.summary) == f"examples to train on are streamed from {train}; 6 to validate on"
    assert data.summary.train is None
    assert len(list(data.val_dataloader())) == 2
    with pytest.raises(ConfigError, match="never all there"):
        _ = data.train_dataset


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_that_cannot_be_used_are_replaced_and_counted(file: Path, workers: int, caplog: Any) -> None:
    refuses = "{% if 'bad' in messages[0]['content'] %}{{ raise_exception('no!') }}{% endif %}" + CHATML
    rows = [{**row, "prompt": f"bad {i}" if i % 10 == 3 else row["prompt"]} for i, row in enumerate(mixed(40, 20))]
    data = module(
        UnaryDataModule,
        write_rows(file, [*rows, {"prompt": "x"}]),
        tokenizer=byte_bpe(template=refuses),
        on_bad_row="skip",
        num_workers=workers,
        bad_rows_file=str(file.parent / "bad.jsonl"),
        batch_size=8,
    )
    caplog.clear()
    batches = list(data.train_dataloader())
    assert [len(batch.index) for batch in batches] == [8] * 5
    for batch in batches:
        assert batch.desirable.tolist() == [True, False] * 4
    assert set(chain(*(batch.index.tolist() for batch in batches))) == {i for i in range(40) if i % 10 != 3}
    listed = [json.loads(line) for path in file.parent.glob("bad*.jsonl") for line in path.open()]
    assert sorted(entry["line"] for entry in listed) == [4, 14, 24, 34, 41]
    said = " ".join(record.message for record in caplog.records)
    assert "streamed: 4 examples that could not be used when their tokens were made were replaced" in said
    stops = module(UnaryDataModule, str(file), tokenizer=byte_bpe(template=refuses), num_workers=workers)
    with pytest.raises(DataError, match=rf"^{re.escape(str(file))}, line (\d+: .*no!|41.*missing)") as error:
        list(stops.train_dataloader())
    assert "Traceback" not in str(error.value)


def test_nothing_to_train_on(file: Path) -> None:
    rows = [{"prompt": "a", "completion": "b", "label": False}] * 3
    with pytest.raises(DataError, match=r"no example for training; .*left out 3 of 3 rows"):
        list(module(SFTDataModule, write_rows(file, rows)).train_dataloader())
    long = [{"prompt": "a", "completion": "b " * 50}] * 3
    data = module(SFTDataModule, write_rows(file, long), too_long="drop", max_length=10, max_prompt_length=5)
    with pytest.raises(DataError, match="none of the examples of a batch"):
        list(data.train_dataloader())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"validation_fraction": 0.1}, "nothing can be held out"),
        ({"group_by_length": True}, "group_by_length and streaming"),
        ({"shuffle_buffer": 0}, "shuffle_buffer is 0"),
    ],
)
def test_settings_that_cannot_work(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        UnaryDataModule("rows.jsonl", streaming=True, **{"validation_fraction": 0, **options})


def test_overfitting_needs_examples_that_stay(tmp_path: Path, file: Path) -> None:
    with pytest.raises(ConfigError, match="overfit_batches"):
        fit(module(PairedDataModule, write_rows(file, pairs(11))), tmp_path, overfit_batches=2)


def test_a_part_of_an_epoch_needs_an_epoch_of_known_length(tmp_path: Path, file: Path) -> None:
    with pytest.raises(ConfigError, match=r"val_check_interval is 0\.25, .* set\n? ?trainer\.val_check_interval to"):
        fit(module(PairedDataModule, write_rows(file, pairs(11))), tmp_path, val_check_interval=0.25)


class Validated(Policy):
    """Notes after how many batches it is validated."""

    def __init__(self) -> None:
        super().__init__()
        self.after: set[int] = set()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.after.add(len(self.seen))


def test_a_stream_is_validated_after_so_many_examples(tmp_path: Path, file: Path) -> None:
    data = module(PairedDataModule, write_rows(file, pairs(24)), validation=str(file))
    policy, options = Validated(), dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing"), False)
    callbacks = [ValidateEvery(8)]
    L.Trainer(accelerator="cpu", max_epochs=1, num_sanity_val_steps=0, callbacks=callbacks, **options).fit(
        policy, datamodule=data
    )
    every = 8 // data.batch_size
    assert policy.after == set(range(every, len(policy.seen) + 1, every))


def test_a_schedule_that_needs_the_number_of_steps_says_so() -> None:
    def schedule(**options: Any) -> LinearWarmup:
        return LinearWarmup(torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0), **options)

    for options in ({"warmup": 0.1}, {"warmup": 5, "then": "cosine"}):
        with pytest.raises(ConfigError, match=r"set trainer\.max_steps"):
            schedule(**options).prepare(None)
    schedule(warmup=5).prepare(None)
    schedule(warmup=0).prepare(None)
