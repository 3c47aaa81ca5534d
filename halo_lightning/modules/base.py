"""What every HALO shares: model building, optimization, metrics and their logging."""

from __future__ import annotations

import os
from abc import abstractmethod
from typing import Any, ClassVar, Literal

import lightning as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import MetricCollection

from halo_lightning.data.batches import Batch, Sequences
from halo_lightning.errors import ConfigError
from halo_lightning.losses import humanline_clip
from halo_lightning.metrics import MeanLoss
from halo_lightning.optimization import LinearWarmup
from halo_lightning.policy import PolicyAndReference
from halo_lightning.pretrained import DType, Task

Feedback = Literal["sft", "unary", "paired"]

DATA_MODULES = {"sft": "SFTDataModule", "unary": "UnaryDataModule", "paired": "PairedDataModule"}
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

    def __init__(
        self,
        policy: str,
        *,
        reference: str | None = None,
        dtype: DType = "float32",
        attention: str | None = None,
        humanline: tuple[float, float] | None = None,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.AdamW(parameters, lr=5e-6, weight_decay=0.0),
        scheduler: LRSchedulerCallable = lambda optimizer: LinearWarmup(optimizer, warmup=0.1),
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer", "scheduler"])
        # Checkpoints are read without pickle, so hyper-parameters have to be primitives: objects given in Python
        # (a value function, say) are not kept. From the command line they are, as class paths and arguments.
        for name, value in list(self.hparams.items()):
            if isinstance(value, os.PathLike):
                self.hparams[name] = os.fspath(value)
            elif not isinstance(value, (str, int, float, bool, list, tuple, dict, type(None))):
                del self.hparams[name]
        self.policy_path = os.fspath(policy)
        self.reference_path = None if reference is None else os.fspath(reference)
        self.dtype_of_weights = dtype
        self.attention = attention
        self.humanline = humanline
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.models: PolicyAndReference | None = None
        self._logged_at = 0
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
                needs_reference=self.needs_reference,
                dtype=self.dtype_of_weights,
                attention=self.attention,
            )

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
        """Checks that the data module brings the feedback that this method learns from."""
        data = getattr(self.trainer, "datamodule", None)
        feedback = getattr(data, "feedback", self.feedback[0])
        if feedback not in self.feedback:
            wanted = " or ".join(DATA_MODULES[kind] for kind in self.feedback)
            raise ConfigError(
                f"{type(self).__name__} learns from {' or '.join(self.feedback)} feedback, and the data module"
                f" {type(data).__name__} brings {feedback} feedback: use {wanted} (SFTDataModule and UnaryDataModule"
                " read preference pairs as well)"
            )

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

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer and the schedule that were asked for, the latter stepped after every optimizer step."""
        optimizer = self.make_optimizer(parameter for parameter in self.parameters() if parameter.requires_grad)
        scheduler = self.make_scheduler(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau):
            raise ConfigError("a schedule that watches a metric (ReduceLROnPlateau) is not supported: choose another")
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        """Tells the schedule how long the run is, and starts counting where training starts or goes on.

        The number of steps is not asked for earlier, in `configure_optimizers`: Lightning would build the data loader
        for it before a checkpoint is restored, and then not go on in the middle of an epoch.
        """
        self._logged_at = self.trainer.global_step
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, LinearWarmup):
                config.scheduler.prepare(int(self.trainer.estimated_stepping_batches))

    # --- training --------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one micro-batch."""
        loss, values = self.loss_and_metrics(batch)
        self.training_metrics.update(**values)
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

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds one batch of held-out feedback to the validation metrics."""
        _, values = self.loss_and_metrics(batch)
        self.validation_metrics.update(**values)

    def on_validation_epoch_end(self) -> None:
        """Logs the metrics over all held-out examples, under `val/`.

        With `num_sanity_val_steps: -1` this includes the values before the first step, at step 0.
        """
        values = {name: value.float() for name, value in self.validation_metrics.compute().items()}
        self.validation_metrics.reset()
        if not self.trainer.sanity_checking:
            self.log_dict(values, sync_dist=True)
        elif self.trainer.num_sanity_val_steps == float("inf"):
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
        return self.pair.policy_logps(batch.sequences)

    def tokenizer_for_export(self, tokenizer: Any) -> Any:
        """The tokenizer that an exported model comes with, given the one of the training data."""
        return tokenizer

    # --- checkpoints -----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Notes what an export needs beside the weights."""
        checkpoint["halo_lightning"] = {
            "module": type(self).__name__,
            "task": self.task,
            "policy": self.policy_path,
            "tokenizer": getattr(getattr(self.trainer, "datamodule", None), "tokenizer_path", None),
            "config": self.pair.policy.config.to_dict(),
        }


def is_distributed() -> bool:
    """Whether several processes train together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def metric_collection(metrics: dict[str, Any]) -> MetricCollection:
    """Metrics by name; a metric that computes several values names them itself.

    Grouping metrics that share their state is off: it compares values, and two different means that happen to be
    equal after the first batch (a loss of 0 and a KL of 0) would become one.
    """
    return MetricCollection(metrics, compute_groups=False)
