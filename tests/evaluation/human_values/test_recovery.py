"""The page that counts how often intervals cover."""

from __future__ import annotations

from pathlib import Path

import pytest

from halo_lightning.cli import main
from halo_lightning.evaluation.human_values import recovery
from halo_lightning.evaluation.human_values.fitting import Estimate
from halo_lightning.evaluation.human_values.recovery import Recovery, conclusion


def recovered(covered: int) -> Recovery:
    return Recovery("lam", 2.0, [Estimate(2.0, 1.0, 3.0)] * covered + [Estimate(1.0, 0.5, 1.5)] * (100 - covered))


def test_intervals_that_are_too_narrow_are_named() -> None:
    fine, narrow = ("thumbs", recovered(91)), ("pairs", recovered(85))
    assert fine[1].coverage_interval[1] > 0.95 > narrow[1].coverage_interval[1]
    assert conclusion([fine]).startswith("No bracket ends below 0.95")
    assert conclusion([fine, narrow]).endswith("are **too narrow**, with pairs (lam).")


def test_the_command_writes_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "SETTINGS", {"thumbs, z_ref known": ("thumbs", True)})
    out = tmp_path / "page.md"
    arguments = ["--simulations=2", "--answers=100", "--population=0", f"--out={out}"]
    assert main(["recover-value", *arguments]) == 0
    text = out.read_text()
    assert f"python cli.py recover-value --simulations=2 --answers=100 --population=0 --out={out}\n" in text
    assert text.count("| thumbs, z_ref known |") == 3
    assert "No bracket ends below" in text or "too narrow" in text
