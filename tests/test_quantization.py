"""Training an adapter on weights of 4 bits (QLoRA), for which bitsandbytes has a slow way on CPUs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from halo_lightning import DPO, HuggingFaceExport, PairedDataModule
from halo_lightning.adapters import LoRA
from halo_lightning.errors import ConfigError
from halo_lightning.export import export_checkpoint
from halo_lightning.policy import PolicyAndReference
from halo_lightning.world import BASE_MODEL, rows

QLORA = {"rank": 4, "alpha": 8, "quantize": "4bit"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantization")
    tokenizer = AutoTokenizer.from_pretrained(BASE_MODEL)
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    shape = LlamaConfig(
        vocab_size=len(tokenizer), num_attention_heads=4, max_position_embeddings=128, initializer_range=0.1, **sizes
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(shape).save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows("pairs", examples=32, seed=3)))
    return folder


def fit(folder: Path, out: Path, *, steps: int, lora: dict[str, Any] = QLORA, **options: Any) -> tuple[Any, L.Trainer]:
    """DPO for some steps, with a validation and a checkpoint after each second one."""
    L.seed_everything(1, verbose=False)
    resume = options.pop("resume", None)
    module = DPO(
        str(folder / "policy"),
        lora=lora,
        reference_cache=str(folder / "cache"),
        optimizer=lambda weights: torch.optim.SGD(weights, lr=0.5),
        **options.pop("model", {}),
    )
    data = PairedDataModule(
        str(folder / "pairs.jsonl"), batch_size=4, max_length=96, max_prompt_length=48, validation_examples=4
    )
    trainer = L.Trainer(
        **{
            "accelerator": "cpu",
            "max_steps": steps,
            "logger": False,
            "log_every_n_steps": 1,
            "val_check_interval": 2,
            "num_sanity_val_steps": 0,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [
                HuggingFaceExport(str(out / "export")),
                L.pytorch.callbacks.ModelCheckpoint(out / "checkpoints", every_n_train_steps=2, save_top_k=-1),
            ],
            **options,
        }
    )
    trainer.fit(module, datamodule=data, ckpt_path=resume)
    return module, trainer


def checkpoint(out: Path, step: int) -> Path:
    (path,) = (out / "checkpoints").glob(f"*step={step}.ckpt")
    return path


@pytest.fixture(scope="module")
def trained(folder: Path) -> tuple[Any, L.Trainer, Path]:
    return *fit(folder, folder / "run", steps=4), folder / "run"


def test_the_adapter_alone_is_trained_on_quantized_weights(trained: tuple[Any, L.Trainer, Path]) -> None:
    module, trainer, _ = trained
    weights = dict(module.pair.policy.named_parameters())
    assert {name.rsplit(".", 3)[-3] for name, weight in weights.items() if weight.requires_grad} == {"lora_A", "lora_B"}
    packed = [weight for name, weight in weights.items() if name.endswith("proj.base_layer.weight")]
    assert len(packed) == 14
    assert all(weight.dtype == torch.uint8 for weight in packed)
    assert float(trainer.callback_metrics["val/rewards/margins"]) != 0


def test_training_equals_that_of_an_adapter_on_the_same_values_in_full_precision(
    folder: Path, trained: tuple[Any, L.Trainer, Path], tmp_path: Path
) -> None:
    """The reference is the quantised policy: with the original one the first loss would not be log 2."""
    from halo_lightning.quantization import load_dequantized

    load_dequantized(str(folder / "policy"), "causal", dtype="float32").save_pretrained(tmp_path / "policy")
    AutoTokenizer.from_pretrained(folder / "policy").save_pretrained(tmp_path / "policy")
    (tmp_path / "pairs.jsonl").write_text((folder / "pairs.jsonl").read_text())
    _, trainer, out = trained
    _, expected = fit(tmp_path, tmp_path / "run", steps=4, lora={**QLORA, "quantize": None})
    for name, value in expected.callback_metrics.items():
        assert float(trainer.callback_metrics[name]) == pytest.approx(float(value), rel=1e-3, abs=1e-5), name
    ours, theirs = (load_file(path / "export" / "model.safetensors") for path in (out, tmp_path / "run"))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_exports_the_adapter_alone_and_merged_into_what_it_was_trained_on(
    folder: Path, trained: tuple[Any, L.Trainer, Path]
) -> None:
    from peft import PeftModel

    from halo_lightning.quantization import load_quantized

    module, _, out = trained
    merged = AutoModelForCausalLM.from_pretrained(out / "export")
    assert not hasattr(merged.config, "quantization_config")
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        expected = module.pair.policy.eval()(input_ids=tokens).logits
        torch.testing.assert_close(merged(input_ids=tokens).logits, expected, rtol=1e-3, atol=1e-4)
        again = PeftModel.from_pretrained(load_quantized(str(folder / "policy")), out / "export" / "adapter").eval()
        torch.testing.assert_close(again(input_ids=tokens).logits, expected, rtol=1e-3, atol=1e-4)


def test_goes_on_from_a_checkpoint_and_exports_it(
    folder: Path, trained: tuple[Any, L.Trainer, Path], tmp_path: Path
) -> None:
    module, trainer, out = trained
    state = torch.load(checkpoint(out, 2), weights_only=True)["state_dict"]
    assert all(".lora_" in name for name in state)
    resumed, again = fit(folder, tmp_path, steps=4, resume=checkpoint(out, 2))
    assert again.callback_metrics["val/loss"] == trainer.callback_metrics["val/loss"]
    ours, theirs = (dict(one.named_parameters()) for one in (resumed, module))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    export_checkpoint(str(checkpoint(out, 4)), str(tmp_path / "exported"))
    ours, theirs = (load_file(path / "model.safetensors") for path in (tmp_path / "exported", out / "export"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    export_checkpoint(str(checkpoint(out, 4)), str(tmp_path / "alone"), adapter_only=True)
    assert (tmp_path / "alone" / "adapter" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "alone" / "model.safetensors").exists()


def test_mixed_precision_with_the_adapter_switched_off_as_reference(folder: Path, tmp_path: Path) -> None:
    model = {"reference_mode": "adapter", "activation_checkpointing": "full"}
    module, trainer = fit(folder, tmp_path, steps=1, precision="bf16-mixed", model=model, limit_val_batches=0)
    assert {weight.compute_dtype for weight in module.modules() if hasattr(weight, "compute_type_is_set")} == {
        torch.bfloat16
    }
    assert float(trainer.callback_metrics["loss"]) == pytest.approx(0.693, abs=0.01)


def test_weights_of_4_bits_cannot_be_spread(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be spread over processes; .* --trainer\.strategy ddp"):
        PolicyAndReference.load(str(folder / "policy"), lora=LoRA(quantize="4bit"), build=lambda build, frozen: build())


def test_what_is_missing_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halo_lightning.quantization.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'bitsandbytes and accelerate: pip install "halo-lightning\[qlora\]"'):
        PolicyAndReference.load(str(folder / "policy"), lora=LoRA(quantize="4bit"))


def test_a_weight_takes_about_half_a_byte(folder: Path) -> None:
    from halo_lightning.quantization import BYTES, load_quantized

    layer = load_quantized(str(folder / "policy")).model.layers[0].mlp.up_proj
    state = layer.weight.quant_state
    measured = layer.weight.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
    assert measured / (64 * 128) == pytest.approx(BYTES, rel=0.01)
