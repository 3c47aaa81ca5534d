"""What is found in arrays, against loops over lists."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_lightning.data.batching import TokenizedDataset, TokenizedDatasetBuilder
from halo_lightning.data.feedback import Feedback
from halo_lightning.data.rendering import Encoded
from halo_lightning.inspection import findings
from halo_lightning.inspection.findings import Lengths, fingerprints, nice_edges

EOS = 3
tokens = st.lists(st.integers(0, EOS), min_size=1, max_size=3)
prompts = st.lists(st.integers(0, EOS), min_size=2, max_size=3)  # of one token is what has no prompt
sequences = st.tuples(prompts, tokens)
unary_rows = st.lists(st.tuples(sequences, st.booleans()), max_size=12)
paired_rows = st.lists(st.tuples(prompts, tokens, tokens), max_size=12)


def built(feedback: Feedback, rows: list[list[tuple[list[int], list[int]]]], labels: Any = ()) -> TokenizedDataset:
    builder = TokenizedDatasetBuilder(feedback)
    for number, row in enumerate(rows):
        builder.add(
            [Encoded(*one) for one in row], [1.0], [labels[number]] if labels else [], [("a.jsonl", number + 1)]
        )
    return builder.build()


def check(finding: findings.Finding, members: list[list[int]]) -> None:
    """The same number of examples, and the first groups of them."""
    assert finding.examples == sum(map(len, members))
    assert len(finding.groups) == min(len(members), findings.LISTED)
    for group in finding.groups:
        assert any(group == whole[: findings.LISTED] for whole in members)


@settings(max_examples=150, deadline=None)
@given(unary_rows)
def test_unary(rows: list[tuple[tuple[list[int], list[int]], bool]]) -> None:
    data = built("unary", [[sequence] for sequence, _ in rows], [label for _, label in rows])
    found = fingerprints(data)
    keys = [repr(sequence) for sequence, _ in rows]
    by_key: dict[str, list[int]] = {}
    for number, key in enumerate(keys):
        by_key.setdefault(key, []).append(number)
    check(
        findings.contradictions(data, found),
        [members for members in by_key.values() if len({rows[n][1] for n in members}) == 2],
    )
    copies = Counter(f"{key}{label}" for key, (_, label) in zip(keys, rows, strict=True))
    assert findings.duplicates(data, found).examples == sum(count - 1 for count in copies.values())
    inside = [n for n, ((_, completion), _) in enumerate(rows) if EOS in completion[:-1]]
    check(findings.ends_inside(data, EOS), [[n] for n in inside])
    assert sorted(findings.prompts_of(data, found)) == sorted(Counter(repr(p) for (p, _), _ in rows).values())
    assert len(findings.places_of(data, 1)) == sum((prompt + completion).count(1) for (prompt, completion), _ in rows)


def test_texts_without_a_prompt_have_none_in_common() -> None:
    data = built("sft", [[([0], [1, 2])], [([0], [1, 1])], [([0], [1, 2])]])
    found = fingerprints(data)
    assert sorted(findings.prompts_of(data, found)) == [1, 2]
    assert findings.leakage(data, found, fingerprints(built("sft", [[([0], [1, 1])]])), whole=False).groups == [[1]]


@settings(max_examples=150, deadline=None)
@given(paired_rows)
def test_paired(rows: list[tuple[list[int], list[int], list[int]]]) -> None:
    data = built("paired", [[(prompt, chosen), (prompt, rejected)] for prompt, chosen, rejected in rows])
    found = fingerprints(data)
    assert findings.duplicates(data, found).examples == len(rows) - len({repr(row) for row in rows})
    opposite = [
        number
        for number, (prompt, chosen, rejected) in enumerate(rows)
        if chosen != rejected and (prompt, rejected, chosen) in rows
    ]
    assert findings.contradictions(data, found).examples == len(opposite)
    assert {n for group in findings.contradictions(data, found).groups for n in group} <= set(opposite)
    check(findings.same_on_both_sides(data, found), [[n] for n, (_, c, r) in enumerate(rows) if c == r])
    inside = [n for n, (_, c, r) in enumerate(rows) if EOS in c[:-1] or EOS in r[:-1]]
    check(findings.ends_inside(data, EOS), [[n] for n in inside])


@settings(max_examples=100, deadline=None)
@given(st.lists(sequences, max_size=8), st.lists(sequences, max_size=8))
def test_leakage(train: list[Any], held_out: list[Any]) -> None:
    one, other = (built("sft", [[row] for row in rows]) for rows in (train, held_out))
    arguments = (other, fingerprints(other), fingerprints(one))
    prompts = [prompt for prompt, _ in train]
    check(findings.leakage(*arguments, whole=False), [[n] for n, row in enumerate(held_out) if row[0] in prompts])
    check(findings.leakage(*arguments, whole=True), [[n] for n, row in enumerate(held_out) if row in train])


def test_the_boundary_is_part_of_an_example() -> None:
    data = built("sft", [[([1, 2], [3])], [([1], [2, 3])]])
    assert findings.duplicates(data, fingerprints(data)).examples == 0


def test_what_was_cut_is_counted_once_for_a_pair() -> None:
    builder = TokenizedDatasetBuilder("paired")
    cut, whole = Encoded([1], [2], None, 4, 0), Encoded([1], [2])
    builder.add([cut, cut, whole, whole, whole, cut], [1.0] * 3, [], [("a", 1), ("a", 2), ("a", 3)])
    assert findings.cut_examples(builder.build(), "prompt_cut") == (2, [[0], [2]])
    assert findings.cut_examples(builder.build(), "completion_cut") == (0, [])


def test_ends_of_turns_are_not_inside() -> None:
    builder = TokenizedDatasetBuilder("sft")
    builder.add([Encoded([1], [2, EOS, 1, 2, EOS], [True, True, False, True, True])], [1.0], [])
    assert findings.ends_inside(builder.build(), EOS).examples == 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 5000), min_size=1, max_size=60))
def test_lengths(values: list[int]) -> None:
    lengths = Lengths.of(np.array(values))
    assert (lengths.smallest, lengths.largest, lengths.total) == (min(values), max(values), sum(values))
    assert lengths.mean == pytest.approx(sum(values) / len(values))
    assert sum(value <= lengths.median for value in values) >= len(values) / 2
    assert sum(value <= lengths.p95 for value in values) >= 0.95 * len(values)
    # Every bin but the last is without its upper edge, and the last one cannot reach its own.
    assert lengths.counts == [sum(low <= value < high for value in values) for low, high in pairwise(lengths.edges)]
    assert sum(lengths.counts) == len(values)


def test_round_edges() -> None:
    assert nice_edges(7, 7) == [7, 8]
    assert nice_edges(6, 14) == list(range(6, 16))
    assert nice_edges(3, 43) == list(range(0, 50, 5))
    assert nice_edges(9, 1024) == list(range(0, 1101, 100))
    assert nice_edges(0, 12) == [0, 2, 4, 6, 8, 10, 12, 14]
