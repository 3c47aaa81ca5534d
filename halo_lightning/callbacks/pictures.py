"""Distributions and pictures of the implicit rewards while a run goes on."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor

from halo_lightning.callbacks.drawing import POINTS, Rewards, draw_kl_against_reward, draw_value_function
from halo_lightning.callbacks.loggers import log_figure, log_histogram, shows_pictures
from halo_lightning.errors import ConfigError
from halo_lightning.modules.base import HaloModule

PICTURES = 10
"""About how many pictures of a kind a run makes where their number is not set."""
KEPT = 1000
"""Most points of KL against reward that are kept; beyond, every second one is forgotten."""
Point = tuple[int, float, float]


class RewardPictures(L.Callback):
    """Logs how the implicit rewards are distributed, where they lie on the value function, and what KL they cost.

    For TensorBoard, Weights & Biases and MLflow; with other loggers, and for methods without rewards, it does nothing.

    - `reward_distributions/desirable` and `/undesirable` (chosen and rejected, for pairs): histograms over the
      examples since the last one; `val/reward_distributions/…` over all held-out examples.
    - `pictures/value function`: the human value function of the run with the latest rewards on it (figure 4, live).
    - `pictures/KL against reward`: the way of the run, and what its margin has cost.

    Nothing is read from the device, and nothing is drawn, in the steps between. Of several processes it is the first
    one's examples that are shown.

    Args:
        every_n_steps: How often, in optimizer steps, rounded up to steps that are logged; None makes about ten
            pictures a run, and 0 none.
    """

    def __init__(self, every_n_steps: int | None = None) -> None:
        if every_n_steps is not None and every_n_steps < 0:
            raise ConfigError(f"pictures.every_n_steps is {every_n_steps}: expected 0 or more")
        self.every_n_steps = every_n_steps
        self._seen: list[dict[str, Tensor]] = []
        self._held_out: list[dict[str, Tensor]] = []
        self._drawn_at = 0
        self._points: dict[str, list[Point]] = {"training": [], "held out": []}

    def _shows(self, trainer: L.Trainer, module: L.LightningModule) -> bool:
        return (
            self.every_n_steps != 0
            and trainer.is_global_zero
            and isinstance(module, HaloModule)
            and "rewards" in module.latest
            and shows_pictures(trainer)
        )

    def period(self, trainer: L.Trainer) -> int:
        """How many optimizer steps are between two pictures: a multiple of those between two logs."""
        log_every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        steps = self.every_n_steps
        if steps is None:
            total = trainer.estimated_stepping_batches
            steps = math.ceil(total / PICTURES) if math.isfinite(total) and total > 0 else 100
        return log_every * math.ceil(steps / log_every)

    # --- training --------------------------------------------------------------------------------------------------

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the rewards of the batch where they are; draws when it is time to."""
        if not self._shows(trainer, pl_module):
            return
        assert isinstance(pl_module, HaloModule)
        self._seen.append(pl_module.latest)
        if trainer.global_step == self._drawn_at or trainer.global_step % self.period(trainer):
            del self._seen[: -max(1, 4 * POINTS // max(1, len(pl_module.latest["rewards"])))]
            return
        self._drawn_at = trainer.global_step
        rewards, self._seen = gathered(self._seen, pl_module), []
        log_distributions(trainer, "reward_distributions", rewards)
        self._note("training", trainer.global_step, rewards, pl_module)
        self._draw(trainer, pl_module, rewards)

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Keeps the rewards of held-out examples."""
        if not trainer.sanity_checking and trainer.state.fn == "fit" and self._shows(trainer, pl_module):
            assert isinstance(pl_module, HaloModule)
            self._held_out.append(pl_module.latest)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs the distributions of held-out examples."""
        if self._held_out:
            assert isinstance(pl_module, HaloModule)
            rewards, self._held_out = gathered(self._held_out, pl_module), []
            log_distributions(trainer, "val/reward_distributions", rewards)
            self._note("held out", trainer.global_step, rewards, pl_module)

    # --- pictures --------------------------------------------------------------------------------------------------

    def _note(self, name: str, step: int, rewards: Rewards, module: HaloModule) -> None:
        """Adds a point to the way of the run, where rewards are log-ratios, and the mean of these the KL."""
        chosen, rejected = rewards.rewards[rewards.desirable], rewards.rewards[~rewards.desirable]
        beta: float = getattr(module, "beta", 0.0)
        if not module.needs_reference or not beta or not len(chosen) or not len(rejected):
            return
        points = self._points[name]
        points.append((step, float(rewards.rewards.mean()) / beta, float(chosen.mean() - rejected.mean())))
        if len(points) > KEPT:
            del points[::2]

    def _draw(self, trainer: L.Trainer, module: HaloModule, rewards: Rewards) -> None:
        title = f"{type(module).__name__}, step {trainer.global_step:,}"
        value = getattr(module, "human_value", None)
        log_figure(trainer, "pictures/value function", draw_value_function(rewards, value, title))
        if any(self._points.values()):
            log_figure(trainer, "pictures/KL against reward", draw_kl_against_reward(self._points, title))

    # --- going on --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The way of the run so far."""
        return {"points": {name: [list(point) for point in points] for name, points in self._points.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from there."""
        self._points = {
            name: [(int(step), kl, margin) for step, kl, margin in points]
            for name, points in state_dict["points"].items()
        }


def gathered(batches: list[dict[str, Tensor]], module: HaloModule) -> Rewards:
    """What several batches made of their examples, brought to the CPU together.

    Args:
        batches: Each what `loss_and_metrics` gave to the metrics.
        module: The method.
    """
    paired = len(batches[-1]["losses"]) * 2 == len(batches[-1]["rewards"])
    values = {
        name: torch.cat([_halves(batch[name], paired, half) for half in (0, 1) for batch in batches]).float().cpu()
        for name in ("rewards", "desirable", "kl")
        if name in batches[-1]
    }
    kl = values.get("kl")
    has_reference_point = not paired and getattr(module, "human_value", None) is not None and kl is not None
    return Rewards(
        rewards=values["rewards"],
        desirable=values["desirable"].bool(),
        reference_points=module.beta * kl.clamp(min=0) if has_reference_point and kl is not None else None,  # type: ignore[operator]
        losses=torch.cat([batch["losses"] for batch in batches]).float().cpu(),
        paired=paired,
    )


def _halves(values: Tensor, paired: bool, half: int) -> Tensor:
    """The chosen or the rejected of pairs; everything, and then nothing, where there are no pairs."""
    if paired:
        return values.chunk(2)[half]
    return values if half == 0 else values[:0]


def log_distributions(trainer: L.Trainer, group: str, rewards: Rewards) -> None:
    """Logs the histograms of both kinds of completions."""
    names = ("chosen", "rejected") if rewards.paired else ("desirable", "undesirable")
    log_histogram(trainer, f"{group}/{names[0]}", rewards.rewards[rewards.desirable])
    log_histogram(trainer, f"{group}/{names[1]}", rewards.rewards[~rewards.desirable])
