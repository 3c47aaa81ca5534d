"""The laboratory's page, from results that are made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from halo_lightning.evaluation.grids import Finished
from halo_lightning.evaluation.value_lab.grid import PANELS, USUAL, VALUE_SITUATIONS, LabCell, waves
from halo_lightning.evaluation.value_lab.page import Cells, write_page

SHIFTS = {"SFT": -0.2, "DPO": -0.1, "logistic": 0.0, "true": 0.1, "fitted": -0.1}
"""Of the win rate, from 0.5."""


def finished(cell: LabCell) -> Finished:
    """A result; where the noise is 2, the true value function's seeds contradict each other."""
    rate = 0.5 + SHIFTS[cell.method] + 0.01 * cell.seed
    if cell.method == "true" and cell.situation.name == "noise 2":
        rate += 0.3 * (cell.seed - 2)
    elif cell.method != "logistic":
        rate += 0.001 * cell.seed
    estimates = {"alpha": [0.9, 0.8, 1.0], "lam": [2.0, 1.5, 2.5], "noise": [1.0, 0.9, 1.1]}
    result = {"judged": {"rate": rate}, "estimates": estimates, "thumbs": 3000, "up": 1500, "pairs": 1500}
    return Finished(result, seconds=1.0, cpu_seconds=60.0)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cells: Cells = {cell: finished(cell) for wave in waves([1, 2, 3], 50, "small") for cell in wave}
    out = tmp_path_factory.mktemp("laboratory") / "page.md"
    write_page(cells, out, command="python cli.py value-lab --prompts=50")
    return out


def test_it_names_its_command_and_what_was_trained(page: Path) -> None:
    text = page.read_text()
    assert "```bash\npython cli.py value-lab --prompts=50\n```" in text
    assert "seeds 1, 2, 3" in text
    assert (page.parent / "images" / "page_kto_dpo.png").is_file()
    assert f"λ = {USUAL.loss_aversion}" in text


def test_every_difference_has_an_interval_that_is_bold_where_it_says_something(page: Path) -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.read_text().splitlines() if "|" in line]
    of_values = {row[0]: row for row in rows if len(row) == 8}
    for situation in VALUE_SITUATIONS:
        true, fitted = of_values[situation.name][4:6]
        sure = "**+0.10 (+0.10 to +0.10)**"
        assert true == ("+0.10 (−0.65 to +0.85)" if situation.name == "noise 2" else sure)  # 0.3 · 4.303 / √3 = 0.745
        assert fitted == "**−0.10 (−0.10 to −0.10)**"
    of_methods = [row for row in rows if len(row) == 7][2:]
    assert [row[:2] for row in of_methods] == [
        [panel, label] for panel, places in PANELS.items() for label, _ in places
    ]
    assert all(row[6].startswith("**+0.10 (") for row in of_methods)


def test_what_it_concludes(page: Path) -> None:
    text = page.read_text()
    assert "the **true** value function is better than with the logistic one in 6 of 7 situations" in text
    assert "the **fitted** value function is better than with the logistic one in 0 of 7 situations" in text
    worse = "; ".join(situation.name for situation in VALUE_SITUATIONS)
    assert f"and worse in 7 ({worse}); elsewhere the seeds cannot tell" in text
