"""The pass over all data that computes the reference's log-probabilities before training, or finds them on disk."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer import Trainer
from numpy.typing import NDArray
from torch import Tensor, nn

from halo_lightning.adapters import has_adapter
from halo_lightning.caches import cache_folder
from halo_lightning.data import FeedbackDataModule
from halo_lightning.data.batches import Sequences
from halo_lightning.data.batching import TokenizedDataset
from halo_lightning.errors import ConfigError
from halo_lightning.pretrained import resolve_path
from halo_lightning.reference import ReferenceCache, weights_fingerprint

CHECKED = 8
"""So many sequences are compared before the first step."""
AGREES, AGREES_ROUNDED = 1e-4, 2e-2
"""Nats a token by which a policy may differ from itself, in single precision and below."""

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
        "precision": precision_of(module.trainer),
    }
    if module.lora is not None and module.lora.quantize and module.reference_path in (None, module.policy_path):
        settings["quantize"] = module.lora.quantize  # the reference is the quantised policy
    folder = cache_folder("reference", module.reference_cache)
    return [ReferenceCache(folder, dataset, settings) for dataset in data.datasets]


def precision_of(trainer: Trainer) -> str:
    """The Trainer's precision, and, where it is mixed, whether weights are rounded before anything is computed.

    Strategies that spread weights send them in half precision, so that norms and embeddings are rounded, too; with
    autocast these compute in float32.
    """
    precision = str(trainer.precision)
    rounded = isinstance(trainer.strategy, (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy))
    return f"{precision} with rounded weights" if rounded and precision.endswith("-mixed") else precision


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
    start = _agreement(module, caches)
    new = sum(len(cache.dataset) for cache in missing)
    found = sum(len(cache.dataset) for cache in caches) - new
    return (
        f"reference: log-probabilities of {new:,} examples computed in {time.perf_counter() - began:.1f} s,"
        f" of {found:,} found in {caches[0].folder}{start}"
    )


def _agreement(module: HaloModule, caches: list[ReferenceCache]) -> str:
    """Compares what is kept of the reference with the policy that has not been trained yet, on a few sequences.

    Returns:
        What to say of it, which is nothing where the policy is its own reference, and agrees with it.

    Raises:
        ConfigError: The policy is its own reference, and differs from it.
    """
    own = module.reference_path in (None, module.policy_path)
    if not (module.pair.untrained or (own and has_adapter(module.pair.policy))):
        return ""
    cache = caches[0]
    part = np.arange(min(CHECKED, len(cache.dataset.prompt_lengths)))
    count = int(cache.dataset.completion_offsets[len(part)])
    module.eval()
    policy = _logps_of(module, cache.dataset, None, part)
    module.train()
    assert cache.dataset.reference_logps is not None
    kept = np.asarray(cache.dataset.reference_logps[:count])
    apart = abs(float(policy.mean(dtype=np.float64) - kept.mean(dtype=np.float64)))
    if not own:
        return f"; the policy starts {apart:.2g} nats a token from the reference, since that is {module.reference_path}"
    exact = policy_is_exact(module)
    if not apart <= (AGREES if exact else AGREES_ROUNDED):
        raise ConfigError(
            f"before the first step the policy differs from its own reference (log-probabilities in {cache.path}) by"
            f" {apart:.2g} nats a token, and should not at all: the cache was computed by something else; delete it"
        )
    return ""


def policy_is_exact(module: HaloModule) -> bool:
    """Whether the policy computes in at least single precision."""
    half = any(weight.dtype in (torch.bfloat16, torch.float16) for weight in module.pair.policy.parameters())
    return not half and str(module.trainer.precision).startswith(("32", "64"))


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
