"""Every method on the embedded world: whether it improves what it optimises, and how often it wins."""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from pathlib import Path
from typing import Any

import yaml

from halo_lightning.errors import ConfigError
from halo_lightning.evaluation.comparison_page import print_rows, write_page
from halo_lightning.evaluation.judging import judge_models
from halo_lightning.methods import CONFIGS

BASE = "base"
SEEDS = [1, 2, 3]
PROMPTS = 200
HELD_OUT = ("loss", "rewards/accuracies", "rewards/margins")
"""What is recorded of the held-out feedback, where a method has it: its own criterion is the loss."""

ONCE = (
    # Held-out feedback before the first step and after the last one: nothing in between changes the training.
    "--trainer.num_sanity_val_steps=-1",
    "--trainer.val_check_interval=1.0",
    # The export is what is judged.
    "--checkpoint.save_top_k=0",
    "--checkpoint.save_last=false",
    "--samples.prompts=0",
)


def compare(
    run_dir: str = "runs/methods",
    configs: list[str] | str | None = None,
    seeds: list[int] | int | None = None,
    prompts: int = PROMPTS,
    arguments: list[str] | None = None,
    out: str = "docs/methods.md",
) -> None:
    """Trains every method's tiny configuration on several seeds, judges what came out, and writes a table of it.

    What is finished is kept in `cells.jsonl` in the folder, one training a line, so the same command goes on where it
    was interrupted. A training whose settings have changed is done again; after a change of the code, delete the
    folder.

    Args:
        run_dir: The folder that everything else is written to.
        configs: The configurations; none are all `configs/tiny_*.yaml`. The SFT stage of one is compared as well.
        seeds: Of the choice of held-out feedback, of training and of sampling; none are 1, 2 and 3.
        prompts: Number of held-out prompts for each seed.
        arguments: Further arguments of every training, such as `--trainer.max_steps=100`.
        out: The Markdown page to write.
    """
    configs = [configs] if isinstance(configs, str) else configs or []
    seeds = [seeds] if isinstance(seeds, int) else seeds or SEEDS
    arguments, root = arguments or [], Path(run_dir)
    paths = in_order([Path(name) for name in configs] or sorted(CONFIGS.glob("tiny_*.yaml")))
    root.mkdir(parents=True, exist_ok=True)
    store = root / "cells.jsonl"
    # Seed by seed, and base and SFT first: others start from their exports.
    todo: list[tuple[Path | None, int]] = [(path, seed) for seed in seeds for path in [None, *paths]]
    cells = []
    for number, (path, seed) in enumerate(todo, start=1):
        began = time.perf_counter()
        wanted = description(path, seed, prompts, arguments)
        cell = find(store, wanted)
        note = "kept"
        if cell is None:
            cell = run_cell(path, wanted, root)
            keep(store, cell)
            note = f"{time.perf_counter() - began:.0f} s"
        cells.append(cell)
        print(f"[{number}/{len(todo)}] {cell['name']}, seed {seed}: {in_words(cell)} ({note})", flush=True)
    print_rows(cells)
    write_page(cells, Path(out), command=command_line(configs, seeds, prompts, arguments))
    print(f"\nThe page: {out}. Every number: {store}. What the models said: {root}/*/generations.jsonl")


def command_line(configs: list[str], seeds: list[int], prompts: int, arguments: list[str]) -> str:
    """The command that makes the same table: what is not the default is in it."""
    options = {
        "configs": configs,
        "seeds": seeds if seeds != SEEDS else None,
        "prompts": prompts if prompts != PROMPTS else None,
        "arguments": arguments,
    }
    given = [f"--{name}={json.dumps(value)}" for name, value in options.items() if value]
    return shlex.join(["python", "cli.py", "compare", *given])


def in_order(paths: list[Path]) -> list[Path]:
    """The configurations with the SFT stages that they name, those first, then the report's methods, then others."""
    stages: set[Path] = set()
    report: set[Path] = set()
    others: set[Path] = set()
    for path in paths:
        if not path.is_file():
            raise ConfigError(f"{path}: there is no such configuration; run this from a clone of the repository")
        settings = yaml.safe_load(path.read_text())
        if settings.get("sft_stage"):
            stages.add(path.parent / settings["sft_stage"]["config"])
        (others if "arXiv" in module_class(settings).source else report).add(path)
    report, others = report - stages, others - stages
    ordered = sorted(stages) + sorted(report) + sorted(others)
    if not ordered:
        raise ConfigError(f"{CONFIGS}: there are no configurations; run this from a clone of the repository")
    names = [path.stem for path in ordered]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"configs: {', '.join(map(repr, repeated))}: each needs a name of its own")
    return ordered


