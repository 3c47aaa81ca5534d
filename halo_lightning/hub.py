"""Asking the Hugging Face hub whether it has something, before libraries ask it for one file after the other."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path
from typing import Literal

from halo_lightning.errors import ConfigError, first_line, without_passwords

SECONDS = 10.0
"""After which the hub is taken not to answer."""


@lru_cache
def check_hub(identifier: str, kind: Literal["model", "dataset"]) -> None:
    """Asks the hub once, and for a few seconds, for what is not on this machine already.

    The libraries would ask for each file six times, with pauses.

    Args:
        identifier: Such as `owner/name`.
        kind: What it is to be.

    Raises:
        ConfigError: The hub has none, or does not answer.
    """
    from huggingface_hub import HfApi, constants

    hide_passwords()
    if constants.HF_HUB_OFFLINE or _is_here(identifier, kind):
        return
    try:
        HfApi().repo_info(identifier, repo_type=kind, timeout=SECONDS)
    except Exception as error:  # of the name, the network, or the hub: to the user all of them mean one thing
        raise ConfigError(
            f"{identifier}: this is no folder, and the hub does not give such a {kind} ({first_line(error)})"
        ) from error


def _is_here(identifier: str, kind: Literal["model", "dataset"]) -> bool:
    if kind == "dataset":
        import datasets

        return (Path(datasets.config.HF_DATASETS_CACHE) / identifier.replace("/", "___").lower()).is_dir()
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(identifier, "config.json"), str)
    except HFValidationError:
        return False


class _WithoutPasswords(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = without_passwords(record.getMessage()), ()
        return True


def hide_passwords() -> None:
    """Keeps what the hub's library says free of passwords, which the address of a mirror may have in it."""
    for handler in logging.getLogger("huggingface_hub").handlers:
        if not any(isinstance(one, _WithoutPasswords) for one in handler.filters):
            handler.addFilter(_WithoutPasswords())
