"""Trains in two processes, one of which meets a loss that is NaN, and writes down what each of them says.

    python -m tests.callbacks.watch_in_processes FOLDER STRATEGY:stop STRATEGY:skip ...

Processes are forked, so that torch and transformers are imported once.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

from halo_lightning import UnaryDataModule
from halo_lightning.callbacks import WatchNumbers
from halo_lightning.errors import NotFiniteError
from tests.callbacks.test_watch import SMALL, Poisoned, fit
from tests.strategies.train import STRATEGIES, fork

BAD = 3
"""The number of the example whose loss is NaN."""


def work(folder: Path, strategy: str, not_finite: str, rank: int, port: int) -> None:
    """What one process does: it leaves what it was told, and how many steps were skipped."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", TORCHELASTIC_RUN_ID="none")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    module = Poisoned("embedded:small", reference_mode="frozen")
    module.bad = (BAD,)
    data = UnaryDataModule(str(folder / "thumbs.jsonl"), **SMALL)
    watch = WatchNumbers(not_finite=not_finite)  # type: ignore[arg-type]
    out = folder / not_finite
    said = ""
    with warnings.catch_warnings(record=True) as warned:
        try:
            fit(out, module, data, watch, devices=2, strategy=STRATEGIES[strategy]())
        except NotFiniteError as error:
            said = str(error)
    finite = all(bool(weight.isfinite().all()) for weight in module.parameters())
    told = [str(warning.message) for warning in warned if "is skipped" in str(warning.message)]
    result = {"said": said, "told": told, "skipped": watch.skipped, "finite": finite}
    result["place"] = data.train_dataset.place(BAD)
    (folder / f"{not_finite}-{rank}.json").write_text(json.dumps(result))


def main(folder: str, jobs: list[str]) -> int:
    """Runs jobs, one after the other."""
    for job in jobs:
        if not fork(2, work, Path(folder), *job.split(":")):
            print(f"{job} failed", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
