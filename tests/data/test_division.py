"""An effective batch size, divided among processes and micro-batches."""

from __future__ import annotations

import re

import pytest

from halo_lightning.data.division import divide
from halo_lightning.errors import ConfigError


@pytest.mark.parametrize("processes", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("largest", [None, 1, 2, 3, 4, 5, 100])
def test_the_product_is_what_was_asked_for(processes: int, largest: int | None) -> None:
    division = divide(32, processes, largest=largest)
    assert division.micro_batch * division.accumulate * division.processes == 32 == division.batch_size
    assert division.processes == processes
    # No larger micro-batch would do.
    share = 32 // processes
    fitting = [size for size in range(1, share + 1) if share % size == 0 and size <= (largest or share)]
    assert division.micro_batch == max(fitting)


def test_equal_halves() -> None:
    assert divide(12, 2, largest=3, even=True) == (2, 3, 2)
    assert divide(12, 2, largest=3) == (3, 2, 2)


def test_what_the_trainer_was_asked_to_accumulate_is_taken() -> None:
    assert divide(32, 2, accumulate=4) == (4, 4, 2)
    with pytest.raises(ConfigError, match="micro-batches of 4, more than micro_batch_size 2"):
        divide(32, 2, accumulate=4, largest=2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"processes": 6}, "does not divide among 6 processes: .* among 1, 2, 4, 8, 16, 32; among 6, 30 or 36 could"),
        ({"processes": 64}, "among 64, 64 could be"),
        ({"processes": 32, "even": True}, "32 processes, in micro-batches of equal halves: .* among 1, 2, 4, 8, 16;"),
        ({"processes": 2, "accumulate": 3}, "2 processes × 3 accumulated micro-batches"),
        ({"processes": 1, "largest": 1, "even": True}, "micro_batch_size is 1: expected 2 or more"),
    ],
)
def test_says_what_would_do(options: dict, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        divide(32, **options)
    assert re.search(says, str(error.value)), error.value
