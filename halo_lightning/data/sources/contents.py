"""Contents: what identifies the rows of a source without reading them as rows."""

from __future__ import annotations

from pathlib import Path

from halo_lightning.caches import content_hash
from halo_lightning.data.sources.config import Source
from halo_lightning.data.sources.embedded import EMBEDDED
from halo_lightning.data.sources.files import find_files
from halo_lightning.data.sources.tables import HUB, hub_fingerprint, is_saved_dataset


def files_of(source: Source) -> list[tuple[Path, str]]:
    """The files that a source is read from, each with the name that messages give it; none for the hub's data sets.

    Raises:
        DataError: There is none where there should be.
        ConfigError: A split is missing, or named where there is none.
    """
    files: list[tuple[Path, str]] = []
    for path in source.paths:
        folder = Path(path).expanduser() / (source.data_dir or "")
        if path.startswith((EMBEDDED, HUB)):
            continue
        if is_saved_dataset(folder):
            inside = (file for file in sorted(folder.rglob("*")) if file.is_file())
            files += [(file, f"{path}/{file.relative_to(folder).as_posix()}") for file in inside]
        else:
            files += find_files(path, source.split, source.data_dir)
    return files


def contents(source: Source, memory: Path) -> list[list[str]]:
    """Names and hashes of all files that a source is read from.

    Args:
        source: The source.
        memory: The folder where hashes are remembered.

    Raises:
        DataError: There is no such file.
        OSError: A file cannot be read.
    """
    return [[name, content_hash(path, memory)] for path, name in files_of(source)]


def hub_contents(source: Source) -> list[list[str]]:
    """Names and fingerprints of all data sets of the hub that a source is read from.

    Raises:
        DataError: There is no such data set.
    """
    hub = [path for path in source.paths if path.startswith(HUB)]
    return [[path, hub_fingerprint(path, source.name, source.data_dir, source.split)] for path in hub]
