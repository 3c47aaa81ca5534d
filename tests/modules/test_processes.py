"""Two processes with half the batch each train as one process with the whole batch does."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from halo_lightning.world import rows
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, dict[str, dict]]]:
    folder = tmp_path_factory.mktemp("processes")
    data = folder / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows("pairs", examples=160, seed=3)))
    found = {}
    for devices in (1, 2):
        out = folder / f"{devices}.json"
        command = [sys.executable, "-m", "tests.modules.train_in_processes", str(data), str(out), str(devices)]
        # The pytest run's own variables must not look like a launcher's.
        env = {key: value for key, value in os.environ.items() if key not in ("LOCAL_RANK", "RANK", "WORLD_SIZE")}
        env["OMP_NUM_THREADS"] = "1"
        run = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=500)
        assert run.returncode == 0, run.stderr[-3000:]
        found[devices] = json.loads(out.read_text())
        found[devices]["prepared"] = len(list(folder.glob(f"{out.name}.prepared.*")))
    return found


CASES = [
    "KTO",
    "KTO, gradient through the KL",
    "KTO, mismatched KL",
    "DPO",
    "BCO",
    "OfflinePPO",
    "OfflinePPO, value head",
    "CSFT",
    "SLiC",
    "SFT",
    "DPO, cached tokens",
    "KTO, streamed",
]


@pytest.mark.parametrize("case", CASES)
def test_same_weights(case: str, results: dict) -> None:
    one, two = results[1][case]["weights"], results[2][case]["weights"]
    assert one.keys() == two.keys()
    for name, values in one.items():
        assert two[name] == pytest.approx(values, rel=1e-6, abs=1e-6), name


@pytest.mark.parametrize("case", CASES)
def test_same_metrics(case: str, results: dict) -> None:
    one, two = results[1][case]["metrics"], results[2][case]["metrics"]
    assert one.keys() == two.keys()
    assert {"loss", "val/loss"} <= one.keys()
    for name, value in one.items():
        assert two[name] == pytest.approx(value, rel=1e-6, abs=1e-6), name


def test_the_mismatched_kl_is_not_clamped(results: dict) -> None:
    """Or its case would be equal for another reason."""
    assert results[1]["KTO, mismatched KL"]["metrics"]["kl"] > 1


def test_tokens_are_made_by_one_process(results: dict) -> None:
    assert results[1]["prepared"] == results[2]["prepared"] == 1
