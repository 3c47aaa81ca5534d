"""A small world that is worth learning from, so that alignment can be shown and checked with no network.

- `rows`: feedback on completions, as demonstrations, pairs or thumbs, by a simulated, noisy annotator.
- `held_out_prompts`: prompts for evaluation with a human-chosen completion each.
- `judge`, `compare`: helpfulness, harmlessness and conciseness, each decided by a rule.
- `BASE_MODEL`: the folder of a tiny base model with its tokenizer, flawed as base models are; it is made by
  `python -m halo_lightning.world.build`.
"""

from __future__ import annotations

from pathlib import Path

from halo_lightning.world.annotator import Annotator
from halo_lightning.world.feedback import held_out_prompts, rows
from halo_lightning.world.language import Flaws
from halo_lightning.world.rules import Criteria, compare, judge

BASE_MODEL: Path = Path(__file__).parent / "assets" / "base"

__all__ = [
    "BASE_MODEL",
    "Annotator",
    "Criteria",
    "Flaws",
    "compare",
    "held_out_prompts",
    "judge",
    "rows",
]
