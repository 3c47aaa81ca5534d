"""What holds for every batch: permutations, mirrors, invariances, ranges. Batches are drawn by hypothesis."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from halo_lightning import losses
from halo_lightning.values import DPOValue, KahnemanTversky


def drawn(*strategies: st.SearchStrategy, examples: int = 40, **named: st.SearchStrategy) -> Callable:
    """Like `given`, with the settings of this file; derandomized, so that a run can be repeated."""
    few = settings(max_examples=examples, deadline=None, derandomize=True)
    return lambda test: few(given(*strategies, **named)(test))


PAIRED: dict[str, Callable[..., Tensor]] = {
    "dpo": losses.dpo_loss,
    "cdpo": lambda *x: losses.dpo_loss(*x, label_smoothing=0.2),
    "robust_dpo": losses.robust_dpo_loss,
    "ipo": losses.ipo_loss,
    "sppo_hard": losses.sppo_hard_loss,
    "exo": losses.exo_loss,
    "nca": losses.nca_loss,
    "apo_zero": losses.apo_zero_loss,
    "apo_down": losses.apo_down_loss,
    "rpo": lambda *x: losses.rpo_loss(*x, -x[0] / 7),
    "slic": lambda *x: losses.slic_loss(x[0], x[1], -x[0]),
    "cpo": lambda *x: losses.cpo_loss(x[0], x[1], -x[0]),
    "bradley_terry": lambda *x: losses.bradley_terry_loss(x[0], x[1]),
    "simpo": lambda *x: losses.simpo_loss(x[0], x[1], torch.full_like(x[0], 7), torch.full_like(x[0], 5)),
    "orpo": lambda *x: losses.orpo_loss(x[0], x[1], torch.full_like(x[0], 7), torch.full_like(x[0], 5)),
}
UNPAIRED: dict[str, Callable[..., Tensor]] = {
    "kto": lambda p, r, d: losses.kto_loss(p, r, d, losses.kl_from_halves(p, r, d)),
    "kto_unbounded": lambda p, r, d: losses.kto_loss(p, r, d, 0.5, value_function=KahnemanTversky()),
    "kto_log": lambda p, r, d: losses.kto_loss(p, r, d, losses.kl_from_mismatched(p, r), value_function=DPOValue()),
    "bco": lambda p, r, d: losses.bco_loss(p, r, d, 0.3),
    "apo_zero_unpaired": losses.apo_zero_unpaired_loss,
    "kl_from_halves": losses.kl_from_halves,
}

logp = st.floats(-200.0, -0.01)
a_pair = st.tuples(logp, logp, logp, logp)
a_single = st.tuples(logp, logp, st.booleans())


def pair_tensors(rows: list[tuple], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [torch.tensor(column, dtype=dtype) for column in zip(*rows, strict=True)]


def single_tensors(rows: list[tuple], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    policy, reference, desirable = zip(*rows, strict=True)
    return [torch.tensor(policy, dtype=dtype), torch.tensor(reference, dtype=dtype), torch.tensor(desirable)]


def same(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", PAIRED)
@drawn(
    st.lists(a_pair, min_size=1, max_size=6).flatmap(
        lambda rows: st.tuples(st.just(rows), st.permutations(range(len(rows))))
    )
)
def test_permuting_the_pairs_permutes_the_losses(name: str, batch: tuple[list[tuple], list[int]]) -> None:
    rows, order = batch
    tensors = pair_tensors(rows)
    assert same(PAIRED[name](*tensors)[order], PAIRED[name](*(x[order] for x in tensors)))


@pytest.mark.parametrize("name", UNPAIRED)
@drawn(
    st.lists(a_single, min_size=1, max_size=6).flatmap(
        lambda rows: st.tuples(st.just(rows), st.permutations(range(len(rows))))
    )
)
def test_permuting_the_examples_permutes_the_losses(name: str, batch: tuple[list[tuple], list[int]]) -> None:
    rows, order = batch
    tensors = single_tensors(rows)
    assert same(UNPAIRED[name](*tensors)[order], UNPAIRED[name](*(x[order] for x in tensors)))


@drawn(st.lists(a_single, min_size=1, max_size=6), st.floats(0.0, 20.0), st.floats(0.01, 2.0))
def test_swapping_the_labels_mirrors_kto(rows: list[tuple], kl: float, beta: float) -> None:
    """With (7), the losses of an example under both labels add up to 1, as σ(z) + σ(−z) do."""
    policy, reference, desirable = single_tensors(rows)
    loss = losses.kto_loss(policy, reference, desirable, kl, beta=beta)
    assert same(loss + losses.kto_loss(policy, reference, ~desirable, kl, beta=beta), torch.ones_like(loss))
    assert ((loss >= 0) & (loss <= 1)).all()


@drawn(st.lists(a_single, min_size=1, max_size=6))
def test_swapping_labels_policy_and_reference_changes_nothing_without_kl(rows: list[tuple]) -> None:
    policy, reference, desirable = single_tensors(rows)
    assert same(losses.kto_loss(policy, reference, desirable, 0.0), losses.kto_loss(reference, policy, ~desirable, 0.0))


@drawn(st.lists(a_single, min_size=1, max_size=6))
def test_kl_does_not_look_at_the_example_s_own_half(rows: list[tuple]) -> None:
    policy, reference, desirable = single_tensors(rows)
    kl = losses.kl_from_halves(policy, reference, desirable)
    moved = losses.kl_from_halves(torch.where(desirable, policy + 50, policy), reference, desirable)
    assert same(kl[desirable], moved[desirable])
    assert (kl >= 0).all()
    assert len(set(kl.tolist())) <= 2


@drawn(st.lists(a_single, min_size=1, max_size=6), st.floats(0.0, 20.0), st.floats(0.1, 5.0), st.floats(0.1, 5.0))
def test_weights_multiply_their_half(rows: list[tuple], kl: float, w_d: float, w_u: float) -> None:
    policy, reference, desirable = single_tensors(rows)
    weights = torch.where(desirable, torch.tensor(w_d).double(), torch.tensor(w_u).double())
    plain = losses.kto_loss(policy, reference, desirable, kl)
    weighted = losses.kto_loss(policy, reference, desirable, kl, desirable_weight=w_d, undesirable_weight=w_u)
    assert same(weighted, weights * plain, 1e-6)


@pytest.mark.parametrize("name", ["dpo", "cdpo", "robust_dpo", "ipo", "exo", "cpo_margin", "bradley_terry"])
@drawn(st.lists(a_pair, min_size=1, max_size=5), st.floats(-50.0, 50.0), st.floats(-50.0, 50.0))
def test_a_constant_of_the_prompt_cancels(name: str, rows: list[tuple], policy: float, reference: float) -> None:
    """Why the β log Z(x) of (3) may be left out: it is the same for both answers."""
    loss = PAIRED.get(name, lambda *x: losses.cpo_loss(x[0], x[1], torch.zeros_like(x[0])))
    pc, pr, rc, rr = pair_tensors(rows)
    assert same(loss(pc, pr, rc, rr), loss(pc + policy, pr + policy, rc + reference, rr + reference), 1e-6)


@pytest.mark.parametrize("name", ["sppo_hard", "nca", "apo_zero", "apo_down"])
def test_anchored_losses_do_see_a_constant_of_the_prompt(name: str) -> None:
    pc, pr, rc, rr = pair_tensors([(-3.0, -4.0, -3.5, -3.0)])
    assert not same(PAIRED[name](pc, pr, rc, rr), PAIRED[name](pc + 5, pr + 5, rc, rr), 1e-6)


@drawn(st.lists(a_pair, min_size=1, max_size=5), st.floats(0.01, 2.0))
def test_dpo_is_bradley_terry_on_implicit_rewards(rows: list[tuple], beta: float) -> None:
    pc, pr, rc, rr = pair_tensors(rows)
    rewards = losses.implicit_reward(pc, rc, beta=beta), losses.implicit_reward(pr, rr, beta=beta)
    assert same(losses.dpo_loss(pc, pr, rc, rr, beta=beta), losses.bradley_terry_loss(*rewards))


@drawn(st.lists(a_pair, min_size=1, max_size=5), st.floats(0.01, 2.0))
def test_dpo_is_kto_s_log_with_the_rejected_as_reference_point(rows: list[tuple], beta: float) -> None:
    """Section 4: h_DPO has the reward of y_l for its reference point."""
    pc, pr, rc, rr = pair_tensors(rows)
    yes = torch.ones_like(pc, dtype=torch.bool)
    kto = losses.kto_loss(pc, rc, yes, pr - rr, beta=beta, value_function=DPOValue())
    assert same(losses.dpo_loss(pc, pr, rc, rr, beta=beta), kto)


@drawn(st.lists(a_pair, min_size=1, max_size=5))
def test_apo_zero_is_the_sum_of_its_unpaired_halves(rows: list[tuple]) -> None:
    pc, pr, rc, rr = pair_tensors(rows)
    yes = torch.ones_like(pc, dtype=torch.bool)
    halves = losses.apo_zero_unpaired_loss(pc, rc, yes) + losses.apo_zero_unpaired_loss(pr, rr, ~yes)
    assert same(losses.apo_zero_loss(pc, pr, rc, rr), halves)


@drawn(st.lists(a_pair, min_size=1, max_size=5))
def test_bco_bounds_dpo_from_above(rows: list[tuple]) -> None:
    """The theorem that BCO rests on: the two classification losses add up to more than the DPO loss."""
    pc, pr, rc, rr = pair_tensors(rows)
    yes = torch.ones_like(pc, dtype=torch.bool)
    bound = losses.bco_loss(pc, rc, yes, 0.1, beta=0.1) + losses.bco_loss(pr, rr, ~yes, 0.1, beta=0.1)
    assert (losses.dpo_loss(pc, pr, rc, rr, beta=0.1) < bound).all()


@pytest.mark.parametrize(
    "name", ["dpo", "robust_dpo", "bradley_terry", "cpo", "slic", "simpo", "orpo", "apo_zero", "rpo"]
)
@drawn(st.lists(a_pair, min_size=1, max_size=5))
def test_gradients_point_the_right_way(name: str, rows: list[tuple]) -> None:
    """A step down the gradient never makes the chosen less likely, nor the rejected more."""
    chosen, rejected, *reference = pair_tensors(rows)
    chosen.requires_grad_()
    rejected.requires_grad_()
    up, down = torch.autograd.grad(PAIRED[name](chosen, rejected, *reference).sum(), (chosen, rejected))
    assert (up <= 0).all()
    assert (down >= 0).all()
    assert (up < 0).any()


@pytest.mark.parametrize("name", [name for name in UNPAIRED if name != "kl_from_halves"])
@drawn(st.lists(a_single, min_size=1, max_size=6))
def test_unpaired_gradients_point_the_right_way(name: str, rows: list[tuple]) -> None:
    policy, reference, desirable = single_tensors(rows)
    policy.requires_grad_()
    (gradient,) = torch.autograd.grad(UNPAIRED[name](policy, reference, desirable).sum(), policy)
    assert (gradient[desirable] < 0).all()
    assert (gradient[~desirable] > 0).all()


@pytest.mark.parametrize("name", [*PAIRED, *UNPAIRED])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@drawn(data=st.data(), examples=10)
def test_dtype_and_shape_are_kept(name: str, dtype: torch.dtype, data: st.DataObject) -> None:
    if name in PAIRED:
        rows = data.draw(st.lists(a_pair, min_size=1, max_size=4))
        loss = PAIRED[name](*pair_tensors(rows, dtype))
    else:
        rows = data.draw(st.lists(a_single, min_size=1, max_size=4))
        loss = UNPAIRED[name](*single_tensors(rows, dtype))
    assert loss.dtype == dtype
    assert loss.shape == (len(rows),)
    assert loss.isfinite().all()


@pytest.mark.parametrize("name", PAIRED)
@drawn(a_pair)
def test_an_example_s_loss_does_not_depend_on_its_batch(name: str, row: tuple) -> None:
    alone = PAIRED[name](*pair_tensors([row]))
    together = PAIRED[name](*pair_tensors([row, (-3.0, -150.0, -40.0, -2.0), row]))
    assert same(together[[0, 2]], alone.expand(2))


@drawn(
    st.lists(st.lists(st.floats(-3.0, 3.0), min_size=3, max_size=3), min_size=1, max_size=4),
    st.sampled_from(["probability", "log"]),
    st.sampled_from([-1.0, 1.0]),
)
def test_offline_ppo_clips_only_what_is_good_already(rows: list[list[float]], ratio: str, advantage: float) -> None:
    """The minimum is pessimistic: clipping never lowers the loss, and never stops the correction of a mistake."""
    policy = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    mask = torch.ones_like(policy, dtype=torch.bool)
    A = torch.full((len(rows),), advantage, dtype=torch.float64)
    clipped = losses.offline_ppo_loss(policy, torch.zeros_like(policy), mask, A, ratio=ratio)
    free = losses.offline_ppo_loss(policy, torch.zeros_like(policy), mask, A, ratio=ratio, clip=(-math.inf, math.inf))
    assert (clipped >= free - 1e-12).all()
    (gradient,) = torch.autograd.grad(clipped.sum(), policy)
    beyond = policy.detach() * advantage > math.log(2) + 1e-9
    assert (gradient[beyond] == 0).all()
    inside = policy.detach() * advantage < math.log(2) - 1e-9
    assert (gradient[inside] * advantage < 0).all()


@drawn(st.integers(1, 10_000), st.integers(1, 10_000))
def test_suggested_weights_are_the_smallest_change(n_d: int, n_u: int) -> None:
    w_d, w_u = losses.suggested_kto_weights(n_d, n_u)
    ratio = w_d * n_d / (w_u * n_u)
    assert 1 - 1e-9 <= ratio <= 4 / 3 + 1e-9
    assert min(w_d, w_u) == 1.0
    if max(w_d, w_u) > 1:  # then the ratio is at the end of the range that is nearer
        assert ratio == pytest.approx(1.0 if n_d < n_u else 4 / 3)


@drawn(st.lists(st.floats(-50.0, 50.0), min_size=2, max_size=8, unique=True))
def test_whitened_values_have_mean_0_and_variance_1(numbers: list[float]) -> None:
    values = torch.tensor([*numbers, 123.0], dtype=torch.float64)
    mask = torch.tensor([True] * len(numbers) + [False])
    variance = values[:-1].var(correction=0).item()
    whitened = losses.whiten(values, mask)
    assert whitened[-1] == 0
    assert whitened.sum().item() == pytest.approx(0.0, abs=1e-6)
    expected = variance / (variance + 1e-8)
    assert (whitened[:-1] ** 2).mean().item() == pytest.approx(expected, rel=1e-6, abs=1e-9)
