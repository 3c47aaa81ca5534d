"""What the policy says to a few prompts while it is trained, beside what the reference says."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

from halo_lightning.adapters import has_adapter
from halo_lightning.data.batching import TokenizedDataset
from halo_lightning.data.conversations import Message
from halo_lightning.data.rendering import encode_prompts
from halo_lightning.errors import ConfigError
from halo_lightning.evaluation.sampling import Sampling, sample_tokens
from halo_lightning.evaluation.streams import stream_key
from halo_lightning.modules.base import HaloModule
from halo_lightning.policy import without_adapter
from halo_lightning.pretrained import load_model

Sampled = list[list[int]]


class SampleCompletions(L.Callback):
    """Samples a few fixed prompts with fixed random numbers every so often, and shows them in TensorBoard as text.

    Beside the policy's completion stands that of the reference (the policy as it was before training, where the method
    has no reference), the one from the feedback, and, where the rules of the embedded world apply, which of the
    criteria each of them meets. The random state of the training is not touched: weights are the same without it. The
    first of several processes samples; where each of them has a part of the weights only, all do, and gather them.

    Args:
        prompts: How many prompts of the held-out feedback (of the training feedback, where nothing is held out); or the
            prompts themselves, each one message of the user. 0 switches it off.
        every_n_steps: After how many optimizer steps; None is whenever the held-out feedback has been looked at.
        max_new_tokens: Most tokens of a completion.
        temperature: Of the sampling; 0 takes the most likely token each time.
        top_p: Samples from the smallest set of tokens that has this probability.
        seed: Of the sampling.

    Raises:
        ConfigError: A setting cannot work.
    """

    def __init__(
        self,
        prompts: int | list[str] = 4,
        every_n_steps: int | None = None,
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        top_p: float = 0.95,
        seed: int = 1,
    ) -> None:
        if isinstance(prompts, int) and prompts < 0:
            raise ConfigError(f"prompts is {prompts}: expected 0 or more, or a list of prompts")
        if every_n_steps is not None and every_n_steps < 1:
            raise ConfigError(f"every_n_steps is {every_n_steps}: expected 1 or more")
        self.prompts, self.every_n_steps = prompts, every_n_steps
        self.sampling = Sampling(max_new_tokens, temperature, top_p, seed)
        self._tokenizer: Any = None
        self._asked: Sampled = []
        self._human: list[list[int] | None] = []
        self._reference: Sampled = []
        self._sampled_at = -1

    # --- when ------------------------------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Forgets an earlier run."""
        self._sampled_at = -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Chooses the prompts, and samples the reference and the policy before the first step."""
        data = getattr(trainer, "datamodule", None)
        self._tokenizer = getattr(data, "tokenizer", None)
        self._asked = []
        if not self.prompts or self._tokenizer is None or getattr(trainer, "fast_dev_run", False):
            return
        if not isinstance(pl_module, HaloModule) or pl_module.task != "causal":
            return
        self._choose(data, pl_module)
        if not self._asked:
            return
        if len(self._reference) != len(self._asked):  # else a checkpoint had them
            self._reference = self._sample_reference(trainer, pl_module)
        if self._sampled_at < 0:  # a run that goes on has done so
            self._show(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Samples, if it is due."""
        if self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0:
            self._show(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Samples, if it is done whenever the held-out feedback was looked at."""
        if self.every_n_steps is None and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._show(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Samples the trained policy."""
        self._show(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The same where a run goes on and nothing was left to train: Lightning skips all hooks of training then."""
        if 0 <= self._sampled_at != trainer.global_step:
            self.on_train_start(trainer, pl_module)
            self._show(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """What the reference said, which a run that goes on does not need any more, and when the policy was asked."""
        return {"reference": self._reference, "sampled_at": self._sampled_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it back."""
        self._reference, self._sampled_at = state_dict["reference"], state_dict["sampled_at"]

    # --- what ------------------------------------------------------------------------------------------------------

    def _choose(self, data: Any, module: HaloModule) -> None:
        """Prompts as tokens, each with the completion that the feedback has for it."""
        config = module.pair.policy.config.get_text_config()
        context = getattr(config, "max_position_embeddings", None)
        room = None if context is None else context - self.sampling.max_new_tokens
        if isinstance(self.prompts, list):
            conversations = [(Message(role="user", content=text),) for text in self.prompts]
            self._asked, self._human = encode_prompts(self._tokenizer, conversations), [None] * len(self.prompts)
        else:
            held_out = getattr(data, "validation_dataset", None)
            dataset = held_out if isinstance(held_out, TokenizedDataset) and len(held_out) else None
            if dataset is None and not getattr(data, "streaming", False):  # what is streamed is never all there
                dataset = getattr(data, "train_dataset", None)
            if not isinstance(dataset, TokenizedDataset):
                return
            self._asked, self._human = first_prompts(dataset, self.prompts)
        if room is not None:
            self._asked = [tokens[-room:] for tokens in self._asked] if room > 0 else []

    def _sample_reference(self, trainer: L.Trainer, module: HaloModule) -> Sampled:
        pair = module.pair
        own = module.reference_path in (None, module.policy_path)
        if own and has_adapter(pair.policy):
            return self._sample_policy(trainer, module, without_adapter)
        if own and pair.untrained:
            return self._sample_policy(trainer, module)
        if not (is_sharded(trainer) or trainer.is_global_zero):
            return []
        sample = partial(self._sample, trainer)
        with torch.no_grad(), trainer.strategy.precision_plugin.forward_context():
            if pair.reference is not None:
                return cast(Sampled, pair.freeze()(sample))
            with torch.random.fork_rng(devices=[]):
                if module.needs_reference:
                    return cast(Sampled, pair.loaded_reference()(sample))
                if is_sharded(trainer):
                    return [[] for _ in self._asked]  # a whole model may not fit
                model: Any = load_model(module.policy_path, dtype=module.dtype_of_weights)
            return sample(model.to(module.device))

    def _show(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._asked or self._sampled_at == trainer.global_step:
            return
        assert isinstance(pl_module, HaloModule)
        self._sampled_at = trainer.global_step
        said = self._sample_policy(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        text = self.table(said)
        for logger in trainer.loggers:
            add_text = getattr(getattr(logger, "experiment", None), "add_text", None)
            if add_text is not None:  # TensorBoard's
                add_text("samples", text, trainer.global_step)

    def _sample_policy(
        self,
        trainer: L.Trainer,
        module: HaloModule,
        within: Callable[[Any], AbstractContextManager[None]] = nullcontext,
    ) -> Sampled:
        def sample(policy: Any) -> Sampled:
            with within(policy):
                return self._sample(trainer, policy)

        with torch.no_grad():
            if is_sharded(trainer):
                return cast(Sampled, trainer.strategy.predict_step(sample, 0))
            if not trainer.is_global_zero:
                return []
            with trainer.strategy.precision_plugin.forward_context():
                return sample(module.pair.policy)

    def _sample(self, trainer: L.Trainer, model: Any) -> Sampled:
        keys = [stream_key(self.sampling.seed, f"sample {number}") for number in range(len(self._asked))]
        return sample_tokens(
            model,
            self._asked,
            keys,
            self.sampling,
            self._tokenizer,
            device=trainer.strategy.root_device,
            together=is_sharded(trainer),
        )

    # --- how it looks ----------------------------------------------------------------------------------------------

    def table(self, said: Sampled) -> str:
        """The prompts and what was said to them, as a table in Markdown.

        Args:
            said: The tokens of the policy's completions.
        """
        lines = ["| prompt | policy | reference | feedback |", "|---|---|---|---|"]
        for asked, policy, reference, human in zip(self._asked, said, self._reference, self._human, strict=True):
            prompt = self._tokenizer.decode(asked, skip_special_tokens=True)
            cells = [_cell(prompt)]
            for tokens in (policy, reference, human):
                text = self._tokenizer.decode(tokens or [], skip_special_tokens=True).strip()
                cells.append(f"{_cell(text)}{criteria(prompt, text)}" if tokens else "–")
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)


def is_sharded(trainer: L.Trainer) -> bool:
    """Whether each process has a part of the weights only."""
    return isinstance(trainer.strategy, (FSDPStrategy, ModelParallelStrategy))


def first_prompts(dataset: TokenizedDataset, number: int) -> tuple[Sampled, list[list[int] | None]]:
    """The first different prompts of a data set, each with its first completion that is not undesirable."""
    found: dict[tuple[int, ...], list[int] | None] = {}
    for example in range(len(dataset)):
        ((prompt, completion), *_) = dataset.sequences(np.array([example * dataset.per_example])).unpacked()
        key = tuple(int(token) for token in prompt)
        if key not in found and len(found) == number:
            break
        good = dataset.desirable is None or bool(dataset.desirable[example])
        if found.get(key) is None:
            found[key] = [int(token) for token in completion] if good else None
    return [list(prompt) for prompt in found], list(found.values())


def criteria(prompt: str, completion: str) -> str:
    """Which criteria of the embedded world a completion meets; nothing where the prompt is not of that world."""
    from halo_lightning.world import rules

    try:
        met = rules.judge(prompt, completion)._asdict()
    except ValueError:
        return ""
    return " (" + ", ".join(f"{'✓' if value else '✗'} {name}" for name, value in met.items()) + ")"


def _cell(text: str) -> str:
    """A text as a cell of a table in Markdown."""
    return text.strip().replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ⏎ ") or "–"
