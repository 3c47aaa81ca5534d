"""The cells of the miniature: the pretrained model and eight methods, of each size, with each seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from halo_lightning.errors import ConfigError
from halo_lightning.evaluation import grids
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
"""The report's eight methods, and their configurations."""

PRETRAINED = "pretrained"
"""The model as it was before: no method, but what all begin with."""

SIZES = ("small", "medium", "base")

TOKENS = 48
"""Most tokens of a completion: more than any good one has."""


@dataclass(frozen=True)
class Cell(grids.Cell):
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

    @property
    def label(self) -> str:
        """Size, method and seed."""
        return f"{self.size} {self.method}, seed {self.seed}"

    @property
    def place(self) -> str:
        """A folder for each method and seed, in one for each size."""
        return f"{self.size}/{self.method.lower().replace('+', '_')}-{self.seed}"

    @property
    def rank(self) -> tuple[int, int, int]:
        """Its place in figures and tables: by size, method and seed."""
        return SIZES.index(self.size), [PRETRAINED, *METHODS].index(self.method), self.seed

    @property
    def config(self) -> Path:
        """The configuration of the method."""
        return CONFIGS / f"{METHODS[self.method]}.yaml"

    @property
    def settings(self) -> dict[str, Any]:
        """The fields, and what the configuration says."""
        trained = None if self.method == PRETRAINED else grids.read_settings(self.config)
        return {**vars(self), "tokens": TOKENS, "training": trained, "always": grids.UNSEEN}

    def make(self, root: Path) -> dict[str, Any]:
        """Does what `fit`, `generate` and `judge` do; what is found is in their files."""
        policy = f"embedded:{self.size}"
        if self.method != PRETRAINED:
            # Where there is an SFT stage, its cell is finished by now: its export is reused.
            stage = replace(self, method="SFT")
            before = (root / stage.place, stage.training_arguments()) if self.method.startswith("SFT+") else None
            grids.fit(self.config, root / self.place, self.training_arguments(), before)
            policy = str(root / self.place / "export")
        self.sample_and_judge(policy, root / self.place)
        return {}

    def training_arguments(self) -> list[str]:
        """What makes the tiny configuration this cell's: model, feedback and seed."""
        settings = grids.read_settings(self.config)
        return [
            f"--seed_everything={self.seed}",
            f"--model.policy=embedded:{self.size}",
            f"--data.train={settings['data']['init_args']['train']}&seed={self.seed}",
            *grids.UNSEEN,
            *self.arguments,
        ]

    def sample_and_judge(self, policy: str, folder: Path) -> None:
        """What `generate` and `judge` do."""
        from halo_lightning.evaluation.generate_command import generate_completions
        from halo_lightning.evaluation.judge_command import judge_completions

        generate_completions(
            policy=policy,
            prompts=f"embedded:held_out?seed={self.seed}",
            out=str(folder / "generations.jsonl"),
            name=self.method,
            group=self.size,
            count=self.prompts,
            seed=self.seed,
            max_new_tokens=TOKENS,
            device="cpu",
            batch_size=self.prompts,
        )
        judge_completions(str(folder / "generations.jsonl"))  # one judge for all, so that one report can have them all


def waves(sizes: Sequence[str], seeds: Sequence[int], prompts: int, arguments: Sequence[str]) -> list[list[Cell]]:
    """All cells: what others start from, then seed by seed, so that what is there early is a grid of fewer seeds.

    Raises:
        ConfigError: There is no such size.
    """
    if unknown := [size for size in sizes if size not in SIZES]:
        raise ConfigError(f"sizes: found {', '.join(unknown)}, expected some of {', '.join(SIZES)}")
    return [
        [Cell(size, method, seed, prompts, tuple(arguments)) for seed in seeds for size in sizes for method in methods]
        for methods in ([PRETRAINED, "SFT"], [method for method in METHODS if method != "SFT"])
    ]
