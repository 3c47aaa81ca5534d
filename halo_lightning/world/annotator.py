"""A simulated annotator: sees what the rules see, but not always clearly."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from halo_lightning.world.chance import chance
from halo_lightning.world.rules import Prompt, judge


@dataclass
class Annotator:
    """Prefers and likes by the Bradley-Terry model (the report's equation 1).

    The reward of a completion is `sharpness` times the number of criteria that it meets. Of two completions
    the first is preferred with probability σ(reward₁ − reward₂). One completion alone gets a thumb up with
    probability σ(reward − reward of the bar), as if it were compared with an imagined one at the bar.

    Attributes:
        rng: Where the noise comes from.
        sharpness: The reward per criterion: 0 is pure noise; at 3, one criterion more wins 95 % of the time.
        bar: The number of criteria that an acceptable completion is compared with.
    """

    rng: random.Random
    sharpness: float = 3.0
    bar: float = 2.0

    def reward(self, prompt: Prompt, completion: str) -> float:
        """The reward r*(x, y) that the annotator's choices follow."""
        return self.sharpness * judge(prompt, completion).score

    def prefers_first(self, prompt: Prompt, first: str, second: str) -> bool:
        """Which of two completions the annotator chooses."""
        difference = self.reward(prompt, first) - self.reward(prompt, second)
        return chance(self.rng, 1 / (1 + math.exp(-difference)))

    def likes(self, prompt: Prompt, completion: str) -> bool:
        """Whether the annotator gives a thumb up."""
        difference = self.reward(prompt, completion) - self.sharpness * self.bar
        return chance(self.rng, 1 / (1 + math.exp(-difference)))
