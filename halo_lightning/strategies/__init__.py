"""Lightning strategies that spread a model's weights, gradients and optimizer over devices."""

from lightning.pytorch.strategies import StrategyRegistry

from halo_lightning.strategies.fsdp import FSDP
from halo_lightning.strategies.fsdp2 import FSDP2

__all__ = ["FSDP", "FSDP2", "register_names"]


def register_names() -> None:
    """Lets the command line know them by name: `fsdp` and `fsdp2`, with `_cpu_offload`, and by their class paths."""
    for name, strategy in {"fsdp": FSDP, "fsdp2": FSDP2}.items():
        for known in (name, f"{__name__}.{name}"):  # Lightning looks for names in small letters
            StrategyRegistry.register(known, strategy, override=True)
        StrategyRegistry.register(f"{name}_cpu_offload", strategy, override=True, cpu_offload=True)
