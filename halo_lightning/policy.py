"""The policy and its reference, and the log-probabilities that they give to completions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from halo_lightning.adapters import LoRA, add_adapter, has_adapter, keep_adapter_alone
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


class FrozenModel(nn.Module):
    """A model that is asked and never trained.

    Args:
        model: A causal language model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, asked: Sequences | Callable[[PreTrainedModel], Any]) -> Any:
        """Log-probability of every target of sequences, float32 `[K]`; or what a function of the model returns."""
        return asked(self.model) if callable(asked) else target_logps(self.model, asked)


Build = Callable[[Callable[[], nn.Module], bool], Any]
"""Builds a module by a function, as a strategy wants it that spreads weights over processes: called with the function,
and with whether the module stays as it is and is not trained."""


def build_whole(build: Callable[[], nn.Module], frozen: bool) -> Any:
    """Builds a module whole, in this process."""
    return build()


class PolicyAndReference(nn.Module):
    """A trainable policy beside the reference that it is compared with.

    Where the reference's log-probabilities come from is decided for each batch: from the batch itself, if it brings
    them; from the policy with its adapter switched off, if it has one; else from a frozen model, which is loaded the
    first time that it is needed.

    Args:
        policy: The model to train.
        reference: The model to stay close to: never trained, never saved. It may also be a function that loads it, as
            a `FrozenModel`. None where the method needs none, or the policy has an adapter.
    """

    def __init__(
        self, policy: PreTrainedModel, reference: PreTrainedModel | Callable[[], nn.Module] | None = None
    ) -> None:
        super().__init__()
        self.policy = policy
        self._versions: list[int] | None = self._weight_versions()
        # No submodule: it is not saved beside the policy, nobody's optimizer sees it, and a strategy that spreads
        # weights over processes does so with it apart from the policy.
        self._frozen: tuple[nn.Module, ...] = ()
        self._load_reference: Callable[[], nn.Module] | None = None
        if isinstance(reference, nn.Module):
            self._frozen = (FrozenModel(reference),)
        else:
            self._load_reference = reference
        self.state_is_whole = False
        """Whether a state has the weights that an adapter does not change, too: FSDP needs it to be so."""
        self.register_state_dict_post_hook(_what_is_trained)
        self.register_load_state_dict_post_hook(_after_loading)

    def forward(self, compute: Callable[..., Any], *arguments: Any) -> Any:
        """Runs a computation in which the policy takes part.

        A strategy that spreads its weights over processes gathers them for as long as that takes: FSDP2 does it in
        the forward pass of this module.
        """
        return compute(*arguments)

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
        build: Build = build_whole,
        device: torch.device | str = "cpu",
        compute: torch.dtype | None = None,
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
            build: How modules are built, of which a process may get only a part.
            device: Where quantised weights are to be, which cannot be moved; others are moved by a strategy.
            compute: What quantised weights are computed with; None is `dtype`.

        Raises:
            ConfigError: Quantised weights cannot be built so.
        """
        quantized = lora is not None and lora.quantize is not None
        if quantized and build is not build_whole:
            raise ConfigError(
                "lora.quantize: weights of 4 bits cannot be spread over processes; with several GPUs use"
                " --trainer.strategy ddp, with one --trainer.strategy auto"
            )

        def load(path: str) -> PreTrainedModel:
            return run_as_asked(load_model(path, task, dtype=dtype, attention=attention))

        def load_policy() -> PreTrainedModel:
            if not quantized:
                return load(policy)
            from halo_lightning.quantization import load_quantized

            options: dict[str, Any] = {"dtype": dtype, "attention": attention, "device": device, "compute": compute}
            return run_as_asked(load_quantized(policy, task, **options))

        def run_as_asked(model: PreTrainedModel) -> PreTrainedModel:
            if not packing:
                pad_rows(model)
            return model

        def load_pair() -> PolicyAndReference:
            model = load_policy()
            checkpoint_activations(model, activation_checkpointing)
            return cls(model if lora is None else add_adapter(model, lora, task))

        pair: PolicyAndReference = build(load_pair, False)
        own_adapter = lora is not None and reference in (None, policy)
        if needs_reference and reference_mode != "adapter" and not (reference_mode == "cached" and own_adapter):
            path = policy if reference is None else reference
            pair._load_reference = lambda: build(lambda: FrozenModel(load(path)), True)
            if reference_mode == "frozen":
                pair.freeze()
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

    def weights_are_loaded(self) -> None:
        """Notes that the weights, as they are now, are those that were loaded."""
        self._versions = self._weight_versions()

    @property
    def reference(self) -> PreTrainedModel | None:
        """The frozen model, where there is one in memory."""
        frozen: Any = self._frozen[0] if self._frozen else None
        return None if frozen is None else frozen.model

    def freeze(self) -> nn.Module:
        """The frozen model, which is loaded if it is not in memory, and stays there."""
        if not self._frozen:
            self._frozen = (self.loaded_reference(),)
        return self._frozen[0]

    def loaded_reference(self) -> nn.Module:
        """The reference, newly loaded to the policy's device; it gives the log-probabilities of sequences.

        Raises:
            ConfigError: There is none.
        """
        if self._load_reference is None:
            raise ConfigError("this module was built without a reference")
        model = self._load_reference()
        return model if is_spread(model) else model.to(next(self.policy.parameters()).device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PolicyAndReference:
        """To another device or dtype, with the reference; what is spread over processes is where it has to be."""
        super()._apply(fn, recurse)
        for model in self._frozen:
            if not is_spread(model):
                model._apply(fn, recurse)
        return self

    def policy_token_logps(self, sequences: Sequences) -> Tensor:
        """Policy log-probabilities, float32 `[R, C]`, 0 where a completion has no token."""
        return completion_logps(self.policy, sequences)

    @torch.no_grad()
    def reference_token_logps(self, sequences: Sequences) -> Tensor:
        """Reference log-probabilities, float32 `[R, C]`, 0 where a completion has no token, without gradient."""
        if sequences.reference_logps is not None:
            return sequences.table(sequences.reference_logps)
        if has_adapter(self.policy) and self._load_reference is None and not self._frozen:
            with without_adapter(self.policy):
                return completion_logps(self.policy, sequences)
        return sequences.table(self.freeze()(sequences))

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


def is_spread(module: nn.Module) -> bool:
    """Whether a module's weights are spread over processes."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # which takes time to import
    return fsdp is not None and isinstance(module, (fsdp.FSDPModule, fsdp.FullyShardedDataParallel))


def _what_is_trained(module: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    if has_adapter(module.policy) and not module.state_is_whole:
        keep_adapter_alone(state, f"{prefix}policy.")


def _after_loading(module: Any, incompatible: Any) -> None:
    module.training_begins()
    if has_adapter(module.policy):
        missing = dict.fromkeys(incompatible.missing_keys)
        keep_adapter_alone(missing, "")
        incompatible.missing_keys[:] = missing
