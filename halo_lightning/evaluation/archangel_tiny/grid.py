"""The cells of the miniature: each is trained, sampled and judged once, whatever happens in between."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from halo_lightning.errors import ConfigError
from halo_lightning.files import write_json
from halo_lightning.methods import CONFIGS

METHODS = {
    "SFT": "tiny_sft",
    "SLiC": "tiny_slic",
    "DPO": "tiny_dpo",
    "SFT+DPO": "tiny_sft_dpo",
    "PPO": "tiny_ppo",
    "SFT+PPO": "tiny_sft_ppo",
    "KTO": "tiny_kto",
    "SFT+KTO": "tiny_sft_kto",
}
"""The report's eight methods, in the order in which they are trained: the SFT stage of the others is the first."""

PRETRAINED = "pretrained"
"""The model as it was before: no method, but what all begin with."""

SIZES = ("small", "medium", "base")

TOKENS = 48
"""Most tokens of a completion: more than any good one has."""

QUICK = (
    # The export is what is judged, and nothing on the way to it.
    "--trainer.limit_val_batches=0",
    "--trainer.num_sanity_val_steps=0",
    "--checkpoint.save_top_k=0",
    "--checkpoint.save_last=false",
)


@dataclass(frozen=True)
class Cell:
    """One model of the grid.

    Attributes:
        size: Of the pretrained model: `small`, `medium` or `base`.
        method: One of `METHODS`, or `pretrained`.
        seed: Of feedback, training, prompts and sampling.
        prompts: Number of held-out prompts.
        arguments: Further arguments of every training.
    """

    size: str
    method: str
    seed: int
    prompts: int
    arguments: tuple[str, ...] = ()

    def folder(self, root: Path) -> Path:
        """Where everything of this cell is."""
        return root / self.size / f"{self.method.lower().replace('+', '_')}-{self.seed}"

    @property
    def config(self) -> Path:
        """The configuration of the method."""
        return CONFIGS / f"{METHODS[self.method]}.yaml"

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that the cell depends on."""
        from halo_lightning.evaluation.comparison import read_settings

        trained = None if self.method == PRETRAINED else read_settings(self.config)
        return json.loads(json.dumps({**vars(self), "tokens": TOKENS, "training": trained}))

    def found(self, root: Path) -> dict[str, Any] | None:
        """What was noted when this cell was finished, or None if it is not, or was with other settings."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            noted: dict[str, Any] = json.loads((self.folder(root) / "cell.json").read_text())
            if noted["settings"] == self.settings:
                return noted
        return None


def cells(sizes: list[str], seeds: list[int], prompts: int, arguments: list[str]) -> list[Cell]:
    """All cells: seed by seed, so that what is there after a while is a whole grid of fewer seeds."""
    if unknown := [size for size in sizes if size not in SIZES]:
        raise ConfigError(f"sizes: found {', '.join(unknown)}, expected some of {', '.join(SIZES)}")
    methods = [PRETRAINED, *METHODS]
    return [
        Cell(size, method, seed, prompts, tuple(arguments)) for seed in seeds for size in sizes for method in methods
    ]


def finish(cell: Cell, root: Path) -> dict[str, Any]:
    """Trains, samples and judges one cell, unless that is done.

    Returns:
        What is noted of it: the settings, and the seconds that it took, by the clock and of the processor.
    """
    if (noted := cell.found(root)) is not None:
        return noted
    folder = cell.folder(root)
    shutil.rmtree(folder, ignore_errors=True)  # half finished, or with other settings
    folder.mkdir(parents=True)
    began, used = time.time(), time.process_time()
    with (folder / "log.txt").open("w") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        policy = f"embedded:{cell.size}"
        if cell.method != PRETRAINED:
            train(cell, root)
            policy = str(folder / "export")
        sample_and_judge(cell, policy, folder)
    noted = {"settings": cell.settings, "seconds": time.time() - began, "cpu_seconds": time.process_time() - used}
    write_json(folder / "cell.json", noted)
    return noted


def train(cell: Cell, root: Path) -> None:
    """What `fit` does with the configuration of the method, on this cell's model and feedback."""
    from halo_lightning.training_cli import HaloCLI

    def arguments(config: Path, folder: Path) -> list[str]:
        settings = yaml.safe_load(config.read_text())
        data = yaml.safe_load((config.parent / settings["data"]).read_text())
        return [
            f"--run_dir={folder}",
            f"--seed_everything={cell.seed}",
            f"--model.policy=embedded:{cell.size}",
            f"--data.train={data['init_args']['train']}&seed={cell.seed}",
            *QUICK,
            *cell.arguments,
        ]

    own = ["fit", f"--config={cell.config}", *arguments(cell.config, cell.folder(root))]
    if yaml.safe_load(cell.config.read_text()).get("sft_stage"):
        # The cell of SFT is finished by now: its export is reused.
        stage = Cell(cell.size, "SFT", cell.seed, cell.prompts, cell.arguments)
        own.append(f"--sft_stage.arguments={json.dumps(arguments(stage.config, stage.folder(root)))}")
    HaloCLI(args=own)


def sample_and_judge(cell: Cell, policy: str, folder: Path) -> None:
    """What `generate` and `judge` do."""
    from halo_lightning.evaluation.generate_command import generate_completions
    from halo_lightning.evaluation.judge_command import judge_completions

    generate_completions(
        policy=policy,
        prompts=f"embedded:held_out?seed={cell.seed}",
        out=str(folder / "generations.jsonl"),
        name=cell.method,
        group=cell.size,
        count=cell.prompts,
        seed=cell.seed,
        max_new_tokens=TOKENS,
        device="cpu",
        batch_size=cell.prompts,
    )
    judge_completions(str(folder / "generations.jsonl"))  # one judge for all, so that one report can have them all
