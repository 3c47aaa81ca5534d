"""The policy and its reference, and the log-probabilities that they give to completions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from halo_lightning.adapters import LoRA, add_adapter, has_adapter
from halo_lightning.data.batches import Sequences
from halo_lightning.errors import ConfigError
from halo_lightning.forward import Checkpointing, checkpoint_activations, pad_rows, target_logps
from halo_lightning.pretrained import DType, Task, load_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ReferenceMode = Literal["cached", "frozen", "adapter"]


def completion_logps(model: PreTrainedModel, sequences: Sequences) -> Tensor:
    """Log-probability of every completion token given all tokens before it in its sequence.

    Args:
        model: A causal language model.
        sequences: R prompts with a completion each, the longest completion of C tokens.

    Returns:
        float32 `[R, C]` in nats, 0 where a completion has no token.
    """
    return sequences.table(target_logps(model, sequences))


class PolicyAndReference(nn.Module):
    """A trainable policy beside the reference that it is compared with.

    Where the reference's log-probabilities come from is decided for each batch: from the batch itself, if it brings
    them; from the policy with its adapter switched off, if it has one; else from a frozen model, which is loaded the
    first time that it is needed.

    Args:
        policy: The model to train.
        reference: The model to stay close to: never trained, never saved. It may also be a function that loads it.
            None where the method needs none, or the policy has an adapter.
    """

    def __init__(
        self, policy: PreTrainedModel, reference: PreTrainedModel | Callable[[], PreTrainedModel] | None = None
    ) -> None:
        super().__init__()
        self.policy = policy
        self._versions: list[int] | None = self._weight_versions()
        self._frozen: nn.Module | None = None
        self._load_reference: Callable[[], PreTrainedModel] | None = None
        if isinstance(reference, nn.Module):
            self.freeze(reference)
        else:
            self._load_reference = reference
        # The reference is read from where it came from, and never saved beside the policy.
        self.register_state_dict_post_hook(_forget_reference)
        self.register_load_state_dict_post_hook(_after_loading)

    @classmethod
    def load(
        cls,
        policy: str,
        reference: str | None = None,
        *,
        task: Task = "causal",
        needs_reference: bool = True,
        reference_mode: ReferenceMode = "frozen",
        dtype: DType = "float32",
        attention: str | None = None,
        packing: bool = True,
        lora: LoRA | None = None,
        activation_checkpointing: Checkpointing = "auto",
    ) -> PolicyAndReference:
        """Loads both from folders or hub ids.

        Args:
            policy: The model to train.
            reference: The model to stay close to; None is the policy as it is before training.
            task: What the policy does.
            needs_reference: Whether there is to be a reference at all.
            reference_mode: `frozen` loads it at once; `cached` only if batches come without its log-probabilities;
                with `adapter` it is the policy with its adapter switched off.
            dtype: Of the weights of both.
            attention: Their attention implementation; None is the model's default.
            packing: Whether sequences are computed without padding where the model can do that.
            lora: The adapter to train instead of the weights; None trains the weights.
            activation_checkpointing: Which activations of the policy are computed again in the backward pass.
        """

        def load(path: str) -> PreTrainedModel:
            model = load_model(path, task, dtype=dtype, attention=attention)
            if not packing:
                pad_rows(model)
            return model

        model = load(policy)
        checkpoint_activations(model, activation_checkpointing)
        if lora is not None:
            model = add_adapter(model, lora, task)
        if not needs_reference or reference_mode == "adapter":
            return cls(model)
        if reference_mode == "cached" and lora is not None and reference in (None, policy):
            return cls(model)
        pair = cls(model, lambda: load(policy if reference is None else reference))
        if reference_mode == "frozen":
            pair.freeze(pair.loaded_reference())
        return pair

    def _weight_versions(self) -> list[int]:
        """What torch counts up whenever a tensor is written to."""
        return [parameter._version for parameter in self.policy.parameters()]

    @property
    def untrained(self) -> bool:
        """Whether the policy's weights are certain to be those that it was loaded with."""
        return self._versions == self._weight_versions()

    def training_begins(self) -> None:
        """Notes that the policy's weights are not those that it was loaded with any more."""
        self._versions = None

    @property
    def reference(self) -> PreTrainedModel | None:
        """The frozen model, where there is one in memory."""
        return self._frozen

    def freeze(self, model: PreTrainedModel) -> None:
        """Takes a model for the reference."""
        self._frozen = model.requires_grad_(False).eval()

    def loaded_reference(self) -> PreTrainedModel:
        """The reference, newly loaded to the policy's device."""
        if self._load_reference is None:
            raise ConfigError("this module was built without a reference")
        device = next(self.policy.parameters()).device
        return self._load_reference().requires_grad_(False).eval().to(device)

    def train(self, mode: bool = True) -> PolicyAndReference:
        """Sets the policy's mode; the reference stays in evaluation mode."""
        super().train(mode)
        if self._frozen is not None:
            self._frozen.eval()
        return self

    def policy_token_logps(self, sequences: Sequences) -> Tensor:
        """Policy log-probabilities, float32 `[R, C]`, 0 where a completion has no token."""
        return completion_logps(self.policy, sequences)

    @torch.no_grad()
    def reference_token_logps(self, sequences: Sequences) -> Tensor:
        """Reference log-probabilities, float32 `[R, C]`, 0 where a completion has no token, without gradient."""
        if sequences.reference_logps is not None:
            return sequences.table(sequences.reference_logps)
        if has_adapter(self.policy) and self._load_reference is None and self._frozen is None:
            with without_adapter(self.policy):
                return completion_logps(self.policy, sequences)
        if self._frozen is None:
            self.freeze(self.loaded_reference())
        assert self._frozen is not None
        return completion_logps(self._frozen, sequences)

    def policy_logps(self, sequences: Sequences) -> Tensor:
        """Log π_θ(y|x) of each sequence, float32 `[R]`, in nats."""
        return self.policy_token_logps(sequences).sum(-1)

    def reference_logps(self, sequences: Sequences) -> Tensor:
        """Log π_ref(y|x) of each sequence, float32 `[R]`, in nats, without gradient."""
        return self.reference_token_logps(sequences).sum(-1)


def without_adapter(model: Any) -> AbstractContextManager[None]:
    """Within, a model is what it was before it got its adapter."""
    context: AbstractContextManager[None] = model.disable_adapter() if has_adapter(model) else nullcontext()
    return context


def _forget_reference(module: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}_frozen.")]:
        del state[name]


def _after_loading(module: Any, incompatible: Any) -> None:
    module.training_begins()
    incompatible.missing_keys[:] = [name for name in incompatible.missing_keys if "_frozen." not in name]
