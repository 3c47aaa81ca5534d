"""The Bradley-Terry reward model (section 2)."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchmetrics import MetricCollection

from halo_lightning.data.batches import Batch, PairedBatch
from halo_lightning.errors import ConfigError
from halo_lightning.forward import last_hidden_states, plain
from halo_lightning.losses import bradley_terry_loss
from halo_lightning.metrics import ImplicitRewards, MeanLoss, PairedRewardAccuracy
from halo_lightning.modules.base import HaloModule, metric_collection
from halo_lightning.pretrained import load_tokenizer


class RewardModel(HaloModule):
    """Bradley-Terry reward model: a scalar head on a policy's backbone, trained on pairs (eq. 1 and L_R).

    The export is a Hugging Face sequence classifier with one output, the reward of prompt and completion; see
    `halo_lightning.evaluation.rewards` for scoring completions with it.

    Args:
        policy: The model whose backbone is used: a Hugging Face folder, a hub id, or `embedded:base`.
        base: Arguments of `HaloModule`.
    """

    feedback = ("paired",)
    source = "eq. 1 and L_R"
    task = "reward"
    needs_reference = False

    def __init__(self, policy: str, **base: Any) -> None:
        super().__init__(policy, **base)

    def configure_model(self) -> None:
        """Loads the backbone, with a new scalar head unless the folder has one."""
        if self.models is not None:
            return
        data = getattr(self._trainer, "datamodule", None) if self._trainer else None
        tokenizer = getattr(data, "tokenizer", None) or load_tokenizer(self.policy_path)
        if tokenizer.pad_token_id == tokenizer.eos_token_id:
            raise ConfigError(
                f"{self.policy_path}: a reward model needs a padding token of its own (here it is the end-of-sequence"
                " token, which would then be taken for padding); add one to the tokenizer"
            )
        super().configure_model()
        # Where it is used, the classifier reads the last token that is not padding, so it has to know what padding is.
        self.pair.policy.config.pad_token_id = tokenizer.pad_token_id

    def forward(self, batch: Batch) -> Tensor:
        """r_φ(x, y) of each row, float32 `[R]`."""
        rewards: Tensor = self.pair(self.rewards, batch)
        return rewards

    def rewards(self, batch: Batch) -> Tensor:
        """As `forward`, where the policy's weights are at hand."""
        model: Any = self.pair.policy
        states = last_hidden_states(model, batch.sequences)
        last = batch.sequences.segments.query_bounds[1:] - 1
        rewards: Tensor = plain(model).score(states[last])[:, 0].float()
        return rewards

    def loss_and_metrics(self, batch: PairedBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """N pairs, N losses, and their mean."""
        rewards = self.rewards(batch)
        losses = batch.weight * bradley_terry_loss(*rewards.chunk(2))
        return losses.mean(), {
            "losses": losses,
            "rewards": rewards.detach(),
            "desirable": batch.desirable,
        }

    def metrics(self) -> MetricCollection:
        """Loss, rewards, and how often the chosen completion has the higher one."""
        return metric_collection(
            {"loss": MeanLoss(), "rewards": ImplicitRewards(), "rewards/accuracies": PairedRewardAccuracy()}
        )
