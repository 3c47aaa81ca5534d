"""Settings as plain data: flattened, and what differs between two of them."""

from __future__ import annotations

from typing import Any

from halo_lightning.errors import ConfigError


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
    seed, often = settings.get("seed_everything"), settings.get("trainer.log_every_n_steps")
    if not settings.run_dir:
        raise ConfigError("run_dir is '': expected the name of a folder")
    if not settings.run_dir.isprintable():
        raise ConfigError(f"run_dir is {settings.run_dir!r}: expected a name of characters that can be written down")
    if not 0 <= int(seed or 0) < 2**32:
        raise ConfigError(f"seed_everything is {seed}: expected a whole number from 0 to {2**32 - 1}")
    if often is not None and often < 1:
        raise ConfigError(f"trainer.log_every_n_steps is {often}: expected 1 or more")
