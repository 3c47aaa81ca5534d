"""Numbers that cannot work are refused when a thing is made."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from halo_lightning import modules
from halo_lightning.adapters import LoRA
from halo_lightning.errors import ConfigError
from halo_lightning.ranges import Range, check_bounds

METHODS = [getattr(modules, name) for name in modules.__all__ if name != "HaloModule"]
NUMBERS = [
    (method, parameter.name)
    for method in METHODS
    for parameter in inspect.signature(method).parameters.values()
    if parameter.annotation == "float"
]
ALLOWED = {"label_smoothing": (0.0, 0.25, 0.49), "value_clip": (0.0, 0.5)}
"""Beside the default."""


@pytest.mark.parametrize(("method", "name"), NUMBERS, ids=lambda value: getattr(value, "__name__", value))
def test_every_number_of_every_method_has_a_range(method: Any, name: str) -> None:
    for value in (-1, float("nan"), float("inf"), 10**400, None):
        with pytest.raises(ConfigError, match=f"^{name} is .*: expected a finite number"):
            method("embedded:small", **{name: value})
    default = inspect.signature(method).parameters[name].default
    assert method("embedded:small", **{name: default}).hparams[name] == default


def test_there_are_numbers() -> None:
    assert len(NUMBERS) > 25


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("DPO", {"label_smoothing": 1.5}, "label_smoothing is 1.5: expected a finite number of 0 or more and up to 1"),
        ("EXO", {"label_smoothing": 0}, "label_smoothing is 0: expected a finite number above 0 and below 1"),
        ("RobustDPO", {"label_smoothing": 0.5}, "label_smoothing is 0.5: expected .* below 0.5"),
        ("OfflinePPO", {"clip": (2.0, 0.5)}, r"clip is \[2.0, 0.5\]: expected the lower bound first"),
        ("OfflinePPO", {"clip": (float("nan"), 0.5)}, "clip is nan: expected a finite number"),
        ("OfflinePPO", {"gamma": 1.01}, "gamma is 1.01"),
        ("KTO", {"humanline": (1.0, -1.0)}, "humanline is"),
        ("KTO", {"lora": {"rank": 0}}, "lora.rank is 0: expected a whole number of 1 or more"),
        ("KTO", {"lora": {"rank": 1.5}}, "lora.rank is 1.5: expected a whole number"),
        ("KTO", {"lora": {"rank": [1, 2]}}, "lora.rank is"),
        ("KTO", {"lora": {"alpha": -1}}, "lora.alpha is -1"),
    ],
)
def test_numbers_out_of_a_range(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        getattr(modules, method)("embedded:small", **options)


def test_what_is_in_a_range() -> None:
    at_the_bound = [Range(low=0), Range(low=0, open_low=True), Range(high=0), Range(high=0, open_high=True)]
    assert [0.0 in numbers for numbers in at_the_bound] == [True, False, True, False]
    assert [value in Range() for value in ("1", None, [], 1, -1e30)] == [False, False, False, True, True]
    assert str(Range()) == "a finite number"
    check_bounds("clip", None)
    LoRA(rank=1, alpha=1)
