"""What makes TensorBoard's page good when it is opened: its layout, and hyper-parameters beside final metrics."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import TensorBoardLogger

from halo_lightning.callbacks.curves import of_earlier_processes

CHARTS: dict[str, dict[str, list[str]]] = {
    "Alignment": {
        "loss": ["loss", "val/loss"],
        "reward accuracy": ["rewards/accuracies", "val/rewards/accuracies"],
        "reward margin": ["rewards/margins", "val/rewards/margins"],
        "rewards": ["rewards/chosen", "rewards/rejected"],
        "rewards, held out": ["val/rewards/chosen", "val/rewards/rejected"],
        "KL from the reference, nats": ["kl", "val/kl"],
        "log-probabilities, nats": ["logps/chosen", "logps/rejected"],
        "log-probabilities, held out": ["val/logps/chosen", "val/logps/rejected"],
    },
    "Training": {
        "tokens a second": ["tokens_per_second"],
        "learning rate": ["learning_rate"],
    },
}
"""The charts of the page "Custom Scalars", and the scalars in each."""


FIRST = ("val/loss", "val/rewards/accuracies", "val/rewards/margins")
"""The metrics that runs are compared by first."""

WITHOUT_EFFECT = {"activation_checkpointing", "attention", "packing", "reference_mode", "reference_cache"}
"""Settings that change time and memory, and no result."""


class TensorBoardPage(L.Callback):
    """Lays out "Custom Scalars", and fills "HParams", so that runs can be compared by their settings.

    Hyper-parameters are those of the method, of the optimizer, and the size of the data; beside them stand the held-out
    metrics as they were in the end. Other loggers are left to Lightning, which gives them the hyper-parameters.
    """

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the layout, unless the run goes on in a folder that has it."""
        layout = {
            page: {
                # Names are regular expressions there.
                title: ["Multiline", [f"^{name}$" for name in names]]
                for title, names in charts.items()
            }
            for page, charts in CHARTS.items()
        }
        for logger in _loggers(trainer):
            if not of_earlier_processes(logger):
                logger.experiment.add_custom_scalars(layout)

    @rank_zero_only
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes hyper-parameters and final metrics."""
        from torch.utils.tensorboard.summary import hparams

        known = [name for name in trainer.callback_metrics if name.startswith("val/")] or ["loss"]
        metrics = sorted(known, key=lambda name: (name not in FIRST, name))
        # Their values are those of the curves of the same names; the ones given here are not written.
        summaries = hparams(hyperparameters(trainer, pl_module), dict.fromkeys(metrics, 0.0))
        for logger in _loggers(trainer):
            writer = logger.experiment._get_file_writer()
            for summary in summaries:
                writer.add_summary(summary)
            logger.experiment.flush()


def hyperparameters(trainer: L.Trainer, module: L.LightningModule) -> dict[str, bool | int | float | str]:
    """What runs are compared by, by name: plain values alone."""
    values: dict[str, Any] = {"method": type(module).__name__, **module.hparams}
    values = {name: value for name, value in values.items() if name not in WITHOUT_EFFECT and name[0] != "_"}
    for name, setting in dict(values).items():
        if isinstance(setting, dict):  # such as `lora`
            values.pop(name)
            values |= {f"{name}.{inner}": value for inner, value in setting.items()}
    for optimizer in trainer.optimizers[:1]:
        values["optimizer"] = type(optimizer).__name__
        values |= {name: optimizer.defaults[name] for name in ("lr", "weight_decay") if name in optimizer.defaults}
    data: Any = getattr(trainer, "datamodule", None)
    for name in ("batch_size", "max_length", "balance", "seed"):
        if hasattr(data, name):
            values[name] = getattr(data, name)
    if hasattr(data, "summary"):
        values["examples"] = data.summary.train
    values |= {"epochs": trainer.max_epochs, "steps": trainer.global_step, "precision": str(trainer.precision)}
    return {name: value for name, value in values.items() if isinstance(value, (bool, int, float, str))}


def _loggers(trainer: L.Trainer) -> list[Any]:
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
