"""An export that is not what was written is found, and named, before anybody starts from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from halo_lightning.checkpoints import SealedCheckpointIO
from halo_lightning.errors import ConfigError
from halo_lightning.export import export_checkpoint, write_export
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


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        ({"config": {"model_type": "llama", "num_hidden_layers": 10**9}}, "key 'num_hidden_layers': found 1000000000"),
        ({"task": "os.system", "config": {"model_type": "llama"}}, "what it says of its model cannot be"),
        ({"config": [1]}, "what it says of its model cannot be"),
        ({"lora": {"evil": 1}}, "what it says of its model cannot be"),
        ([1], "what it says of its model cannot be"),
    ],
)
def test_a_checkpoint_that_lies_about_its_model_is_refused(notes: Any, message: str, tmp_path: Path) -> None:
    known = {"policy": "embedded:small", "task": "causal", "dtype": "float32", "tokenizer": None, "module": "KTO"}
    notes = {**known, **notes} if isinstance(notes, dict) else notes
    state = {"models.policy.a": torch.ones(2)}
    torch.save({"state_dict": state, "global_step": 1, "halo_lightning": notes}, tmp_path / "a.ckpt")
    with pytest.raises(ConfigError, match=message):
        export_checkpoint(str(tmp_path / "a.ckpt"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_with_another_byte_is_refused(tmp_path: Path) -> None:
    weight = torch.full((64,), 3.0)
    state = {
        "state_dict": {"models.policy.a": weight},
        "global_step": 1,
        "halo_lightning": {"policy": "embedded:small"},
    }
    for step in (1, 2):
        SealedCheckpointIO().save_checkpoint({**state, "global_step": step}, tmp_path / f"{step}.ckpt")
    content = bytearray((tmp_path / "2.ckpt").read_bytes())
    content[content.index(weight.numpy().tobytes()) + 3] ^= 1
    (tmp_path / "2.ckpt").write_bytes(content)
    with pytest.raises(ConfigError, match=r"2\.ckpt: this checkpoint cannot be used: .* beside it is .*1\.ckpt"):
        export_checkpoint(str(tmp_path / "2.ckpt"), str(tmp_path / "out"))
    (tmp_path / "2.ckpt.json").unlink()  # torch's own checksums find it as well
    with pytest.raises(ConfigError, match=r"its part .* is damaged"):
        export_checkpoint(str(tmp_path / "2.ckpt"), str(tmp_path / "out"))
