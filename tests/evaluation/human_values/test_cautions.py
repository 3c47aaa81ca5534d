"""λ depends on the unit of the rewards on each side; the weight of a usual loss does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from halo_lightning.evaluation.human_values import Thumbs
from halo_lightning.evaluation.human_values.annotators import SimulatedAnnotator
from halo_lightning.evaluation.human_values.cautions import cautions, trained_on, usual_outcomes
from halo_lightning.evaluation.human_values.fitting import FittedValue, fit_value
from halo_lightning.model_folders import MANIFEST
from halo_lightning.values import KahnemanTversky


def fitted(stretch: float) -> FittedValue:
    """A fit to a loss-averse annotator's thumbs, with rewards whose losses are stretched after the answers."""
    annotator = SimulatedAnnotator(KahnemanTversky(alpha=1.0, lam=2.0))
    rewards = 2 * torch.randn(3000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    thumbs = annotator.thumbs(rewards, seed=1)
    stretched = Thumbs(torch.where(rewards < 0, stretch * rewards, rewards), thumbs.up)
    return fit_value(stretched, reference_point=0.0, intervals="wald")


@pytest.mark.parametrize("reference_point", [None, 0.0])
def test_pairs_whose_reference_point_is_estimated_have_wide_intervals(reference_point: float | None) -> None:
    first, second = 2 * torch.randn(2, 300, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pairs = SimulatedAnnotator(KahnemanTversky(alpha=0.88, lam=2.25)).pairs(first, second, seed=1)
    notes = cautions(fit_value(pairs, reference_point=reference_point, intervals="none"), "embedded:base", [])
    assert any("intervals are wide" in note for note in notes) == (reference_point is None)


def test_stretched_losses_lower_lambda_and_not_the_weight_of_a_usual_loss() -> None:
    plain, stretched = fitted(1.0), fitted(8.0)
    assert plain.estimates["lam"].value == pytest.approx(2.0, rel=0.3)
    assert stretched.estimates["lam"].value < 0.6
    weights = [usual_outcomes(one) for one in (plain, stretched)]
    assert weights[0] is not None
    assert weights[1] is not None
    assert weights[0].weight.low < 2.0 < weights[0].weight.high
    assert weights[1].weight.value == pytest.approx(weights[0].weight.value, rel=0.25)
    assert not any("cannot tell people" in note for note in cautions(plain, "embedded:base", []))
    assert any("cannot tell people" in note for note in cautions(stretched, "embedded:base", []))


def test_a_policy_that_was_trained_on_this_feedback_is_named(tmp_path: Path) -> None:
    settings = {"data": {"init_args": {"train": ["thumbs.jsonl", {"path": "more.jsonl"}]}}}
    (tmp_path / MANIFEST).write_text(json.dumps({"settings": settings}))
    assert trained_on(str(tmp_path)) == ["thumbs.jsonl", "more.jsonl"]
    fit = fitted(1.0)
    assert "trained on this very feedback (more.jsonl)" in cautions(fit, str(tmp_path), ["more.jsonl"])[0]
    assert not any("this very" in note for note in cautions(fit, str(tmp_path), ["other.jsonl"]))
    assert trained_on("embedded:base") == []
