"""TensorBoard curves that have no point twice, and none missing, where a run was interrupted and goes on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.utilities.rank_zero import rank_zero_only, rank_zero_warn
from lightning.pytorch.loggers import TensorBoardLogger

from halo_lightning.checkpoints import RUN
from halo_lightning.files import checksum, replaced_file

PATTERN = "*tfevents*"


class ContinuedCurves(L.Callback):
    """Notes in every checkpoint how far the event files were written, and takes them back to there when it goes on.

    What an interrupted run logged after its last checkpoint is computed and logged again by the run that goes on. A
    run that goes on elsewhere (another folder, or a new TensorBoard version) gets a copy of the curves up to there.
    """

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Brings what was logged to disk, and notes how much that is."""
        if trainer.is_global_zero:
            checkpoint.setdefault(RUN, {})["curves"] = [_written(logger) for logger in _loggers(trainer)]

    @rank_zero_only
    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Takes the event files back to where the checkpoint was made."""
        if trainer.state.fn != "fit":
            return
        for noted, logger in zip(checkpoint.get(RUN, {}).get("curves", []), _loggers(trainer), strict=False):
            target = Path(logger.log_dir)
            source = Path(noted["folder"]) if Path(noted["folder"]).is_dir() else target  # a run that was moved
            for path in of_earlier_processes(logger):
                if path.name not in noted["files"]:
                    path.unlink()
            for name, size in noted["files"].items():
                file = source / Path(name).name
                if (found := _start(file, size)) != noted.get("starts", {}).get(name, found):
                    rank_zero_warn(f"{file}: the curves up to the checkpoint are not what was written: some are lost")
                _copy_start(file, target / Path(name).name, size)

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tells a TensorBoard that is looking on to forget the points that come again.

        Where a run starts from the beginning again, what it had logged before its first checkpoint is removed. Where
        weights are spread over processes, it is not known before this hook whether a run goes on.
        """
        if trainer.ckpt_path is None:
            for logger in _loggers(trainer):
                for path in of_earlier_processes(logger):
                    path.unlink()
        if not trainer.global_step:
            return
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        for logger in _loggers(trainer):
            step = trainer.fit_loop.epoch_loop._batches_that_stepped
            event = Event(session_log=SessionLog(status=SessionLog.START), step=step)
            logger.experiment.file_writer.add_event(event)

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Takes back a step that Lightning counts where it goes on with no batch done.

        It does so where a validation was due when the checkpoint was made, and there is nothing to validate on.
        """
        loop = trainer.fit_loop.epoch_loop
        if loop._batches_that_stepped == trainer.global_step + 1:
            loop._batches_that_stepped = trainer.global_step


def _loggers(trainer: L.Trainer) -> list[TensorBoardLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def of_earlier_processes(logger: TensorBoardLogger) -> list[Path]:
    """The event files of a logger but its own, which Lightning opens before any hook is called."""
    own = Path(logger.experiment.file_writer.event_writer._file_name).name
    return [path for path in Path(logger.log_dir).glob(PATTERN) if path.name != own]


def _written(logger: TensorBoardLogger) -> dict[str, Any]:
    """The event files of a logger, and how many bytes of each are on disk now."""
    logger.experiment.flush()
    sizes, starts = {}, {}
    for path in sorted(Path(logger.log_dir).glob(PATTERN)):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        sizes[path.name] = path.stat().st_size
        starts[path.name] = _start(path, sizes[path.name])
    return {"folder": os.path.abspath(logger.log_dir), "files": sizes, "starts": starts}


def _start(path: Path, size: int) -> str | None:
    """A checksum of the first bytes of a file; None where it is not there, or shorter."""
    if not path.is_file() or path.stat().st_size < size:
        return None
    with path.open("rb") as stream:
        return checksum(stream.read(size))


def _copy_start(source: Path, target: Path, size: int) -> None:
    """Copies the first bytes of a file, also onto itself."""
    if not source.is_file() or (source == target and source.stat().st_size == size):
        return
    with source.open("rb") as old, replaced_file(target) as new:
        while size > 0 and (part := old.read(min(size, 2**20))):
            new.write(part)
            size -= len(part)
    shutil.copystat(source, target)
