"""Pictures of a run in the making: its value function with the rewards on it, and its KL against its reward."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from halo_lightning.figures import new_figure
from halo_lightning.values import ValueFunction

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DESIRABLE, UNDESIRABLE = "#1b7837", "#b2182b"
POINTS = 400
"""Most points that are drawn of each kind, the last ones."""


class Rewards(NamedTuple):
    """What a loss made of N completions; float32 on the CPU.

    Attributes:
        rewards: `[N]`, implicit rewards β·log(π_θ/π_ref).
        desirable: bool `[N]`.
        reference_points: `[N]`, β·KL as each completion sees it; None where a loss has none.
        losses: `[N]`, or `[N/2]` for N/2 pairs.
        paired: Whether the first half are the chosen completions of pairs, and the second half the rejected ones.
    """

    rewards: Tensor
    desirable: Tensor
    reference_points: Tensor | None
    losses: Tensor
    paired: bool


def draw_value_function(rewards: Rewards, value: ValueFunction | None, title: str) -> Figure:
    """Draws the human value function of a run with the completions of its last batches on it (figure 4, live).

    The abscissa is the reward relative to the reference point: z − z_ref, with z_ref = β·KL for single completions,
    and the other completion's reward for pairs. Where no value function is known, the ordinate is −loss.

    Args:
        rewards: Of the last batches.
        value: h(z, z_ref); None where the method has none of section 4's form.
        title: What to write above.

    Returns:
        The figure.
    """
    figure = new_figure(6, 5, layout=None)  # finding a layout would be most of the time
    places = {"left": 0.13, "right": 0.98, "bottom": 0.12, "top": 0.93, "hspace": 0.06}
    above, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (3, 1), **places})
    kinds = _kinds(rewards)
    span = max([3.0, *(1.1 * float(relative.abs().max()) for _, _, relative, _, _ in kinds if len(relative))])
    z = torch.linspace(-span, span, 401, dtype=torch.float64)
    for name, color, relative, outcome, sign in kinds:
        if value is not None:
            above.plot(z, value(sign * z, torch.zeros_like(z)), color=color, linewidth=1.5, label=f"value of {name}")
            points = relative.double()
            outcome = value(sign * points, torch.zeros_like(points))
        label = None if value is not None else f"{name}: −loss"
        above.scatter(relative, outcome, s=36, color=color, alpha=0.35, edgecolors="white", label=label, zorder=3)
        below.hist(relative.numpy(), bins=60, range=(-span, span), color=color, alpha=0.5)
    for axis in (above, below):
        axis.axvline(0, color="black", linewidth=0.5)
        axis.grid(alpha=0.3)
    above.axhline(0, color="black", linewidth=0.5)
    above.set_ylabel("value h(z, z_ref)" if value is not None else "−loss")
    above.set_title(title)
    above.legend(fontsize="small")
    below.set_ylabel("outputs" if not rewards.paired else "pairs")
    below.set_xlabel(
        "reward of the chosen − reward of the rejected one"
        if rewards.paired
        else "reward relative to the reference point, z − z_ref"
    )
    return figure


def _kinds(rewards: Rewards) -> list[tuple[str, str, Tensor, Tensor, int]]:
    """Name, colour, relative rewards, −losses and sign of each kind of outcome."""
    if rewards.paired:
        chosen, rejected = rewards.rewards.chunk(2)
        difference, losses = (chosen - rejected)[-POINTS:], rewards.losses[-POINTS:]
        return [("a pair", "#2166ac", difference, -losses, 1)]
    relative = rewards.rewards
    if rewards.reference_points is not None:
        relative = relative - rewards.reference_points
    good = rewards.desirable
    return [
        ("a desirable output", DESIRABLE, relative[good][-POINTS:], -rewards.losses[good][-POINTS:], 1),
        ("an undesirable output", UNDESIRABLE, relative[~good][-POINTS:], -rewards.losses[~good][-POINTS:], -1),
    ]


def draw_kl_against_reward(points: dict[str, list[tuple[int, float, float]]], title: str) -> Figure:
    """Draws how much reward margin a run has paid how much KL for.

    Args:
        points: For `training` and `held out` the points (step, mean log-ratio in nats, reward margin), in the order of
            the steps.
        title: What to write above.

    Returns:
        The figure.
    """
    figure = new_figure(6, 5, layout=None)
    axis = figure.subplots(gridspec_kw={"left": 0.13, "right": 0.98, "bottom": 0.12, "top": 0.93})
    for (name, rows), marker in zip(points.items(), ("o", "D"), strict=False):
        if rows:
            steps, kl, margin = zip(*rows, strict=True)
            axis.plot(kl, margin, color="0.7", linewidth=0.8, zorder=1)
            axis.scatter(
                kl, margin, c=steps, cmap="viridis", marker=marker, s=30, label=name, zorder=2, edgecolors="0.3"
            )
            for place in {0, len(rows) - 1}:
                axis.annotate(
                    f"{steps[place]:,}", (kl[place], margin[place]), xytext=(5, 5), textcoords="offset points"
                )
    if any(points.values()):
        axis.legend(fontsize="small", title="numbers are steps")
    axis.axvspan(min(0.0, axis.get_xlim()[0]), 0, color="0.95", zorder=0)
    axis.set_xlabel("KL from the reference: mean log-ratio, nats (below 0: taken as 0)")
    axis.set_ylabel("reward margin: desirable minus undesirable")
    axis.set_title(title)
    axis.grid(alpha=0.3)
    return figure
