"""The port at which the processes of a run meet: two runs on one machine need two of them."""

from __future__ import annotations

import os
import socket
from contextlib import closing

from lightning.pytorch import Trainer

from halo_lightning.errors import ConfigError

PORT = "MASTER_PORT"
"""The environment variable that sets the port; without it Lightning takes a free one."""


def check_port(trainer: Trainer) -> None:
    """Looks whether the port that was set is free, before a run starts its other processes.

    If the first process found out, the others would be left waiting at the port of another run.

    Args:
        trainer: The Trainer, before it fits. Where something else starts the processes (torchrun, SLURM), nothing is
            looked at.

    Raises:
        ConfigError: The port is in use, or is no port.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    port = os.environ.get(PORT)
    if port is None or trainer.world_size < 2 or environment is None or environment.creates_processes_externally:
        return
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(f"{PORT} is {port!r}: expected a number from 1 to 65535")
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that a run has just left is free
        try:
            probe.bind(("", int(port)))
        except OSError as error:
            raise ConfigError(
                f"{PORT} is {port}: this port cannot be used ({error.strerror}), perhaps another run has it. Set"
                " another one, or none: a free one is taken then"
            ) from error
