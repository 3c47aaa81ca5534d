"""Did it work? Generations, and how often they beat the human-chosen completion."""

from halo_lightning.evaluation.generation import Generation, generate
from halo_lightning.evaluation.win_rates import WinRate, win_rate

__all__ = ["Generation", "WinRate", "generate", "win_rate"]
