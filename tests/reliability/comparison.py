"""What two runs left on disk, compared byte for byte."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import torch

UNTIMED = {"tokens_per_second"}
"""Curves of the clock: their steps are compared, not their values."""


def points(run: Path) -> dict[str, list[tuple[int, float | None]]]:
    """Every scalar in every event file of a run, in the order of writing: nothing is sorted, purged or merged."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    curves: dict[str, list[tuple[int, float | None]]] = {}
    for path in sorted(run.glob("tensorboard/*/*tfevents*")):
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                number = None if value.tag in UNTIMED else value.simple_value
                curves.setdefault(f"{path.parent.name}:{value.tag}", []).append((event.step, number))
    return curves


def _bits(value: Any) -> Any:
    """A value whose equality is that of bits: NaN equals NaN, 0.0 is not -0.0."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.detach().contiguous().flatten().view(torch.uint8).tolist()
    if isinstance(value, float):
        return struct.pack("d", value)
    if isinstance(value, dict):
        return {key: _bits(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_bits(inner) for inner in value]
    return value


def newest_checkpoint(run: Path) -> dict[str, Any]:
    """All of a run's last checkpoint that is not a path or the name of the run."""
    content = torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
    del content["callbacks"], content["halo_lightning_run"]
    return content


def differences(one: Path, other: Path) -> list[str]:
    """What differs between two folders in which the same commands ran: runs, exports, caches, names of files."""
    found = []
    for run in sorted(path.parent.relative_to(one) for path in one.glob("runs/*/run.json")):
        ours, theirs = one / run, other / run
        assert len(points(ours)) > 4, "no curves to compare"
        if _bits(points(ours)) != _bits(points(theirs)):
            found.append(f"{run}: curves differ: {_first(points(ours), points(theirs))}")
        if not (theirs / "checkpoints" / "last.ckpt").exists():
            found.append(f"{run}: no last.ckpt")
            continue
        here, there = newest_checkpoint(ours), newest_checkpoint(theirs)
        found += [
            f"{run}: checkpoints differ in {key}: {_first(here.get(key), there.get(key))}"
            for key in here.keys() | there.keys()
            if _bits(here.get(key)) != _bits(there.get(key))
        ]
    for pattern in ("runs/*/export/*", "cache/reference/*/*"):
        names = {path.relative_to(folder) for folder in (one, other) for path in folder.glob(pattern)}
        for name in sorted(names):
            contents = [(folder / name).read_bytes() if (folder / name).is_file() else None for folder in (one, other)]
            if contents[0] != contents[1]:
                found.append(f"{name} differs ({[None if content is None else len(content) for content in contents]})")
    left = _names(other) - _names(one)
    return found + [f"left behind: {sorted(left)}"] * bool(left)


def _names(folder: Path) -> set[str]:
    """Names of all files, but event files, which each process adds one of, and hashes kept by a file's time."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    return {name for name in names if "tfevents" not in name and not name.startswith("cache/hashes")}


def _first(one: Any, other: Any, where: str = "") -> str:
    """Where two nested values differ first."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys(), key=str):
            if _bits(one.get(key)) != _bits(other.get(key)):
                return _first(one.get(key), other.get(key), f"{where}.{key}")
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        if len(one) != len(other):
            return f"{where}: {str(one)[:300]} against {str(other)[:300]}"
        for place, (a, b) in enumerate(zip(one, other, strict=True)):
            if _bits(a) != _bits(b):
                return _first(a, b, f"{where}[{place}]")
    return f"{where}: {str(one)[:200]} against {str(other)[:200]}"
