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
SIZE = (4.4, 3.8)
"""Width and height in inches: small, so that text is legible in TensorBoard's small pictures."""
PLACES = {"left": 0.17, "right": 0.97, "bottom": 0.14, "top": 0.92}


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
    figure = new_figure(*SIZE, layout=None)  # finding a layout would be most of the time
    places = {**PLACES, "hspace": 0.08}
    above, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (3, 1), **places})
    kinds = _kinds(rewards)
    span = max([3.0, *(1.1 * float(relative.abs().max()) for _, _, relative, _, _ in kinds if len(relative))])
    z = torch.linspace(-span, span, 401, dtype=torch.float64)
    for name, color, relative, outcome, sign in kinds:
        if value is not None:
            above.plot(z, value(sign * z, torch.zeros_like(z)), color=color, linewidth=1.5, label=name)
            points = relative.double()
            outcome = value(sign * points, torch.zeros_like(points))
        label = None if value is not None else name
        above.scatter(relative, outcome, s=30, color=color, alpha=0.35, edgecolors="white", label=label, zorder=3)
        below.hist(relative.numpy(), bins=60, range=(-span, span), color=color, alpha=0.5)
    for axis in (above, below):
        axis.axvline(0, color="black", linewidth=0.5)
        axis.grid(alpha=0.3)
    above.axhline(0, color="black", linewidth=0.5)
    above.set_ylabel("value h(z, z_ref)" if value is not None else "−loss")
    above.set_title(title)
    above.legend(fontsize="small", handlelength=1.2)
    below.set_ylabel("outputs" if not rewards.paired else "pairs")
    single = "reward" if rewards.reference_points is None else "reward − reference point, z − z_ref"
    below.set_xlabel("reward of chosen − of rejected" if rewards.paired else single)
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
        ("desirable", DESIRABLE, relative[good][-POINTS:], -rewards.losses[good][-POINTS:], 1),
        ("undesirable", UNDESIRABLE, relative[~good][-POINTS:], -rewards.losses[~good][-POINTS:], -1),
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
    figure = new_figure(*SIZE, layout=None)
    axis = figure.subplots(gridspec_kw=PLACES)
    for (name, rows), style, color in zip(points.items(), ("-o", "--D"), ("#2166ac", "#e08214"), strict=True):
        if not rows:
            continue
        steps, kl, margin = zip(*rows, strict=True)
        axis.plot(kl, margin, style, color=color, markersize=4, linewidth=1, label=name)
        if name == "training":  # the ends of the other one are beside these
            for place in {0, len(rows) - 1}:
                axis.annotate(
                    f"step {steps[place]:,}",
                    (kl[place], margin[place]),
                    xytext=(0, -14) if place == 0 else (9, 3),
                    textcoords="offset points",
                    ha="center" if place == 0 else "left",
                )
    if any(points.values()):
        axis.legend(fontsize="small")
    axis.margins(x=0.14, y=0.14)
    left, right = axis.get_xlim()
    if left < 0:
        axis.axvspan(left, 0, color="0.95", zorder=0)
        axis.set_xlim(left, right)
        axis.text(0.03, 0.03, "grey: KL is taken as 0", transform=axis.transAxes, fontsize="small", color="0.4")
    axis.set_xlabel("KL: mean log-ratio to the reference, nats")
    axis.set_ylabel("reward margin")
    axis.set_title(title)
    axis.grid(alpha=0.3)
    return figure
