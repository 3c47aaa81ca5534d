"""The cells of the laboratory: SFT, then KTO with some value function, or DPO, in some situation, with some seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from halo_lightning.evaluation import grids
from halo_lightning.evaluation.human_values.fitting import fit_value
from halo_lightning.evaluation.human_values.shapes import as_config
from halo_lightning.evaluation.judging import judge_models
from halo_lightning.evaluation.value_lab.feedback import BAR, Feedback, Situation, collect
from halo_lightning.files import write_text
from halo_lightning.methods import CONFIGS

Method = Literal["SFT", "DPO", "logistic", "true", "fitted"]
"""What is trained; the last three are KTO with that value function."""

USUAL = Situation("usual")
"""What every other situation differs from in one thing."""

VALUE_SITUATIONS = (
    USUAL,
    Situation("noise 0.5", noise=0.5),
    Situation("noise 2", noise=2.0),
    Situation("λ 1", loss_aversion=1.0),
    Situation("λ 5", loss_aversion=5.0),
    Situation("1 up : 4 down", desirable=0.2),
    Situation("4 up : 1 down", desirable=0.8),
)
"""Where KTO with the people's own value function is compared with KTO."""

PANELS: dict[str, tuple[tuple[str, Situation], ...]] = {
    "noise τ of the people": (
        ("0.5", VALUE_SITUATIONS[1]),
        ("1", USUAL),
        ("2", VALUE_SITUATIONS[2]),
        ("4", Situation("noise 4", noise=4.0)),
    ),
    "people who contradict": (
        ("0", USUAL),
        ("0.2", Situation("20 % contradict", contradictions=0.2)),
        ("0.4", Situation("40 % contradict", contradictions=0.4)),
    ),
    "thumbs up : down": (
        ("1 : 4", VALUE_SITUATIONS[5]),
        ("as it comes", USUAL),
        ("4 : 1", VALUE_SITUATIONS[6]),
    ),
    "prompts with one rating": (
        ("0", USUAL),
        ("0.5", Situation("50 % unpaired", unpaired=0.5)),
        ("0.9", Situation("90 % unpaired", unpaired=0.9)),
    ),
}
"""Where KTO is compared with DPO: for each panel of the figure its places, from left to right."""


@dataclass(frozen=True)
class LabCell(grids.Cell):
    """One model of the laboratory.

    Attributes:
        situation: Whose feedback it learns from.
        method: What is trained.
        seed: Of feedback, training, prompts and sampling.
        prompts: Number of held-out prompts.
        size: Of the embedded model.
    """

    situation: Situation
    method: Method
    seed: int
    prompts: int
    size: str

    @property
    def label(self) -> str:
        """Situation, method and seed."""
        name = self.method if self.method in ("SFT", "DPO") else f"KTO, {self.method} value function"
        return f"{self.situation.name}: {name}, seed {self.seed}"

    @property
    def place(self) -> str:
        """A folder for each situation, and in it one for each method and seed."""
        name = "".join(letter if letter.isalnum() or letter in "." else "_" for letter in self.situation.name)
        return f"{name}/{self.method}-{self.seed}"

    @property
    def config(self) -> Path:
        """The configuration that is changed."""
        names = {"SFT": "tiny_sft", "DPO": "tiny_sft_dpo"}
        return CONFIGS / f"{names.get(self.method, 'tiny_sft_kto')}.yaml"

    @property
    def settings(self) -> dict[str, Any]:
        """The fields, and what the configuration says."""
        return {**asdict(self), "training": grids.read_settings(self.config), "always": grids.UNSEEN}

    def in_words(self, result: dict[str, Any]) -> str:
        """The win rate."""
        return f"win rate {result['judged']['rate']:.2f}"

    def make(self, root: Path) -> dict[str, Any]:
        """Collects feedback, trains, samples and judges.

        Returns:
            `judged`: what the rules said; `estimates`: of the fitted value function; `thumbs`, `up`, `pairs`: how many
            there were.
        """
        folder = root / self.place
        feedback = collect(self.situation, self.seed)
        estimates = self.estimates(feedback) if self.method == "fitted" else {}
        self.train(root, feedback, estimates)
        (judged,) = judge_models(
            {self.method: str(folder / "export")},
            prompts=self.prompts,
            seed=self.seed,
            out=folder / "generations.jsonl",
        )
        return {
            "judged": judged,
            "estimates": estimates,
            "thumbs": len(feedback.thumbs),
            "up": sum(row["label"] for row in feedback.thumbs),
            "pairs": len(feedback.pairs),
        }

    def estimates(self, feedback: Feedback) -> dict[str, list[float]]:
        """α, λ and τ with their intervals, from the thumbs and the true rewards; the reference point is known."""
        fitted = fit_value(feedback.seen, reference_point=BAR)
        return {name: list(one) for name, one in fitted.estimates.items()}

    def train(self, root: Path, feedback: Feedback, estimates: dict[str, list[float]]) -> None:
        """What `fit` does. The SFT stage is the same for all situations: it is about language, not about values."""
        folder = root / self.place
        shared = [f"--seed_everything={self.seed}", f"--model.policy=embedded:{self.size}", *grids.UNSEEN]
        sft = [*shared, f"--data.train=embedded:sft?examples=1000&seed={self.seed}"]
        if self.method == "SFT":
            grids.fit(self.config, folder, sft)
            return
        kind, rows = ("pairs", feedback.pairs) if self.method == "DPO" else ("thumbs", feedback.thumbs)
        file = root / "feedback" / f"{self.place.replace('/' + self.method, '')}-{kind}.jsonl"
        file.parent.mkdir(exist_ok=True)
        write_text(file, "".join(json.dumps(row) + "\n" for row in rows))  # the same for all that learn from it
        own = [*shared, f"--data.train={file}"]
        if self.method == "true":
            own.append(f"--model.value_function={json.dumps(as_config(self.situation.value_function))}")
        elif self.method == "fitted":
            settings = {"alpha": estimates["alpha"][0], "lam": estimates["lam"][0]}
            function = {"class_path": "halo_lightning.values.KahnemanTversky", "init_args": settings}
            own.append(f"--model.value_function={json.dumps(function)}")
        grids.fit(self.config, folder, own, (root / sft_cell(self).place, sft))


def sft_cell(cell: LabCell) -> LabCell:
    """The SFT stage of a cell."""
    return LabCell(USUAL, "SFT", cell.seed, cell.prompts, cell.size)


def waves(seeds: Sequence[int], prompts: int, size: str) -> list[list[LabCell]]:
    """All cells: the SFT stages, then seed by seed."""
    wanted: dict[tuple[Situation, Method], None] = {}
    functions: tuple[Method, ...] = ("logistic", "true", "fitted")
    compared: tuple[Method, ...] = ("logistic", "DPO")
    wanted.update({(situation, method): None for situation in VALUE_SITUATIONS for method in functions})
    wanted.update({(one, method): None for places in PANELS.values() for _, one in places for method in compared})
    return [
        [LabCell(USUAL, "SFT", seed, prompts, size) for seed in seeds],
        [LabCell(situation, method, seed, prompts, size) for seed in seeds for situation, method in wanted],
    ]
