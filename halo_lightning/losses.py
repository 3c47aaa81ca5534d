"""Losses that align a language model with human feedback: pure functions, from tensors to a loss per example.

One function per equation. Numbers in parentheses, as in (7), are equations of the report "Human-Centered Loss
Functions (HALOs)", Ethayarajh et al., December 2023; of any other paper the arXiv id is named.

What all of them share, so that no docstring repeats it:

* ``…_logps`` are log-probabilities log π(y|x) of whole completions: sums over completion tokens, in nats,
  shape [N]. ``…_token_logps`` are those of single tokens, shape [N, T]. ``…_nll`` is −log π(y|x), shape [N]:
  a sum, or a mean over tokens where the docstring says so.
* ``chosen`` is y_w, ``rejected`` is y_l, ``reference`` is π_ref, ``policy`` is π_θ.
* The result is one loss per example, shape [N], before any mean or weight of a batch; N may be 1, or 0.
* The dtype is kept: nothing is cast up or down. Log-probabilities should be float32 or float64, in which
  losses and gradients are finite for log-ratios of ±10⁴. bfloat16 gives a bfloat16 result, rounded at each
  step to 3 digits. float16 gives a float16 result, and overflows where a square or a ratio passes 65,504.
* Nothing is broadcast: arguments of unequal shape raise a `ValueError` that names the argument and both
  shapes.
* Gradients flow into every floating argument that asks for one, unless the docstring says otherwise.
* ``beta`` is β > 0 of (2), the strength of the pull towards the reference, whatever letter a paper has for
  it.

This module imports torch alone (and `halo_lightning.values`, which does the same).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from halo_lightning.values import Logistic, ValueFunction, shortfall, sigmoid

__all__ = [
    "apo_down_loss",
    "apo_zero_loss",
    "apo_zero_unpaired_loss",
    "bco_loss",
    "bradley_terry_loss",
    "cpo_loss",
    "discounted_returns",
    "dpo_loss",
    "exo_loss",
    "generalized_advantages",
    "humanline_clip",
    "implicit_reward",
    "ipo_loss",
    "kl_from_halves",
    "kl_from_mismatched",
    "kto_loss",
    "nca_loss",
    "offline_ppo_loss",
    "orpo_loss",
    "robust_dpo_loss",
    "rpo_loss",
    "simpo_loss",
    "slic_loss",
    "sppo_hard_loss",
    "suggested_kto_weights",
    "whiten",
]


# ---------------------------------------------------------------------------------------- the report's losses


def bradley_terry_loss(chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
    """Equation (1) and L_R, the reward model's loss: −log σ(r(x, y_w) − r(x, y_l)).

    Args:
        chosen_rewards: r(x, y_w), shape [N].
        rejected_rewards: r(x, y_l), shape [N].

    Returns:
        Losses, shape [N], in nats; log 2 where both rewards are equal.

    Raises:
        ValueError: If the shapes differ or are not [N].
    """
    _check_shapes(1, chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards)
    return -F.logsigmoid(chosen_rewards - rejected_rewards)


def implicit_reward(policy_logps: Tensor, reference_logps: Tensor, *, beta: float = 0.1) -> Tensor:
    """Equation (3) without its β log Z(x): r(x, y) = β log(π_θ(y|x) / π_ref(y|x)).

    The left-out term depends on the prompt alone, and cancels wherever two answers to one prompt are
    compared.

    Args:
        policy_logps: log π_θ(y|x), any shape.
        reference_logps: log π_ref(y|x), the same shape.
        beta: β.

    Returns:
        Implicit rewards, the same shape.

    Raises:
        ValueError: If the shapes differ.
    """
    _check_shapes(None, policy_logps=policy_logps, reference_logps=reference_logps)
    return beta * (policy_logps - reference_logps)


def dpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Equation (4), DPO: −log σ(β log π_θ(y_w|x)/π_ref(y_w|x) − β log π_θ(y_l|x)/π_ref(y_l|x)).

    Direct preference optimization, arXiv 2305.18290.

    With ``label_smoothing`` ε above 0 it is conservative DPO (cDPO, E. Mitchell 2023, "A note on DPO with
    noisy preferences"): (1 − ε) times this loss plus ε times the loss of the flipped pair. The released
    code's cDPO has 0.2.

    Args:
        policy_chosen_logps: log π_θ(y_w|x), shape [N].
        policy_rejected_logps: log π_θ(y_l|x), shape [N].
        reference_chosen_logps: log π_ref(y_w|x), shape [N].
        reference_rejected_logps: log π_ref(y_l|x), shape [N].
        beta: β.
        label_smoothing: ε in [0, 1], the probability that a preference is recorded the wrong way round.

    Returns:
        Losses, shape [N], in nats; log 2 where policy and reference agree.

    Raises:
        ValueError: If the shapes differ or are not [N], or ε is outside its range.
    """
    chosen, rejected = _log_ratios(
        policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps
    )
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be in [0, 1], not {label_smoothing}")
    margin = beta * (chosen - rejected)
    return -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)


