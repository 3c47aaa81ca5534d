"""One contender's run in a process of its own: `python -m benchmarks.worker CONTENDER FOLDER` prints JSON."""

from __future__ import annotations

import json
import resource
import sys
import warnings
from pathlib import Path


def main(contender: str, folder: Path) -> None:
    """Runs it and prints what was measured."""
    import os

    import torch

    from benchmarks.contenders import CONTENDERS, seed_adapters
    from benchmarks.work import Work

    warnings.filterwarnings("ignore")
    work = Work(**json.loads((folder / "work.json").read_text()))
    if work.lora:
        seed_adapters()
    measured = CONTENDERS[contender](work, folder)
    on_cpu = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peak = torch.cuda.max_memory_allocated() if work.device == "cuda" else on_cpu
    print(json.dumps({**measured._asdict(), "peak_bytes": peak, "load": os.getloadavg()[0]}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
