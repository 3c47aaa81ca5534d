"""The files of strangers of `test_hostile`, given to commands: each ends well, or with one error, and executes nothing.

A few of them by default; all, and others made of them by chance, in the slow test.
"""

from __future__ import annotations

import random
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from halo_lightning.cli import main
from halo_lightning.pretrained import resolve_path
from tests.conftest import REPOSITORY
from tests.reliability.test_hostile import MEGABYTES, MODELS, SECONDS, by_hand, good, mutated

TINY = f"--config={REPOSITORY / 'configs' / 'tiny_kto.yaml'}"
FEW = "embedded:held_out?examples=2"

FILES = {
    "label": ("rows", "rows.jsonl", ["--data=rows.jsonl", "--scorer=embedded:rules", "--threshold=1", "--workers=1"]),
    "fit-value": (
        "rows",
        "rows.jsonl",
        ["--feedback=rows.jsonl", "--policy=embedded:base", "--reference=embedded:small"],
    ),
    "generate": ("rows", "rows.jsonl", ["--prompts=rows.jsonl", "--policy=embedded:small", "--max_new_tokens=2"]),
    "init": ("rows", "rows.jsonl", ["--data=rows.jsonl"]),
    "judge": ("rows", "generations.jsonl", ["--generations=generations.jsonl"]),
    "report": ("rows", "verdicts.jsonl", ["--runs=verdicts.jsonl"]),
    "plan": ("config", "bad.yaml", [TINY, "--config=bad.yaml"]),
    "fit": ("config", "bad.yaml", [TINY, "--config=bad.yaml", "--trainer.max_steps=0"]),
    "export": ("checkpoint", "bad.ckpt", ["--checkpoint=bad.ckpt"]),
    "validate": ("checkpoint", "bad.ckpt", [TINY, "--ckpt_path=bad.ckpt", "--data.train=embedded:thumbs?examples=20"]),
}
"""For each command what it is given, under which name, and how it is told."""

FOLDERS = {
    "generate": ["--policy=model", f"--prompts={FEW}", "--max_new_tokens=2"],
    "label": ["--data=rows.jsonl", "--scorer=model", "--threshold=0"],
    "plan": [TINY, "--model.policy=model"],
    "fit": [TINY, "--model.policy=model", "--data.train=embedded:thumbs?examples=20", "--trainer.max_steps=1"],
    "judge": ["--generations=made.jsonl", "--judge=ChatModelJudge", "--judge.model=model"],
    "export": ["--checkpoint=model/model.safetensors"],
}
"""The same, of folders of models."""

OUT = {"label": "--out=out.jsonl", "fit-value": "--out=value", "generate": "--out=g.jsonl", "init": "--out=made"}
OUT |= {"judge": "--out=v.jsonl", "report": "--out=page", "export": "--out=exported", "fit": "--run_dir=run"}


def harmless(command: str, arguments: list[str], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs a command, which may succeed, or refuse what it was given, and do nothing else."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = main([command, *arguments, *([OUT[command]] if command in OUT else [])])
    said = capsys.readouterr().err
    shown = f"{command} of {what}: status {status}, {said[:1000]}"
    assert status in (0, 2), shown
    assert said.count("error: ") == (status == 2), shown
    assert "Traceback" not in said, shown
    assert len(said) < 3000, shown
    assert not list(Path("..").glob("*/**/executed")), shown
    assert time.monotonic() - began < SECONDS, shown
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MEGABYTES, shown


def files(command: str, folder: Path, count: int | None, chance: int) -> Iterator[bytes]:
    """So many inputs of a command that are made by hand, drawn by its name, and so many by chance."""
    kind, dice = FILES[command][0], random.Random(command)
    every = by_hand(folder)[kind]
    yield from every if count is None else dice.sample(every, count)
    for _ in range(chance):
        yield mutated(dice, [*every, *good(folder)[kind]])


def give(command: str, folder: Path, capsys: pytest.CaptureFixture[str], count: int | None, chance: int) -> int:
    name, arguments = FILES[command][1:]
    elsewhere = folder.parent / "made"
    elsewhere.mkdir()
    given = 0
    for content in files(command, elsewhere, count, chance):
        (folder / name).write_bytes(content)
        harmless(command, arguments, repr(content[:100]), capsys)
        for made in folder.iterdir():  # so that nothing goes on where another input stopped
            shutil.rmtree(made) if made.is_dir() else made.unlink()
        given += 1
    return given


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("command", FILES)
def test_commands_do_nothing_with_some_files(command: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert give(command, here, capsys, 2, 2) == 4


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("command", FILES)
def test_commands_do_nothing_with_all_files(command: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = give(command, here, capsys, None, 40)
    print(f"\n{command}: {count} bad inputs")
    assert count > 40


def change(what: str, here: Path) -> None:
    """A folder of a model with something wrong in it, and what commands are given beside it."""
    shutil.copytree(resolve_path("embedded:small"), here / "model")
    MODELS[what][0](here / "model")
    (here / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')


@pytest.fixture(scope="module")
def generations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("generations") / "made.jsonl"
    assert main(["generate", "--policy=embedded:small", f"--prompts={FEW}", "--max_new_tokens=2", f"--out={out}"]) == 0
    return out


def give_model(command: str, what: str, here: Path, generations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(what, here)
    for file in generations.parent.iterdir():
        shutil.copy(file, here)
    harmless(command, FOLDERS[command], what, capsys)


SOME = random.Random(1).sample([(command, what) for command in FOLDERS if command != "plan" for what in MODELS], 10)


@pytest.mark.parametrize(("command", "what"), SOME)
def test_commands_do_nothing_with_some_models(
    command: str, what: str, here: Path, generations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    give_model(command, what, here, generations, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("what", MODELS)
@pytest.mark.parametrize("command", FOLDERS)
def test_commands_do_nothing_with_all_models(
    command: str, what: str, here: Path, generations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    give_model(command, what, here, generations, capsys)
