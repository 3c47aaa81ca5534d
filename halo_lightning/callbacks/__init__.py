"""Lightning callbacks: none of them is known to a module or to the Trainer's loop."""

from halo_lightning.callbacks.checkpoint import RunCheckpoint
from halo_lightning.callbacks.curves import ContinuedCurves
from halo_lightning.callbacks.export import HuggingFaceExport
from halo_lightning.callbacks.pictures import RewardPictures
from halo_lightning.callbacks.progress import RunProgressBar
from halo_lightning.callbacks.report import RunReport
from halo_lightning.callbacks.samples import SampleCompletions
from halo_lightning.callbacks.tensorboard import TensorBoardPage
from halo_lightning.callbacks.throughput import Throughput
from halo_lightning.callbacks.validation import ValidateEvery
from halo_lightning.callbacks.watch import WatchNumbers

__all__ = [
    "ContinuedCurves",
    "HuggingFaceExport",
    "RewardPictures",
    "RunCheckpoint",
    "RunProgressBar",
    "RunReport",
    "SampleCompletions",
    "TensorBoardPage",
    "Throughput",
    "ValidateEvery",
    "WatchNumbers",
]
