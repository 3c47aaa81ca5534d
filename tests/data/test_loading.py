"""Continuing in the middle of an epoch, alone and under Lightning."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Dataset

from halo_lightning.data.loading import ResumableDataLoader
from halo_lightning.data.sampling import BalancedBatchSampler, BatchSampler, EpochBatchSampler
from halo_lightning.errors import ConfigError

LABELS = np.random.default_rng(0).permutation(np.arange(20) < 13)


class Numbers(Dataset):
    """Gives the numbers of the examples themselves."""

    def __getitem__(self, examples: Any) -> torch.Tensor:
        return torch.tensor(examples)


def unshuffled(batch: Any) -> Any:
    return batch


def loader(sampler: BatchSampler, workers: int = 0) -> ResumableDataLoader:
    return ResumableDataLoader(Numbers(), sampler=sampler, batch_size=None, collate_fn=unshuffled, num_workers=workers)


def samplers() -> list[BatchSampler]:
    return [EpochBatchSampler(20, 4), BalancedBatchSampler(LABELS, 4)]


def read(data: ResumableDataLoader, epoch: int) -> list[list[int]]:
    data.batches.set_epoch(epoch)
    return [batch.tolist() for batch in data]


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("workers", [0, 2])
def test_continues_at_the_very_next_batch_whatever_workers_have_prepared(kind: int, workers: int) -> None:
    whole = read(loader(samplers()[kind]), 3)
    interrupted = loader(samplers()[kind], workers)
    interrupted.batches.set_epoch(3)
    iterator = iter(interrupted)
    assert [next(iterator).tolist() for _ in range(2)] == whole[:2]
    state = json.loads(json.dumps(interrupted.state_dict()))

    resumed = loader(samplers()[kind], workers)
    resumed.load_state_dict(state)
    assert len(resumed) == len(whole)
    assert [batch.tolist() for batch in resumed] == whole[2:]
    assert read(resumed, 4) == read(loader(samplers()[kind]), 4)


def test_a_state_is_the_same_before_the_first_batch() -> None:
    data = loader(EpochBatchSampler(20, 4))
    iterator = iter(data)
    next(iterator)
    state = data.state_dict()
    again = loader(EpochBatchSampler(20, 4))
    again.load_state_dict(state)
    assert again.state_dict() == state
    iter(again), iter(again)  # Lightning makes an iterator early, and another one later
    assert again.state_dict() == state


def test_the_end_of_an_epoch_is_the_start_of_the_next_one() -> None:
    data = loader(EpochBatchSampler(20, 4))
    read(data, 0)
    again = loader(EpochBatchSampler(20, 4))
    again.load_state_dict(data.state_dict())
    assert [batch.tolist() for batch in again] == read(data, 1)


def test_an_epoch_that_lightning_cut_short_is_not_continued() -> None:
    data = loader(EpochBatchSampler(20, 4))
    iterator = iter(data)
    next(iterator)
    again = loader(EpochBatchSampler(20, 4))
    again.load_state_dict(data.state_dict())
    assert read(again, 1) == read(loader(EpochBatchSampler(20, 4)), 1)


def test_two_processes_of_half_the_batch_continue_one_of_the_whole() -> None:
    alone = loader(EpochBatchSampler(20, 4))
    iterator = iter(alone)
    next(iterator)
    rest = [batch.tolist() for batch in iterator]
    state = {**alone.state_dict(), "epoch": 0, "batches": 1}
    halves = []
    for rank in range(2):
        half = loader(EpochBatchSampler(20, 2, world_size=2, rank=rank))
        half.load_state_dict(state)
        halves.append([batch.tolist() for batch in half])
    assert rest == [first + second for first, second in zip(*halves, strict=True)]


def test_continues_where_a_batch_is_divided_otherwise() -> None:
    """After two steps of two accumulated micro-batches of 2: with one of 4, or in two processes."""
    data = loader(EpochBatchSampler(20, 2, accumulate=2))
    iterator = iter(data)
    for _ in range(4):
        next(iterator)
    state = data.state_dict()
    rest = [batch.tolist() for batch in iterator]
    alone = loader(EpochBatchSampler(20, 4))
    alone.load_state_dict(state)
    pairs = [rest[i] + rest[i + 1] for i in range(0, len(rest), 2)]
    assert [batch.tolist() for batch in alone] == pairs
    halves = []
    for rank in range(2):
        half = loader(EpochBatchSampler(20, 2, world_size=2, rank=rank))
        half.load_state_dict(state)
        halves.append([batch.tolist() for batch in half])
    assert [first + second for first, second in zip(*halves, strict=True)] == pairs
    with pytest.raises(ConfigError, match="1 of 2 accumulated micro-batches"):
        alone.load_state_dict({**state, "batches": 3})
    same = loader(EpochBatchSampler(20, 2, accumulate=2))
    same.load_state_dict({**state, "batches": 3})
    assert len(list(same)) == 7


@pytest.mark.parametrize(
    ("sampler", "says"),
    [
        (EpochBatchSampler(24, 4), "examples was 20 and is 24"),
        (EpochBatchSampler(20, 8), "global_batch_size was 4 and is 8"),
        (EpochBatchSampler(20, 4, seed=2), "seed was 1 and is 2"),
        (BalancedBatchSampler(LABELS, 4), "balance was None and is oversample"),
    ],
)
def test_other_data_cannot_continue_the_middle_of_an_epoch(sampler: BatchSampler, says: str) -> None:
    data = loader(EpochBatchSampler(20, 4))
    next(iter(data))
    with pytest.raises(ConfigError, match=says):
        loader(sampler).load_state_dict(data.state_dict())
    read(data, 0)
    loader(sampler).load_state_dict(data.state_dict())  # the end of an epoch fits everything


def test_another_sampler_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a BatchSampler"):
        list(ResumableDataLoader([1, 2]))


# --- under Lightning ----------------------------------------------------------------------------------------------


class Recorder(L.LightningModule):
    """Trains one number, and writes down which examples each step has seen."""

    def __init__(self, record: Path | None = None) -> None:
        super().__init__()
        self.number = torch.nn.Parameter(torch.zeros(()))
        self.record = record
        self.seen: list[list[int]] = []
        self.validated: list[list[int]] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.seen.append(batch.tolist())
        return self.number * batch.float().mean()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        if not self.trainer.sanity_checking:
            self.validated.append(batch.tolist())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_fit_end(self) -> None:
        if self.record is not None:
            text = json.dumps([self.seen, self.validated])
            (self.record / f"rank{self.global_rank}.json").write_text(text)


class Data(L.LightningDataModule):
    def __init__(self, workers: int = 0, balanced: bool = False) -> None:
        super().__init__()
        self.workers, self.balanced = workers, balanced

    def train_dataloader(self) -> ResumableDataLoader:
        return loader(BalancedBatchSampler(LABELS, 4) if self.balanced else EpochBatchSampler(20, 4), self.workers)

    def val_dataloader(self) -> DataLoader:
        sampler = EpochBatchSampler(10, 4, order=np.arange(10))
        return DataLoader(Numbers(), sampler=sampler, batch_size=None, collate_fn=unshuffled)


def trainer(folder: Path, **options: Any) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(default_root_dir=folder, accelerator="cpu", max_epochs=3, **quiet, **options)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("validate_every", [1.0, 2], ids=["validate after epochs", "validate after 2 batches"])
def test_lightning_resumes_exactly_from_every_step(tmp_path: Path, workers: int, validate_every: float) -> None:
    options: dict[str, Any] = {"devices": 1, "val_check_interval": validate_every}
    whole = Recorder()
    every_step = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    trainer(tmp_path, callbacks=[every_step], **options).fit(whole, datamodule=Data())
    assert len(whole.seen) == 15
    assert [len(set(chain.from_iterable(whole.seen[start : start + 5]))) for start in (0, 5, 10)] == [20, 20, 20]
    for step in (1, 4, 5, 6, 10, 14) if workers == 0 else (6,):
        resumed = Recorder()
        trainer(tmp_path, enable_checkpointing=False, **options).fit(
            resumed, datamodule=Data(workers), ckpt_path=tmp_path / f"step={step}.ckpt", weights_only=True
        )
        assert resumed.seen == whole.seen[step:], f"after step {step}"


def test_lightning_resumes_after_an_epoch(tmp_path: Path) -> None:
    whole = Recorder()
    every_epoch = ModelCheckpoint(tmp_path, filename="{epoch}", every_n_epochs=1, save_top_k=-1)
    trainer(tmp_path, callbacks=[every_epoch], devices=1).fit(whole, datamodule=Data(balanced=True))
    resumed = Recorder()
    trainer(tmp_path, enable_checkpointing=False, devices=1).fit(
        resumed, datamodule=Data(balanced=True), ckpt_path=tmp_path / "epoch=0.ckpt", weights_only=True
    )
    per_epoch = len(whole.seen) // 3
    assert resumed.seen == whole.seen[per_epoch:]


def test_two_processes_under_lightning(tmp_path: Path) -> None:
    trainer(tmp_path, strategy="ddp_spawn", devices=2, enable_checkpointing=False).fit(
        Recorder(tmp_path), datamodule=Data()
    )
    seen, validated = zip(*(json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)), strict=True)
    for epoch in range(3):
        expected = []
        for rank in range(2):
            sampler = EpochBatchSampler(20, 4, world_size=2, rank=rank)
            sampler.set_epoch(epoch)
            expected.append(list(sampler))
        assert [process[3 * epoch : 3 * epoch + 3] for process in seen] == expected
    assert [process[:2] for process in validated] == [[[0, 1, 2, 3], [8]], [[4, 5, 6, 7], [9]]]
