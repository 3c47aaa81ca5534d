"""`value-lab`: trains the laboratory's models, and writes what it shows.

What trains is imported when the command runs, so that its help is quick.
"""

from __future__ import annotations

from pathlib import Path

SEEDS = [1, 2, 3]
PROMPTS = 200
SIZE = "small"


def value_lab(
    run_dir: str = "runs/value_lab",
    seeds: list[int] | int | None = None,
    prompts: int = PROMPTS,
    size: str = SIZE,
    processes: int = 2,
    out: str = "docs/value_lab.md",
) -> None:
    """Trains KTO with the people's own value function, a fitted one and the logistic one, and DPO beside it.

    People of different noise, loss aversion and habits give feedback on the embedded world; the page says where the
    value function matters, and where KTO is better than DPO. Each model that is finished is kept, so the same command
    goes on where it was interrupted; after a change of the code, delete the folder.

    Args:
        run_dir: The folder that everything else is written to.
        seeds: Of feedback, training, prompts and sampling; none are 1, 2 and 3.
        prompts: Number of held-out prompts for each seed.
        size: Of the embedded model: `small`, `medium` or `base`.
        processes: How many train at the same time, on one core each.
        out: The Markdown page to write; its picture goes into the folder `images` beside it.
    """
    from halo_lightning.evaluation.grids import command_line, finished_grid
    from halo_lightning.evaluation.value_lab.grid import waves
    from halo_lightning.evaluation.value_lab.page import write_page

    seeds = [seeds] if isinstance(seeds, int) else seeds or SEEDS
    grid = waves(seeds, prompts, size)
    cells = [cell for wave in grid for cell in wave]
    options = {
        "seeds": seeds if seeds != SEEDS else None,
        "prompts": prompts if prompts != PROMPTS else None,
        "size": size if size != SIZE else None,
    }
    with finished_grid(grid, Path(run_dir), processes) as made:
        write_page(dict(zip(cells, made, strict=True)), Path(out), command=command_line("value-lab", options))
    print(f"\nThe page: {out}. Every number, and what the models said: {run_dir}/*/*/cell.json, generations.jsonl")
