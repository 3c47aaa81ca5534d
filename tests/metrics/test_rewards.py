"""Metrics against numbers worked out by hand, and the same value however the examples are divided."""

from __future__ import annotations

import math

import pytest
import torch

from halo_lightning.metrics import (
    ImplicitRewards,
    MeanKL,
    MeanLogps,
    MeanLoss,
    PairedRewardAccuracy,
    UnaryRewardAccuracy,
)


def test_implicit_rewards_by_hand() -> None:
    metric = ImplicitRewards()
    metric.update(
        rewards=torch.tensor([1.0, 2.0, -1.0]),
        logps=torch.tensor([-4.0, -6.0, -8.0]),
        desirable=torch.tensor([True, True, False]),
    )
    metric.update(rewards=torch.tensor([-3.0]), logps=torch.tensor([-10.0]), desirable=torch.tensor([False]))
    assert {name: float(value) for name, value in metric.compute().items()} == {
        "rewards/chosen": 1.5,
        "rewards/rejected": -2.0,
        "rewards/margins": 3.5,
        "logps/chosen": -5.0,
        "logps/rejected": -9.0,
    }


def test_implicit_rewards_of_one_kind_alone_are_nan_for_the_other() -> None:
    metric = ImplicitRewards()
    metric.update(rewards=torch.tensor([1.0]), logps=torch.tensor([-4.0]), desirable=torch.tensor([True]))
    values = metric.compute()
    assert values["rewards/chosen"] == 1.0
    assert math.isnan(values["rewards/rejected"])


def test_paired_accuracy_by_hand() -> None:
    metric = PairedRewardAccuracy()
    #                               chosen 3, 1, 2 | rejected 1, 2, 2: one win, one loss, one tie
    metric.update(rewards=torch.tensor([3.0, 1, 2, 1, 2, 2]), desirable=torch.tensor([1, 1, 1, 0, 0, 0]).bool())
    assert float(metric.compute()) == 0.5
    metric.update(rewards=torch.tensor([3.0, 1]), desirable=torch.tensor([True, False]))
    assert float(metric.compute()) == 0.625
    #                               chosen 1, 5 | rejected 2, 4, in turns: one loss, one win
    metric.update(rewards=torch.tensor([2.0, 1, 4, 5]), desirable=torch.tensor([False, True, False, True]))
    assert float(metric.compute()) == pytest.approx(3.5 / 6)


def test_paired_accuracy_of_what_are_no_pairs() -> None:
    metric = PairedRewardAccuracy()
    metric.update(rewards=torch.tensor([3.0, 1, 2, 1]), desirable=torch.tensor([True, True, True, False]))
    assert math.isnan(metric.compute())


def test_mean_logps_of_the_desirable_alone() -> None:
    metric = MeanLogps()
    metric.update(torch.tensor([-1.0, -9.0, -2.0]), torch.tensor([True, False, True]))
    assert float(metric.compute()) == -1.5


def test_nan_reward_is_not_a_tie() -> None:
    paired, unary = PairedRewardAccuracy(), UnaryRewardAccuracy()
    for metric in (paired, unary):
        metric.update(rewards=torch.tensor([math.nan, 0.0]), desirable=torch.tensor([True, False]))
        assert math.isnan(metric.compute())


def test_unary_accuracy_compares_every_desirable_with_every_undesirable() -> None:
    rewards, desirable = [0.3, -0.2, 0.5, 0.3, 0.1], [True, True, False, False, False]
    metric = UnaryRewardAccuracy()
    metric.update(rewards=torch.tensor(rewards[:2]), desirable=torch.tensor(desirable[:2]))
    metric.update(rewards=torch.tensor(rewards[2:]), desirable=torch.tensor(desirable[2:]))
    points = [
        1.0 if good > bad else 0.5 if good == bad else 0.0
        for good, is_good in zip(rewards, desirable, strict=True)
        if is_good
        for bad, is_bad in zip(rewards, desirable, strict=True)
        if not is_bad
    ]
    assert float(metric.compute()) == pytest.approx(sum(points) / len(points))


def test_unary_accuracy_is_one_half_before_training_and_does_not_saturate() -> None:
    start = UnaryRewardAccuracy()
    start.update(rewards=torch.zeros(4), desirable=torch.tensor([True, False, True, False]))
    assert float(start.compute()) == 0.5
    far = UnaryRewardAccuracy()
    far.update(rewards=torch.tensor([1001.0, 1000.0]), desirable=torch.tensor([True, False]))
    assert float(far.compute()) == 1.0


@pytest.mark.parametrize("metric_class", [MeanLoss, MeanKL, MeanLogps])
def test_means_weigh_examples_not_batches(metric_class: type) -> None:
    metric = metric_class()
    metric.update(torch.tensor([1.0, 1.0, 1.0]))
    metric.update(torch.tensor([5.0]))
    assert float(metric.compute()) == 2.0


def test_kl_is_clamped_after_the_mean_and_not_before() -> None:
    metric = MeanKL()
    metric.update(torch.tensor([-3.0, 5.0]))
    assert float(metric.compute()) == 1.0
    metric.update(torch.tensor([-9.0]))
    assert float(metric.compute()) == 0.0


def test_states_keep_their_types_in_a_module_that_is_converted() -> None:
    # As Lightning's precision plugins convert: sums in bfloat16 would lose what is added to them.
    metrics = torch.nn.ModuleList([MeanLoss(), ImplicitRewards()])
    metrics.to(dtype=torch.bfloat16)
    metrics.to("cpu", torch.float32)
    assert metrics[0].total.dtype == metrics[1].totals.dtype == torch.float64
    metrics[0].reset()
    metrics[0].update(torch.full((3,), 0.1))
    metrics[0].update(torch.tensor([1e6]))
    assert float(metrics[0].compute()) == pytest.approx((1e6 + 0.3) / 4, rel=1e-9)
    metrics[0].set_dtype(torch.float32)
    assert metrics[0].total.dtype == torch.float32
