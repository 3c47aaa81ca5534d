"""The policy and its reference, and the log-probabilities that they give to completions."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from halo_lightning.data.batches import Sequences
from halo_lightning.errors import ConfigError
from halo_lightning.logprobs import scatter_to_positions, token_logps
from halo_lightning.pretrained import DType, load_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def completion_logps(model: PreTrainedModel, sequences: Sequences) -> Tensor:
    """Log-probability of every completion token given all tokens before it in its row.

    Rows are padded on the right, so causal attention keeps padding out of sight without any mask.

    Args:
        model: A causal language model.
        sequences: R rows of T tokens.

    Returns:
        float32 `[R, T]` in nats, 0 at positions that are not of the completion. `[:, t]` belongs to token t.
    """
    return logps_from_hidden(model, last_hidden_states(model, sequences), sequences)


def last_hidden_states(model: PreTrainedModel, sequences: Sequences) -> Tensor:
    """What the output embedding of a model is applied to, `[R, T, H]`."""
    hidden: Tensor = model.base_model(input_ids=sequences.input_ids, use_cache=False).last_hidden_state
    return hidden


def logps_from_hidden(model: PreTrainedModel, hidden: Tensor, sequences: Sequences) -> Tensor:
    """As `completion_logps`, from the `last_hidden_states` of the same rows."""
    predicted = sequences.completion_mask[:, 1:]
    values = token_logps(
        hidden[:, :-1][predicted],
        sequences.input_ids[:, 1:][predicted],
        _LanguageModelHead(model),
        vocabulary=model.config.get_text_config().vocab_size,
    )
    return nn.functional.pad(scatter_to_positions(values, predicted), (1, 0))


class _LanguageModelHead:
    """From hidden states to logits, as the model's own `forward` does it."""

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config.get_text_config()
        self.embedding = model.get_output_embeddings()
        self.softcap = getattr(config, "final_logit_softcapping", None)
        # Cohere multiplies by `logit_scale`, Granite divides by `logits_scaling`.
        self.scale = getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)

    def __call__(self, hidden: Tensor) -> Tensor:
        logits = self.embedding(hidden)
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits


class PolicyAndReference(nn.Module):
    """A trainable policy beside the reference that it is compared with.

    The reference is a frozen model here. Whoever needs its log-probabilities asks `reference_logps`, so that they
    may come from elsewhere (a cache, the policy with its adapter switched off) without anybody noticing.

    Args:
        policy: The model to train.
        reference: The model to stay close to: never trained, never saved. None where the method needs none.
    """

    def __init__(self, policy: PreTrainedModel, reference: PreTrainedModel | None = None) -> None:
        super().__init__()
        self.policy = policy
        self.reference = reference
        if reference is not None:
            reference.requires_grad_(False)
            reference.eval()
            # The reference is read from where it came from, and never saved beside the policy.
            self.register_state_dict_post_hook(_forget_reference)
            self.register_load_state_dict_post_hook(_expect_no_reference)

    @classmethod
    def load(
        cls,
        policy: str,
        reference: str | None = None,
        *,
        needs_reference: bool = True,
        dtype: DType = "float32",
        attention: str | None = None,
    ) -> PolicyAndReference:
        """Loads both from folders or hub ids; a `reference` of None is the policy as it is before training."""
        model = load_model(policy, dtype=dtype, attention=attention)
        if not needs_reference:
            return cls(model)
        if reference is None or reference == policy:
            return cls(model, copy.deepcopy(model))
        return cls(model, load_model(reference, dtype=dtype, attention=attention))

    def train(self, mode: bool = True) -> PolicyAndReference:
        """Sets the policy's mode; the reference stays in evaluation mode."""
        super().train(mode)
        if self.reference is not None:
            self.reference.eval()
        return self

    def policy_token_logps(self, sequences: Sequences) -> Tensor:
        """Policy log-probabilities, float32 `[R, T]`, 0 outside completions."""
        return completion_logps(self.policy, sequences)

    @torch.no_grad()
    def reference_token_logps(self, sequences: Sequences) -> Tensor:
        """Reference log-probabilities, float32 `[R, T]`, 0 outside completions, without gradient."""
        if self.reference is None:
            raise ConfigError("this module was built without a reference")
        return completion_logps(self.reference, sequences)

    def policy_logps(self, sequences: Sequences) -> Tensor:
        """Log π_θ(y|x) of each row, float32 `[R]`, in nats."""
        return self.policy_token_logps(sequences).sum(-1)

    def reference_logps(self, sequences: Sequences) -> Tensor:
        """Log π_ref(y|x) of each row, float32 `[R]`, in nats, without gradient."""
        return self.reference_token_logps(sequences).sum(-1)


def _forget_reference(module: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}reference.")]:
        del state[name]


def _expect_no_reference(module: nn.Module, incompatible: Any) -> None:
    missing = [name for name in incompatible.missing_keys if "reference." not in name]
    incompatible.missing_keys[:] = missing
