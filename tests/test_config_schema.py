"""The schema for editors accepts every configuration that is here, and marks what the command line refuses."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from halo_lightning.cli import main
from halo_lightning.config_schema import config_schema, of_type
from tests.conftest import REPOSITORY

CONFIGS = sorted((REPOSITORY / "configs").rglob("*.yaml"))


@pytest.fixture(scope="module")
def schema() -> dict:
    return config_schema()


def validator(schema: dict, group: str | None = None) -> jsonschema.Draft202012Validator:
    """Of a whole configuration, or of one of its groups."""
    return jsonschema.Draft202012Validator(
        schema if group is None else {**schema["$defs"][group], "$defs": schema["$defs"]}
    )


def test_it_is_a_schema(schema: dict) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    assert {"run_dir", "model", "data", "trainer", "checkpoint", "export", "sft_stage"} <= set(schema["properties"])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_configuration_is_valid(path: Path, schema: dict) -> None:
    settings = yaml.safe_load(path.read_text())
    if path.parent.name == "configs":
        validator(schema).validate(settings)
    else:  # a part: of the whole, or a group alone
        kinds = [validator(schema), *(validator(schema, group) for group in schema["$defs"])]
        assert any(kind.is_valid(settings) for kind in kinds), path


WRONG = {
    "a group": lambda settings: settings.update(trianer={}),
    "a setting of the method": lambda settings: settings["model"]["init_args"].update(betta=0.1),
    "a number": lambda settings: settings["model"]["init_args"].update(beta="much"),
    "a choice": lambda settings: settings["model"]["init_args"].update(kl="thirds"),
    "a setting of the data": lambda settings: settings["data"]["init_args"].update(batchsize=2),
    "a setting of another method": lambda settings: settings["model"]["init_args"].update(label_smoothing=0.1),
    "a setting of a source": lambda settings: settings["data"]["init_args"].update(train={"pathh": "x"}),
    "a setting of the Trainer": lambda settings: settings["trainer"].update(max_epoch=1),
    "a setting of the stage": lambda settings: settings.update(sft_stage={"confg": "x"}),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_marked(case: str, schema: dict) -> None:
    right = {
        "model": {
            "class_path": "halo_lightning.KTO",
            "init_args": {"policy": "embedded:base", "beta": 0.1, "lora": {}},
        },
        "data": {
            "class_path": "halo_lightning.UnaryDataModule",
            "init_args": {"train": ["a.jsonl", {"path": "b.csv"}]},
        },
        "trainer": {"max_epochs": 1, "precision": "bf16-mixed", "callbacks+": [{"class_path": "x.Y"}]},
        "sft_stage": None,
    }
    validator(schema).validate(right)
    wrong = copy.deepcopy(right)
    WRONG[case](wrong)
    assert not validator(schema).is_valid(wrong)


def test_other_peoples_classes_and_groups_in_files_are_valid(schema: dict) -> None:
    validator(schema).validate(
        {"model": {"class_path": "mine.Method", "init_args": {"anything": 1}}, "data": "parts/my_data.yaml"}
    )


def test_types() -> None:
    assert of_type(tuple[float, float]) == {"type": "array", "items": {"type": "number"}, "minItems": 2}
    assert of_type(int | None) == {"anyOf": [{"type": "integer"}, {"type": "null"}]}
    assert of_type(list[str]) == {"type": "array", "items": {"type": "string"}}


def test_the_command_writes_the_same(tmp_path: Path, schema: dict, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", f"--out={tmp_path / 'halo.json'}"]) == 0
    assert "yaml-language-server" in capsys.readouterr().out
    assert json.loads((tmp_path / "halo.json").read_text()) == json.loads(json.dumps(schema))
