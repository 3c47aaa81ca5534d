"""A second run at the same port is refused before it starts other processes."""

from __future__ import annotations

import socket

import lightning as L
import pytest

from halo_lightning.errors import ConfigError
from halo_lightning.ports import PORT, check_port


@pytest.fixture(autouse=True)
def nothing_else_starts_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "TORCHELASTIC_RUN_ID", "SLURM_NTASKS", PORT):
        monkeypatch.delenv(name, raising=False)


def trainer(devices: int) -> L.Trainer:
    strategy = "ddp" if devices > 1 else "auto"
    return L.Trainer(accelerator="cpu", devices=devices, strategy=strategy, logger=False, enable_checkpointing=False)


def test_a_port_in_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    two = trainer(2)
    check_port(two)  # none is set
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = str(other.getsockname()[1])
        monkeypatch.setenv(PORT, port)
        with pytest.raises(ConfigError, match=f"MASTER_PORT is {port}: this port cannot be used .*in use"):
            check_port(two)
        check_port(trainer(1))  # which needs none
    check_port(two)
    monkeypatch.setenv(PORT, "many")
    with pytest.raises(ConfigError, match="'many': expected a number"):
        check_port(two)


def test_who_starts_the_processes_chooses_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    two = trainer(2)
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        monkeypatch.setenv(PORT, str(other.getsockname()[1]))
        monkeypatch.setenv("LOCAL_RANK", "1")
        check_port(two)
