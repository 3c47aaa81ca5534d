"""Scoring completions with a reward model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from halo_lightning.data.rendering import render_text
from halo_lightning.forward import check_tokens
from halo_lightning.pretrained import load_model, load_tokenizer


class RewardScorer:
    """The rewards that an exported reward model (a Hugging Face sequence classifier with one output) gives.

    Args:
        path_or_id: Its folder or hub id.
        batch_size: Number of completions scored at one time.
        device: Where to compute.

    Example:
        `RewardScorer("runs/tiny_reward/export").score([[{"role": "user", "content": "Hi"}]], ["Hello!"])`
    """

    def __init__(self, path_or_id: str, *, batch_size: int = 64, device: str | torch.device = "cpu") -> None:
        self.model = load_model(path_or_id, "reward").eval().to(device)
        self.tokenizer: Any = load_tokenizer(path_or_id)
        self.batch_size = batch_size

    @torch.no_grad()
    def score(self, prompts: Sequence[Sequence[dict[str, str]]], completions: Sequence[str]) -> torch.Tensor:
        """r_φ(x, y) of each prompt (a list of messages) with its completion, float32 `[N]`."""
        texts = [
            render_text(self.tokenizer, [*prompt, {"role": "assistant", "content": completion}])
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        rewards = []
        for start in range(0, len(texts), self.batch_size):
            batch = self.tokenizer(
                texts[start : start + self.batch_size],
                add_special_tokens=False,
                padding=True,
                padding_side="right",
                return_tensors="pt",
            )
            check_tokens(self.model, self.tokenizer, int(batch["input_ids"].max()))
            batch = batch.to(self.model.device)
            output = self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
            rewards.append(output.logits[:, 0].float())
        return torch.cat(rewards) if rewards else torch.zeros(0)
