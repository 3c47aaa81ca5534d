"""What is cut from an example that is too long."""

from __future__ import annotations

import pytest

from halo_lightning.data.rendering import Encoded
from halo_lightning.data.truncation import Limits, Truncation, truncate
from halo_lightning.errors import ConfigError, DataError, RowNumber

BOS = 0


@pytest.mark.parametrize(
    ("prompt", "completion", "expected"),
    [
        # at most 8 tokens, the prompt cut to no fewer than 3
        pytest.param([1, 2, 3, 4, 5], [6, 7, 8], ([1, 2, 3, 4, 5], [6, 7, 8]), id="fits"),
        pytest.param([1, 2, 3, 4, 5, 6], [7, 8], ([1, 2, 3, 4, 5, 6], [7, 8]), id="long prompt that fits"),
        pytest.param([1, 2, 3, 4, 5, 6], [7, 8, 9], ([2, 3, 4, 5, 6], [7, 8, 9]), id="prompt by one, at its start"),
        pytest.param(
            [1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11], ([3, 4, 5], [6, 7, 8, 9, 10]), id="prompt, then completion"
        ),
        pytest.param([1, 2], [3, 4, 5, 6, 7, 8, 9], ([1, 2], [3, 4, 5, 6, 7, 8]), id="short prompt stays"),
        pytest.param([BOS, 2, 3, 4, 5, 6], [7, 8, 9], ([BOS, 3, 4, 5, 6], [7, 8, 9]), id="beginning stays"),
        pytest.param(list(range(1, 21)), [1], (list(range(14, 21)), [1]), id="as much of the prompt as fits"),
    ],
)
def test_prompt_first_then_completion(prompt: list[int], completion: list[int], expected: tuple) -> None:
    assert truncate(prompt, completion, 8, 3, BOS) == expected


@pytest.mark.parametrize(
    ("prompt", "completion", "tail", "expected"),
    [
        pytest.param([1, 2, 3, 4, 5, 6], [7, 8], 2, ([1, 2, 3, 4, 5, 6], [7, 8]), id="fits"),
        pytest.param([1, 2, 3, 4, 5, 6], [7, 8, 9], 2, ([1, 2, 3, 5, 6], [7, 8, 9]), id="cut in front of the tail"),
        pytest.param([1, 2, 3, 4, 5, 6], [7, 8, 9], 0, ([1, 2, 3, 4, 5], [7, 8, 9]), id="no tail"),
        pytest.param([1, 2, 3, 4, 5], [6] * 6, 2, ([1, 4, 5], [6] * 5), id="then the completion"),
        pytest.param([1, 2, 3, 4, 5], [6] * 6, 3, ([3, 4, 5], [6] * 5), id="room for the tail alone"),
    ],
)
def test_the_start_of_the_prompt_may_stay(prompt: list[int], completion: list[int], tail: int, expected: tuple) -> None:
    assert truncate(prompt, completion, 8, 3, None, "start", tail) == expected


def test_says_which_side_was_cut() -> None:
    truncation = Truncation(Limits(max_length=4, max_prompt_length=2))
    truncation.apply(Encoded([1, 2, 3], [4, 5]), "a.jsonl", RowNumber(3), "start")
    assert "cut 1 prompts at their end (first: a.jsonl, row 3)" in str(truncation)
    truncation.apply(Encoded([1, 2, 3], [4, 5]), "a.jsonl", 4)
    assert "cut 2 prompts at their start or end (1) (first: a.jsonl, row 3)" in str(truncation)


def test_every_length_leaves_a_prompt_and_a_completion() -> None:
    for max_length in range(2, 8):
        for max_prompt_length in range(1, max_length):
            for prompt in range(1, 10):
                for completion in range(1, 10):
                    for bos in (None, 1):
                        p, c = truncate([1] * prompt, [2] * completion, max_length, max_prompt_length, bos)
                        assert p
                        assert c
                        assert len(p) + len(c) == min(prompt + completion, max_length)
                        assert len(p) >= min(prompt, max_prompt_length)
                        assert len(c) == completion or len(p) == min(prompt, max_prompt_length)


def test_counts_what_was_cut() -> None:
    truncation = Truncation(Limits(max_length=4, max_prompt_length=2))
    truncation.apply(Encoded([1, 2], [3, 4]), "a.jsonl", 1)
    assert str(truncation) == "none of 1 sequences is longer than max_length=4"
    truncation.apply(Encoded([1, 2, 3], [4, 5]), "a.jsonl", 2)
    truncation.apply(Encoded([1, 2, 3], [4, 5, 6]), "b.jsonl", 1)
    assert str(truncation) == (
        "cut 2 prompts at their start (first: a.jsonl, line 2) and 1 completions at their end (first: b.jsonl, line 1)"
        " of 3 sequences to fit max_length=4 (max_prompt_length=2)"
    )


def test_refuses_what_is_too_long_if_asked_to() -> None:
    truncation = Truncation(Limits(max_length=4, max_prompt_length=2, too_long="error"))
    truncation.apply(Encoded([1, 2], [3, 4]), "a.jsonl", 1)
    with pytest.raises(DataError, match=r"a.jsonl, line 2: found 3 tokens of prompt and 2 of completion.* at most 4"):
        truncation.apply(Encoded([1, 2, 3], [4, 5]), "a.jsonl", 2)


@pytest.mark.parametrize("numbers", [(1, 1), (0, 1), (4, 0), (4, 4), (4, 5), (-1, -2)])
def test_limits_that_leave_no_room(numbers: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="max_length"):
        Limits(*numbers)


def test_a_mistyped_choice() -> None:
    with pytest.raises(ConfigError, match="'truncate', 'drop' or 'error'"):
        Limits(too_long="cut")  # type: ignore[arg-type]


def test_leaves_out_what_is_too_long_if_asked_to() -> None:
    truncation = Truncation(Limits(max_length=4, max_prompt_length=2, too_long="drop"))
    short, long = Encoded([1, 2], [3, 4]), Encoded([1, 2], [3, 4, 5])
    assert not truncation
    assert [truncation.drop(pair, "a.jsonl", n) for n, pair in enumerate([[short, short], [short, long], [long]])] == [
        False,
        True,
        True,
    ]
    assert truncation
    assert str(truncation) == "left out 2 examples that are longer than max_length=4 (first: a.jsonl, line 1)"
    assert not Truncation(Limits(max_length=4, max_prompt_length=2)).drop([long], "a.jsonl", 1)


def test_what_is_cut_is_noted_with_the_tokens() -> None:
    truncation = Truncation(Limits(max_length=6, max_prompt_length=2))
    encoded = Encoded([1, 2, 3], [4, 5, 6, 7, 8], [True, False, True, True, False])
    cut = truncation.apply(encoded, "a.jsonl", 1)
    assert cut == ([2, 3], [4, 5, 6, 7], [True, False, True, True], 1, 1)
    assert Truncation(Limits()).apply(encoded, "a.jsonl", 1) == encoded
