"""Sources in YAML and on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from halo_lightning.cli import main
from tests.conftest import REPOSITORY
from tests.data.helpers import thumbs, write_rows
from tests.test_cli import printed_config


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


@pytest.fixture
def fit(tmp_path: Path) -> list[str]:
    """A run of a few steps on sources that a YAML file describes."""
    (tmp_path / "log.csv").write_text(
        "question,answer,thumb\n" + "".join(f"Say {i}.,{i},{'up' if i % 2 else 'down'}\n" for i in range(40))
    )
    write_rows(tmp_path / "scored.jsonl", [{"prompt": f"Say {i}.", "completion": "x", "score": i} for i in range(40)])
    train = [
        {
            "path": str(tmp_path / "log.csv"),
            "columns": {"prompt": "question", "completion": "answer", "label": "thumb"},
            "label": {"mapping": {"up": True, "down": False}},
            "weight": 2,
        },
        {"path": str(tmp_path / "scored.jsonl"), "label": {"quantile": 0.5}, "weight": 1},
    ]
    data = {
        "class_path": "halo_lightning.UnaryDataModule",
        "init_args": {"train": train, "validation": train[0]["path"], "batch_size": 4, "on_bad_row": "skip"},
    }
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(data))
    return [
        "fit",
        "--config=configs/tiny_kto.yaml",
        f"--data={tmp_path / 'data.yaml'}",
        f"--run_dir={tmp_path / 'run'}",
        "--trainer.max_steps=2",
        "--trainer.num_sanity_val_steps=0",
        "--trainer.limit_val_batches=1",
        "--trainer.val_check_interval=2",
    ]


def test_sources_in_yaml(tmp_path: Path, fit: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "held_out.jsonl").write_text("not json\n" + json.dumps(thumbs(1, 1)[0]) + "\n")
    assert main([*fit, f"--data.validation={tmp_path / 'held_out.jsonl'}"]) == 0
    printed = capsys.readouterr()
    text = printed.out + printed.err
    assert "60 examples to train on (" in text
    assert "scored.jsonl: 20 of 40 examples are kept (its share (1 of 3) left out 20)" in text
    assert "skipped 1 bad rows" in text
    assert json.loads((tmp_path / "run" / "bad_rows.jsonl").read_text())["line"] == 1


def test_one_source_on_the_command_line(tmp_path: Path, fit: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    source = json.dumps({"path": str(tmp_path / "scored.jsonl"), "label": {"threshold": 30}})
    assert main([*fit, f"--data.train={source}", "--data.validation=null"]) == 0
    assert "desirable" in capsys.readouterr().out
    assert main([*fit, f"--data.train={tmp_path / 'scored.jsonl'}"]) == 2
    assert "label.threshold" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({"path": "a", "labl": {"threshold": 1}}, "labl"),
        ({"path": "a", "columns": {"promt": "b"}}, "promt"),
        ({"path": "a", "weight": -1}, "weight is -1"),
        ({"path": "a", "label": {"threshold": 1, "quantile": 0.5}}, "found threshold and quantile"),
        ({"path": "a", "format": "shq"}, "shq"),
    ],
)
def test_a_mistake_in_yaml_is_named(
    tmp_path: Path, fit: list[str], source: Any, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*fit, f"--data.train={json.dumps([source])}"]) == 2
    message = capsys.readouterr().err
    assert says in message
    assert message.count("\n") <= 24


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl"])
def test_a_path_is_a_path_and_never_the_content_of_its_file(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of CSV is YAML, too: one text. That of a million rows would have to be read for it."""
    separator = "\t" if name.endswith("tsv") else ","
    lines = [("prompt", "completion", "label"), ("Hi", "Yes, you", "true"), ("Ho", "No", "false")]
    path = tmp_path / name
    path.write_text("".join(separator.join(f'"{value}"' for value in line) + "\n" for line in lines))
    if name.endswith("jsonl"):
        write_rows(path, thumbs(2, 1))
    (tmp_path / "data.yaml").write_text(f"train: {path}\nvalidation: [{path}]\n")
    config = "--config=configs/tiny_kto.yaml"
    for given in ([f"--data.train={path}", "--data.validation_fraction=0"], [f"--data={tmp_path / 'data.yaml'}"]):
        assert main(["inspect", config, *given]) == 0
        assert "2 examples to train on (1 desirable, 1 undesirable)" in capsys.readouterr().out
        assert printed_config(capsys, config, *given)["data"]["init_args"]["train"] == str(path)
