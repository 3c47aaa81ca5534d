"""Simulated people's feedback has the properties of their situation."""

from __future__ import annotations

import numpy as np
import pytest

from halo_lightning.evaluation.value_lab.feedback import BAR, Feedback, Situation, collect
from halo_lightning.evaluation.value_lab.grid import LabCell, waves

MANY = 400


def share_up(feedback: Feedback) -> float:
    """The share of thumbs up."""
    return float(np.mean([row["label"] for row in feedback.thumbs]))


def test_people_follow_their_value_function() -> None:
    feedback = collect(Situation("", noise=1.0, loss_aversion=2.25, prompts=MANY), seed=1)
    assert len(feedback.thumbs) == len(feedback.seen) == 2 * MANY
    assert len(feedback.pairs) == MANY
    for score, chance in ((BAR + 1, 1 / (1 + np.exp(-1))), (BAR, 0.5), (BAR - 1, 1 / (1 + np.exp(2.25)))):
        seen = feedback.seen.up[feedback.seen.rewards == score].double()
        assert abs(float(seen.mean()) - chance) < 4 * (chance * (1 - chance) / len(seen)) ** 0.5


def test_all_situations_have_the_same_completions() -> None:
    plain, other = (collect(one, seed=3) for one in (Situation("", prompts=50), Situation("", noise=4.0, prompts=50)))
    said = [sorted((row["prompt"], row["completion"]) for row in feedback.thumbs) for feedback in (plain, other)]
    assert said[0] == said[1]
    assert [row["prompt"] for row in plain.pairs] == [row["prompt"] for row in other.pairs]


def test_contradicting_people_want_the_opposite() -> None:
    plain, all_of_them = (collect(Situation("", contradictions=share, prompts=50), seed=2) for share in (0.0, 1.0))
    assert all(one["chosen"] == other["rejected"] for one, other in zip(plain.pairs, all_of_them.pairs, strict=True))
    labels = [{(row["prompt"], row["completion"]): row["label"] for row in one.thumbs} for one in (plain, all_of_them)]
    assert all(labels[0][key] != labels[1][key] for key in labels[0])


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_a_share_of_thumbs_up(share: float) -> None:
    feedback = collect(Situation("", desirable=share, prompts=MANY), seed=1)
    assert share_up(feedback) == pytest.approx(share, abs=0.01)
    assert len(feedback.thumbs) < 2 * MANY
    rated = [row["prompt"] + row["completion"] for row in feedback.thumbs]
    assert all(row["prompt"] + row[kind] in rated for row in feedback.pairs for kind in ("chosen", "rejected"))
    assert len(feedback.seen) == 2 * MANY  # the people were asked about all of them


def test_unpaired_feedback() -> None:
    feedback = collect(Situation("", unpaired=0.5, prompts=MANY), seed=1)
    assert len(feedback.thumbs) == MANY + len(feedback.pairs)
    assert len(feedback.pairs) == pytest.approx(MANY / 2, abs=40)


def test_every_model_has_a_folder_of_its_own() -> None:
    stages, others = waves([1, 2], 100, "small")
    cells: list[LabCell] = [*stages, *others]
    assert len({cell.place for cell in cells}) == len({cell.label for cell in cells}) == len(cells)
