"""Eq. 2 from samples, against plain arithmetic."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from halo_lightning.metrics import RLHFObjective


def test_objective_and_its_standard_error() -> None:
    rewards, log_ratios = [1.0, -0.5, 2.0, 0.25], [0.5, 3.0, -1.0, 2.0]
    metric = RLHFObjective(beta=0.2)
    metric.update(torch.tensor(rewards[:3]), torch.tensor(log_ratios[:3]))
    metric.update(torch.tensor(rewards[3:]), torch.tensor(log_ratios[3:]))
    each = [reward - 0.2 * ratio for reward, ratio in zip(rewards, log_ratios, strict=True)]
    values = metric.compute()
    assert float(values["objective"]) == pytest.approx(statistics.mean(each))
    assert float(values["objective/standard_error"]) == pytest.approx(statistics.stdev(each) / 2)
    assert float(values["reward"]) == pytest.approx(statistics.mean(rewards))
    assert float(values["kl"]) == pytest.approx(statistics.mean(log_ratios))


def test_one_sample_has_no_standard_error() -> None:
    metric = RLHFObjective()
    metric.update(torch.tensor([1.0]), torch.tensor([0.0]))
    assert math.isnan(metric.compute()["objective/standard_error"])
