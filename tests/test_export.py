"""An export that is not what was written is found, and named, before anybody starts from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from halo_lightning.errors import ConfigError
from halo_lightning.export import write_export
from halo_lightning.model_folders import MANIFEST, read_manifest
from halo_lightning.pretrained import load_tokenizer
from tests.conftest import tiny_llama

WEIGHTS = "model.safetensors"


@pytest.fixture
def export(tmp_path: Path) -> Path:
    tokenizer = load_tokenizer("embedded:base")
    return write_export(tmp_path / "export", tiny_llama(vocab_size=len(tokenizer)), tokenizer, origin={"module": "SFT"})


def test_a_manifest_has_sizes_and_hashes(export: Path) -> None:
    manifest = read_manifest(export)
    assert manifest is not None
    assert manifest["module"] == "SFT"
    found = {path.name for path in export.iterdir()} - {MANIFEST}
    assert set(manifest["files"]) == found >= {WEIGHTS, "config.json", "tokenizer.json"}
    assert manifest["files"][WEIGHTS]["bytes"] == (export / WEIGHTS).stat().st_size


def cut(export: Path) -> None:
    (export / WEIGHTS).write_bytes((export / WEIGHTS).read_bytes()[:-100])


def flip(export: Path) -> None:
    content = bytearray((export / WEIGHTS).read_bytes())
    content[-5] ^= 1
    (export / WEIGHTS).write_bytes(content)


def remove(export: Path) -> None:
    (export / "tokenizer.json").unlink()


def swap(export: Path) -> None:
    (export / "config.json").write_text("{}")


def lead_astray(export: Path) -> None:
    (export / MANIFEST).write_text(json.dumps({"files": {"../../secret": {"bytes": 1, "sha256": ""}}}))


def garble(export: Path) -> None:
    (export / MANIFEST).write_text('{"files": {"config.json"')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, f"{WEIGHTS} has .* bytes"),
        (flip, f"content of {WEIGHTS} is not what was written"),
        (remove, "tokenizer.json is missing"),
        (swap, "config.json has 2 of"),
        (lead_astray, r"outside of the folder \(../../secret\)"),
        (garble, f"{MANIFEST}: this is not the manifest"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damage_is_named(damage: Callable[[Path], None], message: str, export: Path) -> None:
    damage(export)
    for _ in range(2):  # what is remembered of a whole one does not hold for it
        with pytest.raises(ConfigError, match=message) as error:
            read_manifest(export)
        assert str(export) in str(error.value)


def test_one_of_an_earlier_version_is_read(export: Path) -> None:
    (export / MANIFEST).write_text('{"module": "SFT"}')
    (export / WEIGHTS).write_bytes(b"whatever")
    assert read_manifest(export) == {"module": "SFT"}


def test_none_is_there_before_it_is_finished(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
