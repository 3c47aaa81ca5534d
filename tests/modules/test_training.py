"""Modules under a plain Trainer, without the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from halo_lightning import (
    DPO,
    KTO,
    SFT,
    HuggingFaceExport,
    OfflinePPO,
    PairedDataModule,
    SFTDataModule,
    UnaryDataModule,
)
from halo_lightning.callbacks import ContinuedCurves, RunCheckpoint
from halo_lightning.errors import ConfigError
from halo_lightning.figures import read_scalars
from halo_lightning.modules import RewardModel
from halo_lightning.pretrained import load_tokenizer, resolve_path
from halo_lightning.values import KahnemanTversky
from halo_lightning.world import rows
from tests.conftest import one_by_one


@pytest.fixture
def thumbs(tmp_path: Path) -> str:
    path = tmp_path / "feedback.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows("thumbs", examples=64, seed=1)))
    return str(path)


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows("pairs", examples=48, seed=1)))
    return str(path)


def trainer(folder: Path, **settings: object) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_steps": 3, "log_every_n_steps": 1, "logger": False, **settings},
    )


def test_five_lines(thumbs: str, tmp_path: Path) -> None:
    module = KTO(policy="embedded:base", beta=0.1)
    data = UnaryDataModule(thumbs, batch_size=8, max_length=128, max_prompt_length=64, validation_fraction=0.4)
    trained = trainer(tmp_path, max_epochs=1, max_steps=-1)
    trained.fit(module, datamodule=data)
    assert trained.global_step == len(data.train_dataloader())
    assert {"loss", "kl", "rewards/margins", "val/rewards/accuracies"} <= trained.callback_metrics.keys()


def test_training_moves_the_policy_and_not_the_reference(pairs: str, tmp_path: Path) -> None:
    module = DPO(
        "embedded:base", reference_mode="frozen", optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1)
    )
    module.configure_model()
    policy = {name: value.clone() for name, value in module.pair.policy.named_parameters()}
    reference = {name: value.clone() for name, value in module.pair.reference.named_parameters()}
    data = PairedDataModule(pairs, batch_size=8, max_length=128, max_prompt_length=64, validation_fraction=0)
    trainer(tmp_path).fit(module, datamodule=data)
    assert all((value != policy[name]).any() for name, value in module.pair.policy.named_parameters())
    assert all((value == reference[name]).all() for name, value in module.pair.reference.named_parameters())


def test_checkpoints_hold_primitives_and_the_policy_alone(thumbs: str, tmp_path: Path) -> None:
    module = KTO("embedded:base", beta=0.3, value_function=KahnemanTversky())
    data = UnaryDataModule(thumbs, batch_size=8, max_length=128, max_prompt_length=64)
    trained = trainer(tmp_path)
    trained.fit(module, datamodule=data)
    path = tmp_path / "saved.ckpt"
    trained.save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["hyper_parameters"]["beta"] == 0.3
    assert not any("reference" in name for name in checkpoint["state_dict"])

    loaded = KTO.load_from_checkpoint(path, weights_only=True)
    assert loaded.beta == 0.3
    for (name, ours), theirs in zip(
        module.pair.policy.named_parameters(), loaded.pair.policy.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, msg=name)


METHODS: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "DPO": (DPO, {}, PairedDataModule),
    "KTO": (KTO, {"kl_over": 4, "kl_gradient": True, "beta": 0.5}, UnaryDataModule),
    "KTO, mismatched": (KTO, {"kl_over": 4, "kl": "mismatched", "beta": 0.5}, UnaryDataModule),
    "PPO, unary": (OfflinePPO, {"whiten_over": 4, "advantage": "gae", "value_coefficient": 1.0}, UnaryDataModule),
    "PPO, paired": (OfflinePPO, {"whiten_over": 2, "advantage": "gae", "value_coefficient": 1.0}, PairedDataModule),
    "SFT": (SFT, {"average": "examples"}, SFTDataModule),
}


@pytest.mark.parametrize("name", METHODS)
def test_accumulated_micro_batches_equal_one_batch(name: str, pairs: str, tmp_path: Path) -> None:
    method, options, feedback = METHODS[name]
    weights = []
    for micro_batch_size in (None, 4):
        L.seed_everything(1, verbose=False)
        module = method("embedded:base", dtype="float64", optimizer=lambda p: torch.optim.SGD(p, lr=0.1), **options)
        data = feedback(
            pairs,
            batch_size=8,
            micro_batch_size=micro_batch_size,
            max_length=128,
            max_prompt_length=64,
            validation_fraction=0,
        )
        trained = trainer(tmp_path)
        trained.fit(module, datamodule=data)
        assert trained.accumulate_grad_batches == (1 if micro_batch_size is None else 2)
        weights.append((list(module.pair.policy.parameters()), float(trained.callback_metrics["loss"])))
    for one, two in zip(weights[0][0], weights[1][0], strict=True):
        # The reference's log-probabilities are float32, and so are the norms of a Llama.
        torch.testing.assert_close(one, two, rtol=0, atol=1e-7)
    assert weights[0][1] == pytest.approx(weights[1][1], rel=1e-6)


def test_accumulation_that_the_trainer_was_asked_for(pairs: str, tmp_path: Path) -> None:
    data = PairedDataModule(pairs, batch_size=8, max_length=128, max_prompt_length=64, validation_fraction=0)
    trained = trainer(tmp_path, accumulate_grad_batches=4, max_steps=1)
    trained.fit(DPO("embedded:base"), datamodule=data)
    assert data.division == (2, 4, 1)


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        (KTO, {"kl_over": 4}, "kl_over is 4, and micro-batches of 2 examples"),
        (KTO, {"kl_over": 0}, "kl_over is 0: expected"),
        (OfflinePPO, {"whiten_over": 4}, "whiten_over is 4, and micro-batches of 2 examples"),
    ],
)
def test_groups_that_do_not_fit(method: Any, options: dict[str, Any], says: str, thumbs: str, tmp_path: Path) -> None:
    data = UnaryDataModule(thumbs, batch_size=8, micro_batch_size=2, max_length=128, max_prompt_length=64)
    with pytest.raises(ConfigError, match=says):
        trainer(tmp_path).fit(method("embedded:base", **options), datamodule=data)


def foreign_tokenizer(folder: Path) -> str:
    """A tokenizer that has one token more than the embedded model."""
    tokenizer = load_tokenizer("embedded:small")
    tokenizer.add_tokens("fruit")
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text((Path(resolve_path("embedded:small")) / "config.json").read_text())
    return str(folder)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_token_that_the_policy_does_not_know(streaming: bool, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(
        '{"prompt": "Hello", "completion": "Hi"}\n{"prompt": "Hello", "completion": "a fruit"}\n'
    )
    options: dict[str, Any] = {"streaming": True, "shuffle_buffer": 2} if streaming else {}
    data = SFTDataModule(
        str(tmp_path / "rows.jsonl"),
        tokenizer=foreign_tokenizer(tmp_path / "other"),
        validation_fraction=0.0,
        batch_size=2,
        **options,
    )
    known = r"'fruit'.* rows for 1,024 tokens \(the tokenizer has 1,025 tokens\)"
    with pytest.raises(ConfigError, match="found the token 1024" if streaming else f"line 2: found .* 1024, {known}"):
        trainer(tmp_path).fit(SFT("embedded:small"), datamodule=data)


def test_tokens_that_are_not_used_are_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Hello", "completion": "Hi"}\n' * 2)
    data = SFTDataModule(
        str(tmp_path / "rows.jsonl"),
        tokenizer=foreign_tokenizer(tmp_path / "other"),
        validation_fraction=0.0,
        batch_size=2,
    )
    trained = trainer(tmp_path, max_steps=1)
    trained.fit(SFT("embedded:small"), datamodule=data)
    assert trained.global_step == 1


def test_validation_before_the_first_step_is_logged(thumbs: str, tmp_path: Path) -> None:
    from lightning.pytorch.loggers import TensorBoardLogger

    from halo_lightning.figures import read_scalars

    data = UnaryDataModule(thumbs, batch_size=8, max_length=128, max_prompt_length=64, validation_fraction=0.5)
    logger = TensorBoardLogger(tmp_path, name="run")
    trainer(tmp_path, num_sanity_val_steps=-1, val_check_interval=2, max_steps=2, logger=logger).fit(
        KTO("embedded:base"), datamodule=data
    )
    scalars = read_scalars(tmp_path / "run")
    first, *later = scalars["val/loss"]
    assert first == (0, pytest.approx(0.5))
    assert later
    assert scalars["val/rewards/margins"][0] == (0, pytest.approx(0.0, abs=1e-4))


def test_an_interrupted_training_exports_nothing(thumbs: str, tmp_path: Path) -> None:
    class Stop(L.Callback):
        def on_train_batch_end(self, *_: object) -> None:
            raise RuntimeError("power cut")

    data = UnaryDataModule(thumbs, batch_size=8, max_length=128, max_prompt_length=64)
    export = HuggingFaceExport(str(tmp_path / "export"))
    with pytest.raises(RuntimeError, match="power cut"):
        trainer(tmp_path, callbacks=[export, Stop()]).fit(KTO("embedded:base"), datamodule=data)
    assert not (tmp_path / "export").exists()


def test_reward_model_exports_a_classifier_that_scores_alike(pairs: str, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    from halo_lightning.evaluation.rewards import RewardScorer

    data = PairedDataModule(pairs, batch_size=8, max_length=128, max_prompt_length=64, validation_fraction=0)
    module = RewardModel("embedded:base", optimizer=lambda p: torch.optim.AdamW(p, lr=1e-3))
    trainer(tmp_path, callbacks=[HuggingFaceExport(str(tmp_path / "export"))]).fit(module, datamodule=data)
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "export").num_labels == 1

    batch = next(iter(data.train_dataloader()))
    scorer = RewardScorer(str(tmp_path / "export"), batch_size=3)
    asked = rows("pairs", examples=48, seed=1)
    scores = scorer.score(
        [[{"role": "user", "content": asked[index]["prompt"]}] for index in batch.index],
        [asked[index]["chosen"] for index in batch.index],
    )
    with torch.no_grad():
        expected = module.eval()(batch)[: len(batch.index)]
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_an_adapter_is_trained_exported_and_resumed(pairs: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from halo_lightning.export import export_checkpoint
    from halo_lightning.pretrained import load_model

    module = DPO("embedded:base", lora={"rank": 4, "alpha": 8}, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2))
    data = PairedDataModule(pairs, batch_size=8, max_length=128, max_prompt_length=64, validation_fraction=0)
    export = HuggingFaceExport(str(tmp_path / "export"))
    trained = trainer(tmp_path, callbacks=[export])
    trained.fit(module, datamodule=data)
    assert module.pair.reference is None
    changed = {name for name, p in module.pair.policy.named_parameters() if p.requires_grad}
    assert changed
    assert all("lora" in name for name in changed)

    trained.save_checkpoint(tmp_path / "saved.ckpt")
    export_checkpoint(str(tmp_path / "saved.ckpt"), str(tmp_path / "other"))
    sequences = data.train_dataset[[0, 1, 2]].sequences
    expected = module.pair.policy_token_logps(sequences)
    for folder in ("export", "other"):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / folder)
        torch.testing.assert_close(one_by_one(model, sequences), expected, rtol=1e-3, atol=1e-3)
    assert (one_by_one(load_model("embedded:base"), sequences) - expected).abs().max() > 0.01


def test_a_run_of_so_many_steps_goes_on_from_the_end_of_an_epoch(pairs: str, tmp_path: Path) -> None:
    """Lightning alone would train on in the epoch that is over."""

    def fit(checkpoint: Path | None) -> L.Trainer:
        L.seed_everything(1, verbose=False)
        data = PairedDataModule(pairs, batch_size=8, max_length=128, max_prompt_length=64, validation_fraction=0)
        saved = ModelCheckpoint(tmp_path / "kept", filename="{step}", save_top_k=-1, save_on_train_epoch_end=True)
        trained = trainer(tmp_path, max_steps=7, max_epochs=-1, callbacks=[saved])
        trained.fit(DPO("embedded:small"), datamodule=data, ckpt_path=checkpoint)
        return trained

    whole = fit(None)
    resumed = fit(tmp_path / "kept" / "step=6.ckpt")  # 48 pairs make 6 batches
    assert (resumed.current_epoch, resumed.global_step) == (whole.current_epoch, whole.global_step) == (2, 7)
    for one, two in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert (one == two).all()


def test_a_run_without_validation_goes_on_where_one_was_due(pairs: str, tmp_path: Path) -> None:
    """Lightning counts a step there with no batch done, so that all later points would be one step late."""

    def steps(checkpoint: Path | None) -> list[int]:
        data = PairedDataModule(pairs, batch_size=8, max_length=128, max_prompt_length=64, validation_fraction=0)
        saved = RunCheckpoint(dirpath=tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=2)
        logger = TensorBoardLogger(tmp_path, version=0 if checkpoint is None else 1)
        options = {"max_steps": 8, "val_check_interval": 2, "log_every_n_steps": 2, "logger": logger}
        fitted = trainer(tmp_path, callbacks=[saved, ContinuedCurves()], **options)
        fitted.fit(DPO("embedded:small"), datamodule=data, ckpt_path=checkpoint)
        return [step for step, _ in read_scalars(logger.log_dir)["loss"]]

    assert steps(None) == steps(tmp_path / "step=4.ckpt") == [1, 3, 5, 7]


def test_a_fused_optimizer_goes_with_clipping_under_mixed_precision(pairs: str, tmp_path: Path) -> None:
    module = DPO("embedded:base", optimizer=lambda weights: torch.optim.SGD(weights, lr=1.0, fused=True))
    module.configure_model()
    before = [weight.detach().clone() for weight in module.parameters()]
    data = PairedDataModule(pairs, batch_size=8, max_length=128, max_prompt_length=64, validation_fraction=0)
    trainer(tmp_path, max_steps=1, precision="bf16-mixed", gradient_clip_val=0.01).fit(module, datamodule=data)
    moved = [weight - earlier for weight, earlier in zip(module.parameters(), before, strict=True)]
    assert torch.nn.utils.get_total_norm(moved) == pytest.approx(0.01, rel=1e-3)


def test_activation_checkpointing_and_padded_rows_change_nothing(pairs: str, tmp_path: Path) -> None:
    losses = []
    for options in (
        {},
        {"activation_checkpointing": "full"},
        {"activation_checkpointing": "selective"},
        {"packing": False},
    ):
        module = DPO("embedded:base", dtype="float64", optimizer=lambda p: torch.optim.SGD(p, lr=0.1), **options)
        data = PairedDataModule(pairs, batch_size=8, max_length=128, max_prompt_length=64, validation_fraction=0)
        trained = trainer(tmp_path)
        trained.fit(module, datamodule=data)
        losses.append(float(trained.callback_metrics["loss"]))
    assert losses[1:] == pytest.approx(losses[:1] * 3, rel=1e-6)


def test_gradients_do_not_stay_during_the_next_forward_pass(pairs: str, tmp_path: Path) -> None:
    seen = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, *_: object) -> None:
            seen.append([p.grad is None for p in module.parameters() if p.requires_grad])

    data = PairedDataModule(pairs, batch_size=8, max_length=128, max_prompt_length=64, validation_fraction=0)
    trainer(tmp_path, callbacks=[Watch()], accumulate_grad_batches=2, max_steps=2).fit(
        DPO("embedded:base"), datamodule=data
    )
    assert [all(step) for step in seen] == [True, False, True, False]


def test_half_precision_leaves_the_log_probabilities_of_the_reference_as_they_are(thumbs: str, tmp_path: Path) -> None:
    """Lightning would round them to bfloat16, which has no place for the tenth of a nat."""
    seen: list[torch.dtype] = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
            seen.append(batch.sequences.reference_logps.dtype)

    data = UnaryDataModule(thumbs, batch_size=8, max_length=128, max_prompt_length=64, validation_fraction=0.0)
    fitted = trainer(tmp_path, max_steps=1, precision="bf16-true", callbacks=[Watch()])
    module = KTO("embedded:base")
    fitted.fit(module, datamodule=data)
    assert seen == [torch.float32]
    assert {weight.dtype for weight in module.parameters()} == {torch.bfloat16}
    assert module.training_metrics["loss"].total.dtype == torch.float64
