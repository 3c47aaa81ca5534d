"""Every loss against its equation, written a second time in plain Python floats.

`PAIRED` and `UNPAIRED` list the losses that share a signature, so that what holds for all is tested for all.
"""

from __future__ import annotations

import inspect
import math
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from halo_lightning import losses
from halo_lightning.values import DPOValue, KahnemanTversky, Logistic

LOG2 = math.log(2)

# One row per example: policy chosen, policy rejected, reference chosen, reference rejected.
PAIRS = [
    (-12.0, -15.5, -14.0, -13.0),
    (-31.25, -7.5, -20.0, -9.0),
    (-3.0, -3.0, -3.0, -3.0),
    (-48.0, -61.0, -50.5, -40.25),
]
# Policy, reference, desirable.
SINGLES = [
    (-12.0, -14.0, True),
    (-15.5, -13.0, False),
    (-31.25, -20.0, True),
    (-7.5, -9.0, False),
    (-5.0, -5.0, True),
]
CHOSEN_LENGTHS, REJECTED_LENGTHS = [6, 11, 2, 16], [5, 4, 2, 30]


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def column(rows: list[tuple], index: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor([row[index] for row in rows], dtype=torch.bool if isinstance(rows[0][index], bool) else dtype)


def pairs(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [column(PAIRS, index, dtype) for index in range(4)]


def singles(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [column(SINGLES, index, dtype) for index in range(3)]


def nll(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor([2.0, 0.5, 1.5, 3.0], dtype=dtype)


def lengths() -> tuple[Tensor, Tensor]:
    return torch.tensor(CHOSEN_LENGTHS), torch.tensor(REJECTED_LENGTHS)


# ---------------------------------------------------- the equations, from log-ratios a (chosen), b (rejected)


def dpo(a: float, b: float, beta: float = 0.1, eps: float = 0.0) -> float:
    p = sigma(beta * a - beta * b)
    return -(1 - eps) * math.log(p) - eps * math.log(1 - p)


def robust_dpo(a: float, b: float, beta: float = 0.1, eps: float = 0.1) -> float:
    return ((1 - eps) * dpo(a, b, beta) - eps * dpo(b, a, beta)) / (1 - 2 * eps)


def ipo(a: float, b: float, beta: float = 0.1) -> float:
    return (a - b - 1 / (2 * beta)) ** 2


def sppo_hard(a: float, b: float, beta: float = 0.001) -> float:
    eta = 1 / beta
    return (a - eta * (1 - 0.5)) ** 2 + (b - eta * (0 - 0.5)) ** 2


def exo(a: float, b: float, beta: float = 0.1, eps: float = 0.001) -> float:
    q = math.exp(beta * a) / (math.exp(beta * a) + math.exp(beta * b))
    return q * math.log(q / (1 - eps)) + (1 - q) * math.log((1 - q) / eps)


def nca(a: float, b: float, beta: float = 0.01) -> float:
    return -math.log(sigma(beta * a)) - (math.log(sigma(-beta * a)) + math.log(sigma(-beta * b))) / 2


def apo_zero(a: float, b: float, beta: float = 0.1) -> float:
    return 1 - sigma(beta * a) + sigma(beta * b)


def apo_down(a: float, b: float, beta: float = 0.1) -> float:
    return sigma(beta * a) + 1 - sigma(beta * (a - b))


# loss, equation, closed form where policy = reference
PAIRED: dict[str, tuple[Callable[..., Tensor], Callable[..., float], float]] = {
    "dpo": (losses.dpo_loss, dpo, LOG2),
    "robust_dpo": (losses.robust_dpo_loss, robust_dpo, LOG2),
    "ipo": (losses.ipo_loss, ipo, 25.0),
    "sppo_hard": (losses.sppo_hard_loss, sppo_hard, 500_000.0),
    "exo": (losses.exo_loss, exo, -LOG2 - (math.log(0.999) + math.log(0.001)) / 2),
    "nca": (losses.nca_loss, nca, 2 * LOG2),
    "apo_zero": (losses.apo_zero_loss, apo_zero, 1.0),
    "apo_down": (losses.apo_down_loss, apo_down, 1.0),
}
paired = pytest.mark.parametrize("name", PAIRED)


def kto(log_ratio: float, desirable: bool, kl: float = 0.0, beta: float = 0.1) -> float:
    z, z_ref = beta * log_ratio, beta * kl
    return 1 - sigma(z - z_ref) if desirable else 1 - sigma(z_ref - z)


def bco(log_ratio: float, desirable: bool, shift: float = 0.0, beta: float = 0.01) -> float:
    p = sigma(beta * log_ratio - shift)
    return -math.log(p if desirable else 1 - p)


# loss as a function of (policy, reference, desirable), equation, closed form where policy = reference
UNPAIRED: dict[str, tuple[Callable[..., Tensor], Callable[..., float], float]] = {
    "kto": (lambda *x, **k: losses.kto_loss(*x, 0.0, **k), kto, 0.5),
    "apo_zero_unpaired": (losses.apo_zero_unpaired_loss, kto, 0.5),
    "bco": (lambda *x, **k: losses.bco_loss(*x, 0.0, **k), bco, LOG2),
}
unpaired = pytest.mark.parametrize("name", UNPAIRED)


def assert_equals(actual: Tensor, expected: list[float], rel: float = 1e-12) -> None:
    assert actual.shape == (len(expected),)
    assert actual.tolist() == pytest.approx(expected, rel=rel, abs=1e-14)


def gradients(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss.sum(), inputs)


# ------------------------------------------------------------------------------------- pairs with a reference


@paired
@pytest.mark.parametrize("beta", [None, 0.3])
def test_paired_loss_is_its_equation(name: str, beta: float | None) -> None:
    loss, equation, _ = PAIRED[name]
    settings = {} if beta is None else {"beta": beta}
    expected = [equation(pc - rc, pr - rr, **settings) for pc, pr, rc, rr in PAIRS]
    assert_equals(loss(*pairs(), **settings), expected, rel=1e-10)


@paired
def test_paired_loss_where_policy_is_reference(name: str) -> None:
    loss, _, closed_form = PAIRED[name]
    chosen, rejected = torch.tensor([-3.5, -70.0]).double(), torch.tensor([-9.0, -2.0]).double()
    assert_equals(loss(chosen, rejected, chosen, rejected), [closed_form] * 2)


@paired
def test_paired_loss_gradient(name: str) -> None:
    inputs = [x.requires_grad_() for x in pairs()]
    assert torch.autograd.gradcheck(PAIRED[name][0], inputs)


@pytest.mark.parametrize("eps", [0.0, 0.2, 0.5, 1.0])
def test_conservative_dpo(eps: float) -> None:
    expected = [dpo(pc - rc, pr - rr, 0.1, eps) for pc, pr, rc, rr in PAIRS]
    assert_equals(losses.dpo_loss(*pairs(), label_smoothing=eps), expected)


def test_robust_dpo_is_unbiased() -> None:
    """Over labels of which a fraction ε is flipped, its mean is the DPO loss of the clean ones."""
    pc, pr, rc, rr = pairs()
    clean = losses.robust_dpo_loss(pc, pr, rc, rr, label_smoothing=0.2)
    flipped = losses.robust_dpo_loss(pr, pc, rr, rc, label_smoothing=0.2)
    assert_equals(0.8 * clean + 0.2 * flipped, losses.dpo_loss(pc, pr, rc, rr).tolist())


def test_exo_is_zero_where_it_wants_to_be() -> None:
    """q = p, that is β (a − b) = log((1 − ε)/ε), is the minimum of EXO."""
    a = torch.tensor([math.log(0.9 / 0.1) / 0.5], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float64)
    loss = losses.exo_loss(a, zero, zero, zero, beta=0.5, label_smoothing=0.1)
    assert_equals(loss, [0.0])
    assert gradients(loss, a)[0].abs().item() < 1e-15


@pytest.mark.parametrize("loss", [losses.dpo_loss, losses.robust_dpo_loss, losses.exo_loss])
@pytest.mark.parametrize("eps", [-0.1, 1.5])
def test_label_smoothing_is_a_probability(loss: Callable[..., Tensor], eps: float) -> None:
    with pytest.raises(ValueError, match=r"label_smoothing .* not (-0.1|1.5)"):
        loss(*pairs(), label_smoothing=eps)


def test_robust_dpo_knows_no_coin_flips() -> None:
    with pytest.raises(ValueError, match="label_smoothing"):
        losses.robust_dpo_loss(*pairs(), label_smoothing=0.5)


# ---------------------------------------------------------------------------------- pairs without a reference


def test_bradley_terry() -> None:
    chosen, rejected = torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([0.0, 3.0, 0.5]).double()
    loss = losses.bradley_terry_loss(chosen, rejected)
    assert_equals(loss, [-math.log(sigma(1.0)), -math.log(sigma(-5.0)), LOG2])
    assert torch.autograd.gradcheck(losses.bradley_terry_loss, (chosen.requires_grad_(), rejected.requires_grad_()))


def test_slic_by_hand() -> None:
    chosen, rejected = torch.tensor([-2.0, -2.0, -2.0]).double(), torch.tensor([-5.0, -2.5, -1.0]).double()
    # max(0, 1 + 2 - 5) = 0; max(0, 1 + 2 - 2.5) = 0.5; max(0, 1 + 2 - 1) = 2; and a tenth of the NLL on top.
    loss = losses.slic_loss(chosen, rejected, torch.tensor([1.0, 2.0, 3.0]).double())
    assert_equals(loss, [0.1, 0.7, 2.3])


def test_slic_is_equation_5() -> None:
    pc, pr, _, _ = pairs()
    expected = [max(0.0, 12.0 - p + r) + 0.7 * n for (p, r, _, _), n in zip(PAIRS, nll().tolist(), strict=True)]
    assert_equals(losses.slic_loss(pc, pr, nll(), margin=12.0, regularization=0.7), expected)
    inputs = [x.requires_grad_() for x in (pc, pr, nll())]
    assert torch.autograd.gradcheck(lambda *x: losses.slic_loss(*x, margin=12.0), inputs)


def test_cpo() -> None:
    pc, pr, _, _ = pairs()
    for settings, beta, weight in (({}, 0.1, 1.0), ({"beta": 0.3, "regularization": 0.5}, 0.3, 0.5)):
        expected = [
            -math.log(sigma(beta * p - beta * r)) + weight * n
            for (p, r, _, _), n in zip(PAIRS, nll().tolist(), strict=True)
        ]
        assert_equals(losses.cpo_loss(pc, pr, nll(), **settings), expected)
    assert torch.autograd.gradcheck(losses.cpo_loss, [x.requires_grad_() for x in (pc, pr, nll())])


def test_rpo() -> None:
    for settings, beta, alpha in (({}, 0.1, 1.0), ({"beta": 0.3, "regularization": 0.5}, 0.3, 0.5)):
        expected = [
            dpo(pc - rc, pr - rr, beta) + alpha * n for (pc, pr, rc, rr), n in zip(PAIRS, nll().tolist(), strict=True)
        ]
        assert_equals(losses.rpo_loss(*pairs(), nll(), **settings), expected)
    assert torch.autograd.gradcheck(losses.rpo_loss, [x.requires_grad_() for x in (*pairs(), nll())])


def test_simpo() -> None:
    pc, pr, _, _ = pairs()
    for settings, beta, gamma in (({}, 2.0, 1.0), ({"beta": 2.5, "margin": 0.3}, 2.5, 0.3)):
        expected = [
            -math.log(sigma(beta / m * p - beta / n * r - gamma))
            for (p, r, _, _), m, n in zip(PAIRS, CHOSEN_LENGTHS, REJECTED_LENGTHS, strict=True)
        ]
        assert_equals(losses.simpo_loss(pc, pr, *lengths(), **settings), expected)
    inputs = [pc.requires_grad_(), pr.requires_grad_()]
    assert torch.autograd.gradcheck(lambda *x: losses.simpo_loss(*x, *lengths()), inputs)


def test_orpo() -> None:
    pc, pr, _, _ = pairs()
    expected = []
    for (p, r, _, _), m, n in zip(PAIRS, CHOSEN_LENGTHS, REJECTED_LENGTHS, strict=True):
        chosen, rejected = math.exp(p / m), math.exp(r / n)
        odds_ratio = (chosen / (1 - chosen)) / (rejected / (1 - rejected))
        expected.append(-math.log(chosen) - 0.1 * math.log(sigma(math.log(odds_ratio))))
    assert_equals(losses.orpo_loss(pc, pr, *lengths()), expected)
    more = losses.orpo_loss(pc, pr, *lengths(), regularization=0.2) - losses.orpo_loss(pc, pr, *lengths())
    assert_equals(more, [e + p / m for e, (p, _, _, _), m in zip(expected, PAIRS, CHOSEN_LENGTHS, strict=True)])
    inputs = [pc.requires_grad_(), pr.requires_grad_()]
    assert torch.autograd.gradcheck(lambda *x: losses.orpo_loss(*x, *lengths()), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logp", [0.0, -1e-9, -1e4])
def test_orpo_is_finite_where_the_odds_are_not(dtype: torch.dtype, logp: float) -> None:
    x = torch.full((1,), logp, dtype=dtype, requires_grad=True)
    y = torch.full((1,), -1.0, dtype=dtype, requires_grad=True)
    one = torch.ones(1)
    for loss in (losses.orpo_loss(x, y, one, one), losses.orpo_loss(y, x, one, one)):
        assert loss.isfinite().all()
        assert all(g.isfinite().all() for g in gradients(loss, x, y))


@pytest.mark.parametrize("loss", [losses.simpo_loss, losses.orpo_loss])
def test_no_tokens_is_not_a_division_by_zero(loss: Callable[..., Tensor]) -> None:
    x, y = torch.zeros(1, requires_grad=True), torch.full((1,), -2.0, requires_grad=True)
    value = loss(x, y, torch.tensor([0]), torch.tensor([2]))
    assert value.isfinite().all()
    assert all(g.isfinite().all() for g in gradients(value, x, y))


# --------------------------------------------------------------------------------------------------- KTO, BCO


@unpaired
@pytest.mark.parametrize("beta", [None, 0.3])
def test_unpaired_loss_is_its_equation(name: str, beta: float | None) -> None:
    loss, equation, _ = UNPAIRED[name]
    settings = {} if beta is None else {"beta": beta}
    assert_equals(loss(*singles(), **settings), [equation(p - r, d, **settings) for p, r, d in SINGLES])


@unpaired
def test_unpaired_loss_where_policy_is_reference(name: str) -> None:
    loss, _, closed_form = UNPAIRED[name]
    x = torch.tensor([-3.5, -70.0]).double()
    assert_equals(loss(x, x, torch.tensor([True, False])), [closed_form] * 2)


@unpaired
def test_unpaired_loss_gradient(name: str) -> None:
    policy, reference, desirable = singles()
    assert torch.autograd.gradcheck(
        lambda p, r: UNPAIRED[name][0](p, r, desirable), (policy.requires_grad_(), reference.requires_grad_())
    )


def test_kto_by_hand() -> None:
    policy, reference = torch.tensor([-8.0, -9.0]), torch.tensor([-10.0, -10.0])
    loss = losses.kto_loss(policy, reference, torch.tensor([True, False]), 1.5, beta=2.0)
    # 1 - σ(2 · 2 - 2 · 1.5) = 1 - σ(1); 1 - σ(2 · 1.5 - 2 · 1) = 1 - σ(1)
    assert loss.tolist() == pytest.approx([0.2689414, 0.2689414])


@pytest.mark.parametrize("kl", [0.7, -2, torch.tensor(0.7), torch.tensor([0.7, 0.0, 4.0, 1.5, 2.0]).double()])
def test_kto_takes_a_number_a_scalar_or_one_per_example(kl: float | Tensor) -> None:
    per_example = kl.double().expand(5).tolist() if isinstance(kl, Tensor) else [float(kl)] * 5
    loss = losses.kto_loss(*singles(), kl, beta=0.3, desirable_weight=4 / 3, undesirable_weight=0.7)
    expected = [
        (4 / 3 if d else 0.7) * kto(p - r, d, k, 0.3) for (p, r, d), k in zip(SINGLES, per_example, strict=True)
    ]
    assert_equals(loss, expected)
    assert loss.dtype == torch.float64


def test_kto_gradient_flows_through_kl() -> None:
    policy, reference, desirable = singles()
    assert torch.autograd.gradcheck(
        lambda p, k: losses.kto_loss(p, reference, desirable, k, beta=0.4, desirable_weight=1.3),
        (policy.requires_grad_(), torch.tensor([0.7, 0.1, 4.0, 1.5, 2.0]).double().requires_grad_()),
    )


def kahneman_tversky(z: float, z_ref: float) -> float:
    return (z - z_ref) ** 0.88 if z > z_ref else -2.25 * (z_ref - z) ** 0.88


@pytest.mark.parametrize(
    ("h", "plain", "supremum"),
    [
        (KahnemanTversky(), kahneman_tversky, 0.0),
        (Logistic(), lambda z, z_ref: sigma(z - z_ref), 1.0),
        (DPOValue(), lambda z, z_ref: math.log(sigma(z - z_ref)), 0.0),
        (lambda z, z_ref: (z - z_ref) ** 3, lambda z, z_ref: (z - z_ref) ** 3, 0.0),
    ],
)
def test_kto_with_another_value_function(h, plain, supremum) -> None:
    kl, beta = 0.9, 0.3
    loss = losses.kto_loss(*singles(), kl, beta=beta, undesirable_weight=0.7, value_function=h)
    expected = [
        1.0 * (supremum - plain(beta * (p - r), beta * kl))
        if d
        else 0.7 * (supremum - plain(beta * kl, beta * (p - r)))
        for p, r, d in SINGLES
    ]
    assert_equals(loss, expected)


def test_kto_learns_from_the_first_step_with_equation_6() -> None:
    """Where policy = reference and KL = 0, the slope of (6) is infinite; ours is finite, and not 0."""
    policy = torch.full((2,), -5.0, requires_grad=True)
    desirable = torch.tensor([True, False])
    loss = losses.kto_loss(policy, policy.detach(), desirable, 0.0, value_function=KahnemanTversky())
    (gradient,) = gradients(loss, policy)
    assert gradient.isfinite().all()
    assert gradient[0] < 0 < gradient[1]


def test_bco() -> None:
    expected = [bco(p - r, d, 0.25, 0.2) for p, r, d in SINGLES]
    for shift in (0.25, torch.tensor(0.25)):
        assert_equals(losses.bco_loss(*singles(), shift, beta=0.2), expected)
    with pytest.raises(ValueError, match=r"reward_shift has shape \(5,\)"):
        losses.bco_loss(*singles(), torch.zeros(5))


# ----------------------------------------------------------------------------------------------- KL estimates


def test_kl_comes_from_the_other_half() -> None:
    policy = torch.tensor([-1.0, -2.0, -3.0, -4.0, -5.0])
    reference = torch.tensor([-2.0, -4.0, -9.0, -2.0, -10.0])  # log-ratios 1, 2, 6, -2, 5
    desirable = torch.tensor([True, False, True, True, False])
    # mean of the desirable (1 + 6 - 2) / 3, of the undesirable (2 + 5) / 2
    kl = losses.kl_from_halves(policy, reference, desirable)
    assert kl.tolist() == pytest.approx([3.5, 5 / 3, 3.5, 3.5, 5 / 3])
    assert not kl.requires_grad


def test_kl_is_never_negative() -> None:
    policy, reference = torch.tensor([-3.0, -1.0, -2.0]), torch.tensor([-1.0, -2.0, -2.5])  # -2; 1, 0.5
    kl = losses.kl_from_halves(policy, reference, torch.tensor([True, False, False]))
    assert kl.tolist() == [0.75, 0.0, 0.0]


@pytest.mark.parametrize("label", [True, False])
@pytest.mark.parametrize("n", [1, 3])
def test_kl_of_an_empty_half_is_zero(label: bool, n: int) -> None:
    policy = torch.linspace(-1, -2, n, requires_grad=True)
    desirable = torch.full((n,), label)
    kl = losses.kl_from_halves(policy, torch.full((n,), -9.0), desirable, detach=False)
    assert kl.tolist() == [0.0] * n
    loss = losses.kto_loss(policy, torch.full((n,), -9.0), desirable, kl)
    (gradient,) = gradients(loss, policy)
    assert gradient.isfinite().all()
    assert (gradient != 0).all()


def test_detach_decides_whether_the_gradient_passes_the_kl() -> None:
    policy = torch.tensor([-1.0, -2.0, -3.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-2.0, -4.0, -9.0], dtype=torch.float64)
    desirable = torch.tensor([True, False, True])
    assert not losses.kl_from_halves(policy, reference, desirable).requires_grad
    (gradient,) = gradients(losses.kl_from_halves(policy, reference, desirable, detach=False), policy)
    # Two desirable examples see the one undesirable; one undesirable sees the mean of the two desirable.
    assert gradient.tolist() == pytest.approx([0.5, 2.0, 0.5])
    assert torch.autograd.gradcheck(lambda p: losses.kl_from_halves(p, reference, desirable, detach=False), policy)


def test_kl_gradient_roughly_doubles_the_gradient() -> None:
    """DESIGN.md: the released code's gradient is about twice ours where the KL is above 0."""
    policy = torch.tensor([-9.0, -9.0], dtype=torch.float64, requires_grad=True)
    reference, desirable = torch.tensor([-10.0, -10.0]).double(), torch.tensor([True, False])
    sizes = []
    for detach in (True, False):
        kl = losses.kl_from_halves(policy, reference, desirable, detach=detach)
        (gradient,) = gradients(losses.kto_loss(policy, reference, desirable, kl), policy)
        sizes.append(gradient.abs().sum().item())
    assert sizes[1] == pytest.approx(2 * sizes[0])


def test_kl_from_mismatched() -> None:
    policy = torch.tensor([-1.0, -2.0, -3.0], dtype=torch.float64, requires_grad=True)
    kl = losses.kl_from_mismatched(policy, torch.tensor([-2.0, -4.0, -2.5]).double())
    assert kl.shape == ()
    assert kl.item() == pytest.approx((1 + 2 - 0.5) / 3)
    assert not kl.requires_grad
    assert losses.kl_from_mismatched(policy, torch.zeros(3)).item() == 0.0
    assert losses.kl_from_mismatched(torch.zeros(0), torch.zeros(0)).item() == 0.0
    (gradient,) = gradients(losses.kl_from_mismatched(policy, policy.detach() - 1, detach=False), policy)
    assert gradient.tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize(
    ("n_d", "n_u", "weights"),
    [
        (100, 100, (1.0, 1.0)),
        (4, 3, (1.0, 1.0)),
        (120, 100, (1.0, 1.0)),
        (100, 1000, (10.0, 1.0)),
        (1000, 100, (1.0, 7.5)),
        (3, 4, (4 / 3, 1.0)),
    ],
)
def test_suggested_kto_weights(n_d: int, n_u: int, weights: tuple[float, float]) -> None:
    suggested = losses.suggested_kto_weights(n_d, n_u)
    assert suggested == pytest.approx(weights)
    assert 1 - 1e-9 <= suggested[0] * n_d / (suggested[1] * n_u) <= 4 / 3 + 1e-9


def test_suggested_kto_weights_of_the_later_range() -> None:
    assert losses.suggested_kto_weights(300, 100, largest_ratio=1.5) == pytest.approx((1.0, 2.0))
    with pytest.raises(ValueError, match="largest_ratio"):
        losses.suggested_kto_weights(1, 1, largest_ratio=0.9)


@pytest.mark.parametrize("numbers", [(0, 5), (5, 0), (-1, 5)])
def test_one_kind_of_feedback_has_no_weights(numbers: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="both kinds of feedback"):
        losses.suggested_kto_weights(*numbers)


# ------------------------------------------------------------------------------------------------ offline PPO

# Log-ratios of 3 tokens by 3 examples, and how many tokens each has.
TOKENS = [[0.1, -0.3, 2.0], [-1.5, 0.9, 0.0], [0.4, 0.2, -0.1]]
MASK = [[True, True, True], [True, True, False], [False, True, False]]
DEFAULT_CLIP = {"probability": (0.5, 2.0), "log": (-LOG2, LOG2)}


def ppo(tokens: list[float], mask: list[bool], advantages: list[float], ratio: str, low: float, high: float) -> float:
    total = 0.0
    for log_ratio, counts, advantage in zip(tokens, mask, advantages, strict=True):
        if counts:
            r = math.exp(log_ratio) if ratio == "probability" else log_ratio
            total += min(r * advantage, min(max(r, low), high) * advantage)
    return -total / sum(mask)


def token_logps(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    reference = torch.tensor([[-2.0, -1.0, -3.0], [-0.5, -4.0, -1.0], [-2.0, -1.5, -2.5]], dtype=dtype)
    return reference + torch.tensor(TOKENS, dtype=dtype), reference, torch.tensor(MASK)


@pytest.mark.parametrize("ratio", ["probability", "log"])
@pytest.mark.parametrize("clip", [None, (0.8, 1.2), (-0.2, 0.25), (-math.inf, math.inf)])
@pytest.mark.parametrize("advantage", [[1.0, -1.0, -0.5], [[1.0, -1.0, 2.0], [-1.0, 0.3, 9.0], [9.0, -2.0, 9.0]]])
def test_offline_ppo_is_its_equation(ratio: str, clip: tuple[float, float] | None, advantage: list) -> None:
    policy, reference, mask = token_logps()
    low, high = clip or DEFAULT_CLIP[ratio]
    per_token = [a if isinstance(a, list) else [a] * 3 for a in advantage]
    expected = [ppo(t, m, a, ratio, low, high) for t, m, a in zip(TOKENS, MASK, per_token, strict=True)]
    loss = losses.offline_ppo_loss(
        policy, reference, mask, torch.tensor(advantage, dtype=torch.float64), ratio=ratio, clip=clip
    )
    assert_equals(loss, expected)


@pytest.mark.parametrize("ratio", ["probability", "log"])
def test_offline_ppo_gradient(ratio: str) -> None:
    policy, reference, mask = token_logps()
    advantage = torch.tensor([1.0, -1.0, -0.5], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda p, r, a: losses.offline_ppo_loss(p, r, mask, a, ratio=ratio),
        (policy.requires_grad_(), reference.requires_grad_(), advantage.requires_grad_()),
    )


@pytest.mark.parametrize(("ratio", "value"), [("probability", -1.0), ("log", 0.0)])
def test_offline_ppo_where_policy_is_reference(ratio: str, value: float) -> None:
    policy = torch.full((2, 4), -1.0, requires_grad=True)
    mask = torch.ones(2, 4, dtype=torch.bool)
    loss = losses.offline_ppo_loss(policy, policy.detach(), mask, torch.tensor([1.0, -1.0]), ratio=ratio)
    assert loss.tolist() == pytest.approx([value, -value])
    (gradient,) = gradients(loss, policy)
    assert torch.allclose(gradient, torch.tensor([[-0.25], [0.25]]).expand(2, 4))


def test_the_text_taken_literally_gives_undesirable_tokens_no_gradient() -> None:
    """What the docstring says of 1 ± ε around a log ratio."""
    policy = torch.full((2, 1), -1.0, requires_grad=True)
    mask, advantage = torch.ones(2, 1, dtype=torch.bool), torch.tensor([1.0, -1.0])
    loss = losses.offline_ppo_loss(policy, policy.detach(), mask, advantage, ratio="log", clip=(0.5, 1.5))
    (gradient,) = gradients(loss, policy)
    assert gradient.tolist() == [[-1.0], [0.0]]


def test_offline_ppo_ignores_what_is_masked_out() -> None:
    policy, reference, mask = token_logps()
    advantage = torch.ones(3, 3, dtype=torch.float64)
    clean = losses.offline_ppo_loss(policy, reference, mask, advantage)
    dirty_policy = policy.masked_fill(~mask, math.nan).requires_grad_()
    dirty = losses.offline_ppo_loss(dirty_policy, reference, mask, advantage.masked_fill(~mask, math.nan))
    assert_equals(dirty, clean.tolist())
    (gradient,) = gradients(dirty, dirty_policy)
    assert gradient.isfinite().all()
    assert (gradient[~mask] == 0).all()


def test_offline_ppo_of_no_tokens_is_zero() -> None:
    policy = torch.zeros(1, 2, requires_grad=True)
    loss = losses.offline_ppo_loss(policy, torch.ones(1, 2), torch.zeros(1, 2, dtype=torch.bool), torch.ones(1))
    assert loss.tolist() == [0.0]
    assert gradients(loss, policy)[0].tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ratio", ["probability", "log"])
@pytest.mark.parametrize("clip", [None, (-math.inf, math.inf)])
def test_offline_ppo_extremes(dtype: torch.dtype, ratio: str, clip: tuple[float, float] | None) -> None:
    policy = torch.tensor([[1e4, -1e4], [1e4, -1e4]], dtype=dtype, requires_grad=True)
    mask = torch.ones(2, 2, dtype=torch.bool)
    advantage = torch.tensor([1.0, -1.0], dtype=dtype)
    loss = losses.offline_ppo_loss(policy, torch.zeros_like(policy), mask, advantage, ratio=ratio, clip=clip)
    (gradient,) = gradients(loss, policy)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()
    assert gradient[1, 0] > 0  # far too likely and undesirable: never clipped
    if clip is None:
        assert gradient[0, 0] == 0  # far above the bound and desirable: clipped
        assert gradient[1, 1] == 0


def test_offline_ppo_says_what_is_wrong() -> None:
    policy, reference, mask = token_logps()
    advantage = torch.ones(3)
    with pytest.raises(ValueError, match="ratio must be 'probability' or 'log', not 'linear'"):
        losses.offline_ppo_loss(policy, reference, mask, advantage, ratio="linear")
    with pytest.raises(ValueError, match="clip"):
        losses.offline_ppo_loss(policy, reference, mask, advantage, clip=(2.0, 0.5))
    with pytest.raises(ValueError, match=r"advantage has shape \(2,\), but mask has \(3, 3\)"):
        losses.offline_ppo_loss(policy, reference, mask, torch.ones(2))
    with pytest.raises(ValueError, match=r"mask has dtype torch.int64"):
        losses.offline_ppo_loss(policy, reference, mask.long(), advantage)
    with pytest.raises(ValueError, match=r"reference_token_logps has shape \(3, 1\)"):
        losses.offline_ppo_loss(policy, reference[:, :1], mask, advantage)


def test_humanline_clip() -> None:
    policy = torch.tensor([[-1.0, -2.0, -3.0]], requires_grad=True)
    reference = torch.tensor([[-4.0, -2.5, -1.0]])  # log-ratios 3, 0.5, -2
    clipped = losses.humanline_clip(policy, reference)
    assert clipped.tolist() == [[1.5, 0.5, -1.0]]
    assert gradients(clipped, policy)[0].tolist() == [[0.0, 1.0, 0.0]]
    assert losses.humanline_clip(policy, reference, low=-0.1, high=0.2).tolist() == [pytest.approx([0.2, 0.2, -0.1])]
    with pytest.raises(ValueError, match="low must be at most high"):
        losses.humanline_clip(policy, reference, low=2.0)


def advantages_by_definition(values: list[float], rewards: list[float], gamma: float, lam: float) -> list[float]:
    """A_t = Σ_k (γλ)^k δ_(t+k), term by term."""
    after = [*values[1:], 0.0]
    deltas = [r + gamma * n - v for r, n, v in zip(rewards, after, values, strict=True)]
    return [sum((gamma * lam) ** k * d for k, d in enumerate(deltas[t:])) for t in range(len(values))]


def test_generalized_advantages() -> None:
    values = torch.tensor([[0.5, -0.2, 0.1, 0.7], [9.0, 0.3, 9.0, -0.4]], dtype=torch.float64, requires_grad=True)
    rewards = torch.tensor([[0.0, 0.0, 0.0, 1.0], [9.0, 0.0, math.nan, -1.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, True, True], [False, True, False, True]])
    for settings, gamma, lam in (({}, 0.99, 0.95), ({"gamma": 0.9, "lam": 0.5}, 0.9, 0.5)):
        first = advantages_by_definition([0.5, -0.2, 0.1, 0.7], [0.0, 0.0, 0.0, 1.0], gamma, lam)
        second = advantages_by_definition([0.3, -0.4], [0.0, -1.0], gamma, lam)
        advantages = losses.generalized_advantages(values, rewards, mask, **settings)
        assert advantages[0].tolist() == pytest.approx(first)
        assert advantages[1].tolist() == pytest.approx([0.0, second[0], 0.0, second[1]])
        assert not advantages.requires_grad


def test_discounted_returns() -> None:
    mask = torch.tensor([[True, True, True], [True, True, False]])
    returns = losses.discounted_returns(torch.tensor([[0, 0, 1], [2, -1, 5]]), mask, gamma=0.5)
    assert returns.tolist() == [[0.25, 0.5, 1.0], [1.5, -1.0, 0.0]]


def test_whiten() -> None:
    values = torch.tensor([[1.0, 2.0, 99.0], [6.0, math.nan, 3.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, False, True]])
    mean = (1 + 2 + 6 + 3) / 4
    deviation = math.sqrt(((1 - mean) ** 2 + (2 - mean) ** 2 + (6 - mean) ** 2 + (3 - mean) ** 2) / 4)
    expected = [[(1 - mean) / deviation, (2 - mean) / deviation, 0.0], [(6 - mean) / deviation, 0.0, 0.0]]
    whitened = losses.whiten(values, mask)
    assert whitened[0].tolist() == pytest.approx(expected[0], abs=1e-7)
    assert whitened[1].tolist() == pytest.approx(expected[1], abs=1e-7)
    assert losses.whiten(torch.tensor([5.0]), torch.tensor([True])).tolist() == [0.0]


def test_implicit_reward() -> None:
    reward = losses.implicit_reward(torch.tensor([-1.0, -5.0]), torch.tensor([-3.0, -4.0]), beta=0.5)
    assert reward.tolist() == [1.0, -0.5]
    with pytest.raises(ValueError, match=r"reference_logps has shape \(1,\), but policy_logps has shape \(2,\)"):
        losses.implicit_reward(torch.zeros(2), torch.zeros(1))


# ---------------------------------------------------------------------------------------- numbers at the edge


EXTREMES = [-1e4, -300.0, 0.0, 300.0, 1e4]


@paired
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_paired_loss_is_finite_at_extremes(name: str, dtype: torch.dtype, beta: float) -> None:
    grid = torch.cartesian_prod(torch.tensor(EXTREMES, dtype=dtype), torch.tensor(EXTREMES, dtype=dtype))
    chosen, rejected = grid[:, 0].clone().requires_grad_(), grid[:, 1].clone().requires_grad_()
    loss = PAIRED[name][0](chosen, rejected, torch.zeros_like(chosen), torch.zeros_like(rejected), beta=beta)
    assert loss.dtype == dtype
    assert loss.isfinite().all()
    for gradient in gradients(loss, chosen, rejected):
        assert gradient.isfinite().all()
        assert (gradient != 0).any()


@unpaired
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unpaired_loss_is_finite_at_extremes(name: str, dtype: torch.dtype) -> None:
    policy = torch.tensor(EXTREMES * 2, dtype=dtype, requires_grad=True)
    desirable = torch.tensor([True] * 5 + [False] * 5)
    loss = UNPAIRED[name][0](policy, torch.zeros_like(policy), desirable)
    (gradient,) = gradients(loss, policy)
    assert loss.dtype == gradient.dtype == dtype
    assert loss.isfinite().all()
    assert gradient.isfinite().all()
    assert (gradient[:5] <= 0).all()
    assert (gradient[5:] >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value_function", [KahnemanTversky(), DPOValue()])
def test_kto_with_an_unbounded_loss_learns_at_extremes(dtype: torch.dtype, value_function) -> None:
    policy = torch.tensor([-1e4, 1e4], dtype=dtype, requires_grad=True)
    loss = losses.kto_loss(
        policy, torch.zeros_like(policy), torch.tensor([True, False]), 3.0, value_function=value_function
    )
    (gradient,) = gradients(loss, policy)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()
    assert gradient[0] < 0 < gradient[1]


@pytest.mark.parametrize("z", [-80.0, -40.0, -20.0, 20.0, 40.0, 80.0])
@pytest.mark.parametrize("desirable", [True, False])
def test_kto_gradient_does_not_vanish_before_its_time(z: float, desirable: bool) -> None:
    """In float32, 1 − σ(20) is 0 and so is its gradient; the true gradient is σ(z) σ(−z), about e^(−|z|)."""
    policy = torch.tensor([z], requires_grad=True)
    loss = losses.kto_loss(policy, torch.zeros(1), torch.tensor([desirable]), 0.0, beta=1.0)
    expected = math.exp(-abs(z)) / (1 + math.exp(-abs(z))) ** 2
    assert gradients(loss, policy)[0].item() == pytest.approx(-expected if desirable else expected, rel=1e-5, abs=0)
    expected_loss = 1 / (1 + math.exp(z if desirable else -z))
    assert loss.item() == pytest.approx(expected_loss, rel=1e-5, abs=0)


@pytest.mark.parametrize("z", [-60.0, -30.0, 30.0, 60.0])
def test_apo_and_exo_gradients_do_not_vanish_before_their_time(z: float) -> None:
    chosen, rejected, zero = (
        torch.tensor([z], requires_grad=True),
        torch.zeros(1, requires_grad=True),
        torch.zeros(1),
    )
    slope = math.exp(-abs(z)) / (1 + math.exp(-abs(z))) ** 2
    (apo,) = gradients(losses.apo_zero_loss(chosen, rejected, zero, zero, beta=1.0), chosen)
    assert apo.item() == pytest.approx(-slope, rel=1e-5, abs=0)
    (apo,) = gradients(losses.apo_zero_loss(rejected, chosen, zero, zero, beta=1.0), chosen)
    assert apo.item() == pytest.approx(slope, rel=1e-5, abs=0)
    (down,) = gradients(losses.apo_down_loss(rejected, chosen, zero, zero, beta=1.0), chosen)
    assert down.item() == pytest.approx(slope, rel=1e-5, abs=0)
    (exo_gradient,) = gradients(losses.exo_loss(chosen, rejected, zero, zero, beta=1.0), chosen)
    # d/dz [q log(q/(1 − ε)) + (1 − q) log((1 − q)/ε)] = q' (z − log((1 − ε)/ε))
    assert exo_gradient.item() == pytest.approx(slope * (z - math.log(999)), rel=1e-5, abs=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_badly_ranked_pair_teaches_at_full_strength(dtype: torch.dtype) -> None:
    chosen, rejected = torch.tensor([-1e4], dtype=dtype), torch.tensor([1e4], dtype=dtype)
    chosen.requires_grad_()
    zero = torch.zeros(1, dtype=dtype)
    loss = losses.dpo_loss(chosen, rejected, zero, zero)
    assert loss.item() == pytest.approx(2000.0)
    assert gradients(loss, chosen)[0].item() == pytest.approx(-0.1)
    assert gradients(losses.bradley_terry_loss(chosen, rejected), chosen)[0].item() == -1.0
    assert gradients(losses.slic_loss(chosen, rejected, -chosen), chosen)[0].item() == pytest.approx(-1.1)


ALL_CALLS: dict[str, Callable[[torch.dtype], Tensor]] = {
    **{name: (lambda d, f=PAIRED[name][0]: f(*pairs(d))) for name in PAIRED},
    **{name: (lambda d, f=UNPAIRED[name][0]: f(*singles(d))) for name in UNPAIRED},
    "bradley_terry": lambda d: losses.bradley_terry_loss(*pairs(d)[:2]),
    "slic": lambda d: losses.slic_loss(*pairs(d)[:2], nll(d)),
    "cpo": lambda d: losses.cpo_loss(*pairs(d)[:2], nll(d)),
    "rpo": lambda d: losses.rpo_loss(*pairs(d), nll(d)),
    "simpo": lambda d: losses.simpo_loss(*pairs(d)[:2], *lengths()),
    "orpo": lambda d: losses.orpo_loss(*pairs(d)[:2], *lengths()),
    "kto_weighted": lambda d: losses.kto_loss(
        *singles(d), torch.tensor(0.5, dtype=torch.float64), desirable_weight=4 / 3
    ),
    "kto_kahneman_tversky": lambda d: losses.kto_loss(*singles(d), 0.5, value_function=KahnemanTversky()),
    "kl_from_halves": lambda d: losses.kl_from_halves(*singles(d)),
    "kl_from_mismatched": lambda d: losses.kl_from_mismatched(*singles(d)[:2]),
    "offline_ppo": lambda d: losses.offline_ppo_loss(*token_logps(d), torch.tensor([1.0, -1.0, 1.0])),
    "offline_ppo_log": lambda d: losses.offline_ppo_loss(*token_logps(d), torch.tensor([1, -1, 1]), ratio="log"),
    "humanline_clip": lambda d: losses.humanline_clip(*token_logps(d)[:2]),
    "generalized_advantages": lambda d: losses.generalized_advantages(*token_logps(d)),
    "whiten": lambda d: losses.whiten(token_logps(d)[0], token_logps(d)[2]),
}


@pytest.mark.parametrize("name", ALL_CALLS)
def test_dtype_is_kept(name: str) -> None:
    exact = ALL_CALLS[name](torch.float64)
    assert exact.dtype == torch.float64
    for dtype, rel, abs_ in ((torch.float32, 1e-4, 1e-5), (torch.bfloat16, 0.1, 0.1)):
        value = ALL_CALLS[name](dtype)
        assert value.dtype == dtype
        assert value.isfinite().all()
        assert torch.allclose(value.double(), exact, rtol=rel, atol=abs_)


def test_weights_are_not_rounded_to_float32() -> None:
    zero = torch.zeros(2, dtype=torch.float64)
    desirable = torch.tensor([True, False])
    for loss in (
        losses.kto_loss(zero, zero, desirable, 0.0, desirable_weight=4 / 3, undesirable_weight=0.1),
        losses.apo_zero_unpaired_loss(zero, zero, desirable, desirable_weight=4 / 3, undesirable_weight=0.1),
    ):
        assert loss.tolist() == [2 / 3, 0.05]


def test_a_kl_given_as_a_number_is_not_rounded_to_float32() -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    loss = losses.kto_loss(zero, zero, torch.tensor([True]), 0.1, beta=1.0)
    assert loss.item() == pytest.approx(sigma(0.1), rel=1e-15)


# ----------------------------------------------------------------------------------------------------- shapes


def test_every_public_loss_is_listed_here() -> None:
    """`SHAPED` below must not fall behind `losses.__all__`."""
    exempt = {
        "suggested_kto_weights",
        "offline_ppo_loss",
        "discounted_returns",
        "humanline_clip",
        "whiten",
        "generalized_advantages",
        "implicit_reward",
        "kl_from_mismatched",
    }
    assert set(losses.__all__) == exempt | {loss.__name__ for loss in SHAPED}
    assert all(callable(getattr(losses, name)) for name in losses.__all__)


SHAPED: dict[Callable[..., Tensor], list[Tensor]] = {
    **{loss: pairs() for loss, _, _ in PAIRED.values()},
    losses.rpo_loss: [*pairs(), nll()],
    losses.bradley_terry_loss: pairs()[:2],
    losses.slic_loss: [*pairs()[:2], nll()],
    losses.cpo_loss: [*pairs()[:2], nll()],
    losses.simpo_loss: [*pairs()[:2], *lengths()],
    losses.orpo_loss: [*pairs()[:2], *lengths()],
    losses.kto_loss: [*singles(), torch.zeros(5)],
    losses.kl_from_halves: singles(),
    losses.apo_zero_unpaired_loss: singles(),
    losses.bco_loss: [*singles(), torch.tensor(0.0)],
}


@pytest.mark.parametrize("loss", SHAPED, ids=lambda loss: loss.__name__)
def test_nothing_is_broadcast(loss: Callable[..., Tensor]) -> None:
    arguments = SHAPED[loss]
    names = list(inspect.signature(loss).parameters)
    for index, argument in enumerate(arguments):
        if argument.dim() == 0:
            continue
        for wrong in (argument[:1], argument.unsqueeze(1), argument.unsqueeze(0)):
            changed = [*arguments[:index], wrong, *arguments[index + 1 :]]
            with pytest.raises(ValueError, match=r"has shape \(") as error:
                loss(*changed)
            assert str(tuple(wrong.shape)) in str(error.value)
            assert names[index] in str(error.value)
    with pytest.raises(ValueError, match=r"has shape \((4|5), 1\), expected \[N\]"):
        loss(*(argument.unsqueeze(1) if argument.dim() else argument for argument in arguments))


@pytest.mark.parametrize("loss", SHAPED, ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("n", [0, 1])
def test_few_examples(loss: Callable[..., Tensor], n: int) -> None:
    few = [x[:n].clone() if x.dim() else x for x in SHAPED[loss]]
    value = loss(*few)
    assert value.shape == (n,)
    assert value.isfinite().all()
    if n and loss is not losses.kl_from_halves:
        assert value.item() == pytest.approx(loss(*SHAPED[loss])[0].item())


@pytest.mark.parametrize(
    "loss", [losses.kl_from_halves, losses.apo_zero_unpaired_loss, UNPAIRED["bco"][0], UNPAIRED["kto"][0]]
)
def test_labels_are_bool(loss: Callable[..., Tensor]) -> None:
    policy, reference, desirable = singles()
    with pytest.raises(ValueError, match=r"desirable has dtype torch.int64, expected torch.bool"):
        loss(policy, reference, desirable.long())


def test_losses_import_torch_alone() -> None:
    heavy = [
        "lightning",
        "lightning.pytorch",
        "pytorch_lightning",
        "transformers",
        "peft",
        "datasets",
        "torchmetrics",
    ]
    code = f"import sys, halo_lightning.losses; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "[]"
