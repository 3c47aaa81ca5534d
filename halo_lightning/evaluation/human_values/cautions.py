"""What a fitted value function does not say: implicit rewards have no unit that is the same for gains and losses.

Answers show u = h(z) / τ of the rewards as they are measured. Were the rewards another increasing function g of what
people feel, the same answers would come from h∘g⁻¹: a stretching of the losses alone, by a factor c, makes λ smaller by
c^α, and no answer can tell. Implicit rewards of a policy that was trained on thumbs or pairs are stretched so:
log π(y|x) of a desirable completion can rise to 0 at most, that of an undesirable one can fall without end. So λ of
implicit rewards is often far below 1 where people are loss-averse. What does not depend on the stretching is how a
*usual* loss compares with a *usual* gain, each the median of what was seen on its side.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from halo_lightning.evaluation.human_values.fitting import Estimate, FittedValue
from halo_lightning.evaluation.human_values.observations import Pairs
from halo_lightning.values import ValueFunction

STRETCHED = 2.0
"""From which ratio on the two sides are said to differ."""


class UsualOutcomes(NamedTuple):
    """What the people saw on either side of the reference point.

    Attributes:
        loss: Median distance of the rewards below it.
        gain: Median distance of those above it.
        weight: How many usual gains a usual loss weighs, with its interval.
    """

    loss: float
    gain: float
    weight: Estimate


def usual_outcomes(fit: FittedValue, *, draws: int = 500, seed: int = 1) -> UsualOutcomes | None:
    """Compares the median loss with the median gain; None where nothing was seen on one side.

    Args:
        fit: The fitted value function.
        draws: Of the estimate, for the interval.
        seed: Of the draws.
    """
    relative = fit.likelihood.observations.rewards_seen - fit.reference_point
    losses, gains = -relative[relative < 0], relative[relative > 0]
    if not len(losses) or not len(gains):
        return None
    loss, gain = float(losses.median()), float(gains.median())
    places = torch.tensor([-loss, gain], dtype=torch.float64)
    zero = torch.zeros_like(places)

    def weight(value_function: ValueFunction) -> float:
        low, high = (value_function(places, zero) - value_function(zero, zero)).tolist()
        return -low / high

    drawn = torch.tensor([weight(one.value_function) for one in fit.draws(draws, seed=seed)], dtype=torch.float64)
    drawn = drawn[drawn.isfinite()]
    tail = (1 - fit.confidence) / 2
    low, high = drawn.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return UsualOutcomes(loss, gain, Estimate(weight(fit.value_function), low, high))


def cautions(fit: FittedValue, policy: str, feedback: Sequence[str]) -> list[str]:
    """What a reader has to know before believing the estimates.

    Args:
        fit: The fitted Kahneman-Tversky function.
        policy: Whose implicit rewards were taken.
        feedback: Where the feedback is from.
    """
    notes = []
    if same := sorted(set(trained_on(policy)) & set(feedback)):
        notes.append(
            f"{policy} was trained on this very feedback ({', '.join(same)}): its rewards"
            " repeat the answers, so that α, λ and τ describe the training, and not the people. Take held-out feedback."
        )
    if isinstance(fit.likelihood.observations, Pairs) and fit.likelihood.fixed_reference_point is None:
        notes.append(
            "pairs show the reference point in the bend of the curve alone: where it is estimated, intervals are wide"
            " (and calibrated by simulation). Give it where it is known."
        )
    usual = usual_outcomes(fit)
    if usual is None:
        notes.append("all rewards are on one side of the reference point: these data say nothing of λ.")
        return notes
    notes.append(
        "λ and α hold for rewards in the unit of this policy, which need not be the same for gains and losses; a policy"
        " that can only lower what is undesirable stretches losses, and λ falls. Free of that: a usual loss (the median"
        f" one, {usual.loss:.3g} below the reference point) weighs as much as {usual.weight} usual gains"
        f" ({usual.gain:.3g} above it)."
    )
    if not 1 / STRETCHED < usual.loss / usual.gain < STRETCHED:
        notes.append(
            f"The rewards reach {usual.loss / usual.gain:.2g} times as far below the reference point as above it: these"
            " data cannot tell people who mind losses less (or more) from rewards that are stretched on one side."
        )
    return notes


def trained_on(policy: str) -> list[str]:
    """The feedback that an export of this package was trained on, as its manifest says; nothing for other models."""
    from halo_lightning.model_folders import read_manifest

    data = ((read_manifest(Path(policy)) or {}).get("settings", {}).get("data") or {}).get("init_args", {})
    sources = data.get("train") or []
    listed = sources if isinstance(sources, list) else [sources]
    return [str(one["path"]) if isinstance(one, dict) and "path" in one else str(one) for one in listed]
