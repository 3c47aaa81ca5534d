"""Every method improves what it optimises on the embedded world (slow), and the command that shows it works."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from halo_lightning.cli import main
from halo_lightning.evaluation.comparison import in_order
from halo_lightning.evaluation.comparison_page import write_page
from halo_lightning.methods import CONFIGS

Cells = dict[str, dict[str, Any]]

FEW = ("--prompts=12", '--arguments=["--data.train=embedded:pairs?examples=100"]')


def command(folder: Path, names: list[str], seed: int, *more: str) -> list[str]:
    """The command line that compares these configurations in a folder."""
    paths = json.dumps([str(CONFIGS / f"{name}.yaml") for name in names])
    return [
        "compare",
        f"--run_dir={folder}",
        f"--configs={paths}",
        f"--seeds=[{seed}]",
        f"--out={folder / 'page.md'}",
        "--processes=1",
        *more,
    ]


def finished(folder: Path, seed: int) -> Cells:
    """What was found with a seed, by name."""
    cells = [json.loads(path.read_text())["result"] for path in folder.glob(f"*-{seed}/cell.json")]
    return {cell["name"]: cell for cell in cells}


def test_the_command_trains_judges_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["tiny_reward", "tiny_sft_dpo"]
    assert main(command(tmp_path, names, 1, *FEW)) == 0
    cells = finished(tmp_path, 1)
    assert sorted(cells) == [
        "base",
        *sorted(["tiny_sft", *names]),
    ]  # the stage that a configuration names is a row as well
    printed, page = capsys.readouterr().out, (tmp_path / "page.md").read_text()
    assert "4 models, 0 of them finished before" in printed
    for name in cells:
        assert name in printed
        assert f"| {name} |" in page
    assert "--data.train=embedded:pairs?examples=100" in page

    dpo, reward = cells["tiny_sft_dpo"], cells["tiny_reward"]
    assert dpo["starts_from"] == "SFT"
    assert dpo["held_out"]["loss"][0] == pytest.approx(math.log(2))
    assert dpo["held_out"]["loss"][1] < math.log(2)
    assert dpo["held_out"]["rewards/accuracies"][0] == 0.5
    assert dpo["judged"]["wins"] + dpo["judged"]["losses"] + dpo["judged"]["ties"] == 12
    assert f"| {dpo['judged']['helpful']:.2f} |" in page
    assert reward["judged"] is None
    assert reward["held_out"]["loss"][1] < reward["held_out"]["loss"][0]
    said = (tmp_path / "tiny_sft_dpo-1" / "generations.jsonl").read_text().splitlines()
    assert [json.loads(line)["outcome"] for line in said].count("win") == dpo["judged"]["wins"]


def test_it_goes_on_where_it_was_interrupted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def made(*more: str) -> list[str]:
        """What is made when the command is run once more."""
        capsys.readouterr()
        assert main([*command(tmp_path, ["tiny_sft"], 1, *FEW), *more]) == 0
        return re.findall(r"^\[\d/2\] (\w+), seed 1", capsys.readouterr().out, flags=re.MULTILINE)

    assert made() == ["base", "tiny_sft"]
    page = (tmp_path / "page.md").read_text()
    assert made() == []
    (tmp_path / "tiny_sft-1" / "cell.json").unlink()  # it was killed before it was finished
    assert made() == ["tiny_sft"]
    assert (tmp_path / "page.md").read_text() == page  # the same seed, the same numbers
    # Other settings are another training, which the base model has none of.
    assert made('--arguments=["--data.train=embedded:pairs?examples=90"]') == ["tiny_sft"]
    assert made("--prompts=11") == ["base", "tiny_sft"]


def test_a_missing_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(tmp_path, ["tiny_nothing"], 1)) == 2
    assert "tiny_nothing.yaml: there is no such configuration" in capsys.readouterr().err


def test_stages_come_first_then_the_methods_of_the_report() -> None:
    names = [path.stem for path in in_order([CONFIGS / f"tiny_{name}.yaml" for name in ("bco", "slic", "sft_kto")])]
    assert names == ["tiny_sft", "tiny_sft_kto", "tiny_slic", "tiny_bco"]


def test_the_page_has_means_over_the_seeds(tmp_path: Path) -> None:
    judged = {"low": 0.25, "high": 0.75, "helpful": 0.5, "harmless": 1.0, "concise": 0.0}
    shared = {"name": "tiny_kto", "module": "KTO", "starts_from": "base", "prompts": 7}
    cells = [
        {**shared, "seed": 5, "judged": {**judged, "rate": 0.7, "tokens": 11.0}, "held_out": {"loss": [0.5, 0.25]}},
        {**shared, "seed": 4, "judged": {**judged, "rate": 0.4, "tokens": 8.0}, "held_out": {"loss": [0.5, 0.375]}},
    ]
    write_page(cells, tmp_path / "page.md", command="the command")
    page = (tmp_path / "page.md").read_text()
    rates = "0.55 | 0.40 (0.25–0.75) | 0.70 (0.25–0.75) | 0.50 | 1.00 | 0.00 | 9.5"
    assert f"| tiny_kto | KTO | base | {rates} |" in page
    assert "| tiny_kto | KTO | base | 0.500 → 0.312 | – | – |" in page
    assert "```bash\nthe command\n```" in page
    assert "7 held-out prompts" in page


# --- every method --------------------------------------------------------------------------------------------------

ALL = [path.stem for path in in_order(sorted(CONFIGS.glob("tiny_*.yaml")))]

SAYS_NOTHING = {"tiny_reward"}
"""A reward model has no completions to judge, only rewards."""

LOWERS_THE_CHOSEN = {"tiny_apo_down"}
"""APO-down takes probability from the chosen completions as well, so it does not have to beat the model it began with
where that is worse than the data, as it is here."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all of them: base and SFT are trained and judged once a seed."""
    return tmp_path_factory.mktemp("methods")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", ALL)
def test_improves_what_it_optimises_and_wins(name: str, seed: int, folder: Path) -> None:
    assert main(command(folder, [name], seed)) == 0
    cells = finished(folder, seed)
    cell = cells[name]
    before, after = cell["held_out"]["loss"]
    assert after < before
    if "rewards/accuracies" in cell["held_out"]:
        for measure in ("rewards/accuracies", "rewards/margins"):
            before, after = cell["held_out"][measure]
            assert after > before, measure
    if name in SAYS_NOTHING:
        assert cell["judged"] is None
        return
    assert cell["judged"]["rate"] > cells["base"]["judged"]["rate"]
    if cell["starts_from"] == "SFT" and name not in LOWERS_THE_CHOSEN:
        assert cell["judged"]["rate"] > cells["tiny_sft"]["judged"]["rate"]
