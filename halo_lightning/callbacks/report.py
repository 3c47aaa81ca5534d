"""What a person reads of a run: what will happen, how it goes where no progress bar is, and where things are."""

from __future__ import annotations

import math
import os
import time
from typing import Any

import lightning as L
from lightning.fabric.utilities.rank_zero import rank_zero_only

from halo_lightning.callbacks.export import HuggingFaceExport
from halo_lightning.callbacks.progress import duration, shown_metrics
from halo_lightning.callbacks.steps import planned_steps
from halo_lightning.data.summary import DataSummary
from halo_lightning.modules.base import HaloModule
from halo_lightning.program import program_name

Rows = list[tuple[str, str]]
LINES = 50
"""About how many lines a run prints on its way where no progress bar is, however long it is."""


class RunReport(L.Callback):
    """Prints what will happen, how it goes (where there is no progress bar), and where things are.

    In a terminal with colours, elsewhere in plain lines of text.

    Args:
        next_commands: Whether to end with the commands that people type after a run.
    """

    def __init__(self, next_commands: bool = True) -> None:
        self.next_commands = next_commands
        self._printed_at = 0
        self._began = 0.0
        self._started_at = 0

    # --- before ----------------------------------------------------------------------------------------------------

    @rank_zero_only
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The header: before the reference's log-probabilities are computed, which may take its time."""
        self._began = time.perf_counter()
        if isinstance(pl_module, HaloModule):
            say(f"{type(pl_module).__name__} on {pl_module.policy_path}", header(trainer, pl_module))

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Where the reference's log-probabilities came from, and where a run goes on."""
        self._printed_at = self._started_at = trainer.global_step
        if trainer.ckpt_path is None and isinstance(pl_module, HaloModule):  # one that goes on has it in its curves
            log_data(trainer)
        rows: Rows = []
        if note := getattr(pl_module, "reference_note", ""):
            rows.append(("reference", note.removeprefix("reference: ").replace(os.path.expanduser("~"), "~")))
        if trainer.global_step:
            rows.append(("goes on", f"after step {trainer.global_step:,} of {trainer.ckpt_path}"))
        say("", rows)

    # --- on the way ------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """A line now and then, where no progress bar shows it: the metrics of the step before are there now."""
        self._print_step(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The line of the step before, if it is due."""
        self._print_step(trainer)

    @rank_zero_only
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The metrics on held-out feedback."""
        if not trainer.sanity_checking and (line := shown_metrics(trainer.callback_metrics, "val/")):
            say("", [("held out", line)])

    @rank_zero_only
    def _print_step(self, trainer: L.Trainer) -> None:
        log_every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.progress_bar_callback is not None or trainer.global_step == self._printed_at:
            return
        total = trainer.estimated_stepping_batches
        often = log_every * math.ceil(total / LINES / log_every) if math.isfinite(total) and total > 0 else log_every
        if trainer.global_step % often == 0:
            self._printed_at = trainer.global_step
            print(f"  step {trainer.global_step:>5}  {shown_metrics(trainer.callback_metrics)}", flush=True)

    # --- after -----------------------------------------------------------------------------------------------------

    @rank_zero_only
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The footer: everything has been written now."""
        self._print_step(trainer)
        if not isinstance(pl_module, HaloModule) or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        steps = trainer.global_step - self._started_at
        took = duration(time.perf_counter() - self._began)
        say(f"{steps:,} steps in {took}", footer(trainer, self.next_commands))


def log_data(trainer: L.Trainer) -> None:
    """Writes what was made of the data to the run's loggers: counts as `data/…`, and to TensorBoard as text, too."""
    from lightning.pytorch.loggers import TensorBoardLogger

    summary = getattr(getattr(trainer, "datamodule", None), "summary", None)
    if not isinstance(summary, DataSummary) or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    for logger in trainer.loggers:
        logger.log_metrics({f"data/{name}": float(count) for name, count in summary.counts().items()}, step=0)
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text("data", "\n\n".join(str(summary).splitlines()), 0)


def header(trainer: L.Trainer, module: HaloModule) -> Rows:
    """What will happen, by label.

    Args:
        trainer: Of the run; its data module is set up.
        module: With its models built.
    """
    data: Any = getattr(trainer, "datamodule", None)
    rows: Rows = []
    if hasattr(data, "summary"):
        rows.append(("data", str(data.summary)))
    if steps := step_plan(trainer, data):
        rows.append(("steps", steps))
    trainable = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    every = sum(parameter.numel() for parameter in module.pair.policy.parameters())
    of = f" of {every:,}" if every != trainable else ""
    kind = "all weights" if module.lora is None else module.lora.described
    rows.append(("trains", f"{trainable:,}{of} parameters ({kind}), {module.dtype_of_weights} weights"))
    rows.append(("on", f"{devices(trainer)}, precision {trainer.precision}"))
    rows.append(("memory", memory(trainer, module)))
    rows.append(("writes", written(places(trainer))))
    if folder := curves_folder(trainer):
        rows.append(("curves", f"tensorboard --logdir {folder}"))
    return rows


def step_plan(trainer: L.Trainer, data: Any) -> str:
    """How many optimizer steps of how many examples a run will make, or nothing where it cannot be known."""
    division = getattr(data, "division", None)
    if division is None:
        return ""
    steps = planned_steps(trainer, data)
    return f"{steps:,} of {division}" if steps is not None else f"of {division}"


def memory(trainer: L.Trainer, module: HaloModule) -> str:
    """What weights, gradients and Adam's two moments take on each device.

    Activations depend on the batch, and `plan` estimates them before a run: tracing them here would take seconds.
    """
    parameters = list(module.parameters())
    weights = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    trained = sum(parameter.numel() * parameter.element_size() for parameter in parameters if parameter.requires_grad)
    sharded = any(name in type(trainer.strategy).__name__ for name in ("FSDP", "ModelParallel", "DeepSpeed"))
    shares = trainer.world_size if sharded else 1
    size = (weights + 3 * trained) / shares
    amount = f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
    return f"{amount} a device for weights, gradients and Adam (with activations: {program_name()} plan)"


def devices(trainer: L.Trainer) -> str:
    """What is computed on: `4 × cuda, FSDPStrategy`."""
    kind = trainer.strategy.root_device.type
    if trainer.world_size == 1:
        return "GPU" if kind == "cuda" else kind.upper()
    nodes = f" on {trainer.num_nodes} machines" if trainer.num_nodes > 1 else ""
    return f"{trainer.world_size} × {kind.upper()}{nodes}, {type(trainer.strategy).__name__}"


def places(trainer: L.Trainer) -> dict[str, str]:
    """The folders that a run writes to, by what is in them."""
    folders: dict[str, str] = {}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, HuggingFaceExport):
            folders["model"] = callback.folder or os.path.join(trainer.default_root_dir, "export")
    if (checkpoint := trainer.checkpoint_callback) is not None and getattr(checkpoint, "dirpath", None):
        folders["checkpoints"] = str(checkpoint.dirpath)  # type: ignore[attr-defined]
    for logger in trainer.loggers:
        if logger.save_dir:
            folders[f"{type(logger).__name__.removesuffix('Logger')} log"] = getattr(
                logger, "log_dir", None
            ) or os.fspath(logger.save_dir)
    return {name: nearby(folder) for name, folder in folders.items()}


