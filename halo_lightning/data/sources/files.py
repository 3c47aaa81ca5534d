"""Finding files: patterns, folders of published files with their splits, and help where there is nothing."""

from __future__ import annotations

import difflib
import glob
import re
from pathlib import Path

from halo_lightning.data.sources.content import COMPRESSION
from halo_lightning.errors import ConfigError, DataError
from halo_lightning.files import why_no_file

TEXT = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
TABLES = (".parquet", ".pq", ".arrow", ".feather", ".ipc")
SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")
_NOT_DATA = {"dataset_info.json", "dataset_infos.json", "state.json", "config.json", "metadata.json"}


def kind_of(path: Path) -> str:
    """The suffix that says how a file is read, without that of its compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSION:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def find_files(source: str, split: str | None, data_dir: str | None) -> list[tuple[Path, str]]:
    """The files behind a path or pattern, in the order of their names, each with the name that messages give it.

    Raises:
        DataError: There is none.
        ConfigError: A split is missing, or named where there is none.
    """
    path = Path(source).expanduser()
    path = path / data_dir if data_dir else path
    name = f"{source}/{data_dir}" if data_dir else source
    try:
        if path.is_dir():
            return _in_folder(path, name, split)
        if not path.exists() and glob.has_magic(str(path)):
            found = sorted(match for match in map(Path, glob.glob(str(path), recursive=True)) if match.is_file())
            if not found:
                raise DataError("no file has a name of this pattern, expected at least one", file=name)
            # As the user would write them: a pattern without folder gives names without folder.
            files = [(match, str(match)) for match in found]
        else:
            _check_exists(path, name)
            files = [(path, name)]
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=source) from error
    if split is not None:
        raise ConfigError(
            f"{name}: found split={split}, expected none: only folders, saved data sets and hub data sets have splits"
        )
    return files


def _in_folder(folder: Path, name: str, split: str | None) -> list[tuple[Path, str]]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and _is_data(path.relative_to(folder))]
    inside = {path: path.relative_to(folder).as_posix() for path in files}
    if not files:
        raise DataError(
            f"found a folder without data files, expected files that end in {', '.join((*TEXT, *TABLES))}", file=name
        )
    listed = ", ".join(list(inside.values())[:5]) + (" …" if len(files) > 5 else "")
    if split is None:
        splits = [word for word in SPLITS if any(_is_of(inside[path], word) for path in files)]
        if len(splits) > 1:
            raise ConfigError(
                f"{name}: found files of the splits {', '.join(splits)} ({listed}), expected one to be named as split"
            )
    else:
        files = [path for path in files if _is_of(inside[path], split)]
        if not files:
            raise ConfigError(f"{name}: found no file of the split {split!r}, expected one among {listed}")
    return [(path, f"{name.rstrip('/')}/{inside[path]}") for path in files]


def _is_data(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and path.name not in _NOT_DATA and kind_of(path) in (*TEXT, *TABLES)


def _is_of(path: str, split: str) -> bool:
    """Whether a path has the split as a whole word, as in `data/train-00000-of-00001.parquet`."""
    return re.search(rf"(^|[^A-Za-z0-9_]){re.escape(split)}([^A-Za-z0-9_]|$)", path) is not None


def _check_exists(path: Path, name: str) -> None:
    if path.exists():
        if (why := why_no_file(path)) is not None:
            raise DataError(why, file=name)
        return
    folder = path.parent
    if path.is_symlink():
        raise DataError(f"found a link to {str(path.readlink())!r}, which is not there, expected a file", file=name)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not folder.is_dir():
        raise DataError(
            f"no such file; there is no folder {str(folder)!r} either. If it is a data set of the hub, write"
            f" hub:{name}",
            file=name,
        )
    if not folder.is_dir():
        raise DataError(f"no such file; there is no folder {str(folder)!r} either", file=name)
    close = difflib.get_close_matches(path.name, [child.name for child in folder.iterdir()], n=1, cutoff=0.5)
    hint = f"; did you mean {str(folder / close[0])!r}?" if close else f"; nothing in {str(folder)!r} has such a name"
    raise DataError(f"no such file{hint}", file=name)
