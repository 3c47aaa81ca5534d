"""Judges: who says which of two completions is better.

- `RulesJudge`: the rules of the embedded world.
- `RewardModelJudge`: a local reward model (an export of `RewardModel`).
- `ChatModelJudge`: a local chat model.
- `ApiJudge`: any OpenAI-compatible endpoint.

A judge of your own is a subclass of `Judge` with one method. Names are loaded when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from halo_lightning.evaluation.judges.api import ApiJudge as ApiJudge
    from halo_lightning.evaluation.judges.base import CRITERIA as CRITERIA
    from halo_lightning.evaluation.judges.base import Comparison as Comparison
    from halo_lightning.evaluation.judges.base import Judge as Judge
    from halo_lightning.evaluation.judges.base import Verdict as Verdict
    from halo_lightning.evaluation.judges.local import ChatModelJudge as ChatModelJudge
    from halo_lightning.evaluation.judges.local import RewardModelJudge as RewardModelJudge
    from halo_lightning.evaluation.judges.local import RulesJudge as RulesJudge

_HOMES = {
    "ApiJudge": "api",
    "CRITERIA": "base",
    "ChatModelJudge": "local",
    "Comparison": "base",
    "Judge": "base",
    "RewardModelJudge": "local",
    "RulesJudge": "local",
    "Verdict": "base",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
