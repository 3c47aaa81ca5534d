"""A full disk: one clear error, nothing half written, and what was there before stays."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from halo_lightning import cli
from halo_lightning.configurations import copy_configurations
from halo_lightning.data.datamodules import UnaryDataModule
from halo_lightning.errors import DiskFullError
from halo_lightning.evaluation.records import open_records, read_records
from halo_lightning.export import write_export
from halo_lightning.files import write_text
from halo_lightning.model_folders import read_manifest
from halo_lightning.pretrained import load_tokenizer
from halo_lightning.reference import ReferenceCache
from tests.conftest import tiny_llama
from tests.data.helpers import byte_bpe, thumbs, write_rows
from tests.test_reference import STRATEGY, dataset, fake


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Within, no file of this process grows over a size in bytes, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def test_a_file(tmp_path: Path) -> None:
    write_text(tmp_path / "page.md", "before")
    with files_up_to(1000), pytest.raises(DiskFullError, match=r"page\.md: the disk is full .*File too large"):
        write_text(tmp_path / "page.md", "x" * 2000)
    assert files_in(tmp_path) == {"page.md": b"before"}


def test_an_export(tmp_path: Path) -> None:
    export, tokenizer = tmp_path / "export", load_tokenizer("embedded:base")
    write_export(export, tiny_llama(vocab_size=len(tokenizer)), tokenizer)
    before = files_in(tmp_path)
    with files_up_to(20_000), pytest.raises(DiskFullError, match="export: the disk is full"):
        write_export(export, tiny_llama(vocab_size=len(tokenizer)), tokenizer)
    assert files_in(tmp_path) == before
    assert read_manifest(export) is not None


def test_the_cache_of_tokens(tmp_path: Path) -> None:
    def data_of(count: int) -> UnaryDataModule:
        rows = write_rows(tmp_path / f"{count}.jsonl", thumbs(count, 10))
        return UnaryDataModule(rows, tokenizer=byte_bpe(), batch_size=4, cache=str(tmp_path / "kept"))

    kept = tmp_path / "kept" / "data"
    data_of(100).setup("fit")
    before = files_in(kept)
    assert before
    data = data_of(2000)
    with files_up_to(10_000), pytest.raises(DiskFullError, match=f"{kept}.*: the disk is full"):
        data.setup("fit")
    assert files_in(kept) == before
    data.setup("fit")  # there is room again
    assert len(data.train_dataset.tokens) > 10_000


def test_the_cache_of_the_reference(tmp_path: Path) -> None:
    small, large = dataset(10), dataset(3000)
    ReferenceCache(tmp_path, small, {"weights": "w"}).compute(fake(small), STRATEGY, 1, 0)
    before = files_in(tmp_path)
    cache = ReferenceCache(tmp_path, large, {"weights": "w"})
    with files_up_to(10_000), pytest.raises(DiskFullError, match=f"{cache.path}: the disk is full"):
        cache.compute(fake(large), STRATEGY, 1, 0)
    assert files_in(tmp_path) == before
    assert np.isfinite(cache.compute(fake(large), STRATEGY, 1, 0)).all()


def test_records(tmp_path: Path) -> None:
    file = tmp_path / "verdicts.jsonl"
    with open_records(file, {}) as records:
        records.add([{"key": "a"}])

    def add_many() -> None:
        with open_records(file, {}) as records:
            records.add({"key": str(number)} for number in range(1000))

    with files_up_to(10_000), pytest.raises(DiskFullError, match=r"verdicts\.jsonl: the disk is full"):
        add_many()
    with open_records(file, {}) as records:  # there is room again, and what was half written is gone
        assert [record["key"] for record in records.found][:2] == ["a", "0"]
        records.add([{"key": "z"}])
    assert read_records(file)[-1] == {"key": "z"}


def test_any_other_write_is_said_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: list[str]) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # with no name of a file, as a stream raises it

    monkeypatch.setattr(cli, "run", full)
    assert cli.main(["compare"]) == 2
    assert capsys.readouterr().err == (
        "error: the disk is full ([Errno 28] No space left on device): make room, and run the same command again\n"
    )
    with files_up_to(100), pytest.raises(DiskFullError, match=r"out: the disk is full \(\[Errno 27\] File too large\)"):
        copy_configurations(str(tmp_path / "out"))
