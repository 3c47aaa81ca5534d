"""Metrics that are taken up where a checkpoint left them."""

from __future__ import annotations

import torch
from torchmetrics import Metric, MetricCollection

from halo_lightning.modules.resuming import restore_metrics


class Seen(Metric):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("values", [], dist_reduce_fx="cat")

    def update(self, values: torch.Tensor) -> None:
        self.values.append(values)

    def compute(self) -> torch.Tensor:
        return torch.cat(self.values)


def test_a_list_that_was_empty_in_all_processes_keeps_the_type_of_what_comes() -> None:
    metrics = MetricCollection({"seen": Seen()}, compute_groups=False)
    for before, expected in ((torch.tensor([]), [True]), (torch.tensor([False]), [False, True])):
        metrics.reset()
        restore_metrics(metrics, {"seen": {"values": before}}, here=True)  # as several processes have left it
        metrics.update(torch.tensor([True]))
        found = metrics.compute()["seen"]
        assert found.dtype == torch.bool
        assert found.flatten().tolist() == expected
