"""Streams of random numbers: one for everything that has a name, the same on every machine."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def stream_key(seed: int, name: str) -> int:
    """A number of 128 bits that stands for (seed, name): what a stream of random numbers starts from."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\n{name}".encode(), digest_size=16).digest(), "little")


def uniforms(key: int, count: int) -> NDArray[np.float64]:
    """The first numbers of a stream, float64 `[count]`, uniform in [0, 1); fewer are the beginning of more.

    They are made from the raw output of the Philox generator, which numpy promises not to change.
    """
    raw = np.random.Philox(key=key).random_raw(count)
    return (np.asarray(raw, dtype=np.uint64) >> np.uint64(11)).astype(np.float64) * 2.0**-53
