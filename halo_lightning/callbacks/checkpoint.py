"""Checkpoints from which a run goes on bit for bit, and a run that saves one and ends when it is told to."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from halo_lightning.checkpoints import RUN, remove_seal, seal_folder, step_and_run
from halo_lightning.files import replace_link


class RunCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, with three promises more.

    *Bit for bit.* Lightning goes on exactly only from some of the moments at which it saves: a checkpoint between a
    step and its log loses the log, one before a validation that is due loses the validation, one within accumulated
    gradients loses these. Here what is due is saved at the next moment that is exact: between two optimizer steps, at
    the end of a validation, or of an epoch.

    *SIGTERM.* A run that is told to end (a pre-emptible machine) finishes its optimizer step, or the batch of the
    validation that it is in, saves, and exits with status 0. Only where gradients are accumulated over a validation,
    that is finished first.

    *Nothing between two states.* The new checkpoint is whole before `last.ckpt` points to it, and only then are those
    removed that are not to be kept, those of an interrupted run among them.

    Attributes:
        run: The run that checkpoints are noted to be of.
    """

    run: str = ""
    _due = False
    _due_at = 0
    _validated = False
    _before_validation = False
    _validated_batches = 0
    told_to_end = False
    _written: Iterable[str] = ()
    _being_saved = ""
    _unplanned = ""
    _unplanned_before: Iterable[str] = ()
    _previous_handler: Any = None

    # --- moments ---------------------------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Gets itself called between two steps, for which Lightning has no hook."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        loop = trainer.fit_loop.epoch_loop
        advance_end = type(loop).on_advance_end

        def on_advance_end(data_fetcher: Any) -> None:
            advance_end(loop, data_fetcher)
            self.between_steps(trainer)

        loop.on_advance_end = on_advance_end  # type: ignore[method-assign]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Notes that a checkpoint is due, by steps or by time."""
        every, step = self._every_n_train_steps, trainer.global_step
        # More micro-batches may follow this step, also in a run that goes on from here.
        if every and step % every == 0 and step not in (self._due_at, self._last_global_step_saved):
            self._due, self._due_at = True, step
        if self._train_time_interval is not None:
            now = time.monotonic()
            since = now if self._last_time_checked is None else self._last_time_checked
            # The first process decides: clocks differ.
            if trainer.strategy.broadcast(now - since >= self._train_time_interval.total_seconds()):
                self._due, self._last_time_checked = True, now

    def between_steps(self, trainer: L.Trainer) -> None:
        """Saves what is due where neither gradients nor a validation nor the end of the epoch are pending."""
        loop = trainer.fit_loop.epoch_loop
        if loop._should_accumulate():
            return
        validated, self._validated = self._validated, False
        if not validated and not loop._num_ready_batches_reached():
            self._save_if_due(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The last chance to save before a validation."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress.total
            progress.reset_on_restart()
            self._validated_batches = progress.completed
            self._end_before_validation(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        """Leaves a validation that nobody has time for."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._end_before_validation(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves at the end of a validation, or notes that it is due where gradients are accumulated."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self._due = self._due or (self._due_in_epoch(trainer) and not self._should_save_on_train_epoch_end(trainer))
        if not trainer.fit_loop.epoch_loop._should_accumulate():
            self._validated = True
            self._save_if_due(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves at the end of an epoch."""
        self._due = self._due or (self._due_in_epoch(trainer) and self._should_save_on_train_epoch_end(trainer))
        self._save_if_due(trainer, epoch_ends=True)

    def _due_in_epoch(self, trainer: L.Trainer) -> bool:
        return self._every_n_epochs >= 1 and (trainer.current_epoch + 1) % self._every_n_epochs == 0

    # --- saving ----------------------------------------------------------------------------------------------------

    def _save_if_due(self, trainer: L.Trainer, *, epoch_ends: bool = False) -> None:
        # Where nothing is left to train, what is left is quicker than to begin again.
        ends = self._is_to_end(trainer) and not _is_trained(trainer, epoch_ends)
        if self._due or ends:
            self._save_now(trainer)
        if ends:
            self._end(trainer)

    def _save_now(self, trainer: L.Trainer) -> None:
        due, self._due = self._due, False
        if self._should_skip_saving_checkpoint(trainer):
            return
        candidates = self._monitor_candidates(trainer)
        # One that is saved because the run has to end does not compete with those that every run would have.
        self._unplanned = "" if due or self.save_last != "link" else self._path(trainer, candidates)
        if not self._unplanned and (self.monitor is None or self.monitor in candidates):
            self._save_topk_checkpoint(trainer, candidates)
        self._save_last_checkpoint(trainer, candidates)

    def _path(self, trainer: L.Trainer, monitor_candidates: dict[str, Any]) -> str:
        return self._get_metric_interpolated_filepath_name(monitor_candidates, trainer)

    def _save_last_checkpoint(self, trainer: L.Trainer, monitor_candidates: dict[str, Any]) -> None:
        """The newest state gets a checkpoint also where it is not among the best, and then old ones go."""
        if self.save_last == "link" and self._last_global_step_saved != trainer.global_step:
            self._save_checkpoint(trainer, self._path(trainer, monitor_candidates))
        super()._save_last_checkpoint(trainer, monitor_candidates)
        self._remove_old(trainer)

    def _remove_old(self, trainer: L.Trainer) -> None:
        """Removes what is neither among the best nor the newest, or was saved only because a run had to end."""
        kept = {*self.best_k_models, self.best_model_path, self.last_model_path, self._last_checkpoint_saved}
        old = [path for path in self._written if path not in kept]
        if self.save_top_k == -1:
            old = [path for path in old if path in self._unplanned_before]
        for path in old:
            trainer.strategy.remove_checkpoint(path)
        self._written = [path for path in self._written if path not in old]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Finishes what a killed run had begun when it saved the checkpoint that this one goes on from."""
        self._finish_saving(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The same, for a run that had no step left: weights in several processes are restored after it has started."""
        self._finish_saving(trainer)

    def _finish_saving(self, trainer: L.Trainer) -> None:
        newest = self._last_checkpoint_saved
        if self.save_last == "link" and newest and _same(trainer.ckpt_path, newest):
            self.last_model_path = os.path.join(os.path.dirname(newest), f"{self.CHECKPOINT_NAME_LAST}.ckpt")
            self._link_checkpoint(trainer, newest, self.last_model_path)
            self._remove_old(trainer)

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        self._written = [*(path for path in self._written if path != filepath), filepath]
        before = [path for path in self._unplanned_before if path != filepath]
        self._unplanned_before = [*before, filepath] if filepath == self._unplanned else before
        if trainer.is_global_zero and os.path.isdir(filepath):  # a file keeps it until the new one is there
            remove_seal(Path(filepath))
        self._being_saved = filepath
        super()._save_checkpoint(trainer, filepath)
        if trainer.is_global_zero and os.path.isdir(filepath):  # that of one file has been sealed when it was written
            seal_folder(Path(filepath), step=trainer.global_step, run=self.run)
        trainer.strategy.barrier("RunCheckpoint")

    def _remove_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        """Removes nothing yet: `_save_last_checkpoint` does, when there is a newer one that `last.ckpt` points to."""

    @staticmethod
    def _link_checkpoint(trainer: L.Trainer, filepath: str, linkpath: str) -> None:
        if trainer.is_global_zero and os.path.abspath(filepath) != os.path.abspath(linkpath):
            replace_link(linkpath, os.path.relpath(filepath, os.path.dirname(linkpath)))
        trainer.strategy.barrier()

    def file_exists(self, filepath: Any, trainer: L.Trainer) -> bool:
        """Whether there is a checkpoint of this name that is to stay: none of this very run, and no link."""
        path = Path(filepath)
        # One without a manifest may be ours as well: of a process that was killed between the two.
        ours = path.is_symlink() or (bool(self.run) and step_and_run(path)[1] == self.run)
        return not trainer.strategy.broadcast(ours) and super().file_exists(filepath, trainer)

    # --- state -----------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Notes the run and, before a validation, that it is still to come."""
        checkpoint.setdefault(RUN, {})["id"] = self.run
        if self._before_validation:
            # What Lightning takes for a validation that has begun and of which no batch is done.
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            done = self._validated_batches
            progress["total"].update(ready=done + 1, started=done + 1, processed=done, completed=done)
            progress["current"].update(ready=0, started=0, processed=0, completed=0)
            progress["is_last_batch"] = False

    def state_dict(self) -> dict[str, Any]:
        """Lightning's, and which checkpoints there are."""
        return {
            **super().state_dict(),
            "written": list(self._written),
            "saved": self._being_saved,
            "unplanned": list(self._unplanned_before),
            "due_at": self._due_at,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it up; checkpoints in another folder are not touched."""
        super().load_state_dict(state_dict)
        self._due_at = state_dict.get("due_at", 0)
        if state_dict.get("dirpath") == self.dirpath:
            self._written = list(state_dict.get("written", []))
            self._last_checkpoint_saved = state_dict.get("saved", "")
            self._unplanned_before = list(state_dict.get("unplanned", []))

    # --- being told to end -----------------------------------------------------------------------------------------

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From here on SIGTERM is a request, under SLURM as well, where Lightning would do nothing about it."""
        super().on_train_start(trainer, pl_module)
        self._finish_saving(trainer)
        if threading.current_thread() is threading.main_thread():
            self.told_to_end = False
            self._previous_handler = signal.signal(signal.SIGTERM, self._on_sigterm)

    def _on_sigterm(self, *_: Any) -> None:
        self.told_to_end = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From here on SIGTERM is what it was before."""
        self._restore_handler()
        super().on_train_end(trainer, pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """The same."""
        self._restore_handler()
        super().on_exception(trainer, pl_module, exception)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Takes the hook between two steps away."""
        if stage == "fit":
            vars(trainer.fit_loop.epoch_loop).pop("on_advance_end", None)

    def _restore_handler(self) -> None:
        if self._previous_handler is not None:
            signal.signal(signal.SIGTERM, self._previous_handler)
            self._previous_handler = None

    def _is_to_end(self, trainer: L.Trainer) -> bool:
        """Whether any process was told to end. Every process has to ask at the same time."""
        if trainer.world_size == 1:
            return self.told_to_end
        return trainer.strategy.reduce_boolean_decision(self.told_to_end, all=False)

    def _end_before_validation(self, trainer: L.Trainer) -> None:
        if not trainer.fit_loop.epoch_loop._should_accumulate() and self._is_to_end(trainer):
            self._before_validation = True
            self._save_now(trainer)
            self._end(trainer)

    def _end(self, trainer: L.Trainer) -> None:
        self._say_where(trainer)
        raise SIGTERMException

    @rank_zero_only
    def _say_where(self, trainer: L.Trainer) -> None:
        saved = self._last_checkpoint_saved if self._last_global_step_saved == trainer.global_step else "no checkpoint"
        print(
            f"  told to end (SIGTERM) after step {trainer.global_step:,}: saved {saved};"
            " the same command with --ckpt_path last goes on from there",
            flush=True,
        )


def _is_trained(trainer: L.Trainer, epoch_ends: bool) -> bool:
    """Whether there is no step left."""
    epochs, steps = trainer.max_epochs, trainer.max_steps
    last_epoch = epoch_ends and epochs not in (None, -1) and trainer.current_epoch + 1 >= epochs
    return last_epoch or (steps not in (None, -1) and trainer.global_step >= steps)


def _same(one: Any, other: str) -> bool:
    return one is not None and os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other)
