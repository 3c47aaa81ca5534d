"""The pass over all data that computes the reference's log-probabilities before training, or finds them on disk."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.trainer import Trainer
from numpy.typing import NDArray
from torch import Tensor, nn

from halo_lightning.adapters import has_adapter
from halo_lightning.caches import cache_folder
from halo_lightning.data import FeedbackDataModule
from halo_lightning.data.batches import Sequences
from halo_lightning.data.batching import TokenizedDataset
from halo_lightning.pretrained import resolve_path
from halo_lightning.reference import ReferenceCache, weights_fingerprint

if TYPE_CHECKING:
    from halo_lightning.modules.base import HaloModule


def reference_caches(module: HaloModule) -> list[ReferenceCache]:
    """The caches of the reference's log-probabilities, of training and of validation data, if they are to be used.

    Streamed data, and data of other people's data modules and loaders, is not cached: there the reference is a frozen
    model, or the policy without its adapter.
    """
    data = getattr(module.trainer, "datamodule", None)
    if not (module.needs_reference and module.reference_mode == "cached" and isinstance(data, FeedbackDataModule)):
        return []
    if data.streaming:
        adapter = module.lora is not None and module.reference_path in (None, module.policy_path)
        model = "the policy with its adapter switched off" if adapter else "a second, frozen model in memory"
        module.reference_note = f"reference: {model}, computed in every step, since streamed data is not cached"
        return []
    settings = {
        "weights": _fingerprint(module.reference_path or module.policy_path, module.trainer),
        "dtype": module.dtype_of_weights,
        "precision": str(module.trainer.precision),
    }
    if module.lora is not None and module.lora.quantize and module.reference_path in (None, module.policy_path):
        settings["quantize"] = module.lora.quantize  # the reference is the quantised policy
    datasets = [dataset for dataset in (data.train_dataset, data.validation_dataset) if len(dataset)]
    return [
        ReferenceCache(cache_folder("reference", module.reference_cache), dataset, settings) for dataset in datasets
    ]


def _fingerprint(path: str, trainer: Trainer) -> str:
    """Read by one process, since it reads all weights."""
    own = weights_fingerprint(resolve_path(path)) if trainer.is_global_zero else ""
    fingerprint: str = trainer.strategy.broadcast(own)
    return fingerprint


def compute_missing(module: HaloModule, caches: list[ReferenceCache]) -> str:
    """Computes the log-probabilities that are not in the caches.

    Returns:
        Where all of them came from, for who reads the run's output.
    """
    missing = [cache for cache in caches if cache.dataset.reference_logps is None]
    began, pair, trainer = time.perf_counter(), module.pair, module.trainer
    # The policy is its own reference as long as nothing has changed it; its adapter can always be switched off.
    own = module.reference_path in (None, module.policy_path) and (pair.untrained or has_adapter(pair.policy))
    reference = None if own or not missing else pair.loaded_reference()
    module.eval()
    for cache in missing:
        compute = partial(_logps_of, module, cache.dataset, reference)
        cache.dataset.reference_logps = cache.compute(
            compute, trainer.strategy, trainer.world_size, trainer.global_rank
        )
    module.train()
    new = sum(len(cache.dataset) for cache in missing)
    found = sum(len(cache.dataset) for cache in caches) - new
    return (
        f"reference: log-probabilities of {new:,} examples computed in {time.perf_counter() - began:.1f} s,"
        f" of {found:,} found in {caches[0].folder}"
    )


@torch.no_grad()
def _logps_of(
    module: HaloModule, dataset: TokenizedDataset, reference: nn.Module | None, part: NDArray[np.int64]
) -> NDArray[np.float32]:
    strategy = module.trainer.strategy
    sequences: Sequences = strategy.batch_to_device(dataset.sequences(part), strategy.root_device)
    logps: Any
    if reference is None:
        # Through the strategy, which may have to gather the weights of a sharded model.
        logps = strategy.predict_step(sequences, 0)
    else:
        with strategy.precision_plugin.forward_context():
            logps = reference(sequences)
    assert isinstance(logps, Tensor)
    return logps.float().cpu().numpy()
