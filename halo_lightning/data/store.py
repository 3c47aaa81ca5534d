"""A store: named arrays in files that grow while they are written, and are mapped into memory to be read.

Each array is a file of nothing but its numbers. What they are, how many, and the SHA-256 of the file are in a
description (JSON values) that its owner keeps.
"""

from __future__ import annotations

import hashlib
from mmap import mmap
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
Description = dict[str, dict[str, Any]]


class DamagedStoreError(Exception):
    """Files of a store are missing, or are not what their description says."""


class Growing(Protocol):
    """Named arrays that grow."""

    def append(self, name: str, values: NDArray[Any]) -> None:
        """Adds numbers to the end of an array; the first ones, which may be none, make it."""


class ArraysInMemory:
    """Arrays that grow in memory."""

    def __init__(self) -> None:
        self._parts: dict[str, list[NDArray[Any]]] = {}

    def append(self, name: str, values: NDArray[Any]) -> None:
        """See `Growing`."""
        self._parts.setdefault(name, []).append(values)

    def arrays(self) -> Arrays:
        """The arrays."""
        return {name: np.concatenate(parts) for name, parts in self._parts.items()}


class ArraysOnDisk:
    """Arrays that grow in files, so that memory holds none of them.

    Args:
        folder: A new folder for them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, BinaryIO] = {}
        self._digests: dict[str, Any] = {}
        self._dtypes: dict[str, np.dtype[Any]] = {}
        self._lengths: dict[str, int] = {}
        folder.mkdir()

    def append(self, name: str, values: NDArray[Any]) -> None:
        """See `Growing`."""
        if name not in self._files:
            self._files[name] = file_of(self.folder, name).open("xb")
            self._digests[name] = hashlib.sha256()
            self._dtypes[name] = values.dtype
            self._lengths[name] = 0
        raw = values.astype(self._dtypes[name], casting="no", copy=False).tobytes()
        self._files[name].write(raw)
        self._digests[name].update(raw)
        self._lengths[name] += len(values)

    def describe(self) -> Description:
        """What is in the files."""
        return {
            name: {
                "dtype": np.lib.format.dtype_to_descr(self._dtypes[name]),
                "length": self._lengths[name],
                "sha256": self._digests[name].hexdigest(),
            }
            for name in self._files
        }

    def close(self) -> None:
        """Closes the files."""
        for file in self._files.values():
            file.close()


def read_arrays(folder: Path, description: Description) -> Arrays:
    """The arrays of a store, mapped from disk.

    Raises:
        DamagedStoreError: A file is missing, or not as long as it should be.
    """
    arrays: Arrays = {}
    for name, array in description.items():
        dtype, length, file = _dtype(array["dtype"]), int(array["length"]), file_of(folder, name)
        size = file.stat().st_size if file.is_file() else -1
        if size != length * dtype.itemsize:
            found = "no such file" if size < 0 else f"{size} bytes"
            raise DamagedStoreError(f"{file}: found {found}, expected {length * dtype.itemsize} bytes")
        # An empty file cannot be mapped.
        arrays[name] = np.memmap(file, dtype=dtype, mode="r", shape=(length,)) if length else np.zeros(0, dtype)
    return arrays


def file_of(folder: Path, name: str) -> Path:
    """The file of an array."""
    return folder / f"{name}.bin"


class Mapped(NamedTuple):
    """Where an array is mapped from."""

    file: str
    offset: int
    dtype: Any
    length: int


def picklable(array: Any) -> Any:
    """An array as it is to be pickled: one that is mapped from a whole file as the place in it, not as a copy."""
    if not isinstance(array, np.memmap) or not isinstance(array.base, mmap):
        return array
    return Mapped(str(array.filename), array.offset, np.lib.format.dtype_to_descr(array.dtype), len(array))


def unpickled(value: Any) -> Any:
    """What `picklable` was given, mapped again."""
    if not isinstance(value, Mapped):
        return value
    file, offset, dtype, length = value
    return np.memmap(file, dtype=_dtype(dtype), mode="r", offset=offset, shape=(length,))


def _dtype(described: Any) -> np.dtype[Any]:
    """The dtype of a description, which may have been JSON, where tuples are lists."""
    if isinstance(described, str):
        return np.dtype(described)
    return np.lib.format.descr_to_dtype([tuple(field) for field in described])
