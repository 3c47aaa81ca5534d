"""Checkpoints that are whole: written aside, with a manifest of sizes and hashes, and checked before they are read.

Beside a checkpoint `NAME.ckpt` stands `NAME.ckpt.json`: the step, the run that it is of, and size and SHA-256 of its
file (of each of its files, where a strategy writes a folder). It is written last. A file without one is looked at by
the checksums that are in it; a folder without one was not finished, or is somebody else's.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from halo_lightning.errors import ConfigError, DiskFullError, no_space
from halo_lightning.files import read_checked_json, replaced_file, why_no_file, write_checked_json

RUN = "halo_lightning_run"
"""The key of a checkpoint under which callbacks note what a run needs to go on."""

_BLOCK = 2**24
_UNKNOWN = 2**62  # steps of a checkpoint that cannot be read: it may be the newest one, so that it is named


Files = dict[str, tuple[int, str]]
"""Size and SHA-256 of each file, by its name from the folder that a manifest is in."""


class Seal(NamedTuple):
    """What the manifest of a checkpoint says.

    Attributes:
        step: Number of optimizer steps.
        run: Which run it is of; empty where that is not known.
        files: Its files.
    """

    step: int
    run: str
    files: Files


def manifest_path(checkpoint: Path) -> Path:
    """Where the manifest of a checkpoint is."""
    return checkpoint.with_name(f"{checkpoint.name}.json")


def write_seal(checkpoint: Path, seal: Seal) -> None:
    """Declares a checkpoint whole."""
    content = {"global_step": seal.step, "run": seal.run, "files": files_as_json(seal.files)}
    write_checked_json(manifest_path(checkpoint), content)


def files_as_json(files: Files) -> dict[str, dict[str, Any]]:
    """Files as manifests have them."""
    return {name: {"bytes": size, "sha256": digest} for name, (size, digest) in files.items()}


def files_of_json(content: Any) -> Files:
    """The files that a manifest names.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: It names none.
    """
    return {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in content.items()}


def read_seal(checkpoint: Path) -> Seal | None:
    """The manifest of a checkpoint, or None where it has none.

    Raises:
        ConfigError: It is damaged.
    """
    path = manifest_path(checkpoint)
    try:
        content = read_checked_json(path)
        return Seal(int(content["global_step"]), str(content["run"]), files_of_json(content["files"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{path}: this is not the manifest of a checkpoint ({why})") from error


def seal_folder(checkpoint: Path, *, step: int, run: str) -> None:
    """Declares a folder of a sharded checkpoint whole, whose files are all on disk."""
    files = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
            files[path.relative_to(checkpoint.parent).as_posix()] = (path.stat().st_size, sha256(path))
    write_seal(checkpoint, Seal(step, run, files))


def remove_seal(checkpoint: Path) -> None:
    """Takes a checkpoint's manifest away, before it is written anew or removed."""
    manifest_path(checkpoint).unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """The hash of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


# --- looking before reading ----------------------------------------------------------------------------------------


def damage(checkpoint: str | Path) -> str | None:
    """What is wrong with a checkpoint, or None where it is whole: sizes, hashes, or the checksums in the file.

    Args:
        checkpoint: The file, the folder of a sharded one, or a link to either.
    """
    path = Path(checkpoint)
    try:
        if not path.exists():
            return "it is a link to nothing" if path.is_symlink() else "there is no such checkpoint"
        path = path.resolve()
        if not path.is_dir() and (why := why_no_file(path)) is not None:
            return why
        seal = read_seal(path)
        if seal is not None:
            return difference(path.parent, seal.files)
        return _unsealed_folder(path) if path.is_dir() else _broken_zip(path)
    except (ConfigError, OSError) as error:
        return str(error)


def difference(folder: Path, files: Files, digest_of: Callable[[Path], str] | None = None) -> str | None:
    """What in a folder is not as a manifest says, or None: sizes first, which takes no time.

    Args:
        folder: The folder that the manifest is in.
        files: What it says.
        digest_of: Gives the SHA-256 of a file; None reads the file.
    """
    for name, (size, _) in files.items():
        if ".." in Path(name).parts or Path(name).is_absolute():
            return f"its manifest names a file outside of the folder ({name})"
        file = folder / name
        if not file.is_file():
            return f"its file {name} is missing"
        if (found := file.stat().st_size) != size:
            return f"{name} has {found:,} of {size:,} bytes"
    for name, (_, digest) in files.items():
        if (digest_of or sha256)(folder / name) != digest:
            return f"the content of {name} is not what was written (its SHA-256 differs)"
    return None


def _broken_zip(path: Path) -> str | None:
    """What is wrong with a checkpoint of one file that has no manifest: torch keeps a CRC of each tensor in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                # What torch writes is not compressed: so a small file cannot become a large one in memory.
                if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                    return f"it is no checkpoint ({entry.filename} in it is compressed)"
            broken = archive.testzip()
            return None if broken is None else f"its part {broken} is damaged (its checksum differs)"
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, RuntimeError):
        return f"it is cut off, damaged, or no checkpoint ({path.stat().st_size:,} bytes)"


def _unsealed_folder(path: Path) -> str | None:
    missing = [name for name in (".metadata", "meta.pt") if not (path / name).is_file()]
    return f"it was not finished: {', '.join(missing)} missing in this folder" if missing else None


class Found(NamedTuple):
    """The newest whole checkpoint of a folder.

    Attributes:
        path: The checkpoint, or None where there is none.
        damaged: Newer ones, and what is wrong with them.
        of_others: How many checkpoints of other runs there are.
    """

    path: Path | None
    damaged: dict[Path, str]
    of_others: int


