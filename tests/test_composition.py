"""Configurations that are composed of parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from halo_lightning.composition import composed, is_composed
from halo_lightning.errors import ConfigError


def write(folder: Path, **files: Any) -> None:
    for name, content in files.items():
        path = folder / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))


def test_later_ones_win_key_by_key(tmp_path: Path) -> None:
    write(
        tmp_path,
        parts__a={"model": {"class_path": "A", "init_args": {"x": 1, "y": 1, "both": [1, 2]}}, "seed_everything": 1},
        parts__b={"model": {"init_args": {"y": 2, "both": [3]}}},
        cell={"include": ["parts/a.yaml", "parts/b.yaml"], "model": {"init_args": {"z": 3}}},
    )
    assert composed(tmp_path / "cell.yaml") == {
        "model": {"class_path": "A", "init_args": {"x": 1, "y": 2, "z": 3, "both": [3]}},
        "seed_everything": 1,
    }


def test_parts_include_parts_beside_themselves(tmp_path: Path) -> None:
    write(
        tmp_path,
        parts__shared={"trainer": {"max_epochs": 1}},
        parts__method={"include": ["shared.yaml"], "trainer": {"precision": "bf16-mixed"}},
        cell={"include": ["parts/method.yaml"]},
    )
    assert composed(tmp_path / "cell.yaml") == {"trainer": {"max_epochs": 1, "precision": "bf16-mixed"}}


def test_a_group_may_be_a_path_and_be_changed(tmp_path: Path) -> None:
    write(
        tmp_path,
        parts__data={"data": "../data/all.yaml"},
        data__all={"class_path": "P", "init_args": {"batch_size": 32}},
        cell={"include": ["parts/data.yaml"], "data": {"class_path": "U"}},
    )
    assert composed(tmp_path / "cell.yaml")["data"] == {"class_path": "U", "init_args": {"batch_size": 32}}


def test_who_includes_nothing_is_left_to_lightning(tmp_path: Path) -> None:
    write(tmp_path, plain={"data": "other.yaml"}, cell={"include": []}, broken="a: [")
    assert [is_composed(tmp_path / name) for name in ("plain.yaml", "cell.yaml", "broken.yaml", "no.yaml")] == [
        False,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"cell": {"include": ["nowhere.yaml"]}}, r"nowhere\.yaml \(named in .*cell\.yaml\): there is no such file"),
        ({"cell": {"include": ["a.yaml"]}, "a": {"include": ["cell.yaml"]}}, "includes itself, by way of .*a.yaml"),
        ({"cell": {"include": "a.yaml"}}, "'include' is 'a.yaml', expected a list"),
        ({"cell": {"include": ["a.yaml"]}, "a": "- 1\n"}, "a.yaml .*found list, expected keys with values"),
        ({"cell": {"include": ["a.yaml"]}, "a": "x: 1\nx: 2\n"}, "a.yaml .*found the key 'x' twice"),
        ({"cell": {"include": ["a.yaml"]}, "a": "x: ["}, "a.yaml .*this is not YAML"),
        ({"cell": {"include": [], "data": "no.yaml"}}, r"no\.yaml \(named in .*cell\.yaml\)"),
    ],
)
def test_mistakes_name_the_file(files: dict[str, Any], says: str, tmp_path: Path) -> None:
    write(tmp_path, **files)
    with pytest.raises(ConfigError, match=says):
        composed(tmp_path / "cell.yaml")