def slic_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    chosen_nll: Tensor,
    *,
    margin: float = 1.0,
    regularization: float = 0.1,
) -> Tensor:
    """Equation (5) and L_SLiC: max(0, β − log π_θ(y_w) + log π_θ(y_l)) + λ_reg · (−log π_θ(y)).

    The report takes the standard language modelling loss for the second term, y being the SFT target, in one
    stage.

    Args:
        policy_chosen_logps: log π_θ(y_w|x), shape [N].
        policy_rejected_logps: log π_θ(y_l|x), shape [N].
        chosen_nll: −log π_θ of the SFT target, shape [N]: as printed a sum over tokens. The released code
            takes the chosen completion for the target, so that this is −policy_chosen_logps.
        margin: The report's β of (5), in nats of log-probability; no relation to the β of (2).
        regularization: λ_reg.

    Returns:
        Losses, shape [N], in nats.

    Raises:
        ValueError: If the shapes differ or are not [N].
    """
    _check_shapes(
        1,
        policy_chosen_logps=policy_chosen_logps,
        policy_rejected_logps=policy_rejected_logps,
        chosen_nll=chosen_nll,
    )
    return F.relu(margin - policy_chosen_logps + policy_rejected_logps) + regularization * chosen_nll


def offline_ppo_loss(
    policy_token_logps: Tensor,
    reference_token_logps: Tensor,
    mask: Tensor,
    advantage: Tensor,
    *,
    ratio: Literal["probability", "log"] = "probability",
    clip: tuple[float, float] | None = None,
) -> Tensor:
    """Section 3.3, PPO (offline, one-step): −mean over tokens of min(r A, clip(r, 1 − ε, 1 + ε) A).

    Two readings of r exist. The released code has the ratio of probabilities r = π_θ/π_ref; the report's text
    has its logarithm r = log(π_θ/π_ref). ``ratio`` says which. ``clip`` is the pair of bounds of r itself;
    the defaults of the two readings bound the same region, half to twice the reference's probability.

    The text also writes the bounds 1 − ε and 1 + ε around that *log* ratio, of which they are not the middle.
    Taken literally, ``ratio="log", clip=(1 - ε, 1 + ε)``, the gradient of an undesirable token is zero while
    policy = reference: r A = 0 is then above (1 − ε) A < 0, and the minimum is the constant. Training could
    never leave its start on such tokens. It can be had, it is not the default.

    A probability ratio is exact up to log-ratios of 20 nats per token, and follows its tangent beyond (the
    true one overflows): what is not clipped stays finite and keeps a gradient of the right sign.

    Tokens are averaged over each example's mask, 0 for an example with no token (the released code averages
    over all tokens of the batch, which gives long examples more weight). What stands at masked-out places has
    no effect at all.

    Args:
        policy_token_logps: log π_θ(y_t|x, y_<t), shape [N, T].
        reference_token_logps: log π_ref(y_t|x, y_<t), shape [N, T].
        mask: True at completion tokens, bool, shape [N, T].
        advantage: A(x, y_<t, y_t), shape [N, T]; or [N], one for all tokens of an example: +1 for y_w, −1 for
            y_l. Its gradient flows; see `generalized_advantages` for one that has none.
        ratio: "probability" or "log".
        clip: (lowest, highest) r; None is (0.5, 2.0) for "probability" and (−log 2, log 2) for "log". To
            switch clipping off: ``(-math.inf, math.inf)``.

    Returns:
        Losses, shape [N].

    Raises:
        ValueError: If a shape is not the one above, ``mask`` is not bool, ``ratio`` is neither, or low >
            high.
    """
    _check_shapes(2, policy_token_logps=policy_token_logps, reference_token_logps=reference_token_logps, mask=mask)
    _check_bool(mask=mask)
    if advantage.shape not in (mask.shape, mask.shape[:1]):
        raise ValueError(
            f"advantage has shape {_shape(advantage)}, but mask has {_shape(mask)}: "
            f"expected that shape or {tuple(mask.shape[:1])}"
        )
    if ratio not in _DEFAULT_CLIP:
        raise ValueError(f"ratio must be 'probability' or 'log', not {ratio!r}")
    low, high = _DEFAULT_CLIP[ratio] if clip is None else clip
    if not low <= high:
        raise ValueError(f"clip must be (low, high) with low <= high, not {clip}")

    log_ratio = (policy_token_logps - reference_token_logps).masked_fill(~mask, 0.0)
    r = _tangent_exp(log_ratio) if ratio == "probability" else log_ratio
    A = advantage.to(r.dtype)
    A = (A.unsqueeze(1) if A.dim() == 1 else A).expand_as(r).masked_fill(~mask, 0.0)
    surrogate = torch.minimum(r * A, r.clamp(low, high) * A)
    return -surrogate.sum(dim=1) / mask.sum(dim=1).clamp(min=1)


_DEFAULT_CLIP = {"probability": (0.5, 2.0), "log": (-math.log(2.0), math.log(2.0))}


