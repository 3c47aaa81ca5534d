"""Settings as plain data: flattened, and what differs between two of them."""

from __future__ import annotations

from typing import Any


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
