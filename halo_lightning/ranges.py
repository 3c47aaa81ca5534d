"""Numbers that settings may have: those that cannot work are refused when a thing is made, and not when it is used."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from halo_lightning.errors import ConfigError


@dataclass(frozen=True)
class Range:
    """Finite numbers between two bounds.

    Args:
        low: The lower bound.
        high: The upper bound.
        open_low: Whether the lower bound itself is left out.
        open_high: Whether the upper bound itself is left out.
        whole: Whether it has to be a whole number.
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    whole: bool = False

    def __contains__(self, value: Any) -> bool:
        try:
            finite = math.isfinite(value)
        except (TypeError, OverflowError):  # no number, or a whole one that no float is as large as
            return False
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        right_kind = isinstance(value, int) and not isinstance(value, bool) if self.whole else True
        return finite and above and below and right_kind

    def __str__(self) -> str:
        bounds = []
        if self.low > -math.inf:
            bounds.append(f"above {self.low:,}" if self.open_low else f"of {self.low:,} or more")
        if self.high < math.inf:
            bounds.append(f"below {self.high:,}" if self.open_high else f"up to {self.high:,}")
        what = "a whole number" if self.whole else "a finite number"
        return " ".join([what, " and ".join(bounds)]).strip()

    def check(self, name: str, value: Any) -> None:
        """Refuses what is no number in the range.

        Args:
            name: Of the setting.
            value: Of it.

        Raises:
            ConfigError: It is.
        """
        if value not in self:
            raise ConfigError(f"{name} is {excerpt_of(value)}: expected {self}")


def excerpt_of(value: Any) -> str:
    """A value, as messages show it; Python refuses to write down very large numbers."""
    if isinstance(value, int) and value.bit_length() > 200:
        return f"a number of {value.bit_length()} bits"
    return str(value)[:100]


POSITIVE = Range(low=0, open_low=True)
NOT_NEGATIVE = Range(low=0)
FINITE = Range()
FRACTION = Range(low=0, high=1)
"""From 0 to 1, both of them included."""


def check_bounds(name: str, bounds: Any) -> None:
    """Refuses two bounds that have nothing between them; None is no bounds.

    Raises:
        ConfigError: They are not two finite numbers, the lower one first.
    """
    if bounds is None:
        return
    for bound in bounds:
        FINITE.check(name, bound)
    if not bounds[0] <= bounds[1]:
        raise ConfigError(f"{name} is {list(bounds)}: expected the lower bound first")
