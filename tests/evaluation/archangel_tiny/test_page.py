"""The miniature's page, from verdicts that are made up."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest

from halo_lightning.evaluation.archangel_tiny.findings import FINDINGS
from halo_lightning.evaluation.archangel_tiny.grid import METHODS, PRETRAINED, Cell
from halo_lightning.evaluation.archangel_tiny.page import write_page
from halo_lightning.evaluation.report import Report
from tests.evaluation.test_report import write_verdicts

SEEDS = (1, 2, 3)
BETTER = {PRETRAINED: 2, "SLiC": 4, "DPO": 4, "PPO": 4, "SFT": 8, "SFT+DPO": 9, "SFT+PPO": 12, "KTO": 14, "SFT+KTO": 16}
"""Of 20 prompts, in the mean over the seeds, how many each model wins; SFT+DPO's differ much between the seeds."""

INTERVAL = re.compile(r"^[+−][\d.]+ \(([+−][\d.]+) to ([+−][\d.]+)\): \*\*(.+)\*\*$")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("miniature")
    cells, files = [], []
    for name, seed in product([PRETRAINED, *METHODS], SEEDS):
        cells.append(Cell("small", name, seed, prompts=20))
        wins = BETTER[name] + (seed - 2) * (6 if name == "SFT+DPO" else 1)
        file = folder / cells[-1].place / "verdicts.jsonl"
        file.parent.mkdir(parents=True)
        length = (30 if name in (PRETRAINED, "DPO") else 8) + seed
        files.append(
            write_verdicts(file, "w" * wins + "l" * (20 - wins), name=name, group="small", lengths=(length, 10))
        )
    out = folder / "docs" / "page.md"
    write_page(Report.of(files), cells, out, command="python cli.py archangel-tiny --sizes=[small]", minutes=1.0)
    return out


def test_it_names_its_command_and_what_was_trained(page: Path) -> None:
    text = page.read_text()
    assert "```bash\npython cli.py archangel-tiny --sizes=[small]\n```" in text
    assert "seeds 1, 2, 3: 27 models" in " ".join(text.split())
    pictures = re.findall(r"!\[.*\]\((images/.*\.png)\)", text)
    assert len(pictures) == 3
    assert all((page.parent / picture).is_file() for picture in pictures)


def test_every_finding_has_an_interval_and_what_it_says(page: Path) -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.read_text().splitlines() if "|" in line]
    for finding in FINDINGS:
        (row,) = (row for row in rows if row[0] == finding.said)
        match = INTERVAL.match(row[2])
        assert match, row
        low, high = (float(end.replace("−", "-")) for end in match.groups()[:2])
        if finding.expected != "not above" and low < 0 < high:
            assert match[3] == "cannot tell", row
        assert (match[3] == "shown") <= (high < 0.05 if finding.expected == "not above" else low * high >= 0), row
    said = {row[0]: row[2].split("**")[1] for row in rows if row[0] in {finding.said for finding in FINDINGS}}
    assert said["SFT makes completions shorter (figure 3)"] == "shown"
    assert said["SFT first helps DPO (section 3.4, 4)"] == "cannot tell"
    assert said["KTO alone is as good as SFT+KTO (section 5, 3: of the largest model)"] == "the opposite"
