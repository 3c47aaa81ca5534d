"""A folder appears whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from halo_lightning.files import replaced_folder


def test_appears_with_its_content(tmp_path: Path) -> None:
    with replaced_folder(tmp_path / "a" / "export") as partial:
        (partial / "x").write_text("1")
        assert not (tmp_path / "a" / "export").exists()
    assert (tmp_path / "a" / "export" / "x").read_text() == "1"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["export"]


def test_replaces_an_older_one(tmp_path: Path) -> None:
    for text in ("1", "2"):
        with replaced_folder(tmp_path / "export") as partial:
            (partial / text).write_text(text)
    assert [path.name for path in (tmp_path / "export").iterdir()] == ["2"]
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_a_failure_leaves_the_older_one_and_no_rubbish(tmp_path: Path) -> None:
    with replaced_folder(tmp_path / "export") as partial:
        (partial / "x").write_text("1")

    def fail() -> None:
        with replaced_folder(tmp_path / "export") as partial:
            (partial / "x").write_text("half")
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        fail()
    assert (tmp_path / "export" / "x").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
