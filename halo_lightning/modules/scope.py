"""Over whose examples of a batch a statistic of it is taken."""

from __future__ import annotations

from typing import Any, Literal

from halo_lightning.errors import ConfigError

Scope = Literal["processes", "device"] | int
"""`processes`: those of the micro-batches of all processes together; `device`: of each micro-batch alone; a number: of
groups of so many examples. Groups are the same however the batch is divided among processes and micro-batches."""


def check_scope(option: str, scope: Scope, data: Any) -> None:
    """Refuses groups that the micro-batches of a data module cannot be divided into.

    Args:
        option: The name of the setting.
        scope: Its value.
        data: The data module; any that does not say how its batches are divided is taken as it is.

    Raises:
        ConfigError: The groups do not fit.
    """
    if isinstance(scope, str):
        return
    if scope < 1:
        raise ConfigError(f"{option} is {scope}: expected 'processes', 'device', or a number of examples")
    division = getattr(data, "division", None)
    if division is not None and division.micro_batch % scope:
        raise ConfigError(
            f"{option} is {scope}, and micro-batches of {division.micro_batch} examples are not made of groups of so"
            f" many: a step is on {division}. Use at most {division.batch_size // scope} processes, and a"
            f" micro_batch_size that is a multiple of {scope}"
        )


def group_size(scope: Scope, examples: int) -> int:
    """Examples in each group of a process that has so many; not for `processes`."""
    return max(examples, 1) if isinstance(scope, str) else scope
