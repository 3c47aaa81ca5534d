"""Loading: a DataLoader that can be continued in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from halo_lightning.data.sampling import BatchSampler
from halo_lightning.errors import ConfigError


class ResumableDataLoader(DataLoader):
    """A DataLoader over a `BatchSampler` that resumes at the very next batch.

    Lightning keeps `state_dict` in its checkpoints and gives it back to `load_state_dict`. What is counted are the
    batches that were handed out, not those that worker processes have prepared in advance.

    Iterating builds nothing before the first batch is asked for: Lightning makes the iterator first, and tells the
    sampler the epoch afterwards.
    """

    _handed_out: tuple[int, int] = (0, 0)  # epoch, batches
    _resume: tuple[int, int] | None = None

    @property
    def batches(self) -> BatchSampler:
        """The sampler.

        Raises:
            ConfigError: It is not a `BatchSampler`.
        """
        if not isinstance(self.sampler, BatchSampler):
            raise ConfigError(f"ResumableDataLoader needs a BatchSampler, found {type(self.sampler).__name__}")
        return self.sampler

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return self._iterate()

    def _iterate(self) -> Iterator[Any]:
        epoch, start = self.batches.epoch, 0
        if self._resume is not None:
            if self._resume[0] == epoch:
                start = self._resume[1]
            self._resume = None
        self.batches.start_at(start)
        iterator = super().__iter__()
        self.batches.start_at(0)
        self._handed_out = (epoch, start)
        for number, batch in enumerate(iterator, start=start + 1):
            self._handed_out = (epoch, number)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Epoch and batches handed out in it, as primitives."""
        epoch, batches = self._resume or self._handed_out
        if batches >= len(self):  # as it is where a run goes on from there
            epoch, batches = epoch + 1, 0
        counts = {"epoch": epoch, "batches": batches, "of": len(self), "accumulate": self.batches.accumulate}
        return {**counts, **self.batches.fingerprint()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues after the batches that a state counts, also where a global batch is divided otherwise now.

        Raises:
            ConfigError: The state is of the middle of an epoch of other data, or with other settings.
        """
        state = dict(state)
        accumulate = int(state.pop("accumulate", self.batches.accumulate))
        epoch, batches, of = (int(state.pop(key)) for key in ("epoch", "batches", "of"))
        if batches >= of:
            epoch, batches = epoch + 1, 0
        expected = self.batches.fingerprint()
        if batches and state != expected:
            keys = sorted(key for key in state.keys() | expected.keys() if state.get(key) != expected.get(key))
            differences = ", ".join(f"{key} was {state.get(key)} and is {expected.get(key)}" for key in keys)
            raise ConfigError(
                f"the checkpoint was made in the middle of an epoch ({batches} of {of} batches), and cannot be"
                f" continued with other data or batches: {differences}. Use the same, or a checkpoint from the end of"
                " an epoch"
            )
        batches = rescaled(batches, accumulate, self.batches.accumulate)
        self._resume = (epoch, batches)
        self.batches.set_epoch(epoch)


def rescaled(micro_batches: int, accumulated: int, accumulate: int) -> int:
    """A number of micro-batches as it is where an optimizer step has another number of them.

    Args:
        micro_batches: How many were done.
        accumulated: How many made an optimizer step then.
        accumulate: How many make one now.

    Raises:
        ConfigError: They end in the middle of a step.
    """
    steps, left = divmod(micro_batches, accumulated)
    if left and accumulate != accumulated:
        raise ConfigError(
            f"the checkpoint was made after {left} of {accumulated} accumulated micro-batches, and cannot be continued"
            f" with {accumulate}: use as many devices and the micro_batch_size that it was made with"
        )
    return steps * accumulate + left


def rescale_progress(loops: dict[str, Any], accumulated: int, accumulate: int) -> None:
    """Lets Lightning's counts of micro-batches say how many there are where a step has another number of them.

    Args:
        loops: The state of Lightning's loops in a checkpoint, which is changed.
        accumulated: How many micro-batches made an optimizer step when it was saved.
        accumulate: How many make one now.

    Raises:
        ConfigError: The checkpoint is of the middle of a step.
    """
    progress = loops.get("fit_loop", {}).get("epoch_loop.batch_progress")
    if progress is None or accumulated == accumulate:
        return
    for counts in (progress["total"], progress["current"]):
        ready = counts["ready"]
        now = rescaled(ready, accumulated, accumulate)
        # Where it was saved at the end of a micro-batch, that one is not counted as completed yet.
        counts.update({name: now - (ready - count) for name, count in counts.items()})
