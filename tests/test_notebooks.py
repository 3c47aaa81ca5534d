"""The notebooks run, show pictures, and are what they say they are."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
QUICK = ("02_value_functions", "05_inside_your_project")
"""Those that are run by default, in this process: no kernel has to be started, and no import is made twice."""


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def test_there_are_five() -> None:
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_kept_is_of_one_run_and_has_pictures(path: Path) -> None:
    code = cells(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert [output for output in outputs if "image/png" in output.get("data", {})]
    assert path.stat().st_size < 250_000
    assert cells(path, "markdown")[0]["source"][0].startswith(f"# {int(path.stem[:2])}. ")


def test_your_own_halo_takes_20_lines() -> None:
    path = next(path for path in NOTEBOOKS if path.stem.startswith("04"))
    written = [source(cell) for cell in cells(path, "code") if source(cell).startswith("%%writefile")]
    assert len(written) == 2
    lines = [line for text in written for line in text.splitlines()[1:] if line.strip()]
    assert len(lines) <= 20, len(lines)


@pytest.mark.parametrize("name", QUICK)
def test_the_quick_ones_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    names: dict[str, Any] = {"__name__": name}
    for cell in cells(REPOSITORY / "notebooks" / f"{name}.ipynb", "code"):
        exec(compile(source(cell), name, "exec"), names)
    if "mine" in names:
        first, last = names["mine"].curve[0], names["mine"].curve[-1]
        assert last[0] < first[0]  # KTO's loss


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_all_run_in_a_kernel(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    shutil.copy(path, tmp_path / path.name)
    notebook = nbformat.read(tmp_path / path.name, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = re.findall("image/png", nbformat.writes(notebook))
    assert len(shown) == len(re.findall("image/png", path.read_text()))
