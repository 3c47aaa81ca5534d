"""Runs of the command line that are killed at a chosen moment, cheaply: forked from one process that has imported all.

A process of its own holds the imports (`Forge`), so that a run costs what it computes and no more. The fault is put
in after the fork, in the child alone:

| kind | the run is killed |
|---|---|
| `file` | before its n-th operation on a file that it writes: creating, renaming, linking, removing |
| `bytes` | in the middle of the write that lets a file grow beyond n bytes (by the kernel, wherever the code is) |
| `step` | at its n-th training step, validation step, batch of the reference pass or optimizer step |
| `time` | after so many seconds |
| `terminate` | as `step`, with SIGTERM, which is not a kill: it has to save and exit with status 0 |
| `disk` | not at all: a file that grows beyond n bytes gets an error, as on a full disk |
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent.parent


class Fault(NamedTuple):
    """What happens to a run, and when."""

    kind: str
    at: float


class Ended(NamedTuple):
    """How a run ended: its exit status (-9: killed), and what it printed."""

    status: int
    output: str


class Forge:
    """A process that has everything imported, and runs commands in children of it."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.trials"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def run(self, folder: Path, arguments: list[str], fault: Fault | None = None, **environment: str) -> Ended:
        """Runs one command in a folder, whose subfolder `cache` is the user's cache.

        Args:
            folder: The working directory.
            arguments: The command and its options.
            fault: What happens to it.
            environment: Further environment variables.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        folder.mkdir(parents=True, exist_ok=True)
        job = {"folder": str(folder), "arguments": arguments, "fault": fault, "environment": environment}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        status = int(self.process.stdout.readline())
        return Ended(status, (folder / "output.txt").read_text(errors="replace"))

    def __enter__(self) -> Forge:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def counts(folder: Path) -> dict[str, int]:
    """How many moments of each kind the last run in a folder had."""
    return json.loads((folder / "counts.json").read_text())


# --- in the process of the forge -----------------------------------------------------------------------------------


def serve() -> None:
    """Runs what it is told to, a line of JSON each."""
    answers = os.dup(1)
    os.dup2(2, 1)
    _import_everything()
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(job)
        _, status = os.waitpid(child, 0)
        os.write(answers, f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _import_everything() -> None:
    import tensorboard.backend.event_processing.event_file_loader  # noqa: F401
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM  # noqa: F401

    import halo_lightning.evaluation
    import halo_lightning.export
    import halo_lightning.training_cli  # noqa: F401

    torch.set_num_threads(1)


def _run(job: dict[str, Any]) -> None:
    """Runs one command in a child of the forge, which ends with it."""
    status = 1
    try:
        folder = Path(job["folder"])
        os.chdir(folder)
        output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ["HALO_LIGHTNING_CACHE"] = str(folder / "cache")
        os.environ.update(job["environment"])
        counter = _Counter(folder)
        if job["fault"] is not None:
            counter.prepare(Fault(*job["fault"]))
        counter.watch_files(str(folder))
        counter.watch_steps()
        from halo_lightning.cli import main

        status = main(job["arguments"])
        sys.stdout.flush()
        counter.write()
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class _Counter:
    """Counts the moments at which a run may be interrupted, and interrupts it at one of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts = {"file": 0, "step": 0}
        self.fault: Fault | None = None

    def prepare(self, fault: Fault) -> None:
        if fault.kind in ("bytes", "disk"):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(fault.at), resource.RLIM_INFINITY))
            # Python ignores the signal, and gets an error; by default it kills.
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN if fault.kind == "disk" else signal.SIG_DFL)
        elif fault.kind == "time":
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, fault.at)
        else:
            self.fault = fault

    def _count(self, kind: str) -> None:
        self.counts[kind] += 1
        if self.fault is None or self.counts[kind] != self.fault.at:
            return
        if self.fault.kind == kind:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault.kind == "terminate" and kind == "step":
            os.kill(os.getpid(), signal.SIGTERM)

    def watch_files(self, folder: str) -> None:
        changes = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.truncate"}

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "open":
                path, _, flags = arguments
                if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                    return
            elif event in changes:
                path = arguments[1] if event in ("os.rename", "os.symlink") else arguments[0]
            else:
                return
            if isinstance(path, (str, bytes, os.PathLike)) and os.path.abspath(os.fsdecode(path)).startswith(folder):
                self._count("file")

        sys.addaudithook(hook)

    def watch_steps(self) -> None:
        from halo_lightning.modules.base import HaloModule

        for name in ("training_step", "validation_step", "optimizer_step", "predict_step"):
            self._watch(HaloModule, name)

    def _watch(self, owner: type, name: str) -> None:
        original = getattr(owner, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            result = original(*arguments, **options)
            self._count("step")
            return result

        counted.__name__ = name
        counted.__signature__ = __import__("inspect").signature(original)  # type: ignore[attr-defined]
        setattr(owner, name, counted)

    def write(self) -> None:
        counts, self.fault = dict(self.counts), None
        (self.folder / "counts.json").write_text(json.dumps(counts))


if __name__ == "__main__":
    serve()
