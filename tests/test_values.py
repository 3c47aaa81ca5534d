"""Human value functions against section 4's formulas, and against what the report says of them."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from halo_lightning import values
from halo_lightning.values import (
    DPOValue,
    HumanValue,
    KahnemanTversky,
    Logistic,
    Properties,
    RLHFValue,
    SLiCValue,
    check_properties,
    shortfall,
)

GRID = [-40.0, -3.0, -1.0, -0.25, 0.25, 1.0, 3.0, 40.0]
ALL = [KahnemanTversky(), Logistic(), Logistic(steepness=2.5), RLHFValue(), DPOValue(), SLiCValue()]
every_value = pytest.mark.parametrize("value", ALL, ids=lambda value: type(value).__name__)


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def kahneman_tversky(z: float, z_ref: float, alpha: float = 0.88, lam: float = 2.25) -> float:
    if z == z_ref:
        return 0.0
    return (z - z_ref) ** alpha if z > z_ref else -lam * (z_ref - z) ** alpha


def slope(value: HumanValue, at: float, dtype: torch.dtype = torch.float64) -> float:
    z = torch.tensor(at, dtype=dtype, requires_grad=True)
    value(z, torch.zeros((), dtype=dtype)).backward()
    assert z.grad is not None
    return z.grad.item()


@pytest.mark.parametrize(
    ("value", "formula"),
    [
        (KahnemanTversky(), kahneman_tversky),
        (KahnemanTversky(alpha=0.5, lam=1.0), lambda z, r: kahneman_tversky(z, r, 0.5, 1.0)),
        (KahnemanTversky(alpha=1.0, lam=3.0), lambda z, r: kahneman_tversky(z, r, 1.0, 3.0)),
        (Logistic(), lambda z, r: sigma(z - r)),
        (Logistic(steepness=0.3), lambda z, r: sigma(0.3 * (z - r))),
        (RLHFValue(), lambda z, r: sigma(z - r)),
        (DPOValue(), lambda z, r: math.log(sigma(z - r))),
        (SLiCValue(), lambda z, r: min(0.0, z - r - 1.0)),
        (SLiCValue(margin=0.3), lambda z, r: min(0.0, z - r - 0.3)),
    ],
)
@pytest.mark.parametrize("z_ref", [-1.0, 0.0, 2.0])
def test_value_is_its_formula(value, formula, z_ref: float) -> None:
    z = torch.tensor(GRID, dtype=torch.float64)
    actual = value(z, torch.full_like(z, z_ref))
    assert actual.tolist() == pytest.approx([formula(x, z_ref) for x in GRID], rel=1e-12)


def test_equation_6_by_hand() -> None:
    h = KahnemanTversky(alpha=0.5, lam=2.0)
    assert h(torch.tensor([5.0, 1.0, -8.0]), torch.tensor([1.0, 1.0, 1.0])).tolist() == [2.0, 0.0, -6.0]


@every_value
def test_value_gradient(value: HumanValue) -> None:
    z = torch.tensor(GRID, dtype=torch.float64, requires_grad=True)
    z_ref = torch.full((len(GRID),), 0.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(value, (z, z_ref))
    assert torch.autograd.gradcheck(value.shortfall, (z, z_ref))


@every_value
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_value_is_finite_everywhere_and_keeps_the_dtype(value: HumanValue, dtype: torch.dtype) -> None:
    z = torch.tensor([-1e4, -1.0, -1e-7, 0.0, 1e-7, 1.0, 1e4], dtype=dtype, requires_grad=True)
    for output in (value(z, torch.zeros_like(z)), value.shortfall(z, torch.zeros_like(z))):
        assert output.dtype == dtype
        assert output.isfinite().all()
        (gradient,) = torch.autograd.grad(output.sum(), z)
        assert gradient.isfinite().all()


@every_value
def test_shortfall_is_the_supremum_less_the_value(value: HumanValue) -> None:
    z = torch.tensor(GRID, dtype=torch.float64)
    z_ref = torch.full_like(z, 0.5)
    assert torch.allclose(value.shortfall(z, z_ref), value.supremum - value(z, z_ref), rtol=0, atol=1e-15)


@pytest.mark.parametrize("value", [Logistic(), RLHFValue(), DPOValue(), SLiCValue()])
def test_supremum_is_approached_and_not_exceeded(value: HumanValue) -> None:
    z = torch.linspace(-100, 100, 401, dtype=torch.float64)
    assert value(z, torch.zeros_like(z)).max().item() == pytest.approx(value.supremum)
    assert (value(z, torch.zeros_like(z)) <= value.supremum).all()


def test_shortfall_of_a_plain_callable() -> None:
    z, z_ref = torch.tensor([3.0]), torch.tensor([1.0])
    assert shortfall(lambda z, z_ref: z - z_ref, z, z_ref).tolist() == [-2.0]  # nothing known: sup h is 0

    def bounded(z: Tensor, z_ref: Tensor) -> Tensor:
        return torch.tanh(z - z_ref)

    bounded.supremum = 1.0  # type: ignore[attr-defined]
    assert shortfall(bounded, z, z_ref).tolist() == pytest.approx([1 - math.tanh(2.0)])
    assert shortfall(Logistic(), z, z_ref).tolist() == pytest.approx([sigma(-2.0)])


def test_shortfall_of_a_module_with_parameters() -> None:
    """A value function may be learned."""

    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(2.0))

        def forward(self, z: Tensor, z_ref: Tensor) -> Tensor:
            return self.scale * (z - z_ref)

    h = Scaled()
    shortfall(h, torch.tensor([3.0]), torch.tensor([1.0])).sum().backward()
    assert h.scale.grad is not None
    assert h.scale.grad.item() == -2.0


@pytest.mark.parametrize("x", [-80.0, -30.0, 0.0, 30.0, 80.0])
def test_sigmoid_and_its_gradient_in_float32(x: float) -> None:
    at = torch.tensor(x, requires_grad=True)
    output = values.sigmoid(at)
    output.backward()
    assert output.item() == pytest.approx(sigma(x), rel=1e-6, abs=0)
    assert at.grad is not None
    assert at.grad.item() == pytest.approx(math.exp(-abs(x)) / (1 + math.exp(-abs(x))) ** 2, rel=1e-5, abs=0)


def test_logistic_shortfall_does_not_cancel() -> None:
    z = torch.tensor([30.0])
    assert (1 - torch.sigmoid(z)).item() == 0.0
    assert Logistic().shortfall(z, torch.zeros(1)).item() == pytest.approx(math.exp(-30), rel=1e-5, abs=0)


# ---------------------------------------------------------------------------------------- Kahneman-Tversky near 0


def test_smoothing_is_exact_outside_and_bounded_inside() -> None:
    """The errors and slopes that the docstring promises."""
    h = KahnemanTversky()
    inside = torch.linspace(-1e-4, 1e-4, 2001, dtype=torch.float64)
    exact = torch.tensor([kahneman_tversky(x, 0.0) for x in inside.tolist()], dtype=torch.float64)
    error = (h(inside, torch.zeros_like(inside)) - exact).abs()
    assert 1.3e-5 < error[inside > 0].max() < 1.5e-5
    assert 3.0e-5 < error[inside < 0].max() < 3.2e-5
    assert slope(h, 0.5e-4) == pytest.approx(3.02, abs=0.01)
    assert slope(h, -0.5e-4) == pytest.approx(6.8, abs=0.01)
    for at in (1.1e-4, 0.02, 7.0):
        assert slope(h, at) == pytest.approx(0.88 * at**-0.12, rel=1e-12)
        assert slope(h, -at) == pytest.approx(2.25 * 0.88 * at**-0.12, rel=1e-12)


@pytest.mark.parametrize("alpha", [0.3, 0.88, 0.99])
@pytest.mark.parametrize("smoothing", [1e-2, 1e-6])
def test_smoothing_error_bound(alpha: float, smoothing: float) -> None:
    inside = torch.linspace(0, smoothing, 1001, dtype=torch.float64)
    error = (KahnemanTversky(alpha, 1.0, smoothing)(inside, torch.zeros_like(inside)) - inside**alpha).abs()
    assert 0 < error.max() < (1 - alpha) * smoothing**alpha


def test_value_and_slope_at_the_reference_point() -> None:
    h = KahnemanTversky()
    assert h(torch.tensor(0.0), torch.tensor(0.0)).item() == 0.0
    assert slope(h, 0.0) == pytest.approx(slope(h, 1e-5))


def test_smoothing_leaves_no_jump() -> None:
    h = KahnemanTversky(smoothing=0.1)
    edge = torch.tensor([0.1 - 1e-12, 0.1 + 1e-12, -0.1 - 1e-12, -0.1 + 1e-12], dtype=torch.float64)
    a, b, c, d = h(edge, torch.zeros_like(edge)).tolist()
    assert a == pytest.approx(b, abs=1e-10)
    assert c == pytest.approx(d, abs=1e-10)


@pytest.mark.parametrize("name", ["alpha", "lam", "smoothing"])
@pytest.mark.parametrize("number", [0.0, -1.0, math.nan])
def test_parameters_are_positive(name: str, number: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be positive, not"):
        KahnemanTversky(**{name: number})


def test_values_are_frozen_and_comparable() -> None:
    assert KahnemanTversky() == KahnemanTversky(0.88, 2.25)
    assert KahnemanTversky() != KahnemanTversky(lam=1.0)
    assert repr(SLiCValue(2.0)) == "SLiCValue(margin=2.0)"
    with pytest.raises(dataclasses.FrozenInstanceError):
        KahnemanTversky().lam = 1.0  # type: ignore[misc]


def test_a_human_value_needs_a_formula() -> None:
    with pytest.raises(TypeError, match="abstract"):
        HumanValue()  # type: ignore[abstract]


# ------------------------------------------------------------------------------------------- section 4's properties


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (KahnemanTversky(), (True, True, True, True)),
        (KahnemanTversky(lam=1.0), (True, True, True, False)),
        (KahnemanTversky(alpha=1.5), (True, False, False, True)),
        (KahnemanTversky(lam=0.5), (True, True, True, False)),
        (Logistic(), (True, True, True, False)),
        (RLHFValue(), (True, True, True, False)),
        (DPOValue(), (True, True, False, True)),
        (SLiCValue(), (True, True, True, True)),
        (lambda z, z_ref: z - z_ref, (True, True, True, False)),
        (lambda z, z_ref: z, (False, True, True, False)),
        (lambda z, z_ref: torch.zeros_like(z), (False, True, True, False)),
        (lambda z, z_ref: (z - z_ref) ** 3, (True, False, False, False)),
        (lambda z, z_ref: torch.tanh(z - z_ref) + 0.1 * z_ref, (False, True, True, False)),
        # Steeper for losses near the reference point, for gains further off: not loss-averse.
        (
            lambda z, z_ref: torch.where(z > z_ref, z - z_ref, 2 * torch.tanh(z - z_ref)),
            (True, True, True, False),
        ),
    ],
)
def test_check_properties(value, expected: tuple[bool, bool, bool, bool]) -> None:
    assert check_properties(value) == Properties(*expected)


def test_the_report_s_claims_about_figure_4() -> None:
    """All have a reference point; most are concave in gains and convex in losses; most are loss-averse."""
    implied = [check_properties(value) for value in (RLHFValue(), DPOValue(), SLiCValue())]
    assert all(p.reference_point for p in implied)
    assert sum(p.concave_in_gains and p.convex_in_losses for p in implied) == 2
    assert sum(p.loss_averse for p in implied) == 2


def test_properties_read_well() -> None:
    assert str(check_properties(DPOValue())) == (
        "reference point: yes, concave in gains: yes, convex in losses: no, loss averse: yes"
    )


def test_values_import_torch_alone() -> None:
    heavy = ["lightning", "pytorch_lightning", "transformers", "peft", "datasets", "torchmetrics"]
    code = f"import sys, halo_lightning.values; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "[]"