def kto_loss(
    policy_logps: Tensor,
    reference_logps: Tensor,
    desirable: Tensor,
    kl: float | Tensor,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    value_function: ValueFunction | None = None,
) -> Tensor:
    """Equation (7), Kahneman-Tversky optimization: weight · (1 − ĥ(x, y; β)).

    ĥ = σ(β log π_θ(y|x)/π_ref(y|x) − β KL) where y is desirable, σ(β KL − β log π_θ(y|x)/π_ref(y|x)) where it
    is not.

    With another human value function h, z = β log(π_θ/π_ref) and z_ref = β KL, the loss is
    weight · (sup h − h(z, z_ref)) for a desirable example and weight · (sup h − h(z_ref, z)) for an
    undesirable one; sup h is taken as 0 where h is unbounded. None is `Logistic`, and gives (7).

    Args:
        policy_logps: log π_θ(y|x), shape [N].
        reference_logps: log π_ref(y|x), shape [N].
        desirable: True for thumbs up, bool, shape [N].
        kl: KL(π_θ‖π_ref), in nats, *not* multiplied by β: a number, a scalar tensor, or shape [N], one per
            example as `kl_from_halves` gives it. Its gradient flows if it has one.
        beta: β.
        desirable_weight: λ_D of the later paper (arXiv 2402.01306); see `suggested_kto_weights`.
        undesirable_weight: λ_U of the later paper.
        value_function: h, called as ``h(z, z_ref)``: an object of `halo_lightning.values` or any callable.

    Returns:
        Losses, shape [N], in [0, weight] for (7); weight / 2 where policy and reference agree and KL is 0.

    Raises:
        ValueError: If a shape is not the one above, or ``desirable`` is not bool.
    """
    kl = torch.as_tensor(kl, dtype=policy_logps.dtype, device=policy_logps.device)
    _check_shapes(
        1,
        policy_logps=policy_logps,
        reference_logps=reference_logps,
        desirable=desirable,
        **({"kl": kl} if kl.dim() else {}),
    )
    _check_bool(desirable=desirable)
    z = implicit_reward(policy_logps, reference_logps, beta=beta)
    z_ref = (beta * kl).expand_as(z)
    loss = shortfall(
        Logistic() if value_function is None else value_function,
        torch.where(desirable, z, z_ref),
        torch.where(desirable, z_ref, z),
    )
    # Not loss * where(desirable, 1.0, 4 / 3): such a `where` is float32, whatever the dtype of the loss.
    return torch.where(desirable, desirable_weight * loss, undesirable_weight * loss)


def kl_from_halves(policy_logps: Tensor, reference_logps: Tensor, desirable: Tensor, *, detach: bool = True) -> Tensor:
    """Section 5: estimate the KL(π_θ‖π_ref) of (7) for each half of the batch from the other half.

    For a desirable example, max(0, mean of log(π_θ/π_ref) over the undesirable ones), and vice versa; 0 where
    the other half is empty (the mean of nothing would be NaN).

    Args:
        policy_logps: log π_θ(y|x), shape [N].
        reference_logps: log π_ref(y|x), shape [N].
        desirable: True for thumbs up, bool, shape [N].
        detach: Whether the gradient stops here. The report does not say. The code released with it lets it
            pass, which makes its gradient about twice as large where the KL is above 0: ``detach=False``. The
            later paper (arXiv 2402.01306) stops it: ``detach=True``.

    Returns:
        The estimate for each example, shape [N], in nats, at least 0: two values, one per half.

    Raises:
        ValueError: If the shapes differ or are not [N], or ``desirable`` is not bool.
    """
    _check_shapes(1, policy_logps=policy_logps, reference_logps=reference_logps, desirable=desirable)
    _check_bool(desirable=desirable)
    log_ratio = policy_logps - reference_logps
    if detach:
        log_ratio = log_ratio.detach()
    of_desirable, of_undesirable = _mean_where(log_ratio, desirable), _mean_where(log_ratio, ~desirable)
    return torch.where(desirable, of_undesirable, of_desirable).clamp(min=0.0)


# --------------------------------------------------------------------------------------- what came after: KTO


def kl_from_mismatched(policy_logps: Tensor, reference_logps: Tensor, *, detach: bool = True) -> Tensor:
    """The later KTO paper's estimate of the KL, arXiv 2402.01306: max(0, mean of log π_θ(y'|x)/π_ref(y'|x)).

    The pairs (x, y') are mismatched: y' answers another prompt of the batch. The paper averages over the
    batches of all devices too; average before calling, or gather ``policy_logps`` and ``reference_logps``.

    Args:
        policy_logps: log π_θ(y'|x), shape [M].
        reference_logps: log π_ref(y'|x), shape [M].
        detach: Whether the gradient stops here, as in the paper.

    Returns:
        The estimate, a scalar tensor in nats, at least 0; 0 where M is 0.

    Raises:
        ValueError: If the shapes differ or are not [M].
    """
    _check_shapes(1, policy_logps=policy_logps, reference_logps=reference_logps)
    log_ratio = policy_logps - reference_logps
    if detach:
        log_ratio = log_ratio.detach()
    return _mean_where(log_ratio, torch.ones_like(log_ratio, dtype=torch.bool)).clamp(min=0.0)


