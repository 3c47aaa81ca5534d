"""A run whose numbers have gone wrong stops and says where, or is warned about while there is time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning as L
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from halo_lightning.callbacks.warning_signs import SIGNS, History
from halo_lightning.data.batches import Batch
from halo_lightning.data.batching import TokenizedDataset
from halo_lightning.errors import ConfigError, NotFiniteError
from halo_lightning.files import replaced_folder, write_json

MOST_SKIPPED = 10
"""So many steps in a row may be skipped; the next one stops the run."""

LISTED = 8
"""So many examples, and so many tensors, are named in a message."""


class _Step(NamedTuple):
    """An optimizer step that nobody has looked at yet; every number in it is still on the device."""

    number: int
    batches: list[Batch]
    losses: list[Tensor]
    values: list[dict[str, Tensor]]
    names: list[str]
    largest: Tensor
    finite: Tensor


class WatchNumbers(L.Callback):
    """Stops a run whose loss or gradient is not finite, or skips the step, and warns of what usually ends badly.

    Where there are several processes, all of them do so, and say the same.

    The message names the examples by file and line, and the tensor; the batch is saved in the folder `not_finite` of
    the run, to try it alone. No checkpoint is ever written of weights that such a step has touched.

    *Cost.* What is computed is the largest element of each gradient, and it stays on the device. On a CPU it is looked
    at before the step is made. On other devices reading a number means to wait for the device, so a run that is to
    `stop` looks at steps that are logged, before validation and before checkpoints; what it kept until then says which
    step was the first bad one. To `skip` a step it has to look before each of them.

    *Warnings* are given once each, with what they usually mean (`halo_lightning.callbacks.warning_signs`), from the
    metrics that were logged.

    Args:
        not_finite: What happens at a loss or a gradient that is NaN or infinite: `stop`; or `skip`, which leaves the
            weights as they are in this step, counts it as `skipped_steps`, and stops after 10 such steps in a row.
            With `16-mixed` precision infinite gradients are a matter of its loss scaling, and only the loss is watched.
        warnings: Whether to warn of signs in the metrics.

    Attributes:
        skipped: How many steps were skipped.
        warned: The names of the warnings that were given.
    """

    def __init__(self, not_finite: Literal["stop", "skip"] = "stop", warnings: bool = True) -> None:
        if not_finite not in ("stop", "skip"):
            raise ConfigError(f"not_finite is {not_finite!r}: expected 'stop' or 'skip'")
        self.not_finite, self.warnings = not_finite, warnings
        self.skipped = self._in_a_row = 0
        self.warned: list[str] = []
        self._history = History()
        self._seen_at = 0
        self._batches: list[Batch] = []
        self._losses: list[Tensor] = []
        self._values: list[dict[str, Tensor]] = []
        self._unchecked: list[_Step] = []

    # --- numbers that are not finite ---------------------------------------------------------------------------------

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Keeps the batch, and looks at the metrics of the step before."""
        self._batches.append(batch)
        self._look_for_signs(trainer)

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Keeps the loss, where it is."""
        self._losses.append(loss.detach())
        self._values.append(getattr(pl_module, "latest", {}))

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Looks at losses and gradients, or keeps for later what there is to look at."""
        scaled = str(trainer.precision) == "16-mixed"
        step = _kept(trainer, pl_module, self._batches, self._losses, self._values, gradients=not scaled)
        self._batches, self._losses, self._values = [], [], []
        self._unchecked.append(step)
        if self.not_finite == "skip":
            self._skip_if_bad(trainer, pl_module, optimizer)
        elif step.finite.device.type == "cpu":
            self._check(trainer, pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Looks at what was kept, at steps that are logged."""
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._check(trainer, pl_module)
            if self.skipped:
                pl_module.log("skipped_steps", float(self.skipped))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Looks at what was kept."""
        self._check(trainer, pl_module)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Looks at what was kept: weights that are not finite get no checkpoint."""
        self._check(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Looks for the last time."""
        self._check(trainer, pl_module)
        self._look_for_signs(trainer)

    def _first_bad(self, trainer: L.Trainer) -> _Step | None:
        """The first step that was kept whose numbers are not finite, in any process; all processes have to ask."""
        steps, self._unchecked = self._unchecked, []
        if not steps:
            return None
        finite = torch.stack([step.finite for step in steps])
        if trainer.world_size > 1:
            finite = trainer.strategy.reduce(finite.float(), reduce_op="min").bool()
        return next((step for step, fine in zip(steps, finite.tolist(), strict=True) if not fine), None)

    def _check(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        step = self._first_bad(trainer)
        if step is not None:
            what, where = self._described(trainer, module, step)
            raise NotFiniteError(
                f"step {step.number:,}: {what}. The batch is saved in {where}. Going on from the last checkpoint with"
                " --ckpt_path last leads to the same step: a lower learning rate, gradient clipping, or float32 help"
                " where the data are right; --watch.not_finite skip leaves such steps out"
            )

    def _skip_if_bad(self, trainer: L.Trainer, module: L.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        step = self._first_bad(trainer)
        if step is None:
            self._in_a_row = 0
            return
        what, where = self._described(trainer, module, step)
        if self._in_a_row == MOST_SKIPPED:
            raise NotFiniteError(f"step {step.number:,}: {what}, after {MOST_SKIPPED} steps that were skipped for it")
        self.skipped, self._in_a_row = self.skipped + 1, self._in_a_row + 1
        rank_zero_warn(f"step {step.number:,} is skipped: {what}. The batch is saved in {where}")
        optimizer.zero_grad(set_to_none=True)  # optimizers leave weights without a gradient alone

    def _described(self, trainer: L.Trainer, module: L.LightningModule, step: _Step) -> tuple[str, str]:
        """What is not finite, in which examples; and where the batches were saved. The same in every process."""
        data = getattr(trainer, "datamodule", None)
        dataset = None if getattr(data, "streaming", False) else getattr(data, "train_dataset", None)
        tensors = list(_tensors(module, step))
        examples = [
            place
            for batch, values in zip(step.batches, step.values, strict=True)
            for place in _places(batch, values, dataset)
        ]
        folder = Path(trainer.default_root_dir) / "not_finite" / f"step-{step.number:06}-process-{trainer.global_rank}"
        losses = [loss.item() for loss in step.losses]
        bad = next((str(loss) for loss in losses if not math.isfinite(loss)), None)
        everyone = _of_all_processes(trainer, _Found(bad, tensors, examples, str(folder)))  # before one may fail
        about = {
            "step": step.number,
            "tensors": tensors,
            "examples": examples,
            "losses": [str(loss) for loss in losses],
        }
        save_batches(folder, step.batches, about)
        # A gradient is everybody's; a loss is of those who had the examples.
        whose = [found for found in everyone if found.loss is not None] or everyone
        what = "the gradient is not finite" if whose[0].loss is None else f"the loss is {whose[0].loss}"
        named = {name: None for found in whose for name in found.tensors}
        places = [place for found in whose for place in found.examples]
        return f"{what} ({_listed(list(named))}), with {_listed(places)}", _listed([found.folder for found in whose])

    # --- warnings ----------------------------------------------------------------------------------------------------

    def _look_for_signs(self, trainer: L.Trainer) -> None:
        """Looks at the metrics of the last step that was logged; they have been computed for the loggers anyway."""
        step, log_every = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not self.warnings or step == self._seen_at or not step or step % log_every:
            return
        self._seen_at = step
        data: Any = getattr(trainer, "datamodule", None)
        examples = log_every * getattr(data, "batch_size", 1)
        self._history.add({name: float(value) for name, value in trainer.callback_metrics.items()}, examples)
        for name, sign in SIGNS.items():
            if name not in self.warned and (seen := sign(self._history)) is not None:
                self.warned.append(name)
                rank_zero_warn(f"step {step:,}: {seen}")

    def state_dict(self) -> dict[str, Any]:
        """What was seen and said, so that a run that goes on says nothing twice."""
        return {
            "skipped": self.skipped,
            "in_a_row": self._in_a_row,
            "warned": list(self.warned),
            "history": self._history.state(),
            "seen_at": self._seen_at,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it up."""
        self.skipped, self._in_a_row = state_dict["skipped"], state_dict["in_a_row"]
        self.warned, self._seen_at = list(state_dict["warned"]), state_dict["seen_at"]
        self._history = History.of(state_dict["history"])


class _Found(NamedTuple):
    """What one process found in a step: its loss, where that is not finite, and what else is to be said."""

    loss: str | None
    tensors: list[str]
    examples: list[str]
    folder: str


def _of_all_processes(trainer: L.Trainer, found: _Found) -> list[_Found]:
    """What all processes found, in each of them; all have to ask."""
    if trainer.world_size == 1:
        return [found]
    everyone: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(everyone, found)
    return everyone


def _kept(
    trainer: L.Trainer,
    module: L.LightningModule,
    batches: list[Batch],
    losses: list[Tensor],
    values: list[dict[str, Tensor]],
    *,
    gradients: bool,
) -> _Step:
    """An optimizer step as it is to be looked at, with no number read from the device."""
    named = [(name, p.grad) for name, p in module.named_parameters() if p.grad is not None] if gradients else []
    local: list[Any] = [grad.to_local() if hasattr(grad, "to_local") else grad for _, grad in named]
    # The largest element and not the sum of squares, which overflows where half precision holds each of them.
    full = [grad for grad in local if grad.numel()]
    names = [name for (name, _), grad in zip(named, local, strict=True) if grad.numel()]
    largest = torch.stack(torch._foreach_norm(full, float("inf"))) if full else torch.zeros(0, device=module.device)
    finite = torch.stack([loss.isfinite() for loss in losses]).all() & largest.isfinite().all()
    return _Step(trainer.global_step, batches, losses, values, names, largest, finite)


def _tensors(module: nn.Module, step: _Step) -> Iterator[str]:
    """Names of what is not finite: what the loss was made of, then weights, then gradients."""
    found = {name for values in step.values for name, value in values.items() if not value.isfinite().all()}
    yield from sorted(found - {"losses"})
    weights = [name for name, weight in module.named_parameters() if not weight.detach().isfinite().all()]
    yield from (f"the weight {name}" for name in weights)
    if not weights:
        fine = step.largest.isfinite().tolist()
        yield from (f"the gradient of {name}" for name, is_fine in zip(step.names, fine, strict=True) if not is_fine)


def _places(batch: Batch, values: dict[str, Tensor], dataset: TokenizedDataset | None) -> list[str]:
    """Where the examples came from whose own loss is not finite; all of the batch where no single one stands out."""
    numbers = batch.index.cpu()
    losses = values.get("losses")
    if losses is not None and len(losses) == len(numbers):
        bad = ~losses.isfinite().cpu()
        numbers = numbers[bad] if bad.any() else numbers
    return [
        (dataset.place(number) if dataset is not None else "") or f"example {number}" for number in numbers.tolist()
    ]


def save_batches(folder: Path, batches: list[Batch], about: dict[str, Any]) -> None:
    """Saves batches as `batch-0.safetensors` and so on, and what is known of them as `about.json`.

    The tensors have the names that they have in the batch, such as `sequences.input_ids`.
    """
    from safetensors.torch import save_file

    with replaced_folder(folder) as partial:
        for number, batch in enumerate(batches):
            tensors = {name: value.detach().cpu().contiguous().clone() for name, value in _flat("", batch)}
            save_file(tensors, partial / f"batch-{number}.safetensors", {"kind": type(batch).__name__})
        write_json(partial / "about.json", about)


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield prefix, value
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        for name in value._fields:
            yield from _flat(f"{prefix}.{name}".lstrip("."), getattr(value, name))
    elif isinstance(value, (tuple, list)):  # what was a tuple is a list in a batch that a loader pinned for a GPU
        yield prefix, torch.tensor(value)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more if names else "nothing else stands out"
