"""With --trusted_classes_only a configuration imports nothing but this package, Lightning and torch.optim."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jsonargparse._common
import pytest

from halo_lightning import trust
from halo_lightning.cli import main
from halo_lightning.errors import ConfigError
from tests.conftest import REPOSITORY

EVIL = """
import pathlib
pathlib.Path(__file__).with_name("executed").touch()
class Evil: pass
def score(prompt, completion): return 1.0
"""
KTO = str(REPOSITORY / "configs" / "tiny_kto.yaml")


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a module that leaves a mark when it is imported."""
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(trust.VARIABLE, "")
    monkeypatch.setattr(trust, "_active", False)
    monkeypatch.setattr(jsonargparse._common, "parsing_settings", dict(jsonargparse._common.parsing_settings))
    return tmp_path


NAMES = {
    "a callback": "trainer: {callbacks: [{class_path: evil.Evil}]}",
    "a logger": "trainer: {logger: {class_path: evil.Evil}}",
    "an optimizer": "model: {init_args: {optimizer: {class_path: evil.Evil}}}",
    "a value function": "model: {init_args: {value_function: {class_path: evil.Evil}}}",
    "a data module": "data: {class_path: evil.Evil}",
    "a module": "model: {class_path: evil.Evil}",
    "a function": "trainer: {callbacks: [{class_path: lightning.pytorch.callbacks.LambdaCallback,"
    " init_args: {on_fit_start: evil.score}}]}",
}


@pytest.mark.parametrize("what", NAMES)
def test_nothing_else_is_imported(what: str, evil: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (evil / "theirs.yaml").write_text(NAMES[what])
    arguments = ["fit", f"--config={KTO}", "--config=theirs.yaml", "--print_config"]
    assert main([*arguments, trust.OPTION]) == 2
    assert "evil" in capsys.readouterr().err
    assert not (evil / "executed").exists()


def test_without_it_class_path_is_code(evil: Path) -> None:
    (evil / "theirs.yaml").write_text(NAMES["a callback"])
    main(["fit", f"--config={KTO}", "--config=theirs.yaml", "--print_config"])
    assert (evil / "executed").exists()


def test_a_scorer_is_not_imported_either(evil: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (evil / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    status = main(["label", "rows.jsonl", "--scorer=evil:score", "--threshold=0", "--out=out.jsonl", trust.OPTION])
    assert status == 2
    assert "'evil.score' is not imported" in capsys.readouterr().err
    assert not (evil / "executed").exists()


@pytest.mark.parametrize("config", ["tiny_sft_kto.yaml", "sft_kto_llama7b.yaml"])
def test_own_configurations_are_trusted(config: str, evil: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(trust.VARIABLE, "1")
    with pytest.raises(SystemExit) as end:
        main(["fit", f"--config={REPOSITORY / 'configs' / config}", "--print_config"])
    assert not end.value.code


@pytest.mark.parametrize(
    ("arguments", "rest", "active"),
    [
        (["fit"], ["fit"], False),
        (["fit", "--trusted_classes_only", "--x=1"], ["fit", "--x=1"], True),
        (["--trusted_classes_only=true", "fit"], ["fit"], True),
        (["fit", "--trusted_classes_only", "false"], ["fit"], False),
    ],
)
def test_how_it_is_written(arguments: list[str], rest: list[str], active: bool, evil: Path) -> None:
    assert trust.take_option(arguments) == (rest, active)


def test_another_value_is_refused(evil: Path) -> None:
    with pytest.raises(ConfigError, match="expected true or false"):
        trust.take_option(["--trusted_classes_only=perhaps"])
