"""Human-centered losses (HALOs) as PyTorch Lightning modules.

`from halo_lightning import KTO, UnaryDataModule` gives the modules, `halo_lightning.losses` the pure functions.
Names are loaded when they are used, so `import halo_lightning` costs next to nothing.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Torch then asks Linux for large pages, which a CPU fills several times as fast; it looks when it first allocates.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

__version__ = "0.1.0"

if TYPE_CHECKING:
    from halo_lightning.callbacks import HuggingFaceExport as HuggingFaceExport
    from halo_lightning.callbacks import Throughput as Throughput
    from halo_lightning.data import PairedDataModule as PairedDataModule
    from halo_lightning.data import SFTDataModule as SFTDataModule
    from halo_lightning.data import UnaryDataModule as UnaryDataModule
    from halo_lightning.modules import BCO as BCO
    from halo_lightning.modules import CPO as CPO
    from halo_lightning.modules import CSFT as CSFT
    from halo_lightning.modules import DPO as DPO
    from halo_lightning.modules import EXO as EXO
    from halo_lightning.modules import IPO as IPO
    from halo_lightning.modules import KTO as KTO
    from halo_lightning.modules import NCA as NCA
    from halo_lightning.modules import ORPO as ORPO
    from halo_lightning.modules import RPO as RPO
    from halo_lightning.modules import SFT as SFT
    from halo_lightning.modules import APODown as APODown
    from halo_lightning.modules import APOZero as APOZero
    from halo_lightning.modules import APOZeroUnpaired as APOZeroUnpaired
    from halo_lightning.modules import HaloModule as HaloModule
    from halo_lightning.modules import OfflinePPO as OfflinePPO
    from halo_lightning.modules import RewardModel as RewardModel
    from halo_lightning.modules import RobustDPO as RobustDPO
    from halo_lightning.modules import SimPO as SimPO
    from halo_lightning.modules import SLiC as SLiC
    from halo_lightning.modules import SPPOHard as SPPOHard
    from halo_lightning.optimization import LinearWarmup as LinearWarmup

_HOMES = {
    "APODown": "modules",
    "APOZero": "modules",
    "APOZeroUnpaired": "modules",
    "BCO": "modules",
    "CPO": "modules",
    "CSFT": "modules",
    "DPO": "modules",
    "EXO": "modules",
    "HaloModule": "modules",
    "IPO": "modules",
    "KTO": "modules",
    "NCA": "modules",
    "ORPO": "modules",
    "OfflinePPO": "modules",
    "RPO": "modules",
    "RewardModel": "modules",
    "RobustDPO": "modules",
    "SFT": "modules",
    "SLiC": "modules",
    "SPPOHard": "modules",
    "SimPO": "modules",
    "PairedDataModule": "data",
    "SFTDataModule": "data",
    "UnaryDataModule": "data",
    "HuggingFaceExport": "callbacks",
    "Throughput": "callbacks",
    "LinearWarmup": "optimization",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
