"""Families of human value functions that can be estimated: each is a formula with parameters above 0."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from halo_lightning.values import HumanValue, KahnemanTversky, Logistic


@dataclass(frozen=True)
class Shape:
    """A family of value functions.

    Attributes:
        name: What it is called in tables.
        make: Makes a value function from its parameters by name: numbers, or tensors that broadcast with the rewards.
        start: From the spread of the rewards to values of the parameters to begin the search at; all are above 0.

    Example:
        The Kahneman-Tversky function with the same slope on both sides:
        `Shape("not loss-averse", lambda alpha: KahnemanTversky(alpha, 1.0), lambda spread: {"alpha": 1.0})`
    """

    name: str
    make: Callable[..., HumanValue]
    start: Callable[[float], dict[str, float]]

    @property
    def parameters(self) -> list[str]:
        """The names of the parameters."""
        return list(self.start(1.0))


KAHNEMAN_TVERSKY = Shape("Kahneman-Tversky (eq. 6)", KahnemanTversky, lambda spread: {"alpha": 1.0, "lam": 1.0})
"""Equation 6: α and λ."""

LOGISTIC = Shape("logistic (eq. 7)", Logistic, lambda spread: {"steepness": 1.0 / spread})
"""KTO's form: σ(k (z − z_ref)), bounded and symmetric."""

SYMMETRIC = Shape(
    "Kahneman-Tversky with λ = 1", lambda alpha: KahnemanTversky(alpha=alpha, lam=1.0), lambda spread: {"alpha": 1.0}
)
"""Equation 6 without loss aversion."""

STRAIGHT = Shape(
    "Kahneman-Tversky with α = 1", lambda lam: KahnemanTversky(alpha=1.0, lam=lam), lambda spread: {"lam": 1.0}
)
"""Equation 6 without diminishing sensitivity: two straight lines."""


def as_config(value_function: Any) -> dict[str, Any]:
    """A value function as configurations have it: `class_path` and `init_args`."""
    cls = type(value_function)
    return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": dict(vars(value_function))}
