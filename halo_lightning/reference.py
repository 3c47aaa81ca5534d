"""The reference's log-probabilities, computed once for the same weights and the same tokens, and kept on disk.

A cache is a folder whose name is the fingerprint of everything that its numbers depend on, so that one of other
weights or other tokens is never taken. What is in it does not depend on the method that asks: all methods and runs
over the same tokens share it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from lightning.pytorch.strategies import Strategy
from numpy.typing import NDArray

from halo_lightning.caches import cache_folder, content_hash
from halo_lightning.data.batching import TokenizedDataset
from halo_lightning.errors import ConfigError
from halo_lightning.files import flush_to_disk, full_disk_is_said, read_text, write_json
from halo_lightning.settings import differences, flat

TOKENS_AT_ONCE = 8192
"""Tokens in a batch of the reference pass: there is no gradient, so many fit."""

SAVE_EVERY = 16
"""Batches after which what is done is noted on disk."""

LogpsOfPart = Callable[[NDArray[np.int64]], NDArray[np.float32]]

_FORMAT = 2  # of the folder of a cache
_VALUES, _MANIFEST, _PROGRESS = "logps.npy", "manifest.json", "progress.json"


def weights_fingerprint(path: str) -> str:
    """What identifies the weights in a folder, or of a hub id: the hash of its files, or the hub's own commit.

    Args:
        path: A folder, or a hub id whose files are in the local cache of the hub.

    Raises:
        ConfigError: There are no weights there.
    """
    folder = Path(path)
    if not folder.is_dir():
        from transformers.utils import cached_file

        folder = Path(str(cached_file(path, "config.json"))).parent
        return f"{path}@{folder.name}"  # the hub's cache has a folder for each commit
    files = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    if len(files) < 2:
        raise ConfigError(f"{path}: no weights in this folder (no .safetensors file)")
    hashes = [content_hash(file, cache_folder("hashes")) for file in files]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def tokens_fingerprint(dataset: TokenizedDataset) -> str:
    """What identifies the tokens of a data set: rows, template, tokenizer and truncation have no other effect."""
    arrays = {name: getattr(dataset, name) for name in ("tokens", "offsets", "prompt_lengths", "learned")}
    hashes = {
        name: dataset.hashes.get(name) or hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
        for name, array in arrays.items()
        if array is not None
    }
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


@dataclass(frozen=True)
class ReferenceCache:
    """The cache of one data set's log-probabilities under one reference.

    Args:
        folder: Where caches are.
        dataset: The tokens.
        settings: What else the numbers depend on: weights, dtype, precision; JSON values.
    """

    folder: Path
    dataset: TokenizedDataset
    settings: dict[str, Any]

    @cached_property
    def depends_on(self) -> dict[str, Any]:
        """Everything that the numbers depend on."""
        return {"format": _FORMAT, "tokens": tokens_fingerprint(self.dataset), **self.settings}

    @cached_property
    def path(self) -> Path:
        """The folder of this cache."""
        text = json.dumps(self.depends_on, sort_keys=True)
        return self.folder / hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def size(self) -> int:
        """Number of log-probabilities."""
        return int(self.dataset.completion_offsets[-1])

    def read(self) -> NDArray[np.float32] | None:
        """The log-probabilities, mapped from disk, or None where they are not there.

        Raises:
            ConfigError: They are damaged, or of something else; the message says what differs.
        """
        path = self.path
        if not (path / _MANIFEST).is_file():
            return None
        found = self._manifest()
        if changed := differences(flat(found), flat(self.depends_on)):
            raise ConfigError(
                f"{path}: this cache is of another reference or of other data (found → expected: {'; '.join(changed)});"
                " delete it"
            )
        values: NDArray[np.float32] = np.load(path / _VALUES, mmap_mode="r", allow_pickle=False)
        if values.shape != (self.size,) or values.dtype != np.float32:
            raise ConfigError(f"{path}: this cache is damaged ({values.shape} values of {self.size}); delete it")
        return values

    def _manifest(self) -> dict[str, Any]:
        """What the numbers in the folder depend on, where they are still those that were written.

        Raises:
            ConfigError: They are not.
        """
        path = self.path
        try:
            manifest = json.loads(read_text(path / _MANIFEST))
            depends_on, digest = dict(manifest["depends_on"]), str(manifest["sha256"])
            if content_hash(path / _VALUES, cache_folder("hashes")) == digest:
                return depends_on
            why = f"the content of {_VALUES} is not what was written"
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            why = f"{_MANIFEST}: {type(error).__name__}"
        raise ConfigError(f"{path}: this cache is damaged ({why}); delete it")

    def parts(self, tokens: int = TOKENS_AT_ONCE) -> list[NDArray[np.int64]]:
        """The sequences in the order in which they are computed: in batches of about so many tokens.

        Sequences with the same prompt are in the same batch, where it is computed once, and sequences of about the
        same length are, because a model that needs padding needs little of it then.
        """
        data = self.dataset
        lengths = np.diff(data.offsets)
        if not len(lengths):
            return []
        ends = data.offsets[:-1] + data.prompt_lengths
        # Two prompts that have the same number by chance only come into the same batch.
        prompts = np.fromiter(
            (zlib.crc32(data.tokens[a:b].data) for a, b in zip(data.offsets[:-1].tolist(), ends.tolist(), strict=True)),
            dtype=np.int64,
            count=len(lengths),
        )
        _, first, group = np.unique(prompts, return_index=True, return_inverse=True)
        longest = np.zeros(len(first), dtype=np.int64)
        np.maximum.at(longest, group, lengths)
        order = np.lexsort((np.arange(len(lengths)), first[group], longest[group]))
        # A batch ends with a group of the same prompt, before it has too many tokens.
        last_of_group = np.flatnonzero(np.append(np.diff(group[order]) != 0, True))
        so_far = np.cumsum(lengths[order])[last_of_group].tolist()
        cuts, begun = [], 0
        for number in range(1, len(so_far)):
            if so_far[number] - begun > tokens:
                cuts.append(int(last_of_group[number - 1]) + 1)
                begun = so_far[number - 1]
        return np.split(order, cuts)

    def compute(self, logps: LogpsOfPart, strategy: Strategy, processes: int, rank: int) -> NDArray[np.float32]:
        """Computes what is not there yet, each process its share. Killed in the middle, it goes on there next time.

        Args:
            logps: Computes the log-probabilities of the completion tokens of some sequences, one after the other.
            strategy: Lets the processes talk to each other.
            processes: How many there are.
            rank: Which one this is; the first one writes.

        Returns:
            The log-probabilities: mapped from disk, or in memory where a process cannot see the disk of the first.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock") if rank == 0 else nullcontext():
            # Who has waited for another run finds its work done.
            found = self.read() is not None if rank == 0 else False
            if not strategy.broadcast(found):
                with full_disk_is_said(self.path):
                    values = self._compute(logps, strategy, processes, rank)
        strategy.barrier()
        kept = self.read()
        return values if kept is None else kept

    def _compute(self, logps: LogpsOfPart, strategy: Strategy, processes: int, rank: int) -> NDArray[np.float32]:
        partial = self.path.with_suffix(".partial")
        values, done = self._continued(partial) if rank == 0 else (np.zeros(self.size, np.float32), 0)
        done = strategy.broadcast(done)
        if processes > 1 and done:
            values[:] = strategy.broadcast(np.array(values))
        parts = self.parts()
        offsets = self.dataset.completion_offsets
        for first in _progress(range(done, len(parts), processes), rank, len(parts)):
            share = parts[first : first + processes]
            own = logps(share[min(rank, len(share) - 1)])  # where parts run out, a process repeats one
            for part, computed in zip(share, _of_all(own, share, offsets, strategy, processes), strict=True):
                places = np.concatenate([np.arange(offsets[n], offsets[n + 1]) for n in part])
                values[places] = computed
            if rank == 0 and (first // processes) % SAVE_EVERY == SAVE_EVERY - 1:
                _flush(values)
                write_json(partial / _PROGRESS, {"parts": first + len(share)})
        if not all(np.isfinite(values[start : start + 2**22]).all() for start in range(0, len(values), 2**22)):
            raise ConfigError("the reference gives log-probabilities that are not finite: its weights are damaged")
        if rank == 0:
            _flush(values)
            digest = content_hash(partial / _VALUES, cache_folder("hashes"))
            write_json(partial / _MANIFEST, {"depends_on": self.depends_on, "sha256": digest})
            (partial / _PROGRESS).unlink(missing_ok=True)
            partial.rename(self.path)
            flush_to_disk(self.folder)
        return values

    def _continued(self, partial: Path) -> tuple[NDArray[np.float32], int]:
        """The values in the making, and how many parts of them are there."""
        if (partial / _PROGRESS).is_file() and (partial / _VALUES).is_file():
            with suppress(OSError, ValueError, KeyError, TypeError):
                done = int(json.loads((partial / _PROGRESS).read_text())["parts"])
                values = np.load(partial / _VALUES, mmap_mode="r+", allow_pickle=False)
                if values.shape == (self.size,) and values.dtype == np.float32:
                    return values, done
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            values = np.lib.format.open_memmap(partial / _VALUES, "w+", np.float32, (self.size,))
            _reserve(partial / _VALUES)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return values, 0


def _of_all(
    own: NDArray[np.float32],
    share: list[NDArray[np.int64]],
    offsets: NDArray[np.int64],
    strategy: Strategy,
    processes: int,
) -> list[NDArray[np.float32]]:
    """What each process computed of its part."""
    if processes == 1:
        return [own]
    sizes = [int((offsets[part + 1] - offsets[part]).sum()) for part in share]
    padded = torch.zeros(max(sizes), device=strategy.root_device)
    padded[: len(own)] = torch.from_numpy(own)
    gathered = strategy.all_gather(padded).cpu().numpy()
    return [row[:size] for row, size in zip(gathered, sizes)]  # noqa: B905  # those after the last part are repeated


def _reserve(file: Path) -> None:
    """Sees to it that there is room for a file: a full disk kills whoever writes to a mapped one, without a word."""
    if hasattr(os, "posix_fallocate"):  # macOS has none
        with file.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)


def _flush(values: NDArray[np.float32]) -> None:
    if isinstance(values, np.memmap):
        values.flush()


def _progress(steps: range, rank: int, parts: int) -> Iterator[int]:
    """The steps, with a progress bar where somebody can see it."""
    if rank or not sys.stderr.isatty():
        yield from steps
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(
        steps,
        f"reference log-probabilities, {parts} batches",
        console=Console(stderr=True),
        completed=0,
        transient=True,
    )
