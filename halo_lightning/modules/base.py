"""What every HALO shares: model building, optimization, metrics and their logging."""

from __future__ import annotations

import os
import warnings
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, ClassVar, Literal

import lightning as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import MetricCollection

from halo_lightning import quantization
from halo_lightning.adapters import LoRA
from halo_lightning.data import FeedbackDataModule
from halo_lightning.data.batches import Batch, Sequences
from halo_lightning.data.loading import rescale_progress
from halo_lightning.deepspeed import divide_loss_once, prepare_deepspeed
from halo_lightning.errors import ConfigError
from halo_lightning.forward import Checkpointing, check_tokens, plain, target_logps
from halo_lightning.losses import humanline_clip
from halo_lightning.metrics import MeanLoss
from halo_lightning.modules import resuming
from halo_lightning.modules.reference_pass import compute_missing, reference_caches
from halo_lightning.optimization import LinearWarmup, check_optimizer
from halo_lightning.policy import PolicyAndReference, ReferenceMode, build_whole, without_adapter
from halo_lightning.pretrained import DType, Task, compute_dtype
from halo_lightning.ranges import FRACTION, NOT_NEGATIVE, POSITIVE, Range, check_bounds
from halo_lightning.reference import ReferenceCache

Feedback = Literal["sft", "unary", "paired"]

DATA_MODULES = {"sft": "SFTDataModule", "unary": "UnaryDataModule", "paired": "PairedDataModule"}
# Lightning's warning about hooks of modules and data modules is meant for who wrote both; a user of KTO wrote neither.
warnings.filterwarnings("ignore", message=".*overridden `(on_before_batch_transfer|transfer_batch_to_device).*")

PROGRESS_BAR = {"loss", "rewards/margins", "rewards/accuracies", "kl"}


