"""The cache of tokenised data: made once for the same sources and settings, by one process, and mapped from disk.

A cache is a folder whose name is the hash of everything that decides what is in it: the content of the sources and
their settings, the tokenizer with its chat template, the limits, the seed, the code and its libraries. In it are the
arrays of the examples to use and of those held out, the rows that were skipped, and a manifest, which says what it was
made of and what was reported: a start that finds a cache says exactly what the one said that made it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from halo_lightning.caches import cache_folder, content_hash, sole_writer
from halo_lightning.data.batching import TokenizedDataset, TokenizedDatasetBuilder, dataset_of
from halo_lightning.data.fingerprint import code_fingerprint, tokenizer_fingerprint
from halo_lightning.data.preparation import Preparation, Prepared, prepare
from halo_lightning.data.sources.bad_rows import BadRows
from halo_lightning.data.sources.contents import contents, files_of, hub_contents
from halo_lightning.data.sources.embedded import EMBEDDED
from halo_lightning.data.sources.tables import HUB
from halo_lightning.data.store import ArraysOnDisk, DamagedStoreError, file_of, read_arrays
from halo_lightning.errors import DataError
from halo_lightning.files import read_text, replaced_folder, write_json

logger = logging.getLogger(__name__)

WORTH_IT = 2**18
"""Bytes of files from which on a cache pays: less is prepared in about as much time as it takes to look for one."""

_MANIFEST, _BAD_ROWS, _DATASETS = "manifest.json", "bad_rows.jsonl", ("used", "held_out")

Result = tuple[TokenizedDataset, TokenizedDataset, Prepared]


class TokenCache:
    """Prepares what is not in the cache, and maps what is.

    Args:
        folder: Where caches are; None is the user's own folder, in which only what is worth it is kept.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = cache_folder("data", folder)
        self.keeps_everything = folder is not None
        self._hashes = cache_folder("hashes", folder)

    def prepare(self, preparation: Preparation, tokenizer: Any, bad: BadRows) -> Result:
        """The examples to use, the examples held out, and the counts: mapped from the cache, or in memory.

        In memory is what the cache cannot be asked for (the embedded world, a tokenizer that does not say what it is)
        and what is too small for it to pay.

        Args:
            preparation: What is to be made of which sources.
            tokenizer: A tokenizer that went through `prepare_tokenizer`.
            bad: What happens to a row that cannot be used.

        Raises:
            DataError: Something in the sources cannot be used, or a file changed while it was read.
        """
        key = self.key(preparation, tokenizer, bad)
        if key is None:
            return prepare(preparation, tokenizer, bad)
        path = self.folder / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
        if path.is_dir() and (found := self._read(path, key, preparation, bad, quiet=True)) is not None:
            return found
        with sole_writer(path):
            if path.is_dir() and (found := self._read(path, key, preparation, bad)) is not None:
                return found  # who has waited for another process finds its work done
            report = self._write(path, key, preparation, tokenizer, bad)
            found = self._read(path, key, preparation, None)
        if found is None:
            raise DataError(f"{path}: this cache was damaged as soon as it was written")
        return found[0], found[1], report

    def key(self, preparation: Preparation, tokenizer: Any, bad: BadRows) -> dict[str, Any] | None:
        """Everything that decides what is prepared, as JSON values; None for what is not to be cached."""
        if not self._is_worth_it(preparation):
            return None
        tokens = tokenizer_fingerprint(tokenizer)
        if tokens is None:
            return None
        try:
            files = [contents(source, self._hashes) for source in preparation.sources]
        except OSError:  # reading it says what is wrong, and with which file
            return None
        key = {
            **asdict(preparation),
            "sources": [repr(source) for source in preparation.sources],
            "files": files,
            "hub": [hub_contents(source) for source in preparation.sources],
            "tokenizer": tokens,
            "on_bad_row": bad.action,
            "code": code_fingerprint(),
        }
        plain: dict[str, Any] = json.loads(json.dumps(key))
        return plain

    def _is_worth_it(self, preparation: Preparation) -> bool:
        paths = [path for source in preparation.sources for path in source.paths]
        if any(path.startswith(EMBEDDED) for path in paths):
            return False
        if self.keeps_everything or any(path.startswith(HUB) for path in paths):
            return True
        files = [path for source in preparation.sources for path, _ in files_of(source)]
        return sum(path.stat().st_size for path in files if path.is_file()) >= WORTH_IT

    def _read(
        self, path: Path, key: dict[str, Any], preparation: Preparation, bad: BadRows | None, *, quiet: bool = False
    ) -> Result | None:
        """What is in a cache; None where it is damaged."""
        try:
            manifest = json.loads(read_text(path / _MANIFEST))
            if manifest["key"] != key:
                raise DamagedStoreError(f"{path / _MANIFEST}: found another key than that of the folder")
            datasets = [self._read_dataset(path / name, **manifest[name]) for name in _DATASETS]
            self._check(path / _BAD_ROWS, manifest["bad_rows"])
            report = Prepared.of(manifest["report"], preparation.limits, bad or BadRows())
        except (OSError, ValueError, KeyError, TypeError, RecursionError, DamagedStoreError) as error:
            if not quiet:
                logger.warning("the cache of tokens %s is damaged (%s): the data is prepared again", path, error)
            return None
        if bad is not None:
            bad.skip_again(path / _BAD_ROWS)
        return datasets[0], datasets[1], report

    def _read_dataset(self, folder: Path, arrays: dict[str, Any], about: dict[str, Any]) -> TokenizedDataset:
        mapped = read_arrays(folder, arrays)
        hashes = {name: array["sha256"] for name, array in arrays.items()}
        for name, sha256 in hashes.items():
            self._check(file_of(folder, name), sha256)
        return dataset_of(mapped, **about, hashes=hashes)

    def _check(self, file: Path, sha256: str) -> None:
        if content_hash(file, self._hashes) != sha256:
            raise DamagedStoreError(f"{file}: found another content than was written")

    def _write(
        self, path: Path, key: dict[str, Any], preparation: Preparation, tokenizer: Any, bad: BadRows
    ) -> Prepared:
        """Writes a cache whole or not at all."""
        with replaced_folder(path) as folder:
            arrays = [ArraysOnDisk(folder / name) for name in _DATASETS]
            try:
                used, held_out = (TokenizedDatasetBuilder(preparation.feedback, one) for one in arrays)
                with bad.recorded(folder / _BAD_ROWS):
                    report = preparation.run(tokenizer, bad, (used, held_out))
            finally:
                for one in arrays:
                    one.close()
            if [contents(source, self._hashes) for source in preparation.sources] != key["files"]:
                raise DataError(
                    "a file changed while it was read, so nobody knows what was read of it: run again when it is"
                    " complete, or on a copy of it",
                    file=", ".join(map(str, preparation.sources)),
                )
            described = [one.describe() for one in arrays]
            manifest: dict[str, Any] = {
                name: {"arrays": array, "about": builder.about}
                for name, array, builder in zip(_DATASETS, described, (used, held_out), strict=True)
            }
            manifest["bad_rows"] = hashlib.sha256((folder / _BAD_ROWS).read_bytes()).hexdigest()
            write_json(folder / _MANIFEST, {**manifest, "key": key, "report": report.as_plain_data()})
        for name, arrays_described in zip(_DATASETS, described, strict=True):
            for array, values in arrays_described.items():
                content_hash(file_of(path / name, array), self._hashes, written_here=values["sha256"])
        return report
