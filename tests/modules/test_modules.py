"""Every module computes the loss of its equation from log-probabilities that a plain forward pass gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from halo_lightning import losses, modules
from halo_lightning.data.batches import PairedBatch, Sequences, SFTBatch, UnaryBatch, pack
from halo_lightning.modules import HaloModule
from halo_lightning.modules.paired import PairedHalo
from tests.conftest import make_sequences, one_by_one, tiny_llama

METHODS = [getattr(modules, name) for name in modules.__all__ if name != "HaloModule"]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("policy")
    tiny_llama(1).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("reference")
    tiny_llama(2).save_pretrained(folder)
    return str(folder)


WEIGHT = [1.0, 0.5]
SEQUENCES = make_sequences([12, 9, 7, 10], [3, 4, 6, 1])
PAIRED = PairedBatch(SEQUENCES, torch.tensor(WEIGHT), torch.arange(2))
UNARY = UnaryBatch(
    SEQUENCES, torch.tensor([True, False, False, True]), torch.tensor([1.0, 0.5, 2.0, 1.0]), torch.arange(4)
)
SFT_BATCH = SFTBatch(SEQUENCES, torch.tensor([1.0, 0.5, 2.0, 1.0]), torch.arange(4))
BATCHES = {"paired": PAIRED, "unary": UNARY, "sft": SFT_BATCH}


def built(module: HaloModule) -> HaloModule:
    module.configure_model()
    return module


def plain_logps(module: HaloModule, sequences: Sequences = SEQUENCES) -> tuple[torch.Tensor, torch.Tensor]:
    pair = module.pair
    with torch.no_grad():
        policy = one_by_one(pair.policy, sequences)
        if not module.needs_reference:
            return policy, torch.zeros_like(policy)
        return policy, one_by_one(pair.loaded_reference().model, sequences)


LENGTHS = SEQUENCES.completion_mask.sum(-1)


def nll(logps: torch.Tensor) -> torch.Tensor:
    return -logps[:2]


PAIRED_LOSSES = {
    "DPO": lambda p, r: losses.dpo_loss(p[:2], p[2:], r[:2], r[2:], beta=0.1),
    "IPO": lambda p, r: losses.ipo_loss(p[:2], p[2:], r[:2], r[2:], beta=0.1),
    "RobustDPO": lambda p, r: losses.robust_dpo_loss(p[:2], p[2:], r[:2], r[2:], beta=0.1, label_smoothing=0.1),
    "SPPOHard": lambda p, r: losses.sppo_hard_loss(p[:2], p[2:], r[:2], r[2:], beta=0.001),
    "EXO": lambda p, r: losses.exo_loss(p[:2], p[2:], r[:2], r[2:], beta=0.1, label_smoothing=0.001),
    "NCA": lambda p, r: losses.nca_loss(p[:2], p[2:], r[:2], r[2:], beta=0.01),
    "APOZero": lambda p, r: losses.apo_zero_loss(p[:2], p[2:], r[:2], r[2:], beta=0.1),
    "APODown": lambda p, r: losses.apo_down_loss(p[:2], p[2:], r[:2], r[2:], beta=0.1),
    "RPO": lambda p, r: losses.rpo_loss(p[:2], p[2:], r[:2], r[2:], nll(p) / LENGTHS[:2], beta=0.1),
    "CPO": lambda p, r: losses.cpo_loss(p[:2], p[2:], nll(p) / LENGTHS[:2], beta=0.1),
    "SimPO": lambda p, r: losses.simpo_loss(p[:2], p[2:], LENGTHS[:2], LENGTHS[2:], beta=2.0),
    "ORPO": lambda p, r: losses.orpo_loss(p[:2], p[2:], LENGTHS[:2], LENGTHS[2:], regularization=0.1),
    "SLiC": lambda p, r: losses.slic_loss(p[:2], p[2:], nll(p), margin=1.0, regularization=0.1),
}


def test_every_paired_module_is_compared() -> None:
    assert set(PAIRED_LOSSES) == {cls.__name__ for cls in METHODS if issubclass(cls, PairedHalo)}


@pytest.mark.parametrize("name", PAIRED_LOSSES)
def test_paired_modules(name: str, policy: str, reference: str) -> None:
    module = built(getattr(modules, name)(policy, reference=reference))
    loss, values = module.loss_and_metrics(PAIRED)
    token_logps, token_reference = plain_logps(module)
    expected = torch.tensor(WEIGHT) * PAIRED_LOSSES[name](token_logps.sum(-1), token_reference.sum(-1))
    torch.testing.assert_close(values["losses"], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss, expected.mean(), rtol=1e-4, atol=1e-5)
    module.training_metrics.update(**values)
    logged = module.training_metrics.compute()
    assert {"loss", "rewards/chosen", "rewards/margins", "rewards/accuracies", "logps/chosen"} <= set(logged)
    assert ("kl" in logged) == module.needs_reference
    loss.backward()
    assert all(p.grad is not None for p in module.pair.policy.parameters())


def test_kto_is_equation_7(policy: str, reference: str) -> None:
    module = built(modules.KTO(policy, reference=reference, beta=0.2, desirable_weight=1.5))
    loss, values = module.loss_and_metrics(UNARY)
    token_logps, token_reference = plain_logps(module)
    ratio = (token_logps.sum(-1) - token_reference.sum(-1)).tolist()
    # Rows 0 and 3 are desirable, rows 1 and 2 are not; each half's KL is the other half's mean log-ratio.
    kl_of_desirable = max(0.0, (ratio[1] + ratio[2]) / 2)
    kl_of_undesirable = max(0.0, (ratio[0] + ratio[3]) / 2)
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    expected = [
        1.0 * 1.5 * (1 - sigmoid(0.2 * (ratio[0] - kl_of_desirable))),
        0.5 * 1.0 * (1 - sigmoid(0.2 * (kl_of_undesirable - ratio[1]))),
        2.0 * 1.0 * (1 - sigmoid(0.2 * (kl_of_undesirable - ratio[2]))),
        1.0 * 1.5 * (1 - sigmoid(0.2 * (ratio[3] - kl_of_desirable))),
    ]
    assert max(kl_of_desirable, kl_of_undesirable) > 0
    torch.testing.assert_close(values["losses"], torch.tensor(expected), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loss, torch.tensor(expected).mean(), rtol=1e-4, atol=1e-4)


def test_kto_gradient_through_the_kl_is_an_option(policy: str, reference: str) -> None:
    gradients = {}
    for through in (False, True):
        module = built(modules.KTO(policy, reference=reference, kl_gradient=through))
        module.loss_and_metrics(UNARY)[0].backward()
        gradients[through] = module.pair.policy.lm_head.weight.grad
    assert (gradients[True] - gradients[False]).abs().max() > 1e-4


def test_kto_without_kl(policy: str, reference: str) -> None:
    module = built(modules.KTO(policy, reference=reference, kl="none"))
    values = module.loss_and_metrics(UNARY)[1]
    assert values["kl"].tolist() == [0.0] * 4
    unpaired = built(modules.APOZeroUnpaired(policy, reference=reference))
    torch.testing.assert_close(values["losses"], unpaired.loss_and_metrics(UNARY)[1]["losses"])


def test_mismatched_rows_join_prompts_with_completions_of_other_prompts() -> None:
    from halo_lightning.modules.kto import mismatched

    # Prompts AA, AA, B, CCC; completions 1, 22, 3, 44.
    a, b, c = 50, 51, 52
    prompts, completions = [[a, a], [a, a], [b], [c, c, c]], [[1], [2, 2], [3], [4, 4]]
    given = [(np.array(p), np.array(c)) for p, c in zip(prompts, completions, strict=True)]
    joined = mismatched(given, range(4))
    rows = [(prompt.tolist(), completion.tolist()) for prompt, completion in joined.unpacked()]
    # The first prompt passes over the second one, which is the same.
    assert rows == [([a, a], [3]), ([a, a], [3]), ([b], [4, 4]), ([c, c, c], [1])]
    # A process that has the last two has the same of these.
    part = [(p.tolist(), c.tolist()) for p, c in mismatched(given, range(2, 4)).unpacked()]
    assert part == rows[2:]


@pytest.mark.parametrize("through", [False, True])
def test_kto_with_mismatched_kl(through: bool, policy: str, reference: str) -> None:
    from halo_lightning.modules.kto import mismatched

    module = built(modules.KTO(reference, reference=policy, kl="mismatched", kl_gradient=through))
    _, values = module.loss_and_metrics(UNARY)
    token_logps, token_reference = plain_logps(module, mismatched(SEQUENCES.unpacked(), range(4)))
    expected = (token_logps - token_reference).sum(-1).mean().clamp(min=0)
    assert expected > 0
    torch.testing.assert_close(values["kl"], expected.expand(4), rtol=1e-4, atol=1e-4)
    assert values["kl"].requires_grad == through
    # On its way to the device, the batch gets them beforehand.
    batch = module.on_before_batch_transfer(UNARY, 0)
    torch.testing.assert_close(module.loss_and_metrics(batch)[1]["kl"], values["kl"])


def test_bco_shift_is_a_running_mean(policy: str, reference: str) -> None:
    module = built(modules.BCO(policy, reference=reference, beta=0.01)).train()
    token_logps, token_reference = plain_logps(module)
    rewards = 0.01 * (token_logps - token_reference).sum(-1)
    shift = (rewards[[0, 3]].mean() + rewards[[1, 2]].mean()) / 2
    _, values = module.loss_and_metrics(UNARY)
    torch.testing.assert_close(module.reward_shift, shift, rtol=1e-4, atol=1e-6)
    signs = torch.tensor([1.0, -1.0, -1.0, 1.0])
    expected = UNARY.weight * torch.log1p(torch.exp(-signs * (rewards - shift)))
    torch.testing.assert_close(values["losses"], expected, rtol=1e-4, atol=1e-5)

    twice = UNARY._replace(desirable=~UNARY.desirable)
    module.loss_and_metrics(twice)
    torch.testing.assert_close(module.reward_shift, shift, rtol=1e-4, atol=1e-6)  # the same mean the second time
    one_kind = UNARY._replace(desirable=torch.ones(4, dtype=torch.bool))
    module.loss_and_metrics(one_kind)
    assert int(module.batches_seen) == 2
    module.eval()
    module.loss_and_metrics(UNARY)
    assert int(module.batches_seen) == 2
    assert {"reward_shift", "batches_seen"} <= set(module.state_dict())


@pytest.mark.parametrize("average", ["tokens", "examples"])
def test_sft(average: str, policy: str) -> None:
    module = built(modules.SFT(policy, average=average))
    assert module.pair.reference is None
    loss, values = module.loss_and_metrics(SFT_BATCH)
    weighted = -SFT_BATCH.weight[:, None] * plain_logps(module)[0]
    expected = weighted.sum() / (LENGTHS.sum() if average == "tokens" else 4)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    module.training_metrics.update(**values)
    torch.testing.assert_close(module.training_metrics.compute()["loss"].float(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ratio", ["probability", "log"])
@pytest.mark.parametrize("batch", [PAIRED, UNARY], ids=["paired", "unary"])
def test_offline_ppo_with_constant_advantage(
    ratio: str, batch: PairedBatch | UnaryBatch, policy: str, reference: str
) -> None:
    module = built(modules.OfflinePPO(policy, reference=reference, ratio=ratio, kl_penalty=0.3))
    loss, _ = module.loss_and_metrics(batch)
    token_logps, token_reference = plain_logps(module)
    weight = [1.0, 0.5, 1.0, 0.5] if isinstance(batch, PairedBatch) else UNARY.weight.tolist()
    expected = 0.0
    for row in range(4):
        sign = 1.0 if batch.desirable[row] else -1.0
        total = penalty = 0.0
        for t in range(SEQUENCES.completion_mask.shape[1]):
            if SEQUENCES.completion_mask[row, t]:
                log_ratio = float(token_logps[row, t] - token_reference[row, t])
                r, low, high = (
                    (math.exp(log_ratio), 0.5, 2.0)
                    if ratio == "probability"
                    else (log_ratio, -math.log(2), math.log(2))
                )
                total += min(r * sign, min(max(r, low), high) * sign)
                penalty += -log_ratio
        expected += weight[row] * (-total + 0.3 * penalty) / int(LENGTHS[row]) / 4
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_offline_ppo_with_a_value_head(policy: str, reference: str) -> None:
    torch.manual_seed(0)
    module = built(modules.OfflinePPO(policy, reference=reference, advantage="gae", value_coefficient=1.0))
    loss, _ = module.loss_and_metrics(UNARY)
    loss.backward()
    head_gradient = [p.grad.clone() for p in module.value_head.parameters()]
    assert all(g.abs().max() > 0 for g in head_gradient[-2:])
    policy_gradient = module.pair.policy.lm_head.weight.grad.clone()

    # The value head's error must not move the policy: its weight changes the head's gradient alone.
    module.zero_grad()
    module.value_coefficient = 0.0
    module.loss_and_metrics(UNARY)[0].backward()
    torch.testing.assert_close(module.pair.policy.lm_head.weight.grad, policy_gradient)
    assert not any(p.grad is not None and p.grad.abs().max() > 0 for p in module.value_head.parameters())


def test_csft_puts_the_control_text_between_prompt_and_completion() -> None:
    module = modules.CSFT("embedded:base")
    module._control_tokens = {True: [91, 92], False: [93]}
    batch = UNARY._replace(sequences=make_sequences([5, 4], [2, 1]), desirable=torch.tensor([True, False]))
    (first, answer), (second, other) = batch.sequences.unpacked()
    after = module.on_before_batch_transfer(batch, 0).sequences
    assert [(prompt.tolist(), completion.tolist()) for prompt, completion in after.unpacked()] == [
        ([*first, 91, 92], answer.tolist()),
        ([*second, 93], other.tolist()),
    ]


def test_csft_keeps_what_is_learned() -> None:
    module = modules.CSFT("embedded:base")
    module._control_tokens = {True: [91, 92], False: [93]}
    masks = [np.array([True, False, True]), np.array([True, True, False])]
    given = pack([np.array([1, 2]), np.array([3])], [np.array([4, 5, 6]), np.array([7, 8, 9])], learned=masks)
    after = module.with_control(given, torch.tensor([True, False]))
    assert after.input_ids.tolist() == [1, 2, 91, 92, 4, 5, 6, 3, 93, 7, 8, 9]
    assert after.targets.tolist() == [4, 6, 7, 8]
    assert after.predictors.tolist() == [3, 5, 8, 9]


def test_csft_export_asks_for_desirable_completions() -> None:
    from halo_lightning.pretrained import load_tokenizer

    module = modules.CSFT("embedded:base")
    tokenizer = load_tokenizer("embedded:base")
    question = [{"role": "user", "content": "Hi"}]
    plain = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    exported = module.tokenizer_for_export(tokenizer)
    text = exported.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    assert text.startswith(plain)
    control = module.control_tokens[True]
    assert exported(text, add_special_tokens=False)["input_ids"][-len(control) :] == control
    assert tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True) == plain


def test_reward_model_scores_the_last_token() -> None:
    module = built(modules.RewardModel("embedded:base"))
    batch, model = PAIRED, module.pair.policy
    rewards = module(batch)
    for (prompt, completion), reward in zip(batch.sequences.unpacked(), rewards, strict=True):
        ids = torch.from_numpy(np.concatenate([prompt, completion]))
        expected = model(input_ids=ids[None], use_cache=False).logits[0, 0]
        torch.testing.assert_close(reward, expected, rtol=1e-4, atol=1e-5)
    loss, values = module.loss_and_metrics(batch)
    expected = torch.tensor(WEIGHT) * torch.log1p(torch.exp(rewards[2:] - rewards[:2]))
    torch.testing.assert_close(values["losses"], expected)
    torch.testing.assert_close(loss, expected.mean())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("DPO", math.log(2)),
        ("KTO", 0.5),
        ("IPO", 25.0),
        ("APOZero", 1.0),
        ("APOZeroUnpaired", 0.5),
        ("BCO", math.log(2)),
        ("SPPOHard", 2 * (0.5 / 0.001) ** 2),
    ],
)
def test_closed_form_before_the_first_step(name: str, expected: float, policy: str) -> None:
    module = built(getattr(modules, name)(policy))
    batch = BATCHES[module.feedback[0]]
    loss, values = module.loss_and_metrics(batch._replace(weight=torch.ones_like(batch.weight)))
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert values["rewards"].abs().max() < 1e-5


def test_humanline_clips_each_token(policy: str, reference: str) -> None:
    module = built(modules.DPO(policy, reference=reference, humanline=(-0.25, 0.5)))
    policy_logps, reference_logps = module.logps(SEQUENCES)
    token_logps, token_reference = plain_logps(module)
    clipped = (token_logps - token_reference).clamp(-0.25, 0.5).sum(-1)
    torch.testing.assert_close(policy_logps - reference_logps, clipped, rtol=1e-4, atol=1e-4)
    free_logps, _ = built(modules.DPO(policy, reference=reference)).logps(SEQUENCES)
    assert (free_logps - policy_logps).abs().max() > 0.1


@pytest.mark.parametrize("method", METHODS, ids=lambda cls: cls.__name__)
def test_says_where_it_is_from(method: type[HaloModule]) -> None:
    assert method.source
    assert method.feedback
    assert method.__doc__
    assert "Args:" in method.__doc__


def test_not_built_yet_says_so(policy: str) -> None:
    with pytest.raises(RuntimeError, match="configure_model"):
        modules.DPO(policy).loss_and_metrics(PAIRED)


@pytest.mark.parametrize("name", [cls.__name__ for cls in METHODS])
def test_mixed_precision_gives_nearly_the_same(name: str) -> None:
    module = built(getattr(modules, name)("embedded:base"))
    batch = module.on_before_batch_transfer(BATCHES[module.feedback[0]], 0)
    results = []
    for mixed in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            loss, _ = module.loss_and_metrics(batch)
        module.zero_grad()
        loss.backward()
        gradients = [weight.grad.flatten() for weight in module.parameters() if weight.grad is not None]
        results.append((loss, torch.cat(gradients).double()))
    (exact, gradient), (mixed_loss, mixed_gradient) = results
    assert mixed_loss.dtype == torch.float32
    assert mixed_loss.item() == pytest.approx(exact.item(), rel=0.02, abs=1e-6)
    assert torch.nn.functional.cosine_similarity(gradient, mixed_gradient, dim=0) > 0.999
