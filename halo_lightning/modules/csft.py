"""Conditional supervised finetuning."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from halo_lightning.data.batches import Sequences, UnaryBatch
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
        self._control_tokens: Tensor | None = None

    def loss_and_metrics(self, batch: UnaryBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean negative log-likelihood of a completion given its prompt and control text."""
        logps = self.pair.policy_logps(self.with_control(batch.sequences, batch.desirable))
        losses = -batch.weight * logps
        tokens = batch.sequences.completion_mask.sum()
        return losses.sum() / tokens, {"losses": losses, "logps": logps[batch.desirable]}

    def with_control(self, sequences: Sequences, desirable: Tensor) -> Sequences:
        """The rows with their control tokens between prompt and completion."""
        controls = self.control_tokens(sequences.input_ids.device)
        chosen = torch.where(desirable[:, None], controls[0], controls[1])
        length = chosen.shape[1]
        rows, width = sequences.input_ids.shape
        start = sequences.completion_mask.int().argmax(-1, keepdim=True)
        position = torch.arange(width + length, device=start.device).expand(rows, -1)
        source = torch.where(position < start, position, position - length).clamp(min=0)
        is_control = (position >= start) & (position < start + length)
        ids = sequences.input_ids.gather(1, source)
        control = chosen.gather(1, (position - start).clamp(0, length - 1))
        return Sequences(
            torch.where(is_control, control, ids),
            is_control | sequences.attention_mask.gather(1, source),
            ~is_control & (position >= start) & sequences.completion_mask.gather(1, source),
        )

    def control_tokens(self, device: torch.device) -> Tensor:
        """Tokens of both control texts, int64 `[2, C]`: desirable, undesirable; the shorter repeated to C tokens."""
        if self._control_tokens is None:
            from halo_lightning.pretrained import load_tokenizer

            data = getattr(self._trainer, "datamodule", None) if self._trainer else None
            tokenizer = getattr(data, "tokenizer", None) or load_tokenizer(self.policy_path)
            listed = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in self.controls.values()]
            longest = max(map(len, listed))
            self._control_tokens = torch.tensor([(ids * longest)[:longest] for ids in listed])
        return self._control_tokens.to(device)

    def tokenizer_for_export(self, tokenizer: Any) -> Any:
        """A copy whose generation prompt asks for a desirable completion."""
        exported = copy.deepcopy(tokenizer)
        text = exported.decode(self.control_tokens(torch.device("cpu"))[0])
        exported.chat_template += "{% if add_generation_prompt %}{{ " + repr(text) + " }}{% endif %}"
        return exported

    def metrics(self) -> MetricCollection:
        """Loss, and the mean log-probability of a desirable completion."""
        return metric_collection({"loss": MeanLoss(), "logps/chosen": MeanLogps()})
