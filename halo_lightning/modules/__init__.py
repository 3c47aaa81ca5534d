"""One LightningModule per human-centered loss."""

from halo_lightning.modules.apo import APODown, APOZero, APOZeroUnpaired
from halo_lightning.modules.base import HaloModule
from halo_lightning.modules.bco import BCO
from halo_lightning.modules.cpo import CPO
from halo_lightning.modules.csft import CSFT
from halo_lightning.modules.dpo import DPO
from halo_lightning.modules.exo import EXO
from halo_lightning.modules.ipo import IPO
from halo_lightning.modules.kto import KTO
from halo_lightning.modules.nca import NCA
from halo_lightning.modules.orpo import ORPO
from halo_lightning.modules.ppo import OfflinePPO
from halo_lightning.modules.reward_model import RewardModel
from halo_lightning.modules.robust_dpo import RobustDPO
from halo_lightning.modules.rpo import RPO
from halo_lightning.modules.sft import SFT
from halo_lightning.modules.simpo import SimPO
from halo_lightning.modules.slic import SLiC
from halo_lightning.modules.sppo import SPPOHard

__all__ = [
    "BCO",
    "CPO",
    "CSFT",
    "DPO",
    "EXO",
    "IPO",
    "KTO",
    "NCA",
    "ORPO",
    "RPO",
    "SFT",
    "APODown",
    "APOZero",
    "APOZeroUnpaired",
    "HaloModule",
    "OfflinePPO",
    "RewardModel",
    "RobustDPO",
    "SLiC",
    "SPPOHard",
    "SimPO",
]