def module_class(settings: dict[str, Any]) -> Any:
    """The module of a configuration."""
    from halo_lightning import modules

    return getattr(modules, settings["model"]["class_path"].rsplit(".", 1)[-1])


def read_settings(path: Path) -> dict[str, Any]:
    """What a configuration says, the files that it names included."""
    settings: dict[str, Any] = yaml.safe_load(path.read_text())
    for group in ("data", "trainer"):
        if isinstance(settings.get(group), str):
            settings[group] = yaml.safe_load((path.parent / settings[group]).read_text())
    if stage := settings.get("sft_stage"):
        stage["config"] = read_settings(path.parent / stage["config"])
    return settings


def description(path: Path | None, seed: int, prompts: int, arguments: list[str]) -> dict[str, Any]:
    """What a cell depends on: a finished one with the same description is kept. No path is the base model."""
    if path is None:
        return {"name": BASE, "seed": seed, "prompts": prompts}
    settings = read_settings(path)
    return {"name": path.stem, "seed": seed, "prompts": prompts, "settings": settings, "arguments": arguments}


def find(store: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """The newest finished cell with this description, or None; a line that was cut off is none."""
    found = None
    for line in store.read_text().splitlines() if store.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            cell: dict[str, Any] = json.loads(line)
            if all(cell.get(key) == value for key, value in wanted.items()):
                found = cell
    return found


def keep(store: Path, cell: dict[str, Any]) -> None:
    """Adds a finished cell, on a line of its own even where the line before was cut off."""
    whole = not store.exists() or store.read_text().endswith("\n")
    with store.open("a") as file:
        file.write("\n" * (not whole) + json.dumps(cell) + "\n")


def run_cell(path: Path | None, wanted: dict[str, Any], root: Path) -> dict[str, Any]:
    """Trains (unless it is the base model), samples and judges.

    Args:
        path: The configuration, or None for the base model.
        wanted: The description of the cell.
        root: The folder of the comparison.

    Returns:
        The description, and what was found.
    """
    seed = wanted["seed"]
    folder = root / f"{wanted['name']}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    cell = {**wanted, "module": None, "starts_from": None, "held_out": {}, "judged": None}
    model = "embedded:base"
    if path is not None:
        cls = module_class(wanted["settings"])
        stage = wanted["settings"].get("sft_stage")
        cell.update(module=cls.__name__, starts_from="SFT" if stage else "base")
        train(path, folder, root, seed, wanted["arguments"], has_stage=stage is not None)
        cell["held_out"] = held_out(folder)
        if cls.task != "causal":  # it says nothing: its rewards' accuracy is what there is to compare
            return cell
        model = str(folder / "export")
    (judged,) = judge_models(
        {wanted["name"]: model}, prompts=wanted["prompts"], seed=seed, out=folder / "generations.jsonl"
    )
    cell["judged"] = {key: value for key, value in judged.items() if key != "model"}
    return cell


def train(path: Path, folder: Path, root: Path, seed: int, arguments: list[str], *, has_stage: bool) -> None:
    """What `fit` does, with its report in a file of the folder."""
    from halo_lightning.training_cli import HaloCLI

    shared = [f"--seed_everything={seed}", *ONCE, *arguments]
    if has_stage:
        stage = Path(yaml.safe_load(path.read_text())["sft_stage"]["config"]).stem
        own = [f"--run_dir={root / f'{stage}-{seed}'}", *shared]
        shared = [*shared, f"--sft_stage.arguments={json.dumps(own)}"]
    with (folder / "fit.log").open("w") as log, contextlib.redirect_stdout(log):
        HaloCLI(args=["fit", f"--config={path}", f"--run_dir={folder}", *shared])


def held_out(folder: Path) -> dict[str, list[float]]:
    """Values on held-out feedback before the first and after the last step, from the event file of a run.

    Raises:
        ConfigError: There was no held-out feedback before the first step, or none after it.
    """
    from halo_lightning.figures import read_scalars

    scalars = read_scalars(folder)
    values = {}
    for name in HELD_OUT:
        if points := scalars.get(f"val/{name}"):
            if points[0][0] != 0 or len(points) < 2:
                raise ConfigError(
                    f"{folder}: no val/{name} both at step 0 and later; the training has no held-out part"
                )
            values[name] = [points[0][1], points[-1][1]]
    return values


def in_words(cell: dict[str, Any]) -> str:
    """The result of a cell in a few words."""
    parts = [f"win rate {cell['judged']['rate']:.2f}"] if cell["judged"] else []
    for name, (first, last) in cell["held_out"].items():
        parts.append(f"held-out {name} {first:.3f} → {last:.3f}")
    return ", ".join(parts)
