"""Supervised finetuning, the stage before alignment (section 2)."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor
from torchmetrics import MetricCollection

from halo_lightning.data.batches import SFTBatch
from halo_lightning.metrics import MeanLogps, MeanLoss
from halo_lightning.modules.base import HaloModule, metric_collection


class SFT(HaloModule):
    """Supervised finetuning: the policy learns to predict the next token of demonstrations (section 2).

        L_SFT(π_θ) = E_{x, y ~ D}[−log π_θ(y|x)]

    Args:
        policy: The model to finetune: a Hugging Face folder, a hub id, or `embedded:base`.
        average: What the mean is taken over: `tokens`, the usual language-modelling loss in which a token counts
            the same wherever it stands (over the micro-batches of all processes), or `examples`, the formula above,
            in which a long completion counts as much as it has tokens (the code released with the report).
        base: Arguments of `HaloModule`.
    """

    feedback = ("sft",)
    source = "section 2"
    needs_reference = False

    def __init__(self, policy: str, *, average: Literal["tokens", "examples"] = "tokens", **base: Any) -> None:
        super().__init__(policy, **base)
        self.average = average

    def loss_and_metrics(self, batch: SFTBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of the completions' tokens."""
        sequences = batch.sequences
        token_logps = self.pair.policy_token_logps(sequences)
        logps = token_logps.sum(-1)
        if self.average == "examples":
            losses = -batch.weight * logps
            return losses.mean(), {"losses": losses, "logps": logps}
        losses = sequences.of_targets(-batch.weight[:, None] * token_logps)
        return losses.sum() / self.mean_tokens(sequences), {"losses": losses, "logps": logps}

    def metrics(self) -> MetricCollection:
        """Loss, and the mean log-probability of a demonstration."""
        return metric_collection({"loss": MeanLoss(), "logps/chosen": MeanLogps()})
