"""Settings that the libraries would stumble over later are refused in words of the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from halo_lightning.cli import main
from tests.conftest import REPOSITORY

FIT = [
    "fit",
    f"--config={REPOSITORY / 'configs' / 'tiny_kto.yaml'}",
    "--sft_stage=null",
    "--model.policy=embedded:small",
]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--seed_everything=-5", "seed_everything is -5: expected a whole number from 0"),
        ("--trainer.log_every_n_steps=0", "trainer.log_every_n_steps is 0: expected a finite number of 1 or more"),
        ("--run_dir=", "run_dir is '': expected the name of a folder"),
        ("--run_dir=/proc/nowhere", "/proc/nowhere: "),
        ("--trainer.max_epochs=-5", "max_epochs"),
    ],
)
def test_one_error_in_one_line(argument: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FIT, argument]) == 2
    printed = capsys.readouterr().err.strip()
    assert message in printed
    assert printed.startswith("error: ")
    assert "\n" not in printed


def test_an_error_that_is_not_the_users_is_short(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("halo_lightning.cli.run", lambda arguments: 1 // 0)
    assert main(["fit"]) == 1
    first, second = capsys.readouterr().err.strip().splitlines()
    assert first == "error: ZeroDivisionError: integer division or modulo by zero"
    assert second.endswith("--debug shows the whole traceback)")


def test_a_process_that_another_one_left_says_no_more_than_that(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: list[str]) -> int:
        raise RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:18132. GLHF!")

    monkeypatch.setattr("halo_lightning.cli.run", fail)
    assert main(["fit"]) == 1
    assert capsys.readouterr().err == "error: another process of this run has ended; what it says is the reason\n"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--trainer.gradient_clip_val=-1", "trainer.gradient_clip_val is -1: expected a finite number of 0 or more"),
        ("--trainer.val_check_interval=0", "trainer.val_check_interval is 0: expected a finite number above 0"),
        ("--trainer.check_val_every_n_epoch=0", "trainer.check_val_every_n_epoch is 0: expected a finite number of 1"),
        ("--trainer.devices=9999999999", "trainer.devices is 9999999999: expected"),
        (f"--trainer.max_epochs={10**40}", "trainer.max_epochs is 1000"),
        (f"--samples.temperature={10**400}", "these settings are refused: int too large"),
        ("--pictures.every_n_steps=-1", "pictures.every_n_steps is -1"),
    ],
)
def test_numbers_that_libraries_would_stumble_over(
    option: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = ["fit", f"--config={REPOSITORY / 'configs' / 'tiny_kto.yaml'}", f"--run_dir={tmp_path / 'run'}", option]
    assert main(fit) == 2
    assert message in capsys.readouterr().err
