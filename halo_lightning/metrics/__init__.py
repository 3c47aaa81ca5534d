"""torchmetrics of alignment. Their states are sums and counts, so any number of processes gives the same value."""

from halo_lightning.metrics.objective import RLHFObjective
from halo_lightning.metrics.rewards import (
    ImplicitRewards,
    MeanKL,
    MeanLogps,
    MeanLoss,
    PairedRewardAccuracy,
    UnaryRewardAccuracy,
)

__all__ = [
    "ImplicitRewards",
    "MeanKL",
    "MeanLogps",
    "MeanLoss",
    "PairedRewardAccuracy",
    "RLHFObjective",
    "UnaryRewardAccuracy",
]
