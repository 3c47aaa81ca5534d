"""Binary classifier optimization."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from halo_lightning.losses import bco_loss
from halo_lightning.modules.unary import UnaryHalo


class BCO(UnaryHalo):
    """Binary classifier optimization: a classifier of thumbs whose logit is the implicit reward, shifted.

    The shift is the running mean over training batches of the mean of the desirable and the undesirable rewards; it
    is kept in checkpoints. The density-ratio weights of the paper, for prompts that differ between the two kinds, are
    not computed: give rows a `weight`.

    Args:
        policy: The model to align: a Hugging Face folder, a hub id, or `embedded:base`.
        beta: β, how much reward a nat of log-ratio is.
        base: Arguments of `HaloModule`.
    """

    source = "arXiv 2404.04656"
    reward_shift: Tensor
    batches_seen: Tensor

    def __init__(self, policy: str, *, beta: float = 0.01, **base: Any) -> None:
        super().__init__(policy, **base)
        self.beta = beta
        self.register_buffer("reward_shift", torch.zeros((), dtype=torch.float32))
        self.register_buffer("batches_seen", torch.zeros((), dtype=torch.int64))

    def losses(self, policy_logps: Tensor, reference_logps: Tensor, desirable: Tensor, kl: Tensor) -> Tensor:
        """ArXiv 2404.04656."""
        if self.training:
            self.move_shift(policy_logps.detach() - reference_logps, desirable)
        return bco_loss(policy_logps, reference_logps, desirable, self.reward_shift.clone(), beta=self.beta)

    def move_shift(self, log_ratios: Tensor, desirable: Tensor) -> None:
        """Takes one more batch, of all processes, into the running mean; a batch of one kind alone is left out."""
        rewards = self.of_all_processes(self.beta * log_ratios)
        desirable = self.of_all_processes(desirable)
        both = desirable.any() & (~desirable).any()
        # Not selected by a mask, whose true entries a GPU would have to count before it could go on.
        kinds = torch.stack([desirable, ~desirable])
        mean = (torch.where(kinds, rewards, 0).sum(-1) / kinds.sum(-1)).mean()
        self.batches_seen += both
        step = torch.where(both, (mean - self.reward_shift) / self.batches_seen.clamp(min=1), 0.0)
        self.reward_shift += step.to(self.reward_shift)