class HaloModule(L.LightningModule):
    """A policy that is trained with a human-centered loss.

    A subclass names the `feedback` that it learns from and whether it `needs_reference`, and gives
    `loss_and_metrics` and `metrics`; everything else is here and in Lightning's Trainer.

    Args:
        policy: The model to align: a Hugging Face folder, a hub id, or `embedded:base`.
        reference: The model to stay close to; None is the policy as it is before training.
        dtype: Of the weights of policy and reference: `auto` is that of the stored file.
        attention: The attention implementation, such as `sdpa` or `flash_attention_2`; None is the model's default.
            It is what the model generates with, and trains with where it cannot do without padding.
        packing: Whether sequences are computed without padding, and a shared prompt once, where the model can do that
            (it is tried out). The results are the same.
        reference_mode: Where the reference's log-probabilities come from. `cached`: they are computed once before
            training, by the policy itself where it is its own reference, and kept on disk for all runs over the same
            data; no second model is in memory. `frozen`: from a second model, in every step. `adapter`: from the
            policy with its adapter switched off, in every step; with `lora`. The results are the same.
        reference_cache: The folder of the cache; None is `~/.cache/halo_lightning`, or what the environment variable
            `HALO_LIGHTNING_CACHE` says.
        lora: Trains a low-rank adapter instead of the weights, such as `{rank: 16, alpha: 32}`; with
            `quantize: 4bit` in it the weights are kept in 4 bits (QLoRA).
        activation_checkpointing: What is computed again in the backward pass, so that it takes no memory until then:
            `none`; `selective`, what is cheap (norms, activation functions); `full`, everything in a block, which takes
            the least memory and about a seventh more time; or `auto`: `full` for batches whose activations would
            otherwise take more than half of the memory of weights, gradients and optimizer.
        humanline: Bounds that the log-ratio of every single token is clipped to (humanline, arXiv 2509.24207), such
            as [-1.0, 1.5]; None clips nothing. Only methods with a reference have a log-ratio.
        optimizer: Makes the optimizer of the policy's parameters.
        scheduler: Makes the learning-rate schedule of the optimizer, stepped after every optimizer step.
    """

    feedback: ClassVar[tuple[Feedback, ...]]
    """The kinds of feedback that the loss can be computed from: `sft`, `unary`, `paired`."""

    source: ClassVar[str] = ""
    """The equation of the report, or the paper, that the method is from."""

    task: ClassVar[Task] = "causal"
    """What the model that is trained does: a `causal` language model, or a `reward` model."""

    needs_reference: ClassVar[bool] = True
    """Whether the loss compares the policy with a reference."""

    ranges: ClassVar[dict[str, Range]] = {
        "beta": POSITIVE,
        "desirable_weight": NOT_NEGATIVE,
        "undesirable_weight": NOT_NEGATIVE,
        "label_smoothing": FRACTION,
        "margin": NOT_NEGATIVE,
        "regularization": NOT_NEGATIVE,
    }
    """The numbers that settings may have, by their names; a method may say otherwise."""

    def __init__(
        self,
        policy: str,
        *,
        reference: str | None = None,
        dtype: DType = "float32",
        attention: str | None = None,
        packing: bool = True,
        reference_mode: ReferenceMode = "cached",
        reference_cache: str | None = None,
        lora: LoRA | dict[str, Any] | None = None,
        activation_checkpointing: Checkpointing = "auto",
        humanline: tuple[float, float] | None = None,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.AdamW(
            parameters, lr=5e-6, weight_decay=0.0, fused=True
        ),
        scheduler: LRSchedulerCallable = lambda optimizer: LinearWarmup(optimizer, warmup=0.1),
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer", "scheduler"])
        # Checkpoints are read without pickle, so hyper-parameters have to be primitives: objects given in Python
        # (a value function, say) are not kept. From the command line they are, as class paths and arguments.
        for name, value in list(self.hparams.items()):
            if isinstance(value, LoRA):
                self.hparams[name] = asdict(value)
            elif isinstance(value, os.PathLike):
                self.hparams[name] = os.fspath(value)
            elif not isinstance(value, (str, int, float, bool, list, tuple, dict, type(None))):
                del self.hparams[name]
        for name in self.ranges.keys() & self.hparams.keys():
            self.ranges[name].check(name, self.hparams[name])
        check_bounds("humanline", humanline)
        self.policy_path = os.fspath(policy)
        self.reference_path = None if reference is None else os.fspath(reference)
        self.dtype_of_weights = dtype
        self.attention, self.packing, self.activation_checkpointing = attention, packing, activation_checkpointing
        self.lora = LoRA(**lora) if isinstance(lora, dict) else lora
        self.reference_mode, self.reference_cache = reference_mode, reference_cache
        if reference_mode == "adapter" and self.needs_reference and (lora is None or reference is not None):
            raise ConfigError(
                "reference_mode 'adapter' is the policy with its adapter switched off: it needs lora, and no reference"
            )
        self.humanline = humanline
        check_optimizer(optimizer, scheduler)
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.models: PolicyAndReference | None = None
        self.reference_note = ""
        """Where the log-probabilities of the reference came from, for who reads the run's output."""
        self._caches: list[ReferenceCache] = []
        self._logged_at = 0
        self.latest: dict[str, Tensor] = {}
        """What the metrics were last updated with, for callbacks that look at single examples."""
        self._resumed: dict[str, Any] | None = None
        self.training_metrics = self.metrics()
        self.validation_metrics = self.metrics().clone(prefix="val/")

    # --- what a subclass gives -------------------------------------------------------------------------------------

    @abstractmethod
    def loss_and_metrics(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and what `metrics` are updated with.

        Args:
            batch: A batch of this module's feedback, from `halo_lightning.data.batches`.

        Returns:
            The scalar loss with its gradient, and keyword arguments for the update of `metrics`.
        """

    def metrics(self) -> MetricCollection:
        """The metrics of this method by the names that they are logged under."""
        return metric_collection({"loss": MeanLoss()})

    # --- building --------------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Loads policy and reference where Lightning wants them built (so that a strategy can shard them)."""
        if self.models is None:
            self.models = PolicyAndReference.load(
                self.policy_path,
                self.reference_path,
                task=self.task,
                needs_reference=self.needs_reference,
                reference_mode=self.reference_mode,
                dtype=self.dtype_of_weights,
                attention=self.attention,
                packing=self.packing,
                lora=self.lora,
                activation_checkpointing=self.activation_checkpointing,
                build=getattr(self._strategy, "build", build_whole),
                device=getattr(self._strategy, "root_device", "cpu"),
                compute=None if self._trainer is None else compute_dtype(str(self.trainer.precision)),
            )

    @property
    def _strategy(self) -> Any:
        """The strategy, where a Trainer runs the module; else None."""
        return None if self._trainer is None else self._trainer.strategy

    def full_precision_modules(self) -> list[torch.nn.Module]:
        """Modules beside the policy that compute in the type of their weights where precision is mixed."""
        return []

    @property
    def pair(self) -> PolicyAndReference:
        """Policy and reference.

        Raises:
            RuntimeError: They are not built yet: call `configure_model`, or let the Trainer do it.
        """
        if self.models is None:
            raise RuntimeError("the policy is not loaded yet: call configure_model() first")
        return self.models

    def setup(self, stage: str) -> None:
        """Checks that data module and strategy are such that this method can learn, and looks into the cache."""
        data = getattr(self.trainer, "datamodule", None)
        feedback = getattr(data, "feedback", self.feedback[0])
        if feedback not in self.feedback:
            wanted = " or ".join(DATA_MODULES[kind] for kind in self.feedback)
            raise ConfigError(
                f"{type(self).__name__} learns from {' or '.join(self.feedback)} feedback, and the data module"
                f" {type(data).__name__} brings {feedback} feedback: use {wanted} (SFTDataModule and UnaryDataModule"
                " read preference pairs as well)"
            )
        prepare_deepspeed(self._strategy, data)
        # Log-probabilities and weights of a batch stay float32: a precision is about what a model computes.
        self.trainer.precision_plugin.convert_input = lambda data: data  # type: ignore[method-assign]
        self._caches = reference_caches(self)
        for cache in self._caches:
            cache.dataset.reference_logps = cache.read()

    def on_fit_start(self) -> None:
        """Looks for tokens that the policy does not know, and computes what is not in the cache of the reference."""
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, FeedbackDataModule):
            for dataset in data.datasets:
                check_tokens(plain(self.pair.policy), data.tokenizer, *dataset.largest_token())
        if self._caches:
            self.reference_note = compute_missing(self, self._caches)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Lightning's, after a look at the tokens: of a stream, and of other people's data, nobody has looked yet."""
        sequences = getattr(batch, "sequences", batch)
        if self.models is not None and isinstance(sequences, Sequences) and len(sequences.input_ids):
            check_tokens(plain(self.pair.policy), None, int(sequences.input_ids.max()))
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def predict_step(self, batch: Sequences | Callable[[Any], Any], batch_idx: int) -> Any:
        """What the policy computes; a strategy that spreads its weights gathers them meanwhile.

        Args:
            batch: Sequences, or a function of the policy, which every process calls.
            batch_idx: Not looked at.

        Returns:
            Log-probability of each completion token as the policy gives it without an adapter, float32 `[K]`; or what
            the function returns.
        """
        if callable(batch):
            return self.pair(batch, self.pair.policy)
        with without_adapter(self.pair.policy):
            return self.pair(target_logps, self.pair.policy, batch)

    def logps(self, sequences: Sequences) -> tuple[Tensor, Tensor]:
        """Log π_θ(y|x) and log π_ref(y|x) of each row, float32 `[R]` each, in nats.

        Without a reference the second is 0. With `humanline` the policy's are clipped token by token.
        """
        if self.humanline is not None and self.needs_reference:
            reference = self.pair.reference_token_logps(sequences)
            low, high = self.humanline
            policy = self.pair.policy_token_logps(sequences)
            clipped = humanline_clip(policy, reference, low=low, high=high)
            return (reference + clipped).sum(-1), reference.sum(-1)
        policy = self.pair.policy_logps(sequences)
        return policy, self.pair.reference_logps(sequences) if self.needs_reference else torch.zeros_like(policy)

    def of_all_processes(self, values: Tensor, *, gradient: bool = False) -> Tensor:
        """What every process has, in the order of the ranks: `[N]` each, `[processes · N]` together.

        Args:
            values: `[N]`, with the same N in every process.
            gradient: Whether the gradient flows back to the process that a value came from.
        """
        if not is_distributed():
            return values
        # Not every backend gathers booleans.
        sent = values.to(torch.uint8) if values.dtype == torch.bool else values
        gathered = self.all_gather(sent, sync_grads=gradient)
        assert isinstance(gathered, Tensor)
        return gathered.flatten().to(values.dtype)

    def mean_tokens(self, sequences: Sequences) -> Tensor:
        """Mean number of completion tokens of a process, a scalar.

        What a sum over tokens is divided by for their mean over all processes: DDP averages gradients over these.
        """
        tokens = sequences.completion_mask.sum(dtype=torch.float32)
        return self.of_all_processes(tokens[None]).mean()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer and the schedule that were asked for, the latter stepped after every optimizer step."""
        optimizer = self.make_optimizer(parameter for parameter in self.parameters() if parameter.requires_grad)
        # A fused optimizer says that it unscales gradients itself, and Lightning then refuses to clip them in mixed
        # precision, in bfloat16 as well, where nothing is scaled. If it does not say so, a scaler does it before.
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        scheduler = self.make_scheduler(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        """Tells the schedule how long the run is, and starts counting where training starts or goes on.

        The number of steps is not asked for earlier, in `configure_optimizers`: Lightning would build the data loader
        for it before a checkpoint is restored, and then not go on in the middle of an epoch.
        """
        divide_loss_once(self.trainer.strategy)
        self.pair.training_begins()
        self._logged_at = self.trainer.global_step
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, LinearWarmup):
                steps = self.trainer.estimated_stepping_batches
                config.scheduler.prepare(int(steps) if 0 <= steps < float("inf") else None)
        self._go_on()

    # --- training --------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one micro-batch."""
        loss, values = self.pair(self.loss_and_metrics, batch)
        self.latest = {name: value.detach() for name, value in values.items()}
        self.training_metrics.update(**self.latest)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Logs the metrics over all examples since they were last logged, every `log_every_n_steps` steps.

        Nothing is gathered from other processes, and no number is read from the device, in the steps between.
        """
        trainer = self.trainer
        stepped = trainer.global_step != self._logged_at
        log_every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if stepped and trainer.global_step and trainer.global_step % log_every == 0:
            self._logged_at = trainer.global_step
            values = self.training_metrics.compute()
            self.training_metrics.reset()
            values["learning_rate"] = torch.tensor(trainer.optimizers[0].param_groups[0]["lr"])
            for name, value in values.items():
                self.log(name, value.float(), prog_bar=name in PROGRESS_BAR)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Lightning's, also where FSDP has spread the gradients, whose norm Lightning does not know there."""
        clip = getattr(self._strategy, "clip_gradients", None)
        if clip is not None and gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            clip(gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Lightning's, and then the gradients go: otherwise they would stay during the next forward pass.

        DeepSpeed is called for every micro-batch, keeps gradients until the last one, and drops them itself.
        """
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if not self.trainer.strategy.handles_gradient_accumulation:
            optimizer.zero_grad()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds one batch of held-out feedback to the validation metrics."""
        _, self.latest = self.pair(self.loss_and_metrics, batch)
        self.validation_metrics.update(**self.latest)

    def on_validation_epoch_end(self) -> None:
        """Logs the metrics over all held-out examples, under `val/`.

        With `num_sanity_val_steps: -1` this includes the values before the first step, at step 0.
        """
        values = {name: value.float() for name, value in self.validation_metrics.compute().items()}
        self.validation_metrics.reset()
        if not self.trainer.sanity_checking:
            self.log_dict(values, sync_dist=True)
        elif self.trainer.num_sanity_val_steps == float("inf") and not self.trainer.global_step:
            for logger in self.trainer.loggers:
                logger.log_metrics({name: float(value) for name, value in values.items()}, step=0)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """As in validation."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """As in validation."""
        self.on_validation_epoch_end()

    def forward(self, batch: Batch) -> Tensor:
        """Log π_θ(y|x) of each row of a batch, float32 `[R]`, in nats."""
        logps: Tensor = self.pair(self.pair.policy_logps, batch.sequences)
        return logps

    def tokenizer_for_export(self, tokenizer: Any) -> Any:
        """The tokenizer that an exported model comes with, given the one of the training data."""
        return tokenizer

    # --- checkpoints -----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Notes what an export needs beside the weights, and what going on needs beside Lightning's own state."""
        checkpoint["halo_lightning"] = {
            "module": type(self).__name__,
            "task": self.task,
            "policy": self.policy_path,
            "tokenizer": getattr(getattr(self.trainer, "datamodule", None), "tokenizer_path", None),
            # With an adapter, how the weights are quantised is a setting of the adapter.
            "config": {key: value for key, value in self._model_config().items() if key not in quantization.SETTINGS},
            "lora": None if self.lora is None else asdict(self.lora),
            "dtype": self.dtype_of_weights,
            "accumulate": self.trainer.accumulate_grad_batches,
        }
        checkpoint[resuming.STATE] = {
            "metrics": resuming.metric_states(self.training_metrics),
            "random": resuming.random_state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checks that the checkpoint is of this method and model, and counts micro-batches as they are now.

        What it notes of metrics and random numbers is taken up when training goes on.
        """
        resuming.check_is_of(checkpoint.get("halo_lightning"), type(self).__name__, self._model_config())
        self._resumed = checkpoint.get(resuming.STATE)
        if self._trainer is not None and "loops" in checkpoint:
            accumulated = checkpoint.get("halo_lightning", {}).get("accumulate", 1)
            rescale_progress(checkpoint["loops"], accumulated, self._trainer.accumulate_grad_batches)

    def _model_config(self) -> dict[str, Any]:
        config: dict[str, Any] = plain(self.pair.policy).config.to_dict()
        return config

    def _go_on(self) -> None:
        """Takes up metrics and random numbers where a checkpoint left them."""
        state, self._resumed = self._resumed, None
        if state is not None:
            resuming.restore_metrics(self.training_metrics, state["metrics"], here=self.trainer.is_global_zero)
            resuming.restore_random_state(state["random"])
            resuming.leave_finished_epoch(self.trainer)


def is_distributed() -> bool:
    """Whether several processes train together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def metric_collection(metrics: dict[str, Any]) -> MetricCollection:
    """Metrics by name; a metric that computes several values names them itself.

    Grouping metrics that share their state is off: it compares values, and two different means that happen to be
    equal after the first batch (a loss of 0 and a KL of 0) would become one.
    """
    return MetricCollection(metrics, compute_groups=False)
