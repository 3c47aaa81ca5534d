"""The LightningDataModules: feedback from files to batches, for one kind of loss each."""

from __future__ import annotations

from typing import Any, Literal, get_args

from halo_lightning.data.base import FeedbackDataModule as FeedbackDataModule
from halo_lightning.data.batching import TokenizedDataset
from halo_lightning.data.sampling import Balance, BalancedBatchSampler, BatchSampler, check_even
from halo_lightning.data.sources.config import Sources
from halo_lightning.errors import ConfigError

LossOn = Literal["last_turn", "all_turns"]


class SFTDataModule(FeedbackDataModule):
    """Demonstrations for `SFT`: rows with `prompt` and `completion`, or `messages`.

    Reads preference pairs as well (the chosen completions), and unary feedback (the desirable ones).

    Args:
        loss_on: What of a conversation is learned: `last_turn`, the completion; `all_turns`, every turn of the
            assistant.
        options: Those of `FeedbackDataModule`.
    """

    feedback = "sft"

    def __init__(self, train: Sources, *, loss_on: LossOn = "last_turn", **options: Any) -> None:
        super().__init__(train, **options)
        if loss_on not in get_args(LossOn):
            raise ConfigError(f"loss_on is {loss_on!r}: expected 'last_turn' or 'all_turns'")
        self.all_turns = loss_on == "all_turns"


class PairedDataModule(FeedbackDataModule):
    """Preference pairs for `DPO` and its like: rows with `prompt`, `chosen` and `rejected`.

    Reads conversations without `prompt` as well, and Anthropic's HH files as published.
    """

    feedback = "paired"


class UnaryDataModule(FeedbackDataModule):
    """Unary feedback for `KTO`: rows with `prompt`, `completion` and `label` (true: desirable).

    Reads preference pairs as well: the chosen completion is desirable, the rejected one undesirable.

    Args:
        balance: Every batch has as many desirable as undesirable examples. `oversample` repeats the smaller class
            until every example of the larger one was seen, `undersample` ends the epoch with the smaller class (the
            next epoch takes others of the larger one), `none` takes the examples as they come, unbalanced.
        options: Those of `FeedbackDataModule`.
    """

    feedback = "unary"

    def __init__(self, train: Sources, *, balance: Balance = "oversample", **options: Any) -> None:
        super().__init__(train, **options)
        if balance not in get_args(Balance):
            raise ConfigError(f"balance is {balance!r}: expected 'oversample', 'undersample' or 'none'")
        if balance != "none":
            check_even(self.batch_size)
        self.balance = balance
        self.needs_even_batches = balance != "none"

    def train_sampler(self, dataset: TokenizedDataset) -> BatchSampler:
        """Which examples make up which micro-batch in training: as many desirable as undesirable ones in each."""
        if self.balance == "none":
            return super().train_sampler(dataset)
        assert dataset.desirable is not None
        size, accumulate, _ = self.division
        lengths = dataset.lengths if self.group_by_length else None
        return BalancedBatchSampler(
            dataset.desirable, size, accumulate=accumulate, balance=self.balance, seed=self.seed, lengths=lengths
        )
