"""Lightning strategies that spread a model's weights, gradients and optimizer over devices."""

from halo_lightning.strategies.fsdp import FSDP
from halo_lightning.strategies.fsdp2 import FSDP2

__all__ = ["FSDP", "FSDP2"]
