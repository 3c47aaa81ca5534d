"""The formats that docs/data.md shows are read as it says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from halo_lightning.data.reading import LeftOut, read_feedback
from halo_lightning.data.sources import Label, Source
from halo_lightning.errors import DataError
from tests.conftest import REPOSITORY
from tests.test_cli import printed_config

DOCUMENT = (REPOSITORY / "docs" / "data.md").read_text()
TABLE = re.findall(r"^\| ([^|]+) \| `(\{.+?\})` \| (?:`(\{.+?\})`)? ?\| ([a-z, ]+) \|$", DOCUMENT, flags=re.MULTILINE)


def test_the_table_is_found() -> None:
    assert len(TABLE) == DOCUMENT.count('| `{"') >= 18


@pytest.mark.parametrize(("row", "settings", "kinds"), [entry[1:] for entry in TABLE], ids=[e[0] for e in TABLE])
def test_a_row_of_the_table(tmp_path: Path, row: str, settings: str, kinds: str) -> None:
    assert "\n" not in row
    path = tmp_path / "rows.jsonl"
    path.write_text(row + "\n")
    options: dict[str, Any] = yaml.safe_load(settings) if settings else {}
    if "label" in options:
        options["label"] = Label(**options["label"])
    source = Source(str(path), **options)
    for wanted in ("unary", "paired", "sft"):
        left_out = LeftOut()
        if wanted not in kinds.split(", "):
            with pytest.raises(DataError, match="line 1: found demonstrations"):
                list(read_feedback(source, wanted, left_out))  # type: ignore[arg-type]
            continue
        examples = list(read_feedback(source, wanted, left_out))  # type: ignore[arg-type]
        # One row of thumbs makes no pair alone, and an undesirable completion is not imitated: both are counted.
        assert examples or ("pair" in str(left_out) or "not imitated" in str(left_out) or "scores" in str(left_out))


def test_every_setting_is_described() -> None:
    for field in fields(Source):
        assert f"`{field.name}`" in DOCUMENT or f"{field.name}:" in DOCUMENT, field.name


def test_the_yaml_is_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```", DOCUMENT, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "data.yaml").write_text(text)
    config = REPOSITORY / "configs" / "tiny_kto.yaml"
    settings = printed_config(capsys, f"--config={config}", f"--data={tmp_path / 'data.yaml'}")["data"]
    assert settings["class_path"] == "halo_lightning.UnaryDataModule"
    train = settings["init_args"]["train"]
    assert train[0] == "thumbs.jsonl"
    assert train[1]["columns"] == {"prompt": "question", "completion": "answer", "label": "verdict"}
    assert train[1]["label"]["mapping"] == {"good": True, "bad": False, "unsure": None}
    assert train[2]["label"]["quantile"] == 0.7
    assert settings["init_args"]["on_bad_row"] == "skip"


def test_every_block_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"^```bash\n(.*?)^```", DOCUMENT, flags=re.MULTILINE | re.DOTALL)
    for name in ("cli.py", "configs", "halo_lightning"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    run = subprocess.run(
        ["bash", "-euc", "\n".join(blocks)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=550
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert "4 examples to train on (2 desirable, 2 undesirable)" in run.stdout
    assert "4 examples of 2 prompts, up to 2 of one" in run.stdout
    assert "status 3" in run.stdout
    assert (tmp_path / "runs" / "log.html").is_file()
    assert json.loads((tmp_path / "log.json").read_text())["problems"]["same_on_both_sides"] == 1
    assert "streamed from log.csv" in run.stdout + run.stderr
    assert "the first 3 examples to train on, and no more" in run.stdout
    assert "2 completions are in runs/thumbs.jsonl: 1 desirable" in run.stdout
    assert (tmp_path / "runs" / "thumbs.png").is_file()