def written(folders: dict[str, str]) -> str:
    """Where everything goes, in one line: `runs/kto: checkpoints, export, tensorboard/version_0`."""
    if not folders:
        return "nothing"
    comparable = len({os.path.isabs(folder) for folder in folders.values()}) == 1
    root = os.path.commonpath(folders.values()) if len(folders) > 1 and comparable else ""
    names = sorted(os.path.relpath(folder, root) if root else folder for folder in folders.values())
    return f"{root}: {', '.join(names)}" if root else ", ".join(names)


def nearby(path: str) -> str:
    """A path as it is named from the working directory, where it is below that."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def curves_folder(trainer: L.Trainer) -> str | None:
    """The folder that TensorBoard is to be pointed to, where there is one."""
    from lightning.pytorch.loggers import TensorBoardLogger

    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            return nearby(os.fspath(logger.save_dir))
    return None


def footer(trainer: L.Trainer, with_commands: bool = True) -> Rows:
    """What was written, and what to do next, by label."""
    folders = places(trainer)
    rows: Rows = []
    if held_out := shown_metrics(trainer.callback_metrics, "val/"):
        rows.append(("held out", held_out))
    if "model" in folders:
        rows.append(("model", f"{folders['model']} (a Hugging Face folder)"))
    if "checkpoints" in folders:
        rows.append(("checkpoints", folders["checkpoints"]))
    commands = next_commands(trainer) if with_commands else []
    rows += [("next" if not place else "", command) for place, command in enumerate(commands)]
    return rows


def next_commands(trainer: L.Trainer) -> list[str]:
    """The commands that people type after a run."""
    program = program_name()
    commands = []
    if folder := curves_folder(trainer):
        commands.append(f"tensorboard --logdir {folder}")
        commands.append(f"{program} curves --runs {folder} --out {os.path.join(folder, 'curves.png')}")
    # Not the Trainer's `log_dir`, for which every process would have to ask.
    folders = [getattr(logger, "log_dir", None) for logger in trainer.loggers]
    saved = os.path.join(next(filter(None, folders), trainer.default_root_dir), "config.yaml")
    if os.path.isfile(saved):  # Lightning's command line keeps it, with all settings
        commands.append(f"{program} generate --config {nearby(saved)}")
    return commands


def say(title: str, rows: Rows) -> None:
    """Prints a title and labelled lines: with colours in a terminal, else as plain text.

    Args:
        title: The first line; none where it is empty.
        rows: Label and text; a text may have several lines.
    """
    from rich import get_console
    from rich.table import Table
    from rich.text import Text

    console = get_console()  # that of the progress bar, which it then stays below of
    if not console.is_terminal:
        if title:
            print(title)
        for label, text in rows:
            print(f"  {label:<11} " + text.replace("\n", f"\n  {'':<11} "))
        print(end="", flush=True)
        return
    if title:
        console.print(Text(f"\n{title}", style="bold"))
    table = Table.grid(padding=(0, 1))
    table.add_column(style="cyan", no_wrap=True, min_width=13)
    table.add_column(overflow="fold")
    for label, text in rows:
        table.add_row(f"  {label}", Text(text))
    if rows:
        console.print(table)
