"""The reference's log-probabilities are computed once, are the right ones, and survive being killed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import SingleDeviceStrategy

from halo_lightning import DPO, IPO, KTO, PairedDataModule, UnaryDataModule
from halo_lightning.data.batching import TokenizedDataset, TokenizedDatasetBuilder
from halo_lightning.data.rendering import Encoded
from halo_lightning.errors import ConfigError
from halo_lightning.modules.reference_pass import precision_of
from halo_lightning.reference import ReferenceCache, weights_fingerprint
from halo_lightning.strategies import FSDP2
from halo_lightning.world import BASE_MODEL, rows
from tests.conftest import one_by_one, tiny_llama

LENGTHS = {"max_length": 128, "max_prompt_length": 64}


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows("pairs", examples=40, seed=1)))
    return str(path)


def fit(module: Any, data: Any, folder: Path, *, ckpt_path: str | None = None, **settings: Any) -> L.Trainer:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(
        accelerator="cpu", default_root_dir=folder, log_every_n_steps=1, **{"max_steps": 3, **quiet, **settings}
    )
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05)


def paired(pairs: str, **options: Any) -> PairedDataModule:
    return PairedDataModule(pairs, batch_size=8, **{**LENGTHS, **options})


# --- what it is worth ---------------------------------------------------------------------------------------------


def test_cached_and_frozen_references_train_alike(pairs: str, tmp_path: Path) -> None:
    weights, metrics = {}, {}
    for mode in ("cached", "frozen"):
        torch.manual_seed(1)
        module = DPO("embedded:base", reference_mode=mode, dtype="float64", optimizer=sgd)
        metrics[mode] = fit(module, paired(pairs), tmp_path).callback_metrics
        weights[mode] = list(module.pair.policy.parameters())
        assert (module.pair.reference is None) == (mode == "cached")
    for one, other in zip(weights["cached"], weights["frozen"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    assert metrics["cached"].keys() == metrics["frozen"].keys()
    for name, value in metrics["cached"].items():
        assert float(value) == pytest.approx(float(metrics["frozen"][name]), rel=1e-5, abs=1e-5), name


def test_every_method_and_run_shares_one_pass(pairs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    monkeypatch.setattr("halo_lightning.modules.reference_pass._agreement", lambda *_: "")  # is a step of its own
    original = DPO.predict_step
    monkeypatch.setattr(
        "halo_lightning.modules.base.HaloModule.predict_step",
        lambda self, *arguments: (passes.append(1), original(self, *arguments))[1],
    )
    first = DPO("embedded:base", optimizer=sgd)
    fit(first, paired(pairs), tmp_path)
    assert len(passes) == 2  # one batch of the training data, one of what is held out
    assert first.reference_note.startswith("reference: log-probabilities of 40 examples computed in")
    for module, data in (
        (IPO("embedded:base"), paired(pairs)),
        (KTO("embedded:base"), UnaryDataModule(pairs, batch_size=8, **LENGTHS)),  # the same completions
    ):
        fit(module, data, tmp_path)
        assert len(passes) == 2
        assert ", of 80 found" in module.reference_note or ", of 40 found" in module.reference_note
    fit(DPO("embedded:base", dtype="float64"), paired(pairs), tmp_path)
    assert len(passes) == 4  # other weights, in a way
    fit(DPO("embedded:base"), paired(pairs, max_length=16, max_prompt_length=8), tmp_path)
    assert len(passes) > 4  # other tokens


def test_a_trained_policy_is_never_taken_for_its_reference(pairs: str, tmp_path: Path) -> None:
    module = DPO("embedded:base", optimizer=sgd)
    fit(module, paired(pairs), tmp_path)
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in rows("pairs", examples=24, seed=2)))
    data = paired(str(other), validation_fraction=0)
    fit(module, data, tmp_path)  # once more, with data that the cache does not have
    from halo_lightning.pretrained import load_model

    batch = data.train_dataset[[0, 1, 2]].sequences
    expected = one_by_one(load_model("embedded:base"), batch)
    torch.testing.assert_close(batch.table(batch.reference_logps), expected, rtol=1e-4, atol=1e-4)
    assert (one_by_one(module.pair.policy, batch) - expected).abs().max() > 1e-3


def test_resuming_without_the_cache_reads_the_reference_again(
    pairs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = ModelCheckpoint(tmp_path / "checkpoints", filename="half", every_n_train_steps=3, save_weights_only=False)
    options = {"enable_checkpointing": True, "max_steps": 5}
    whole = fit(DPO("embedded:base", optimizer=sgd), paired(pairs), tmp_path, callbacks=[save], **options)
    monkeypatch.setenv("HALO_LIGHTNING_CACHE", str(tmp_path / "elsewhere"))
    module = DPO("embedded:base", optimizer=sgd)
    checkpoint = str(tmp_path / "checkpoints" / "half.ckpt")
    resumed = fit(module, paired(pairs), tmp_path, max_steps=5, ckpt_path=checkpoint)
    assert ", of 0 found" in module.reference_note
    for name in ("loss", "rewards/margins", "logps/chosen"):
        value, expected = float(resumed.callback_metrics[name]), float(whole.callback_metrics[name])
        assert value == pytest.approx(expected, rel=1e-4, abs=1e-4), name


@pytest.mark.parametrize("lora", [None, {"rank": 2, "alpha": 4}])
def test_streamed_data_is_compared_with_the_reference_in_every_step(
    pairs: str, tmp_path: Path, lora: dict[str, int] | None
) -> None:
    metrics = []
    for mode in ("cached", "adapter" if lora else "frozen"):
        torch.manual_seed(1)
        module = DPO("embedded:base", reference_mode=mode, lora=lora, dtype="float64", optimizer=sgd)
        data = paired(pairs, streaming=True, validation=pairs, shuffle_buffer=8)
        metrics.append(fit(module, data, tmp_path).callback_metrics)
        assert (module.pair.reference is None) == (lora is not None)
        if mode == "cached":
            assert "computed in every step, since streamed data is not cached" in module.reference_note
            assert ("adapter switched off" if lora else "second, frozen model") in module.reference_note
    assert not (tmp_path / "halo_lightning_cache" / "reference").exists()
    assert metrics[0].keys() == metrics[1].keys()
    assert float(metrics[0]["rewards/margins"]) != 0
    for name, value in metrics[0].items():
        assert float(value) == pytest.approx(float(metrics[1][name]), rel=1e-9), name


def test_other_peoples_loaders_get_a_frozen_reference(pairs: str, tmp_path: Path) -> None:
    data = paired(pairs, tokenizer="embedded:base")
    data.setup()
    module = DPO("embedded:base")
    trainer = L.Trainer(accelerator="cpu", max_steps=1, default_root_dir=tmp_path, logger=False)
    trainer.fit(module, data.train_dataloader())
    assert module.pair.reference is not None


def test_a_cache_that_is_not_of_the_policy_is_found_before_the_first_step(pairs: str, tmp_path: Path) -> None:
    """Whole, of the right name, and wrong all the same: as if another program had computed it."""
    cache = tmp_path / "cache"

    def fit() -> DPO:
        module = DPO("embedded:small", reference_cache=str(cache))
        data = PairedDataModule(pairs, batch_size=4, max_length=128, max_prompt_length=64, validation_fraction=0)
        trainer = L.Trainer(accelerator="cpu", max_steps=1, default_root_dir=tmp_path, logger=False)
        trainer.fit(module, datamodule=data)
        return module

    fit()
    (values,) = cache.glob("reference/*/logps.npy")
    wrong = np.load(values) - 0.01
    np.save(values, wrong.astype(np.float32))
    manifest = json.loads(values.with_name("manifest.json").read_text())
    manifest["sha256"] = hashlib.sha256(values.read_bytes()).hexdigest()
    values.with_name("manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match=r"differs from its own reference .* by 0\.01"):
        fit()


def test_a_policy_that_is_not_its_reference_is_said_to_differ(pairs: str, tmp_path: Path) -> None:
    module = DPO("embedded:small", reference="embedded:base", reference_cache=str(tmp_path / "cache"))
    data = PairedDataModule(pairs, batch_size=4, max_length=128, max_prompt_length=64, validation_fraction=0)
    trainer = L.Trainer(accelerator="cpu", max_steps=1, default_root_dir=tmp_path, logger=False)
    trainer.fit(module, datamodule=data)
    assert "the policy starts" in module.reference_note
    assert "since that is embedded:base" in module.reference_note


# --- the cache itself ---------------------------------------------------------------------------------------------


def dataset(examples: int = 40, seed: int = 0) -> TokenizedDataset:
    random = np.random.default_rng(seed)
    builder = TokenizedDatasetBuilder("paired")
    for _ in range(examples):
        prompt = random.integers(0, 61, random.integers(1, 6)).tolist()
        builder.add([Encoded(prompt, random.integers(0, 61, random.integers(1, 6)).tolist()) for _ in "ab"], [1.0], [])
    return builder.build()


def fake(data: TokenizedDataset, fail_at: int | None = None) -> Callable[[Any], Any]:
    """Log-probabilities that say which token they belong to; raises at the n-th part."""
    calls: list[Any] = []

    def compute(part: Any) -> Any:
        if len(calls) == fail_at:
            raise KeyboardInterrupt
        calls.append(part)
        sequences = data.sequences(part)
        return -(sequences.targets.numpy() + 0.5).astype(np.float32)

    compute.calls = calls  # type: ignore[attr-defined]
    return compute


def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReferenceCache.parts, "__defaults__", (30,))
    monkeypatch.setattr("halo_lightning.reference.SAVE_EVERY", 2)


STRATEGY = SingleDeviceStrategy(torch.device("cpu"))


def test_values_are_where_their_tokens_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch)
    data = dataset()
    cache = ReferenceCache(tmp_path, data, {"weights": "w"})
    assert cache.read() is None
    parts = cache.parts()
    assert len(parts) > 5
    assert sorted(np.concatenate(parts)) == list(range(80))
    data.reference_logps = cache.compute(fake(data), STRATEGY, 1, 0)
    sequences = data.sequences(np.arange(80))
    assert sequences.reference_logps.tolist() == (-(sequences.targets + 0.5)).tolist()
    assert np.array_equal(ReferenceCache(tmp_path, dataset(), {"weights": "w"}).read(), data.reference_logps)
    assert not list(tmp_path.glob("*.partial"))


def test_values_of_some_tokens_are_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch)
    random, builder = np.random.default_rng(0), TokenizedDatasetBuilder("sft")
    for number in range(40):
        completion = random.integers(0, 61, random.integers(1, 6)).tolist()
        learned = [True, *(random.random(len(completion) - 1) < 0.5).tolist()]
        builder.add([Encoded([number % 7], completion, learned)], [1.0], [])
    data = builder.build()
    cache = ReferenceCache(tmp_path, data, {"weights": "w"})
    data.reference_logps = cache.compute(fake(data), STRATEGY, 1, 0)
    sequences = data.sequences(np.arange(40))
    assert cache.size == len(sequences.targets) < sum(len(completion) for _, completion in sequences.unpacked())
    assert sequences.reference_logps.tolist() == (-(sequences.targets + 0.5)).tolist()
    # The same tokens with the loss on others of them are other values.
    path, data.learned = cache.path, None
    assert ReferenceCache(tmp_path, data, {"weights": "w"}).path != path


def test_sequences_with_the_same_prompt_are_computed_together() -> None:
    builder = TokenizedDatasetBuilder("unary")
    for prompt in ([1, 2], [3], [1, 2]):
        builder.add([Encoded(prompt, [4, 5])], [1.0], [True])
    cache = ReferenceCache(Path(), builder.build(), {})
    assert [part.tolist() for part in cache.parts(8)] == [[1], [0, 2]]


def test_killed_in_the_middle_it_goes_on_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch)
    data = dataset()
    cache = ReferenceCache(tmp_path, data, {"weights": "w"})
    parts = len(cache.parts())
    killed = fake(data, fail_at=5)
    with pytest.raises(KeyboardInterrupt):
        cache.compute(killed, STRATEGY, 1, 0)
    assert cache.read() is None
    again = fake(data)
    values = cache.compute(again, STRATEGY, 1, 0)
    assert len(again.calls) == parts - 4  # two times two parts were noted as done
    data.reference_logps = values
    sequences = data.sequences(np.arange(80))
    assert sequences.reference_logps.tolist() == (-(sequences.targets + 0.5)).tolist()


def test_parts_are_those_of_a_plain_grouping_by_prompt() -> None:
    """Written out a second time, with whole prompts in a dictionary."""
    for seed in range(5):
        data = dataset(examples=50, seed=seed)
        lengths = np.diff(data.offsets)
        groups: dict[bytes, list[int]] = {}
        for number, start in enumerate(data.offsets[:-1]):
            groups.setdefault(data.tokens[start : start + data.prompt_lengths[number]].tobytes(), []).append(number)
        expected: list[list[int]] = []
        for group in sorted(groups.values(), key=lambda group: (max(lengths[group]), group[0])):
            if expected and lengths[expected[-1]].sum() + lengths[group].sum() <= 60:
                expected[-1] += group
            else:
                expected.append([*group])
        found = [part.tolist() for part in ReferenceCache(Path(), data, {}).parts(60)]
        assert [sorted(part) for part in found] == [sorted(part) for part in expected]
    assert ReferenceCache(Path(), TokenizedDatasetBuilder("sft").build(), {}).parts() == []


def test_whatever_a_number_depends_on_makes_another_cache(tmp_path: Path) -> None:
    paths = {
        ReferenceCache(tmp_path, data, settings).path
        for data in (dataset(), dataset(seed=1))
        for settings in ({"weights": "a", "dtype": "float32"}, {"weights": "b", "dtype": "float32"}, {"weights": "a"})
    }
    assert len(paths) == 6
    prompt_and_completion, moved = (TokenizedDatasetBuilder("sft") for _ in "ab")
    prompt_and_completion.add([Encoded([1, 2], [3])], [1.0], [])
    moved.add([Encoded([1], [2, 3])], [1.0], [])  # the same tokens, but the completion starts earlier
    assert (
        ReferenceCache(tmp_path, prompt_and_completion.build(), {}).path
        != ReferenceCache(tmp_path, moved.build(), {}).path
    )


def test_a_damaged_cache_is_refused(tmp_path: Path) -> None:
    data = dataset()
    cache = ReferenceCache(tmp_path, data, {"weights": "w"})
    cache.compute(fake(data), STRATEGY, 1, 0)
    content = bytearray((cache.path / "logps.npy").read_bytes())
    content[-2] ^= 1  # in one number
    (cache.path / "logps.npy").write_bytes(content)
    with pytest.raises(ConfigError, match=r"damaged \(the content of logps\.npy is not what was written\)"):
        cache.read()
    np.save(cache.path / "logps.npy", np.array([print], dtype=object))
    with pytest.raises(ConfigError, match="damaged"):
        cache.read()
    (cache.path / "manifest.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"damaged \(manifest\.json: KeyError\)"):
        cache.read()


def test_a_cache_that_was_copied_to_another_name_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    data = dataset()
    one, other = (ReferenceCache(tmp_path, data, {"weights": name, "dtype": "float32"}) for name in ("w", "v"))
    one.compute(fake(data), STRATEGY, 1, 0)
    one.path.rename(other.path)
    with pytest.raises(ConfigError, match=r"\(found → expected: weights: w → v\); delete it"):
        other.read()


def test_a_damaged_note_of_what_is_done_begins_again(tmp_path: Path) -> None:
    data = dataset()
    cache = ReferenceCache(tmp_path, data, {"weights": "w"})
    partial = cache.path.with_suffix(".partial")
    partial.mkdir(parents=True)
    (partial / "progress.json").write_text("{")
    np.save(partial / "logps.npy", np.ones(3, np.float32))
    values = np.array(cache.compute(fake(data), STRATEGY, 1, 0))
    assert len(values) == cache.size
    assert (values < 0).all()  # none of those that were there


def test_numbers_that_are_not_finite_are_not_kept(tmp_path: Path) -> None:
    data = dataset()
    cache = ReferenceCache(tmp_path, data, {"weights": "w"})
    with pytest.raises(ConfigError, match="not finite"):
        cache.compute(lambda part: fake(data)(part) * np.float32("nan"), STRATEGY, 1, 0)
    assert cache.read() is None


def test_fingerprint_of_weights(tmp_path: Path) -> None:
    tiny_llama(1).save_pretrained(tmp_path / "a")
    tiny_llama(1).save_pretrained(tmp_path / "b")
    tiny_llama(2).save_pretrained(tmp_path / "c")
    a, b, c = (weights_fingerprint(str(tmp_path / name)) for name in "abc")
    assert a == b != c
    assert weights_fingerprint(str(BASE_MODEL)) not in (a, c)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no weights"):
        weights_fingerprint(str(tmp_path / "empty"))


def test_a_cache_under_mixed_precision_is_of_one_way_to_compute() -> None:
    """Strategies that spread weights round them first: 0.03 nats a completion, which no reference may be off by."""

    def precision(strategy: Any, asked: Any) -> str:
        return precision_of(L.Trainer(accelerator="cpu", devices=1, strategy=strategy, precision=asked, logger=False))

    assert precision("auto", "bf16-mixed") == "bf16-mixed"
    assert precision(FSDP2(), "bf16-mixed") == "bf16-mixed with rounded weights"
    assert precision(FSDP2(), "32-true") == precision("auto", "32-true") == "32-true"