def suggested_kto_weights(
    number_desirable: int, number_undesirable: int, *, largest_ratio: float = 4 / 3
) -> tuple[float, float]:
    """Weights for unequal feedback, arXiv 2402.01306: such that λ_D n_D / (λ_U n_U) is in [1, 4/3].

    Where that holds for weights of 1, they stay 1. Otherwise the weight of the rarer kind is raised, as
    little as possible, and the other stays 1.

    Args:
        number_desirable: n_D, the number of desirable examples in the training data.
        number_undesirable: n_U, the number of undesirable ones.
        largest_ratio: The upper end of the range: 4/3 in the paper's first version, 3/2 in its last one (its
            eq. 9).

    Returns:
        (λ_D, λ_U), the ``desirable_weight`` and ``undesirable_weight`` of `kto_loss`.

    Raises:
        ValueError: If a number is not positive (with one kind of feedback alone no weight helps), or
            ``largest_ratio`` is below 1.
    """
    if not (number_desirable > 0 and number_undesirable > 0):
        raise ValueError(
            "both kinds of feedback are needed: "
            f"number_desirable is {number_desirable}, number_undesirable is {number_undesirable}"
        )
    if not largest_ratio >= 1:
        raise ValueError(f"largest_ratio must be at least 1, not {largest_ratio}")
    ratio = number_desirable / number_undesirable
    if ratio < 1:
        return 1 / ratio, 1.0
    if ratio > largest_ratio:
        return 1.0, ratio / largest_ratio
    return 1.0, 1.0


# ------------------------------------------------------------------------- what came after: unpaired feedback


def apo_zero_unpaired_loss(
    policy_logps: Tensor,
    reference_logps: Tensor,
    desirable: Tensor,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """Equation (7) of arXiv 2408.06266 for single examples, APO-zero: 1 − σ(r) if desirable, σ(r) if not.

    With r = β log(π_θ/π_ref) this is `kto_loss` with a KL of 0: the anchor is the reference itself.

    Args:
        policy_logps: log π_θ(y|x), shape [N].
        reference_logps: log π_ref(y|x), shape [N].
        desirable: True for thumbs up, bool, shape [N].
        beta: β; 0.1 in the paper.
        desirable_weight: Weight of the desirable examples.
        undesirable_weight: Weight of the undesirable examples.

    Returns:
        Losses, shape [N], in [0, weight].

    Raises:
        ValueError: If the shapes differ or are not [N], or ``desirable`` is not bool.
    """
    return kto_loss(
        policy_logps,
        reference_logps,
        desirable,
        0.0,
        beta=beta,
        desirable_weight=desirable_weight,
        undesirable_weight=undesirable_weight,
    )


def bco_loss(
    policy_logps: Tensor,
    reference_logps: Tensor,
    desirable: Tensor,
    reward_shift: float | Tensor,
    *,
    beta: float = 0.01,
) -> Tensor:
    """Binary classifier optimization, arXiv 2404.04656: −log σ(r − δ) if desirable, −log σ(δ − r) if not.

    Here r = β log(π_θ/π_ref) and δ is the reward shift, for which the paper keeps a running mean over the
    training batches of (mean r of the desirable + mean r of the undesirable) / 2, without gradient. Keeping
    it is up to the caller, in a buffer. The paper's density-ratio weights for unlike prompts are not applied;
    weight the losses.

    Args:
        policy_logps: log π_θ(y|x), shape [N].
        reference_logps: log π_ref(y|x), shape [N].
        desirable: True for thumbs up, bool, shape [N].
        reward_shift: δ, in the units of r (β is in it): a number or a scalar tensor. Its gradient flows if it
            has one.
        beta: β; 0.01 in the paper.

    Returns:
        Losses, shape [N], in nats; log 2 where r = δ.

    Raises:
        ValueError: If the shapes differ or are not [N], ``desirable`` is not bool or ``reward_shift`` not a
            scalar.
    """
    _check_shapes(1, policy_logps=policy_logps, reference_logps=reference_logps, desirable=desirable)
    _check_bool(desirable=desirable)
    if isinstance(reward_shift, Tensor) and reward_shift.dim():
        raise ValueError(f"reward_shift has shape {_shape(reward_shift)}, expected a number or a scalar tensor")
    shifted = implicit_reward(policy_logps, reference_logps, beta=beta) - reward_shift
    return -F.logsigmoid(torch.where(desirable, shifted, -shifted))


# -------------------------------------------------------- what came after: pairs, compared with the reference


def robust_dpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.1,
) -> Tensor:
    """Provably robust DPO, arXiv 2403.00409: ((1 − ε) L(y_w, y_l) − ε L(y_l, y_w)) / (1 − 2ε), L being (4).

    Its mean over noisy labels, a fraction ε of them flipped, is the mean of (4) over clean ones. May be
    negative.

    Args:
        policy_chosen_logps: log π_θ(y_w|x), shape [N].
        policy_rejected_logps: log π_θ(y_l|x), shape [N].
        reference_chosen_logps: log π_ref(y_w|x), shape [N].
        reference_rejected_logps: log π_ref(y_l|x), shape [N].
        beta: β; 0.1 in the paper.
        label_smoothing: ε in [0, 0.5), the probability that a preference is recorded the wrong way round; 0.1
            in the paper.

    Returns:
        Losses, shape [N], in nats; log 2 where policy and reference agree.

    Raises:
        ValueError: If the shapes differ or are not [N], or ε is outside its range.
    """
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must be in [0, 0.5), not {label_smoothing}")
    chosen, rejected = _log_ratios(
        policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps
    )
    margin = beta * (chosen - rejected)
    loss, flipped = -F.logsigmoid(margin), -F.logsigmoid(-margin)
    return ((1 - label_smoothing) * loss - label_smoothing * flipped) / (1 - 2 * label_smoothing)


