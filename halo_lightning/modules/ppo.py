"""Offline, one-step PPO (section 3.3)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MetricCollection

from halo_lightning.data.batches import PairedBatch, Sequences, UnaryBatch
from halo_lightning.deepspeed import refuse_deepspeed
from halo_lightning.forward import predicting_states, target_logps
from halo_lightning.losses import discounted_returns, generalized_advantages, offline_ppo_loss, whiten
from halo_lightning.metrics import ImplicitRewards, MeanKL, MeanLoss, UnaryRewardAccuracy
from halo_lightning.modules.base import HaloModule, metric_collection
from halo_lightning.modules.scope import Scope, check_scope, group_size
from halo_lightning.ranges import FRACTION, NOT_NEGATIVE, check_bounds


class OfflinePPO(HaloModule):
    """PPO (offline, one-step): a clipped policy ratio times an advantage of ±1, with π_old = π_ref (section 3.3).

    It takes pairs (+1 for the chosen completion, −1 for the rejected one) and unary feedback (+1 or −1 by the label).
    The defaults are the text's ±1 for every token and the released code's probability ratio: no value head has to be
    learnt before its advantages mean something, and the gradient at the start is the same for both ratios (there
    r_θ has the gradient of log π_θ, and clipping to the default bounds takes nothing away; the report's literal
    1 ± ε around a log ratio would take away all gradient of undesirable tokens, see `offline_ppo_loss`).

    Args:
        policy: The model to align: a Hugging Face folder, a hub id, or `embedded:base`.
        ratio: What r_θ is: the `probability` ratio π_θ/π_ref (the released code) or its `log` (the report's text).
            With the probability ratio a token that has become likelier weighs more in the gradient; with the log
            ratio every token that is not clipped weighs the same.
        clip: Lower and upper bound of r_θ; None is [0.5, 2.0], or the logarithms of these for `log`.
        advantage: `constant`, ±1 for every token of the completion (the report's text), or `gae`: ±1 at the last
            token, spread over the tokens by a value head and generalized advantage estimation, whitened over
            the batch of all processes (the released code).
        kl_penalty: Weight of the mean over tokens of log(π_ref/π_θ) in the loss; the released code has 0.1.
        gamma: γ of `gae`, the discount from token to token.
        lam: λ of `gae`.
        whiten_over: Whose advantages `gae` whitens together: those of all `processes`, or of this `device` alone,
            micro-batch by micro-batch; or a number: of so many consecutive examples (pairs, for paired feedback),
            which are the same on any number of devices.
        value_coefficient: Weight of the value head's squared error in the loss.
        value_clip: Bound of the norm of the value head's gradient, apart from the policy's.
        beta: β of the implicit rewards that are logged; the loss has none.
        base: Arguments of `HaloModule`.
    """

    feedback = ("paired", "unary")
    source = "section 3.3"
    ranges: ClassVar = {
        **HaloModule.ranges,
        "kl_penalty": NOT_NEGATIVE,
        "gamma": FRACTION,
        "lam": FRACTION,
        "value_coefficient": NOT_NEGATIVE,
        "value_clip": NOT_NEGATIVE,
    }

    def __init__(
        self,
        policy: str,
        *,
        ratio: Literal["probability", "log"] = "probability",
        clip: tuple[float, float] | None = None,
        advantage: Literal["constant", "gae"] = "constant",
        kl_penalty: float = 0.0,
        gamma: float = 0.99,
        lam: float = 0.95,
        whiten_over: Scope = "processes",
        value_coefficient: float = 0.01,
        value_clip: float = 0.1,
        beta: float = 0.1,
        **base: Any,
    ) -> None:
        super().__init__(policy, **base)
        check_bounds("clip", clip)
        self.ratio, self.clip, self.advantage, self.kl_penalty = ratio, clip, advantage, kl_penalty
        self.gamma, self.lam, self.whiten_over = gamma, lam, whiten_over
        self.value_coefficient, self.value_clip = value_coefficient, value_clip
        self.beta = beta
        self.value_head: nn.Sequential | None = None

    def configure_model(self) -> None:
        """Loads the models, and makes the value head where one is needed: three layers, float32."""
        super().configure_model()
        if self.advantage == "gae" and self.value_head is None:
            width = self.pair.policy.config.get_text_config().hidden_size
            self.value_head = nn.Sequential(
                nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
            )
            if hasattr(self._strategy, "spread_small"):
                self._strategy.spread_small(self.value_head)

    def full_precision_modules(self) -> list[nn.Module]:
        """The value head."""
        return [] if self.value_head is None else [self.value_head]

    def loss_and_metrics(self, batch: PairedBatch | UnaryBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """One loss per completion, and their mean."""
        sequences, desirable = batch.sequences, batch.desirable
        states = predicting_states(self.pair.policy, sequences)
        policy_logps = sequences.table(target_logps(self.pair.policy, sequences, states))
        reference_logps = self.pair.reference_token_logps(sequences)
        mask = sequences.completion_mask
        reward = torch.where(desirable, 1.0, -1.0).to(policy_logps)
        value_losses = torch.zeros_like(reward)
        if self.value_head is None:
            advantage = reward
        else:
            advantage, value_losses = self.estimate_advantages(states, sequences, reward, len(batch.index))
        losses = offline_ppo_loss(policy_logps, reference_logps, mask, advantage, ratio=self.ratio, clip=self.clip)
        log_ratios = policy_logps - reference_logps
        tokens = mask.sum(-1).clamp(min=1)
        losses = losses + self.value_coefficient * value_losses - self.kl_penalty * log_ratios.sum(-1) / tokens
        # A pair has one weight for both of its completions.
        weight = batch.weight if len(batch.weight) == len(desirable) else batch.weight.repeat(2)
        losses = weight * losses
        detached = log_ratios.detach().sum(-1)
        return losses.mean(), {
            "losses": losses,
            "rewards": self.beta * detached,
            "logps": policy_logps.detach().sum(-1),
            "desirable": desirable,
            "kl": detached,
        }

    def setup(self, stage: str) -> None:
        """Checks as of every method, and that the groups that are whitened fit into the micro-batches."""
        super().setup(stage)
        if self.advantage == "gae":
            refuse_deepspeed(self._strategy, "the value head")
        check_scope("whiten_over", self.whiten_over, getattr(self.trainer, "datamodule", None))

    def estimate_advantages(
        self, states: Tensor, sequences: Sequences, reward: Tensor, examples: int
    ) -> tuple[Tensor, Tensor]:
        """Advantages `[R, C]` by the value head, and its squared errors `[R]`, of so many examples.

        The head sees the hidden states `[K, H]` without their gradient: learning values does not move the policy.
        """
        assert self.value_head is not None
        mask = sequences.completion_mask
        with torch.autocast(states.device.type, enabled=False):
            values = sequences.table(self.value_head(states.detach().to(torch.float32))[:, 0])
        last = mask & (mask.flip(-1).cumsum(-1).flip(-1) == 1)
        rewards = reward[:, None] * last
        advantages = generalized_advantages(values, rewards, mask, gamma=self.gamma, lam=self.lam)
        errors = (values - discounted_returns(rewards, mask, gamma=self.gamma)) ** 2 * mask
        return self._whitened(advantages, mask, examples), 0.5 * errors.sum(-1) / mask.sum(-1).clamp(min=1)

    def _whitened(self, advantages: Tensor, mask: Tensor, examples: int) -> Tensor:
        if self.whiten_over == "processes":
            return whiten(advantages, mask, total=lambda scalar: self.of_all_processes(scalar[None]).sum())
        # A pair's two completions are as many rows apart as there are pairs, and in the same group.
        rows = torch.arange(len(mask), device=mask.device).view(-1, examples)
        whitened = torch.empty_like(advantages)
        for group in rows.split(group_size(self.whiten_over, examples), dim=1):
            whitened[group.flatten()] = whiten(advantages[group.flatten()], mask[group.flatten()])
        return whitened

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the value head's gradient by a bound of its own, then that of the policy as the Trainer was told."""
        if self.value_head is not None and self.value_clip:
            clip = getattr(self._strategy, "clip_gradients", None)
            if clip is None:
                nn.utils.clip_grad_norm_(self.value_head.parameters(), self.value_clip)
            else:
                clip(self.value_clip, self.value_head)
        super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def metrics(self) -> MetricCollection:
        """Loss, implicit rewards, log-probabilities, reward accuracy and KL."""
        return metric_collection(
            {
                "loss": MeanLoss(),
                "rewards": ImplicitRewards(),
                "rewards/accuracies": UnaryRewardAccuracy(),
                "kl": MeanKL(),
            }
        )
