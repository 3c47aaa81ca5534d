"""Conditional supervised finetuning."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from torch import Tensor
from torchmetrics import MetricCollection

from halo_lightning.data.batches import Sequences, UnaryBatch, pack
from halo_lightning.metrics import MeanLogps, MeanLoss
from halo_lightning.modules.base import HaloModule, metric_collection


class CSFT(HaloModule):
    """Conditional SFT: learns desirable and undesirable completions alike, each after a text that says which it is.

    The text stands between prompt and completion, and the loss is not on it. An exported model comes with a chat
    template whose generation prompt ends with the text for desirable completions.

    Args:
        policy: The model to align: a Hugging Face folder, a hub id, or `embedded:base`.
        desirable_control: What stands before a desirable completion.
        undesirable_control: What stands before an undesirable completion.
        base: Arguments of `HaloModule`.
    """

    feedback = ("unary",)
    source = "arXiv 2302.02676"
    needs_reference = False

    def __init__(
        self,
        policy: str,
        *,
        desirable_control: str = "<|good|>",
        undesirable_control: str = "<|bad|>",
        **base: Any,
    ) -> None:
        super().__init__(policy, **base)
        self.controls = {True: desirable_control, False: undesirable_control}
        self._control_tokens: dict[bool, list[int]] | None = None

    def loss_and_metrics(self, batch: UnaryBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean negative log-likelihood of a completion's token given its prompt and control text."""
        token_logps = self.pair.policy_token_logps(batch.sequences)
        losses = -batch.weight * token_logps.sum(-1)
        return losses.sum() / self.mean_tokens(batch.sequences), {
            "losses": batch.sequences.of_targets(-batch.weight[:, None] * token_logps),
            "logps": token_logps.sum(-1),
            "desirable": batch.desirable,
        }

    def on_before_batch_transfer(self, batch: UnaryBatch, dataloader_idx: int) -> UnaryBatch:
        """Puts the control texts into the batch while it is still on the CPU."""
        return batch._replace(sequences=self.with_control(batch.sequences, batch.desirable))

    def with_control(self, sequences: Sequences, desirable: Tensor) -> Sequences:
        """The sequences with their control tokens between prompt and completion."""
        rows = sequences.unpacked()
        controls = self.control_tokens
        prompts = [
            np.concatenate([prompt, controls[good]]) for (prompt, _), good in zip(rows, desirable.tolist(), strict=True)
        ]
        return pack(prompts, [completion for _, completion in rows], learned=sequences.learned())

    @property
    def control_tokens(self) -> dict[bool, list[int]]:
        """Tokens of the control text of desirable (true) and undesirable (false) completions."""
        if self._control_tokens is None:
            from halo_lightning.pretrained import load_tokenizer

            data = getattr(self._trainer, "datamodule", None) if self._trainer else None
            tokenizer = getattr(data, "tokenizer", None) or load_tokenizer(self.policy_path)
            self._control_tokens = {
                good: list(tokenizer(text, add_special_tokens=False)["input_ids"])
                for good, text in self.controls.items()
            }
        return self._control_tokens

    def tokenizer_for_export(self, tokenizer: Any) -> Any:
        """A copy whose generation prompt asks for a desirable completion."""
        exported = copy.deepcopy(tokenizer)
        text = exported.decode(self.control_tokens[True])
        exported.chat_template += "{% if add_generation_prompt %}{{ " + repr(text) + " }}{% endif %}"
        return exported

    def metrics(self) -> MetricCollection:
        """Loss, and the mean log-probability of a desirable completion."""
        return metric_collection({"loss": MeanLoss(), "logps/chosen": MeanLogps()})