def ipo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    *,
    beta: float = 0.1,
) -> Tensor:
    """Equation (17) of arXiv 2310.12036, IPO: (log-ratio of y_w − log-ratio of y_l − 1/(2β))².

    The paper's letter for β is τ. As printed the log-probabilities are sums over tokens; its authors have
    said that their own results have means over tokens instead. Pass sums for the one, means for the other.

    Args:
        policy_chosen_logps: log π_θ(y_w|x), shape [N].
        policy_rejected_logps: log π_θ(y_l|x), shape [N].
        reference_chosen_logps: log π_ref(y_w|x), shape [N].
        reference_rejected_logps: log π_ref(y_l|x), shape [N].
        beta: β; 0.1 is one of the values of the paper's experiments.

    Returns:
        Losses, shape [N], in nats squared; 1/(4β²) where policy and reference agree.

    Raises:
        ValueError: If the shapes differ or are not [N].
    """
    chosen, rejected = _log_ratios(
        policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps
    )
    return (chosen - rejected - 1 / (2 * beta)) ** 2


def sppo_hard_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    *,
    beta: float = 0.001,
) -> Tensor:
    """Equation (4.7) of arXiv 2405.00675, SPPO-hard: (log-ratio of y_w − η/2)² + (log-ratio of y_l + η/2)².

    η is 1/β. In the paper's equation the win probability P takes the place of the labels: η (P − 1/2), here
    with P = 1 for y_w and P = 0 for y_l.

    Args:
        policy_chosen_logps: log π_θ(y_w|x), shape [N].
        policy_rejected_logps: log π_θ(y_l|x), shape [N].
        reference_chosen_logps: log π_ref(y_w|x), shape [N].
        reference_rejected_logps: log π_ref(y_l|x), shape [N].
        beta: 1/η; 0.001 in the paper.

    Returns:
        Losses, shape [N], in nats squared; η²/2 where policy and reference agree.

    Raises:
        ValueError: If the shapes differ or are not [N].
    """
    chosen, rejected = _log_ratios(
        policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps
    )
    eta = 1 / beta
    return (chosen - eta / 2) ** 2 + (rejected + eta / 2) ** 2


def exo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.001,
) -> Tensor:
    """Equation (16) of arXiv 2402.00856, EXO on pairs: KL(q ‖ p) with q = (σ(d), σ(−d)), p = (1 − ε, ε).

    Here d = β log π_θ(y_w)/π_ref(y_w) − β log π_θ(y_l)/π_ref(y_l). With ε = `label_smoothing` of `dpo_loss`
    too, DPO is the forward KL(p ‖ q), up to a constant.

    Args:
        policy_chosen_logps: log π_θ(y_w|x), shape [N].
        policy_rejected_logps: log π_θ(y_l|x), shape [N].
        reference_chosen_logps: log π_ref(y_w|x), shape [N].
        reference_rejected_logps: log π_ref(y_l|x), shape [N].
        beta: β; 0.1 in the paper.
        label_smoothing: ε in (0, 1); 0.001 in the paper. At 0 the loss would be infinite.

    Returns:
        Losses, shape [N], in nats; 0 where q = p.

    Raises:
        ValueError: If the shapes differ or are not [N], or ε is outside its range.
    """
    chosen, rejected = _log_ratios(
        policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps
    )
    if not 0 < label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in (0, 1), not {label_smoothing}")
    d = beta * (chosen - rejected)
    log_p_chosen, log_p_rejected = math.log1p(-label_smoothing), math.log(label_smoothing)
    return sigmoid(d) * (F.logsigmoid(d) - log_p_chosen) + sigmoid(-d) * (F.logsigmoid(-d) - log_p_rejected)


def nca_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    *,
    beta: float = 0.01,
) -> Tensor:
    """Noise contrastive alignment on pairs, arXiv 2402.05369: −log σ(r_w) − ½ log σ(−r_w) − ½ log σ(−r_l).

    Here r = β log(π_θ/π_ref). The term in −r_l pushes the rejected down; the two in r_w keep the chosen up.

    Args:
        policy_chosen_logps: log π_θ(y_w|x), shape [N].
        policy_rejected_logps: log π_θ(y_l|x), shape [N].
        reference_chosen_logps: log π_ref(y_w|x), shape [N].
        reference_rejected_logps: log π_ref(y_l|x), shape [N].
        beta: β; 0.01 in the paper.

    Returns:
        Losses, shape [N], in nats; 2 log 2 where policy and reference agree.

    Raises:
        ValueError: If the shapes differ or are not [N].
    """
    chosen, rejected = _log_ratios(
        policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps
    )
    r_w, r_l = beta * chosen, beta * rejected
    return -F.logsigmoid(r_w) - 0.5 * F.logsigmoid(-r_w) - 0.5 * F.logsigmoid(-r_l)


