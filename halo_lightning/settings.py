"""Settings as plain data: flattened, and what differs between two of them."""

from __future__ import annotations

from typing import Any

from halo_lightning.errors import ConfigError
from halo_lightning.ranges import NOT_NEGATIVE, POSITIVE, Range, excerpt_of

LARGEST_NUMBER = 2**62
"""Of whatever a setting counts; libraries stumble over larger ones, each in another way."""

TRAINER = {
    "log_every_n_steps": Range(low=1),
    "check_val_every_n_epoch": Range(low=1),
    "val_check_interval": POSITIVE,
    "gradient_clip_val": NOT_NEGATIVE,
    "devices": Range(low=-1, high=2**16),
    "num_nodes": Range(low=1, high=2**16),
}
"""Numbers that Lightning's Trainer takes, and would divide by, or clip a gradient to its opposite with."""


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted key, such as `{"data.seed": 1}` for `{"data": {"seed": 1}}`."""
    result: dict[str, Any] = {}
    for name, value in settings.items():
        key = f"{prefix}.{name}" if prefix else name
        result.update(flat(value, key) if isinstance(value, dict) else {key: value})
    return result


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs between two flat settings, at most five of them, as `key: old → new`."""
    keys = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    listed = [f"{key}: {old.get(key)} → {new.get(key)}" for key in keys[:5]]
    return listed + [f"and {len(keys) - 5} more"] * (len(keys) > 5)


def check_settings(settings: Any) -> None:
    """Refuses settings of a run that the libraries would stumble over later, in words of their own.

    Args:
        settings: Of the command, as they were parsed.

    Raises:
        ConfigError: One of them is out of its range.
    """
    for key, value in flat(settings.as_dict()).items():
        if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
            raise ConfigError(f"{key} is {excerpt_of(value)}: expected a number up to {LARGEST_NUMBER:,}")
    for key, numbers in TRAINER.items():
        value = settings.get(f"trainer.{key}")
        value = int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 99 else value
        if value is not None and not isinstance(value, (str, list, dict)):
            numbers.check(f"trainer.{key}", value)
    seed = settings.get("seed_everything")
    if not settings.run_dir:
        raise ConfigError("run_dir is '': expected the name of a folder")
    if not settings.run_dir.isprintable():
        raise ConfigError(f"run_dir is {settings.run_dir!r}: expected a name of characters that can be written down")
    if not 0 <= int(seed or 0) < 2**32:
        raise ConfigError(f"seed_everything is {seed}: expected a whole number from 0 to {2**32 - 1}")
