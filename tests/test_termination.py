"""What a command that is told to end, or interrupted, ends with."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest
from lightning.pytorch.utilities.exceptions import SIGTERMException

from halo_lightning import cli
from halo_lightning.termination import ToldToEnd, ends_at_once

Capture = pytest.CaptureFixture[str]


def terminate(_: list[str]) -> int:
    os.kill(os.getpid(), signal.SIGTERM)
    return 0


def test_sigterm_ends_a_command_with_a_status_of_its_own(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(cli, "run", terminate)
    assert cli.main(["judge"]) == 143
    assert capsys.readouterr().err == "told to end (SIGTERM): what was finished is kept, and nothing half written\n"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_training_that_is_part_of_a_command_and_told_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_: list[str]) -> int:
        raise SIGTERMException  # what a training ends with when it has saved

    monkeypatch.setattr(cli, "run", run)
    assert cli.main(["compare"]) == 143
    with pytest.raises(SIGTERMException):  # status 0
        cli.main(["fit"])


def test_ctrl_c_in_a_training(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def run(_: list[str]) -> int:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise SystemExit(1)  # noqa: B904  # as Lightning's Trainer does

    monkeypatch.setattr(cli, "run", run)
    assert cli.main(["fit"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_before_a_training_nothing_is_lost_and_a_validation_has_not_been_made(capsys: Capture) -> None:
    with ends_at_once(SimpleNamespace(config=SimpleNamespace(subcommand="fit"))), pytest.raises(SIGTERMException):
        terminate([])
    assert "nothing is lost" in capsys.readouterr().out
    with ends_at_once(SimpleNamespace(config=SimpleNamespace(subcommand="test"))), pytest.raises(ToldToEnd):
        terminate([])