def apo_zero_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    *,
    beta: float = 0.1,
) -> Tensor:
    """Equation (7) of arXiv 2408.06266, APO-zero: (1 − σ(r_w)) + σ(r_l), with r = β log(π_θ/π_ref).

    Raises the chosen and lowers the rejected: for chosen answers that are better than what the model would
    say.

    Args:
        policy_chosen_logps: log π_θ(y_w|x), shape [N].
        policy_rejected_logps: log π_θ(y_l|x), shape [N].
        reference_chosen_logps: log π_ref(y_w|x), shape [N].
        reference_rejected_logps: log π_ref(y_l|x), shape [N].
        beta: β; 0.1 in the paper.

    Returns:
        Losses, shape [N], in [0, 2]; 1 where policy and reference agree.

    Raises:
        ValueError: If the shapes differ or are not [N].
    """
    chosen, rejected = _log_ratios(
        policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps
    )
    return sigmoid(-beta * chosen) + sigmoid(beta * rejected)


def apo_down_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    *,
    beta: float = 0.1,
) -> Tensor:
    """Equation (8) of arXiv 2408.06266, APO-down: σ(r_w) + (1 − σ(r_w − r_l)), with r = β log(π_θ/π_ref).

    Lowers both, the rejected more: for chosen answers that are worse than what the model would say.

    Args:
        policy_chosen_logps: log π_θ(y_w|x), shape [N].
        policy_rejected_logps: log π_θ(y_l|x), shape [N].
        reference_chosen_logps: log π_ref(y_w|x), shape [N].
        reference_rejected_logps: log π_ref(y_l|x), shape [N].
        beta: β; 0.1 in the paper.

    Returns:
        Losses, shape [N], in [0, 2]; 1 where policy and reference agree.

    Raises:
        ValueError: If the shapes differ or are not [N].
    """
    chosen, rejected = _log_ratios(
        policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps
    )
    return sigmoid(beta * chosen) + sigmoid(-beta * (chosen - rejected))


def rpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    chosen_nll: Tensor,
    *,
    beta: float = 0.1,
    regularization: float = 1.0,
) -> Tensor:
    """DPO with an SFT term, arXiv 2404.19733 (1): equation (4) + α · (−log π_θ(y_w|x)) / |y_w|.

    Args:
        policy_chosen_logps: log π_θ(y_w|x), shape [N].
        policy_rejected_logps: log π_θ(y_l|x), shape [N].
        reference_chosen_logps: log π_ref(y_w|x), shape [N].
        reference_rejected_logps: log π_ref(y_l|x), shape [N].
        chosen_nll: −log π_θ(y_w|x) as a mean over tokens, shape [N].
        beta: β; 0.1 in the paper.
        regularization: α; 1 in the paper.

    Returns:
        Losses, shape [N], in nats.

    Raises:
        ValueError: If the shapes differ or are not [N].
    """
    _check_shapes(1, policy_chosen_logps=policy_chosen_logps, chosen_nll=chosen_nll)
    preference = dpo_loss(
        policy_chosen_logps,
        policy_rejected_logps,
        reference_chosen_logps,
        reference_rejected_logps,
        beta=beta,
    )
    return preference + regularization * chosen_nll


# ---------------------------------------------------------------- what came after: pairs, without a reference


def cpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    chosen_nll: Tensor,
    *,
    beta: float = 0.1,
    regularization: float = 1.0,
) -> Tensor:
    """Equation (3) of arXiv 2401.08417, CPO: −log σ(β log π_θ(y_w|x) − β log π_θ(y_l|x)) + NLL.

    Args:
        policy_chosen_logps: log π_θ(y_w|x), shape [N].
        policy_rejected_logps: log π_θ(y_l|x), shape [N].
        chosen_nll: −log π_θ(y_w|x), shape [N]: as printed a sum over tokens; a mean is usual.
        beta: β; 0.1 in the paper.
        regularization: Weight of the last term; 1 in the paper.

    Returns:
        Losses, shape [N], in nats.

    Raises:
        ValueError: If the shapes differ or are not [N].
    """
    _check_shapes(
        1,
        policy_chosen_logps=policy_chosen_logps,
        policy_rejected_logps=policy_rejected_logps,
        chosen_nll=chosen_nll,
    )
    return -F.logsigmoid(beta * (policy_chosen_logps - policy_rejected_logps)) + regularization * chosen_nll


def simpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    beta: float = 2.0,
    margin: float = 1.0,
) -> Tensor:
    """Equation (6) of arXiv 2405.14734, SimPO: −log σ(β/|y_w| log π_θ(y_w) − β/|y_l| log π_θ(y_l) − γ).

    Takes sums and lengths, as everything else here takes sums, and divides itself.

    Args:
        policy_chosen_logps: log π_θ(y_w|x), shape [N].
        policy_rejected_logps: log π_θ(y_l|x), shape [N].
        chosen_lengths: |y_w|, the number of completion tokens, shape [N], any numeric dtype. 0 counts as 1.
        rejected_lengths: |y_l|, likewise.
        beta: β. The paper tunes it per model, in [2, 2.5]; default: 2.0.
        margin: γ, in the units of the rewards (β is in it). The paper tunes it, in [0.3, 1.6]; default: γ/β =
            0.5.

    Returns:
        Losses, shape [N], in nats.

    Raises:
        ValueError: If the shapes differ or are not [N].
    """
    _check_shapes(
        1,
        policy_chosen_logps=policy_chosen_logps,
        policy_rejected_logps=policy_rejected_logps,
        chosen_lengths=chosen_lengths,
        rejected_lengths=rejected_lengths,
    )
    chosen = beta * _per_token(policy_chosen_logps, chosen_lengths)
    rejected = beta * _per_token(policy_rejected_logps, rejected_lengths)
    return -F.logsigmoid(chosen - rejected - margin)


def orpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    regularization: float = 0.1,
) -> Tensor:
    """Equations (6) and (7) of arXiv 2403.07691, ORPO: NLL(y_w) + λ · (−log σ(log OR)).

    OR = odds(y_w)/odds(y_l), odds(y) = P(y)/(1 − P(y)), log P(y) = log π_θ(y|x)/|y|, NLL(y) = −log P(y).

    Args:
        policy_chosen_logps: log π_θ(y_w|x), shape [N].
        policy_rejected_logps: log π_θ(y_l|x), shape [N].
        chosen_lengths: |y_w|, the number of completion tokens, shape [N], any numeric dtype. 0 counts as 1.
        rejected_lengths: |y_l|, likewise.
        regularization: λ; 0.1 for the paper's Mistral-ORPO-β.

    Returns:
        Losses, shape [N], in nats.

    Raises:
        ValueError: If the shapes differ or are not [N].
    """
    _check_shapes(
        1,
        policy_chosen_logps=policy_chosen_logps,
        policy_rejected_logps=policy_rejected_logps,
        chosen_lengths=chosen_lengths,
        rejected_lengths=rejected_lengths,
    )
    chosen = _per_token(policy_chosen_logps, chosen_lengths)
    rejected = _per_token(policy_rejected_logps, rejected_lengths)
    return -chosen - regularization * F.logsigmoid(_log_odds(chosen) - _log_odds(rejected))


# -------------------------------------------------------------------------------------- tokens and advantages


def humanline_clip(
    policy_token_logps: Tensor, reference_token_logps: Tensor, *, low: float = -1.0, high: float = 1.5
) -> Tensor:
    """Humanline, arXiv 2509.24207: each token's log-ratio log(π_θ/π_ref), clipped to [log ε_P, log ε_R].

    A clipped token has no gradient. Sum the result over the completion and give it to a loss as
    ``policy_logps``, with zeros as ``reference_logps``. The paper also moves the reference to the policy now
    and then; that is the caller's.

    Args:
        policy_token_logps: log π_θ(y_t|x, y_<t), shape [N, T].
        reference_token_logps: log π_ref(y_t|x, y_<t), shape [N, T].
        low: log ε_P, in nats; −1.0 in the released code.
        high: log ε_R, in nats; 1.5 in the released code.

    Returns:
        Clipped log-ratios, shape [N, T], in nats.

    Raises:
        ValueError: If the shapes differ or are not [N, T], or low > high.
    """
    _check_shapes(2, policy_token_logps=policy_token_logps, reference_token_logps=reference_token_logps)
    if not low <= high:
        raise ValueError(f"low must be at most high, not {low} and {high}")
    return (policy_token_logps - reference_token_logps).clamp(low, high)


def generalized_advantages(
    values: Tensor, rewards: Tensor, mask: Tensor, *, gamma: float = 0.99, lam: float = 0.95
) -> Tensor:
    """Equation (16) of arXiv 1506.02438: A_t = Σ_k (γλ)^k δ_(t+k), δ_t = r_t + γ V_(t+1) − V_t.

    What the released code's offline PPO has for the A of section 3.3, after `whiten`, with one reward of ±1
    at the completion's last token. After the last token V is 0. Masked-out tokens do not exist: the next
    token of t is the next one in the mask.

    Args:
        values: V_t, what a value head expects before token t, shape [N, T].
        rewards: r_t, shape [N, T].
        mask: True at completion tokens, bool, shape [N, T].
        gamma: γ, discount; 0.99 in the released code.
        lam: λ, between one-step (0) and whole-completion (1) estimates; 0.95 in the released code.

    Returns:
        Advantages, shape [N, T], 0 where masked out, without gradient.

    Raises:
        ValueError: If the shapes differ or are not [N, T], or ``mask`` is not bool.
    """
    _check_shapes(2, values=values, rewards=rewards, mask=mask)
    _check_bool(mask=mask)
    values, rewards = values.detach(), rewards.detach()
    next_value = next_advantage = values.new_zeros(len(values))
    advantages = torch.zeros_like(values)
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = torch.where(mask[:, t], delta + gamma * lam * next_advantage, next_advantage)
        next_value = torch.where(mask[:, t], values[:, t], next_value)
        advantages[:, t] = next_advantage
    return advantages.masked_fill(~mask, 0.0)


