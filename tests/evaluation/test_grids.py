"""Grids of models: each cell is made once, in order, in this process or in several."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from halo_lightning.errors import ConfigError
from halo_lightning.evaluation.grids import Cell, Finished, command_line, finished_grid


@dataclass(frozen=True)
class Noted(Cell):
    """A cell that notes which process made it, and what was there of the cell that it needs."""

    name: str
    needs: str = ""
    setting: int = 0

    @property
    def label(self) -> str:
        return self.name

    @property
    def place(self) -> str:
        return self.name

    @property
    def settings(self) -> dict[str, Any]:
        return {"name": self.name, "setting": self.setting, "pair": (1, 2)}  # JSON has lists only

    def make(self, root: Path) -> dict[str, Any]:
        if self.name == "broken":
            raise ConfigError("broken")
        print("said by", self.name)
        (root / self.place / "export").write_text(self.name)
        found = (root / self.needs / "export").read_text() if self.needs else None
        return {"process": os.getpid(), "found": found, "others": sorted(os.listdir(root / self.place))}


def run_grid(waves: list[list[Cell]], root: Path, processes: int) -> list[Finished]:
    with finished_grid(waves, root, processes) as made:
        return made


def test_nobody_else_writes_there_until_the_page_is_written(tmp_path: Path) -> None:
    taken = pytest.raises(ConfigError, match="another process is writing this run")
    with finished_grid([[Noted("cell")]], tmp_path, 1), taken:
        run_grid([[Noted("cell")]], tmp_path, 1)
    run_grid([[Noted("cell")]], tmp_path, 1)


def test_cells_are_made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    waves = [[Noted("stage")], [Noted("first", "stage"), Noted("second", "stage")]]
    made = run_grid(waves, tmp_path, 1)
    assert [one.result["found"] for one in made] == [None, "stage", "stage"]
    assert {one.result["process"] for one in made} == {os.getpid()}
    printed = capsys.readouterr().out
    assert "[3/3] second" in printed
    assert "said by" not in printed
    assert "said by first" in (tmp_path / "first" / "log.txt").read_text()
    assert run_grid(waves, tmp_path, 1) == made
    assert capsys.readouterr().out == "3 models, 3 of them finished before\n"


def test_what_is_half_finished_or_other_is_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cell").mkdir()
    (tmp_path / "cell" / "leftover").touch()
    (one,) = run_grid([[Noted("cell")]], tmp_path, 1)
    assert one.result["others"] == ["export", "log.txt"]
    (other,) = run_grid([[Noted("cell", "", 1)]], tmp_path, 1)
    assert other != one
    note = tmp_path / "cell" / "cell.json"
    for damaged in ('{"settings": {"na', note.read_text().replace('"found": null', '"found": true')):
        note.write_text(damaged)
        capsys.readouterr()
        assert run_grid([[Noted("cell", "", 1)]], tmp_path, 1)[0].result == other.result
        assert f"{note}: this file is damaged (" in capsys.readouterr().out


def test_several_processes(tmp_path: Path) -> None:
    waves = [[Noted("stage")], [Noted(f"cell {number}", "stage") for number in range(3)]]
    made = run_grid(waves, tmp_path, 2)
    assert [one.result["found"] for one in made] == [None, "stage", "stage", "stage"]
    assert os.getpid() not in {one.result["process"] for one in made}


def test_an_error_ends_the_grid_and_keeps_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="broken"):
        run_grid([[Noted("fine"), Noted("broken"), Noted("later")]], tmp_path, 1)
    assert (tmp_path / "fine" / "cell.json").is_file()
    assert not (tmp_path / "later").exists()
    with pytest.raises(ConfigError, match="processes is 0"):
        run_grid([[Noted("fine")]], tmp_path, 0)


def test_the_command_line_has_what_is_not_the_default() -> None:
    assert command_line("compare", {"seeds": [1, 2], "prompts": None, "arguments": []}) == (
        "python cli.py compare '--seeds=[1, 2]'"
    )
    assert command_line("recover-value", {"population": 0, "out": "page.md"}) == (
        "python cli.py recover-value --population=0 --out=page.md"
    )
