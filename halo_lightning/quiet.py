"""Silence about what libraries say at every start and nobody acts on."""

from __future__ import annotations

import logging
import warnings

IGNORED = (
    "does not have many workers",
    "Checkpoint directory .* exists and is not empty",
    "in eval mode at the start of training",  # that is the reference
    "is smaller than the logging interval",
    "treespec",
    "is_gradient_checkpointing",  # peft asks for it by its old name
    "IProgress not found",  # in a notebook without ipywidgets
    "torch.distributed.nn.functional.all_gather is deprecated",  # Lightning asks for it by its old name
    "Total length of `list` across ranks is zero",  # no validation, which is said elsewhere
)


def quieten() -> None:
    """Takes progress bars of loading and saving, tips, and warnings without consequence out of the output."""
    for message in IGNORED:
        warnings.filterwarnings("ignore", message=f".*{message}.*")
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("halo_lightning.data").setLevel(logging.ERROR)  # the report of the run says the same
    logging.getLogger("halo_lightning.data.cache").setLevel(logging.WARNING)  # but not that a cache is damaged
