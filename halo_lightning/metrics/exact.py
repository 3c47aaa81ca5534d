"""What all metrics of this package are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torchmetrics import Metric


class ExactMetric(Metric):
    """A metric whose states keep their types where a module is converted, as under `precision: bf16-true`.

    torchmetrics prevents `.half()` and its like, but Lightning converts with `.to(dtype)`: sums would lose digits, and
    processes that restore another type than the others have could not add theirs up.
    """

    full_state_update = False

    def _apply(self, fn: Callable[..., Any], exclude_state: Sequence[str] = "") -> Any:
        if self._dtype_convert:  # `set_dtype` is meant
            return super()._apply(fn, exclude_state)
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), exclude_state)