def discounted_returns(rewards: Tensor, mask: Tensor, *, gamma: float = 0.99) -> Tensor:
    """What the value head learns to predict: G_t = r_t + γ G_(t+1), over the tokens of the mask.

    The code released in December 2023 starts the sum at r_(t+1), a later version of it at r_t, as here.

    Args:
        rewards: r_t, shape [N, T].
        mask: True at completion tokens, bool, shape [N, T].
        gamma: γ, discount; 0.99 in the released code.

    Returns:
        Returns, shape [N, T], 0 where masked out, without gradient.

    Raises:
        ValueError: If the shapes differ or are not [N, T], or ``mask`` is not bool.
    """
    # With V = 0 and λ = 1 the advantage is the return.
    no_values = torch.zeros_like(rewards, dtype=torch.result_type(rewards, gamma))
    return generalized_advantages(no_values, rewards, mask, gamma=gamma, lam=1.0)


def whiten(
    values: Tensor, mask: Tensor, *, epsilon: float = 1e-8, total: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Shift and scale to mean 0 and variance 1 over all places of the mask together: (v − mean) / √(var + ε).

    The variance is the mean of squares, not Bessel-corrected: one token alone becomes 0, not NaN.

    Args:
        values: Advantages or rewards, any shape.
        mask: True where a value counts, bool, the same shape.
        epsilon: ε, added to the variance.
        total: Adds up a scalar over several processes, whose values then are whitened together; None is for one.

    Returns:
        Whitened values, the same shape, 0 where masked out.

    Raises:
        ValueError: If the shapes differ, or ``mask`` is not bool.
    """
    _check_shapes(None, values=values, mask=mask)
    _check_bool(mask=mask)
    total = total or (lambda scalar: scalar)
    count = total(mask.sum().to(values.dtype)).clamp(min=1)
    centred = (values - total(values.masked_fill(~mask, 0.0).sum()) / count).masked_fill(~mask, 0.0)
    return centred * torch.rsqrt(total((centred**2).sum()) / count + epsilon)


# ----------------------------------------------------------------------------------------------- small pieces


def _log_ratios(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
) -> tuple[Tensor, Tensor]:
    """Check a batch of pairs; return log π_θ/π_ref of the chosen and of the rejected, [N] each."""
    _check_shapes(
        1,
        policy_chosen_logps=policy_chosen_logps,
        policy_rejected_logps=policy_rejected_logps,
        reference_chosen_logps=reference_chosen_logps,
        reference_rejected_logps=reference_rejected_logps,
    )
    return policy_chosen_logps - reference_chosen_logps, policy_rejected_logps - reference_rejected_logps


def _mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the values in the mask, a scalar; 0 where there are none, and no gradient then."""
    return values.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def _per_token(logps: Tensor, lengths: Tensor) -> Tensor:
    """Return log π(y|x) / |y|, in the dtype of the log-probabilities."""
    return logps / lengths.clamp(min=1).to(logps.dtype)


def _log_odds(log_p: Tensor) -> Tensor:
    """Return log(P / (1 − P)) from log P; P stays off 1, where the odds are infinite, by an epsilon."""
    log_p = log_p.clamp(max=-torch.finfo(log_p.dtype).eps)
    return log_p - torch.log(-torch.expm1(log_p))


def _tangent_exp(x: Tensor, limit: float = 20.0) -> Tensor:
    """Return e^x up to the limit and its tangent there beyond: finite and increasing for every x."""
    return torch.exp(x.clamp(max=limit)) * (1 + F.relu(x - limit))


def _shape(tensor: Tensor) -> tuple[int, ...]:
    """Return the shape as it reads well in a message."""
    return tuple(tensor.shape)


def _check_shapes(dimensions: int | None, **tensors: Tensor) -> None:
    """Raise unless all have the shape of the first, and that has so many dimensions (None: any number)."""
    (first, leader), *others = tensors.items()
    if dimensions is not None and leader.dim() != dimensions:
        raise ValueError(f"{first} has shape {_shape(leader)}, expected {('[N]', '[N, T]')[dimensions - 1]}")
    for name, tensor in others:
        if tensor.shape != leader.shape:
            raise ValueError(f"{name} has shape {_shape(tensor)}, but {first} has shape {_shape(leader)}")


def _check_bool(**tensors: Tensor) -> None:
    """Raise unless all are bool: a 0/1 or ±1 of another dtype would mean something else."""
    for name, tensor in tensors.items():
        if tensor.dtype != torch.bool:
            raise ValueError(f"{name} has dtype {tensor.dtype}, expected torch.bool")
