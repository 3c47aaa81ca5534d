"""The data room: rows, rendering, batches and the LightningDataModules. Names are loaded when they are used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from halo_lightning.data.base import FeedbackDataModule as FeedbackDataModule
    from halo_lightning.data.batches import Batch as Batch
    from halo_lightning.data.batches import PairedBatch as PairedBatch
    from halo_lightning.data.batches import Sequences as Sequences
    from halo_lightning.data.batches import SFTBatch as SFTBatch
    from halo_lightning.data.batches import UnaryBatch as UnaryBatch
    from halo_lightning.data.datamodules import PairedDataModule as PairedDataModule
    from halo_lightning.data.datamodules import SFTDataModule as SFTDataModule
    from halo_lightning.data.datamodules import UnaryDataModule as UnaryDataModule
    from halo_lightning.data.rendering import DEFAULT_CHAT_TEMPLATE as DEFAULT_CHAT_TEMPLATE
    from halo_lightning.data.rendering import prepare_tokenizer as prepare_tokenizer
    from halo_lightning.data.sources import OASST as OASST
    from halo_lightning.data.sources import SHP as SHP
    from halo_lightning.data.sources import Label as Label
    from halo_lightning.data.sources import Rated as Rated
    from halo_lightning.data.sources import Source as Source
    from halo_lightning.data.summary import DataSummary as DataSummary

_HOMES = {
    "Batch": "batches",
    "PairedBatch": "batches",
    "SFTBatch": "batches",
    "Sequences": "batches",
    "UnaryBatch": "batches",
    "FeedbackDataModule": "base",
    "PairedDataModule": "datamodules",
    "SFTDataModule": "datamodules",
    "UnaryDataModule": "datamodules",
    "DEFAULT_CHAT_TEMPLATE": "rendering",
    "prepare_tokenizer": "rendering",
    "Source": "sources",
    "Label": "sources",
    "Rated": "sources",
    "SHP": "sources",
    "OASST": "sources",
    "DataSummary": "summary",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
