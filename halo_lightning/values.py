"""Human value functions: how much an outcome z is worth to someone whose reference point is z_ref.

Section 4 of the report defines them, equation (6) is the best known one. Each is a small frozen object, and
its call ``h(z, z_ref)`` is one formula. `halo_lightning.losses.kto_loss` takes any of them, or any callable
of your own::

    >>> import torch
    >>> h = KahnemanTversky(alpha=0.88, lam=2.25)
    >>> h(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 1.0]))
    tensor([ 1.0000, -2.2500])

``z`` and ``z_ref`` are tensors of one shape (or shapes that broadcast), in nats times β when they are
implicit rewards. The result has their dtype. This module imports torch alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "DPOValue",
    "HumanValue",
    "KahnemanTversky",
    "Logistic",
    "Properties",
    "RLHFValue",
    "SLiCValue",
    "ValueFunction",
    "check_properties",
    "shortfall",
    "sigmoid",
]

ValueFunction = Callable[[Tensor, Tensor], Tensor]
"""What the losses accept: ``value(z, z_ref)``. A `HumanValue`, a function, a lambda, a `torch.nn.Module`."""


def sigmoid(x: Tensor) -> Tensor:
    """Return σ(x) = 1 / (1 + e^(−x)), with a gradient that is exact on both sides.

    `torch.sigmoid` computes its gradient as σ(1 − σ), which in float32 is exactly 0 from x ≈ 17 on: an
    example that the policy gets badly wrong would teach it nothing. Here the gradient at x is the one at −x,
    as it should be.

    Args:
        x: Any shape and floating dtype.

    Returns:
        The same shape and dtype.
    """
    return torch.where(x > 0, 1 - torch.sigmoid(-x), torch.sigmoid(x))


class HumanValue(ABC):
    """A human value function h(z, z_ref); subclass it, or pass any callable where one is expected.

    Attributes:
        supremum: sup h, the value that no outcome exceeds; taken as 0 where h is unbounded above, so that a
            loss ``supremum − h`` is then −h.
    """

    supremum: ClassVar[float] = 0.0

    @abstractmethod
    def __call__(self, z: Tensor, z_ref: Tensor) -> Tensor:
        """Return h(z, z_ref)."""

    def shortfall(self, z: Tensor, z_ref: Tensor) -> Tensor:
        """Return sup h − h(z, z_ref), what a loss minimizes; override it where that would cancel."""
        return self.supremum - self(z, z_ref)


def shortfall(value_function: ValueFunction, z: Tensor, z_ref: Tensor) -> Tensor:
    """Return sup h − h(z, z_ref) for a `HumanValue` or for a callable of your own.

    Args:
        value_function: h. Its method ``shortfall(z, z_ref)`` is used if it has one, else its number
            ``supremum``, else the supremum counts as 0.
        z: The outcome.
        z_ref: The reference point.

    Returns:
        What ``value_function`` returns: the same shape and dtype.
    """
    own: ValueFunction | None = getattr(value_function, "shortfall", None)
    if own is not None:
        return own(z, z_ref)
    supremum: float = getattr(value_function, "supremum", 0.0)
    return supremum - value_function(z, z_ref)


@dataclass(frozen=True)
class KahnemanTversky(HumanValue):
    """Equation (6): (z − z_ref)^α above the reference point, −λ (z_ref − z)^α below it.

    Unbounded above, so `supremum` is taken as 0.

    The slope of equation (6) is infinite at the reference point, where training starts (policy = reference,
    KL = 0). Within ``smoothing`` of it the curve is therefore its own chord, a straight line through 0.
    Outside, the value and the gradient are exact. With the defaults the error is at most 1.5e-5 for gains and
    3.2e-5 for losses, the slope at most 3.02 for gains and 6.8 for losses; in general the error is below (1 −
    α) · smoothing^α, λ times that for losses. At exactly z = z_ref, where equation (6) has no case, the value
    is 0 and the gradient the gains' one.

    Args:
        alpha: α, the exponent; 0.88 is the median that Tversky and Kahneman (1992) measured.
        lam: λ, loss aversion; 2.25 is the median that they measured.
        smoothing: Half the width of the straight piece, in the units of z.

    α and λ may also be tensors, with a gradient or one for each of several annotators, that broadcast with z.

    Raises:
        ValueError: If a parameter is not positive.
    """

    alpha: float | Tensor = 0.88
    lam: float | Tensor = 2.25
    smoothing: float = 1e-4

    def __post_init__(self) -> None:
        for name in ("alpha", "lam", "smoothing"):
            if not torch.all(torch.as_tensor(getattr(self, name)) > 0):
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")

    def __call__(self, z: Tensor, z_ref: Tensor) -> Tensor:
        """Return h(z, z_ref; λ; α)."""
        relative = z - z_ref
        gain = relative >= 0
        # Not abs(): its gradient is 0 at 0, and the first step of a training run would have none.
        size = torch.where(gain, relative, -relative)
        power = size * size.clamp(min=self.smoothing) ** (self.alpha - 1)
        return torch.where(gain, power, -self.lam * power)


@dataclass(frozen=True)
class Logistic(HumanValue):
    """Section 5: σ(k (z − z_ref)), the value function of KTO, where k is 1. Symmetric: not loss-averse.

    Args:
        steepness: k, how fast the value saturates. In KTO it does what another β does; it is here for value functions
            that are estimated from outcomes in a given unit. It may also be a tensor that broadcasts with z.
    """

    supremum: ClassVar[float] = 1.0

    steepness: float | Tensor = 1.0

    def __call__(self, z: Tensor, z_ref: Tensor) -> Tensor:
        """Return σ(k (z − z_ref))."""
        return sigmoid(self.steepness * (z - z_ref))

    def shortfall(self, z: Tensor, z_ref: Tensor) -> Tensor:
        """Return 1 − σ(k (z − z_ref)) as σ(k (z_ref − z)), which does not cancel to 0."""
        return sigmoid(self.steepness * (z_ref - z))


@dataclass(frozen=True)
class RLHFValue(Logistic):
    """Section 4, h_RLHF: σ(r(x, y_w) − r(x, y_l)), with z the reward of y_w and z_ref that of y_l.

    The same curve as `Logistic`; what differs is the reference point: the other answer, not the KL.
    """


@dataclass(frozen=True)
class DPOValue(HumanValue):
    """Section 4, h_DPO: log σ(r(x, y_w) − r(x, y_l)), with z the reward of y_w and z_ref that of y_l."""

    def __call__(self, z: Tensor, z_ref: Tensor) -> Tensor:
        """Return log σ(z − z_ref)."""
        return F.logsigmoid(z - z_ref)


@dataclass(frozen=True)
class SLiCValue(HumanValue):
    """Section 4, h_SLiC: min(0, r(x, y_w) − r(x, y_l) − β), with z the reward of y_w and z_ref that of y_l.

    Args:
        margin: The report's β of equation (5), in the units of z.
    """

    margin: float = 1.0

    def __call__(self, z: Tensor, z_ref: Tensor) -> Tensor:
        """Return min(0, z − z_ref − margin)."""
        return (z - z_ref - self.margin).clamp(max=0.0)


class Properties(NamedTuple):
    """Which of the salient qualities of section 4 a value function has; see `check_properties`."""

    reference_point: bool
    concave_in_gains: bool
    convex_in_losses: bool
    loss_averse: bool

    def __str__(self) -> str:
        return ", ".join(
            f"{name.replace('_', ' ')}: {'yes' if holds else 'no'}" for name, holds in self._asdict().items()
        )


def check_properties(value_function: ValueFunction, *, extent: float = 10.0, points: int = 400) -> Properties:
    """Section 4's list: test numerically which qualities of a human value function ``value_function`` has.

    1. ``reference_point``: only z − z_ref matters, and it does matter.
    2. ``concave_in_gains`` and ``convex_in_losses``: diminishing sensitivity on either side of the reference
       point. A straight line counts as both.
    3. ``loss_averse``: at no distance from the reference point is the slope smaller on the losses' side than
       on the gains', and at some distance it is larger.

    Args:
        value_function: h.
        extent: How far from the reference point to look, in the units of z.
        points: On how many points of either side.

    Returns:
        Four truth values, with a readable ``str``. They speak of the grid that was looked at; they are no
        proof.
    """
    distance = torch.linspace(0, extent, points + 1, dtype=torch.float64)
    zero = torch.zeros_like(distance)
    with torch.no_grad():
        gains, losses = value_function(distance, zero), value_function(-distance, zero)
        shifted = [
            (value_function(distance + shift, zero + shift), value_function(-distance + shift, zero + shift))
            for shift in (-3.0, 0.5, 7.0)
        ]
    tolerance = 1e-9 * max(1.0, float(gains.abs().max()), float(losses.abs().max()))

    invariant = all(
        torch.allclose(values, moved, rtol=0, atol=tolerance)
        for pair in shifted
        for values, moved in zip((gains, losses), pair, strict=True)
    )
    varies = float(gains.max() - losses.min()) > tolerance
    # What one more step away from the reference point adds to a gain, and takes from a loss.
    gain_steps, loss_steps = gains.diff(), -losses.diff()
    return Properties(
        reference_point=invariant and varies,
        concave_in_gains=bool((gain_steps.diff() <= tolerance).all()),
        convex_in_losses=bool((loss_steps.diff() <= tolerance).all()),
        loss_averse=bool((loss_steps >= gain_steps - tolerance).all() and (loss_steps > gain_steps + tolerance).any()),
    )
