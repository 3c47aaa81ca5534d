"""The likelihood of answers as a function of unconstrained parameters, with its score and expected information."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halo_lightning.evaluation.human_values.observations import Observations, Utility, utility
from halo_lightning.evaluation.human_values.shapes import Shape
from halo_lightning.values import HumanValue

Vector = NDArray[np.float64]

REFERENCE_POINT, NOISE = "reference_point", "noise"

STEP = 1e-6
"""Of the (forward) differences: their relative error is of this order."""

FAR = 6.0
"""How far from the start a parameter is looked for, on the logarithmic scale: to a factor of 400 either way."""


class Point(NamedTuple):
    """The likelihood at one place.

    Attributes:
        log_likelihood: Log-probability of all answers.
        score: Its gradient, `[d]`.
        information: The expected (Fisher) information, given the rewards, `[d, d]`.
    """

    log_likelihood: float
    score: Vector
    information: Vector


class Unpacked(NamedTuple):
    """The parameters in their own units: one annotator's, or those of B annotators in tensors `[B, 1]`.

    Or those of the annotator who gave each answer, in tensors that end with `[N]`.
    """

    value_function: HumanValue
    reference_point: Tensor
    noise: Tensor
    thresholds: Tensor

    @property
    def utility(self) -> Utility:
        """u, what the answers follow."""
        return utility(self.value_function, self.reference_point, self.noise)


@dataclass(frozen=True)
class Likelihood:
    """The likelihood of a shape's parameters, the reference point, the noise, and thresholds.

    Unconstrained: the shape's parameters are logarithms; the reference point is itself; the noise is the logarithm of
    its ratio to the value of a usual gain, which is well determined also where shape and noise alone are not;
    thresholds are the first one and the logarithms of the distances.

    The expected information is used, and not the observed one: below α = 1 the slope of equation 6 is steep near the
    reference point, and the second derivative with respect to z_ref has no finite variance (α < 1.5), while the
    expected information is finite (α > 1/2).

    Attributes:
        observations: The answers.
        shape: The family of value functions.
        fixed_reference_point: z_ref, where it is known.
        relative_noise: Whether the noise is parametrized relative to the value of a usual gain.
    """

    observations: Observations
    shape: Shape
    fixed_reference_point: float | None = None
    relative_noise: bool = True

    @cached_property
    def names(self) -> list[str]:
        """What each parameter is called."""
        names = self.shape.parameters + [REFERENCE_POINT] * (self.fixed_reference_point is None) + [NOISE]
        return names + [f"threshold {number}" for number in range(1, self.observations.thresholds + 1)]

    @cached_property
    def spread(self) -> float:
        """The standard deviation of the rewards: the unit in which the search thinks of them."""
        return float(self.observations.rewards_seen.std(correction=0)) or 1.0

    def unpack(self, parameters: Vector) -> Unpacked:
        """The parameters in their own units, from unconstrained ones in the order of `names`, `[d]` or `[B, d]`."""
        return self.unpack_columns(list(torch.from_numpy(np.moveaxis(parameters, -1, 0)[..., None])))

    def unpack_columns(self, columns: list[Tensor]) -> Unpacked:
        """The same from one tensor for each parameter, all of a shape that broadcasts with the rewards."""
        rest = list(columns)
        value_function = self.shape.make(**{name: rest.pop(0).exp() for name in self.shape.parameters})
        if self.fixed_reference_point is None:
            reference = rest.pop(0)
        else:
            reference = torch.tensor(self.fixed_reference_point, dtype=torch.float64)
        noise = rest.pop(0).exp()
        if self.relative_noise:
            noise = noise * self.usual_gain(value_function)
        steps = torch.stack([*rest[:1], *(step.exp() for step in rest[1:])], -1) if rest else torch.zeros(0).double()
        return Unpacked(value_function, reference, noise, steps.cumsum(-1))

    def usual_gain(self, value_function: HumanValue) -> Tensor:
        """The value of one standard deviation of the rewards above the reference point."""
        zero = torch.zeros(1, dtype=torch.float64)
        return value_function(zero + self.spread, zero) - value_function(zero, zero)

    def log_probabilities(self, parameters: Vector) -> Tensor:
        """Log-probability of each possible answer, `[N, K]` for parameters `[d]`, `[B, N, K]` for `[B, d]`."""
        unpacked = self.unpack(parameters)
        return self.observations.log_probabilities(unpacked.utility, unpacked.thresholds)

    def log_likelihoods(self, parameters: Vector) -> Vector:
        """Log-probability of all answers, `[B]`, for each row of parameters, `[B, d]`."""
        found: Vector = self.observations.of_answers(self.log_probabilities(parameters)).sum(-1).numpy()
        return found

    def point(self, parameters: Vector) -> Point:
        """Value, score and expected information, by differences: any value function will do."""
        table = self.log_probabilities(parameters + steps(len(parameters)))
        jacobian = slopes(table)  # [d, N, K]
        score = self.observations.of_answers(jacobian).sum(-1)
        information = (jacobian * table[0].exp()).flatten(1) @ jacobian.flatten(1).T
        return Point(float(self.observations.of_answers(table[0]).sum()), score.numpy(), information.numpy())

    @cached_property
    def starts(self) -> list[Vector]:
        """Where to begin the search: at several reference points, since the likelihood may have several peaks there."""
        rewards = self.observations.rewards_seen
        fixed = self.fixed_reference_point
        places = rewards.quantile(torch.linspace(0.1, 0.9, 5).double()).tolist() if fixed is None else [fixed]
        shape = self.shape.start(self.spread)
        levels = torch.arange(1, self.observations.thresholds + 1)
        shares = [float((self.observations.answers < level).double().mean().clamp(1e-3, 1 - 1e-3)) for level in levels]
        bounds = np.log(np.array(shares) / (1 - np.array(shares)))
        scale = [*bounds[:1], *np.log(np.maximum(np.diff(bounds), 0.1))]
        noise = 0.7 if self.relative_noise else 0.7 * float(self.usual_gain(self.shape.make(**shape)))
        start = np.log([*shape.values(), noise])
        return [np.array([*start[:-1], *([place] * (fixed is None)), start[-1], *scale]) for place in places]

    @cached_property
    def region(self) -> tuple[Vector, Vector]:
        """Where parameters are looked for, `[d]` each: the reference point among the rewards, others near the start."""
        low, high = self.starts[0] - FAR, self.starts[0] + FAR
        if self.fixed_reference_point is None:
            seen, place = self.observations.rewards_seen, self.names.index(REFERENCE_POINT)
            low[place], high[place] = float(seen.min()), float(seen.max())
        return low, high

    def penalized(self, parameters: Vector) -> Point:
        """As `point`, less a penalty that grows outside of the region, so that the search ends there."""
        outside = parameters - np.clip(parameters, *self.region)
        penalty = (-50 * float(outside @ outside), -100 * outside, np.diag(100.0 * (outside != 0)))
        point = self.point(parameters)
        return Point(point.log_likelihood + penalty[0], point.score + penalty[1], point.information + penalty[2])


def steps(number: int) -> Vector:
    """No step, and one along each of d parameters, `[d + 1, d]`."""
    return STEP * np.concatenate([np.zeros((1, number)), np.eye(number)])


def slopes(table: Tensor) -> Tensor:
    """The derivatives, `[d, …]`, of what was computed after each of the `steps`, `[d + 1, …]`.

    Far out, where an answer is so improbable that the logarithm of its probability overflows, they are finite.
    """
    return torch.nan_to_num((table[1:] - table[0]) / STEP, nan=0.0, posinf=1e6, neginf=-1e6)


LONGEST = 3.0
"""Of one step of a search."""

Function = Callable[[Vector], Point]


def highest(function: Function, starts: list[Vector], tolerance: float = 1e-6) -> Vector:
    """The best of what several searches find: each is begun, and the two that get highest are brought to their end."""
    begun = starts if len(starts) < 3 else [maximize(function, start, steps=4) for start in starts]
    best = sorted(begun, key=lambda place: -function(place).log_likelihood)[:2]
    ends = (maximize(function, place, tolerance) for place in best)
    return max(ends, key=lambda place: function(place).log_likelihood)


def maximize(function: Function, start: Vector, tolerance: float = 1e-6, steps: int = 100) -> Vector:
    """Fisher scoring, damped where a step does not rise (Levenberg and Marquardt).

    Args:
        function: What is to be as high as possible.
        start: Where to begin, `[d]`.
        tolerance: Of twice the log-likelihood: the search ends where another step promises less, or where the last few
            brought less (at a cusp the score promises what no step keeps).
        steps: Most of them.
    """
    place, here, damping = start, function(start), 1e-3
    heights = [here.log_likelihood]
    for _ in range(steps):
        damped = here.information + np.diag(damping * np.diag(here.information) + 1e-9)
        move = np.linalg.solve(damped, here.score)
        if here.score @ move < tolerance or damping > 1e9:
            break
        move /= max(1.0, float(np.linalg.norm(move)) / LONGEST)
        there = function(place + move)
        if not there.log_likelihood >= here.log_likelihood:
            damping *= 8
            continue
        place, here, damping = place + move, there, damping / 5
        heights.append(here.log_likelihood)
        if len(heights) > 4 and heights[-1] - heights[-5] < max(1e-5, tolerance / 4):
            break
    return place
