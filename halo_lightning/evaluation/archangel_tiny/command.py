"""`archangel-tiny`: the report's grid in miniature, and whether its findings are found again.

What trains is imported when the command runs, so that its help is quick.
"""

from __future__ import annotations

from pathlib import Path

SEEDS = [1, 2, 3, 4, 5]
PROMPTS = 200


def archangel_tiny(
    run_dir: str = "runs/archangel_tiny",
    sizes: list[str] | str | None = None,
    seeds: list[int] | int | None = None,
    prompts: int = PROMPTS,
    processes: int = 2,
    arguments: list[str] | None = None,
    out: str = "docs/archangel_tiny.md",
) -> None:
    """Trains, samples and judges 8 methods on 3 sizes of the embedded model, and says which findings show.

    Each model that is finished is kept, so the same command goes on where it was interrupted. A model whose settings
    have changed is made again; after a change of the code, delete the folder.

    Args:
        run_dir: The folder that everything else is written to.
        sizes: `small`, `medium`, `base`; none are all three.
        seeds: Of feedback, training, prompts and sampling; none are 1 to 5.
        prompts: Number of held-out prompts for each seed, of which there are 309.
        processes: How many train at the same time, on one core each.
        arguments: Further arguments of every training, such as `--trainer.max_steps=100`.
        out: The Markdown page to write; its pictures go into the folder `images` beside it.
    """
    from halo_lightning.evaluation.archangel_tiny.grid import SIZES, waves
    from halo_lightning.evaluation.archangel_tiny.page import write_page
    from halo_lightning.evaluation.grids import command_line, finished_grid
    from halo_lightning.evaluation.report_command import write_report

    sizes = [sizes] if isinstance(sizes, str) else sizes or list(SIZES)
    seeds = [seeds] if isinstance(seeds, int) else seeds or SEEDS
    root = Path(run_dir)
    grid = waves(sizes, seeds, prompts, arguments or [])
    with finished_grid(grid, root, processes) as made:
        cells = sorted((cell for wave in grid for cell in wave), key=lambda cell: cell.rank)
        verdicts = [root / cell.place / "verdicts.jsonl" for cell in cells]
        report = write_report(verdicts, root / "report", "Archangel, tiny")
        print(f"the report: {root / 'report' / 'report.html'}")
        options = {
            "sizes": sizes if sizes != list(SIZES) else None,
            "seeds": seeds if seeds != SEEDS else None,
            "prompts": prompts if prompts != PROMPTS else None,
            "arguments": arguments,
        }
        minutes = sum(one.cpu_seconds for one in made) / 60
        write_page(report, cells, Path(out), command=command_line("archangel-tiny", options), minutes=minutes)
    print(f"the page: {out}")
