"""Did it work? Generations, judges, and how often a model beats the human-chosen completion.

Names are loaded when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from halo_lightning.evaluation.generation import Generation as Generation
    from halo_lightning.evaluation.generation import generate as generate
    from halo_lightning.evaluation.win_rates import WinRate as WinRate
    from halo_lightning.evaluation.win_rates import win_rate as win_rate

_HOMES = {
    "Generation": "generation",
    "WinRate": "win_rates",
    "generate": "generation",
    "win_rate": "win_rates",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
