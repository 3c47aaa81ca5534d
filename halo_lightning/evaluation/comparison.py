"""Every method on the embedded world: whether it improves what it optimises, and how often it wins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from halo_lightning.errors import ConfigError
from halo_lightning.evaluation.comparison_page import print_rows, write_page
from halo_lightning.evaluation.grids import Cell, command_line, finished_grid, fit, read_settings
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
    "--pictures.every_n_steps=0",
)


def compare(
    run_dir: str = "runs/methods",
    configs: list[str] | str | None = None,
    seeds: list[int] | int | None = None,
    prompts: int = PROMPTS,
    arguments: list[str] | None = None,
    out: str = "docs/methods.md",
    processes: int = 2,
) -> None:
    """Trains every method's tiny configuration on several seeds, judges what came out, and writes a table of it.

    Each training that is finished is kept, so the same command goes on where it was interrupted. One whose settings
    have changed is done again; after a change of the code, delete the folder.

    Args:
        run_dir: The folder that everything else is written to.
        configs: The configurations; none are all `configs/tiny_*.yaml`. The SFT stage of one is compared as well.
        seeds: Of the choice of held-out feedback, of training and of sampling; none are 1, 2 and 3.
        prompts: Number of held-out prompts for each seed.
        arguments: Further arguments of every training, such as `--trainer.max_steps=100`.
        out: The Markdown page to write.
        processes: How many train at the same time, on one core each.
    """
    configs = [configs] if isinstance(configs, str) else configs or []
    seeds = [seeds] if isinstance(seeds, int) else seeds or SEEDS
    arguments, root = arguments or [], Path(run_dir)
    paths = in_order([Path(name) for name in configs] or sorted(CONFIGS.glob("tiny_*.yaml")))
    stages = {stage_of(path) for path in paths}
    first: list[Path | None] = [None, *(path for path in paths if path in stages)]  # others start from their exports
    waves = [
        [Trained(path, seed, prompts, tuple(arguments)) for seed in seeds for path in wave]
        for wave in (first, [path for path in paths if path not in stages])
    ]
    options = {
        "configs": configs,
        "seeds": seeds if seeds != SEEDS else None,
        "prompts": prompts if prompts != PROMPTS else None,
        "arguments": arguments,
    }
    with finished_grid(waves, root, processes) as finished:
        cells = [made.result for made in finished]
        cells.sort(key=lambda cell: [BASE, *(path.stem for path in paths)].index(cell["name"]))
        print_rows(cells)
        write_page(cells, Path(out), command=command_line("compare", options))
    print(f"\nThe page: {out}. Every number, and what the models said: {root}/*/cell.json, generations.jsonl")


def in_order(paths: list[Path]) -> list[Path]:
    """The configurations with the SFT stages that they name, those first, then the report's methods, then others."""
    for path in paths:
        if not path.is_file():
            raise ConfigError(f"{path}: there is no such configuration; run this from a clone of the repository")
    stages = {stage for path in paths if (stage := stage_of(path))}
    others = set(paths) - stages
    later = {path for path in others if "arXiv" in module_class(yaml.safe_load(path.read_text())).source}
    ordered = sorted(stages) + sorted(others - later) + sorted(later)
    if not ordered:
        raise ConfigError(f"{CONFIGS}: there are no configurations; run this from a clone of the repository")
    names = [path.stem for path in ordered]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"configs: {', '.join(map(repr, repeated))}: each needs a name of its own")
    return ordered


def stage_of(path: Path) -> Path | None:
    """The configuration of the SFT stage that a configuration names."""
    stage = yaml.safe_load(path.read_text()).get("sft_stage")
    return path.parent / stage["config"] if stage else None


def module_class(settings: dict[str, Any]) -> Any:
    """The module of a configuration."""
    from halo_lightning import modules

    return getattr(modules, settings["model"]["class_path"].rsplit(".", 1)[-1])


@dataclass(frozen=True)
class Trained(Cell):
    """A configuration trained with a seed, or the model that all begin with.

    Attributes:
        path: The configuration; None is the base model.
        seed: Of the choice of held-out feedback, of training and of sampling.
        prompts: Number of held-out prompts.
        arguments: Further arguments of the training.
    """

    path: Path | None
    seed: int
    prompts: int
    arguments: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What its row is called."""
        return BASE if self.path is None else self.path.stem

    @property
    def label(self) -> str:
        """Row and seed."""
        return f"{self.name}, seed {self.seed}"

    @property
    def place(self) -> str:
        """A folder for each row and seed."""
        return f"{self.name}-{self.seed}"

    @property
    def settings(self) -> dict[str, Any]:
        """The base model does not depend on the arguments of trainings."""
        shared = {"name": self.name, "seed": self.seed, "prompts": self.prompts}
        if self.path is None:
            return shared
        return {**shared, "settings": read_settings(self.path), "arguments": list(self.arguments)}

    def make(self, root: Path) -> dict[str, Any]:
        """Trains (unless it is the base model), samples and judges.

        Returns:
            What a row of the tables is made from.
        """
        folder, model = root / self.place, f"embedded:{BASE}"
        cell = {"name": self.name, "seed": self.seed, "prompts": self.prompts}
        cell |= {"module": None, "starts_from": None, "held_out": {}, "judged": None}
        if self.path is not None:
            settings = read_settings(self.path)
            cls = module_class(settings)
            cell.update(module=cls.__name__, starts_from="SFT" if settings.get("sft_stage") else "base")
            self.train(root)
            cell["held_out"] = held_out(folder)
            if cls.task != "causal":  # it says nothing: its rewards' accuracy is what there is to compare
                return cell
            model = str(folder / "export")
        (judged,) = judge_models(
            {self.name: model}, prompts=self.prompts, seed=self.seed, out=folder / "generations.jsonl"
        )
        cell["judged"] = {key: value for key, value in judged.items() if key != "model"}
        return cell

    def train(self, root: Path) -> None:
        """What `fit` does, with the SFT stage of the same grid."""
        assert self.path is not None
        arguments = [f"--seed_everything={self.seed}", *ONCE, *self.arguments]
        stage = stage_of(self.path)
        before = (root / replace(self, path=stage).place, arguments) if stage else None
        fit(self.path, root / self.place, arguments, before)

    def in_words(self, result: dict[str, Any]) -> str:
        """Win rate and held-out values."""
        parts = [f"win rate {result['judged']['rate']:.2f}"] if result["judged"] else []
        for name, (first, last) in result["held_out"].items():
            parts.append(f"held-out {name} {first:.3f} → {last:.3f}")
        return ", ".join(parts)


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
