"""The hub is asked once, and what is said of it has no password in it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from halo_lightning.cli import main
from halo_lightning.data.sources import read_rows
from halo_lightning.errors import ConfigError, without_passwords
from halo_lightning.hub import check_hub, hide_passwords
from halo_lightning.pretrained import load_model, load_tokenizer


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a hub that does not answer was asked for."""
    found: list[str] = []

    def no_answer(_: Any, identifier: str, **options: Any) -> None:
        found.append(f"{options['repo_type']} {identifier} for {options['timeout']:g} s")
        raise OSError("no route to https://me:secret@mirror.example")

    check_hub.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", no_answer)
    return found


def test_it_is_asked_once_for_what_is_not_there(asked: list[str]) -> None:
    for read in (load_model, load_tokenizer):
        with pytest.raises(ConfigError, match=r"nobody/nothing: this is no folder, and the hub .* model \(no route"):
            read("nobody/nothing")
    with pytest.raises(ConfigError, match="does not give such a dataset"):
        list(read_rows("hub:nobody/nothing"))
    assert asked == ["model nobody/nothing for 10 s"] * 2 + ["dataset nobody/nothing for 10 s"]


def test_a_scorer_that_does_not_exist_is_said_at_once(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    label = ["label", f"--data={tmp_path / 'rows.jsonl'}", f"--out={tmp_path / 'out.jsonl'}", "--threshold=1"]
    assert main([*label, "--scorer=runs/mistyped"]) == 2
    error = capsys.readouterr().err
    assert "runs/mistyped: this is no folder, and the hub does not give such a model" in error
    assert "https://[password]@mirror.example" in error
    assert "secret" not in error
    assert len(asked) == 1


def test_messages_of_the_library_have_no_password(capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler()
    log = logging.getLogger("huggingface_hub")
    log.addHandler(handler)
    try:
        hide_passwords()
        hide_passwords()
        log.warning("thrown while requesting HEAD %s", "https://me:secret@mirror.example/x")
        assert len(handler.filters) == 1
    finally:
        log.removeHandler(handler)
    assert "HEAD https://[password]@mirror.example/x" in capsys.readouterr().err


def test_addresses_without_passwords_stay_as_they_are() -> None:
    text = "https://example.org/a@b and me@example.org, s3://bucket"
    assert without_passwords(text) == text