def newest_good(folder: str | Path, run: str | None = None) -> Found:
    """Looks for the newest whole checkpoint in a folder.

    Args:
        folder: The folder of checkpoints.
        run: Only those of this run; None takes those of every run.
    """
    damaged: dict[Path, str] = {}
    everything = sorted(_dated(Path(folder)), key=lambda entry: entry[:2], reverse=True)
    own = [path for _, _, path, of in everything if run is None or of in (None, run)]
    for path in own:
        why = damage(path)
        if why is None and path.is_dir() and not manifest_path(path).exists():
            why = "it was not finished (it has no manifest)"
        if why is None:
            return Found(path, damaged, len(everything) - len(own))
        damaged[path] = why
    return Found(None, damaged, len(everything) - len(own))


def _dated(folder: Path) -> Iterator[tuple[int, float, Path, str | None]]:
    """Step, time, path and run of each checkpoint of a folder, as far as they can be read; links are left out."""
    for path in sorted(folder.glob("*.ckpt")):
        if path.is_symlink() or path.name.startswith("."):
            continue
        step, run = step_and_run(path)
        yield step, path.stat().st_mtime, path, run


def step_and_run(checkpoint: Path) -> tuple[int, str | None]:
    """Number of optimizer steps, and which run it is of, as its manifest says, or the file itself where it has none.

    What cannot be read has more steps than any other, and no run: what is wrong is said where it would be taken.
    """
    try:
        if (seal := read_seal(checkpoint)) is not None:
            return seal.step, seal.run or None
        if checkpoint.is_file() and _broken_zip(checkpoint) is None:
            content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
            return int(content["global_step"]), content.get(RUN, {}).get("id")
    except Exception:  # of pickle, zip, torch: whatever a file can be made to cause
        return _UNKNOWN, None
    return _UNKNOWN, None


def instead(checkpoint: Path) -> str:
    """Which other checkpoint there is to go on from, as the end of a message."""
    found = newest_good(checkpoint.parent).path if checkpoint.parent.is_dir() else None
    return "" if found is None else f". The newest whole checkpoint beside it is {found}"


def check(checkpoint: str | Path) -> Path:
    """A checkpoint that is whole.

    Raises:
        ConfigError: It is not; the message names the newest one beside it that is.
    """
    why = damage(checkpoint)
    if why is not None:
        raise ConfigError(f"{checkpoint}: this checkpoint cannot be used: {why}{instead(Path(checkpoint))}")
    return Path(checkpoint)


def load(checkpoint: str | Path, map_location: Any = "cpu", *, mmap: bool = False) -> dict[str, Any]:
    """Reads a checkpoint of one file, without executing anything that is in it.

    Args:
        checkpoint: The file.
        map_location: Where the tensors go, as in `torch.load`.
        mmap: Whether tensors are read only when they are used.

    Raises:
        ConfigError: It is missing, damaged, holds more than tensors and plain values, or is not Lightning's.
    """
    path = check(checkpoint)
    try:
        content = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except Exception as error:  # of pickle, zip, torch: whatever a file can be made to cause
        reason = next(iter(str(error).strip().splitlines()), "")[:200]
        raise ConfigError(
            f"{checkpoint}: this checkpoint cannot be used: it holds something else than tensors and plain values, and"
            f" that is not loaded, because it could execute code ({type(error).__name__}: {reason}){instead(path)}"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise ConfigError(f"{checkpoint}: this is not a checkpoint of Lightning (no state_dict in it){instead(path)}")
    return content


# --- reading and writing for the Trainer ---------------------------------------------------------------------------


class _Hashing:
    """A stream that hashes what is written to it, and keeps the error that stopped it."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.digest, self.size = stream, hashlib.sha256(), 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            self.stream.write(data)
        except OSError as error:
            self.error = error
            raise
        self.digest.update(data)
        self.size += memoryview(data).nbytes
        return memoryview(data).nbytes

    def flush(self) -> None:
        self.stream.flush()


class SealedCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints of one file, written aside, synchronised, renamed and sealed with a manifest.

    At no time is there a file under a checkpoint's name that is not whole. Where the disk is full, the run stops with
    an error that says so, and earlier checkpoints are as they were. Paths of remote file systems are left to
    Lightning.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Writes a checkpoint.

        Raises:
            DiskFullError: The disk is full.
        """
        if _is_remote(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        try:
            with replaced_file(target) as stream:
                hashing = _Hashing(stream)
                try:
                    torch.save(checkpoint, hashing)  # type: ignore[arg-type]  # it needs write and flush alone
                except RuntimeError as error:
                    raise hashing.error or error from None
                stream.flush()
                remove_seal(target)
        except DiskFullError as error:
            raise DiskFullError(
                f"{path}: the disk is full ({no_space(error)}), this checkpoint could not be written{instead(target)}."
                " Make room, and go on with --ckpt_path last"
            ) from error
        run = str(checkpoint.get(RUN, {}).get("id") or "")
        files = {target.name: (hashing.size, hashing.digest.hexdigest())}
        write_seal(target, Seal(int(checkpoint.get("global_step", 0)), run, files))

    def load_checkpoint(
        self,
        path: Any,
        map_location: Callable[..., Any] | None = lambda storage, location: storage,
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Reads a checkpoint that is whole, and executes nothing that is in it, whatever `weights_only` says.

        Raises:
            ConfigError: It cannot be used.
        """
        if _is_remote(path):
            return super().load_checkpoint(path, map_location, weights_only=True)
        return load(path, map_location)

    def remove_checkpoint(self, path: Any) -> None:
        """Removes a checkpoint and its manifest."""
        if not _is_remote(path):
            remove_seal(Path(path))
        super().remove_checkpoint(path)


def _is_remote(path: Any) -> bool:
    return "://" in str(path)
