"""Feedback on the embedded world from simulated people whose value function is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from halo_lightning.evaluation.human_values.annotators import SimulatedAnnotator
from halo_lightning.evaluation.human_values.observations import Thumbs
from halo_lightning.values import KahnemanTversky
from halo_lightning.world.chance import stream
from halo_lightning.world.feedback import CANDIDATES
from halo_lightning.world.language import complete, training_prompt
from halo_lightning.world.rules import judge

BAR = 2.0
"""The people's reference point: how many of the three criteria an acceptable completion meets."""

ALPHA = 0.88
"""The people's α, the median that Tversky and Kahneman (1992) found."""


@dataclass(frozen=True)
class Situation:
    """Who gives feedback, and on what.

    Attributes:
        name: What it is called.
        noise: τ of the people, where one criterion more than `BAR` is worth 1.
        loss_aversion: λ of the people.
        contradictions: The share of prompts that somebody answers who wants the opposite.
        desirable: The share of thumbs up among all thumbs, made by leaving out others; None takes them as they come.
        unpaired: The share of prompts with feedback on one completion only.
        prompts: How many prompts there is feedback on; two completions of each, unless unpaired.
    """

    name: str
    noise: float = 1.0
    loss_aversion: float = 2.25
    contradictions: float = 0.0
    desirable: float | None = None
    unpaired: float = 0.0
    prompts: int = 1500

    @property
    def value_function(self) -> KahnemanTversky:
        """What the people follow."""
        return KahnemanTversky(alpha=ALPHA, lam=self.loss_aversion)


@dataclass(frozen=True)
class Feedback:
    """The same people's feedback of both kinds.

    Attributes:
        thumbs: Rows of `prompt`, `completion`, `label`.
        pairs: Rows of `prompt`, `chosen`, `rejected`: of the prompts with thumbs on both completions.
        seen: Every thumb with the true reward of its completion, for fitting a value function: those, too, that are
            left out of the training.
    """

    thumbs: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    seen: Thumbs


def candidates(number: int, seed: int) -> list[tuple[str, str, str]]:
    """Training prompts, each with two different completions."""
    made = []
    for index in range(number):
        prompt = training_prompt(stream("value lab prompt", seed, index))
        rng = stream("value lab completions", seed, index)
        first = second = complete(prompt, rng, CANDIDATES)
        while second == first:
            second = complete(prompt, rng, CANDIDATES)
        made.append((prompt, first, second))
    return made


def collect(situation: Situation, seed: int) -> Feedback:
    """Asks the people of a situation about completions. The same seed has the same completions in all situations.

    Args:
        situation: Who is asked, and what becomes of the answers.
        seed: Of completions and answers.
    """
    made = candidates(situation.prompts, seed)
    rewards = torch.tensor(
        [[judge(prompt, text).score for text in (first, second)] for prompt, first, second in made],
        dtype=torch.float64,
    )
    annotator = SimulatedAnnotator(situation.value_function, reference_point=BAR, noise=situation.noise)
    thumbs = annotator.thumbs(rewards.flatten(), seed=seed).up.reshape(-1, 2).numpy().copy()
    utility = annotator.utility(rewards)
    chance_of_first = torch.sigmoid(utility[:, 0] - utility[:, 1]).numpy()
    generator = np.random.default_rng(seed)
    first_preferred = generator.random(len(made)) < chance_of_first
    contradicted = generator.random(len(made)) < situation.contradictions
    thumbs[contradicted] ^= True
    first_preferred ^= contradicted
    kept = keep(thumbs, situation, generator)
    order = generator.permutation(np.argwhere(kept).tolist())
    paired: list[bool] = np.all(kept, axis=1).tolist()
    return Feedback(
        thumbs=[
            {"prompt": made[row][0], "completion": made[row][1 + side], "label": bool(thumbs[row, side])}
            for row, side in order
        ],
        pairs=[
            {"prompt": prompt, "chosen": one if first else other, "rejected": other if first else one}
            for (prompt, one, other), first, both in zip(made, first_preferred, paired, strict=True)
            if both
        ],
        seen=Thumbs(rewards.flatten(), torch.from_numpy(thumbs.flatten())),
    )


def keep(thumbs: np.ndarray, situation: Situation, generator: np.random.Generator) -> np.ndarray:
    """Which completions there is feedback on, bool `[prompts, 2]`.

    Args:
        thumbs: Whether each is up, bool `[prompts, 2]`.
        situation: Says how many are unpaired, and how many are up in the end.
        generator: Of the choice.
    """
    kept = np.ones_like(thumbs)
    alone = generator.random(len(thumbs)) < situation.unpaired
    kept[alone, generator.integers(0, 2, int(alone.sum()))] = False
    if situation.desirable is not None:
        up, down = int((kept & thumbs).sum()), int((kept & ~thumbs).sum())
        # As many as there can be with this share.
        total = min(up / situation.desirable, down / (1 - situation.desirable))
        for kind, wanted in ((thumbs, situation.desirable * total), (~thumbs, (1 - situation.desirable) * total)):
            there = np.argwhere(kept & kind)
            left_out = generator.permutation(len(there))[round(wanted) :]
            kept[tuple(there[left_out].T)] = False
    return kept
