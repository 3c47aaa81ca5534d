"""A small world that is worth learning from, so that alignment can be shown and checked with no network.

- `rows`: feedback on completions, as demonstrations, pairs or thumbs, by a simulated, noisy annotator.
- `held_out_prompts`: prompts for evaluation with a human-chosen completion each.
- `judge`, `compare`: helpfulness, harmlessness and conciseness, each decided by a rule.
- `MODELS`: the folders of tiny base models of three sizes with their tokenizer, flawed as base models are, by name;
  they are made by `python -m halo_lightning.world.build`. `BASE_MODEL` is the largest.
"""

from __future__ import annotations

from pathlib import Path

from halo_lightning.world.annotator import Annotator
from halo_lightning.world.feedback import held_out_prompts, rows
from halo_lightning.world.language import Flaws
from halo_lightning.world.rules import Criteria, compare, judge

MODELS: dict[str, Path] = {
    f"embedded:{size}": Path(__file__).parent / "assets" / size for size in ("small", "medium", "base")
}
BASE_MODEL: Path = MODELS["embedded:base"]

__all__ = [
    "BASE_MODEL",
    "MODELS",
    "Annotator",
    "Criteria",
    "Flaws",
    "compare",
    "held_out_prompts",
    "judge",
    "rows",
]
