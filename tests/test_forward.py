"""Log-probabilities of sequences in a flat row against a plain forward pass of each, for many architectures."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from packaging import version

from halo_lightning.attention import fits_kernel
from halo_lightning.data.batches import Sequences, pack
from halo_lightning.errors import ConfigError
from halo_lightning.forward import (
    checkpoint_activations,
    last_block,
    last_hidden_states,
    pad_rows,
    target_logps,
    ways_of,
)
from halo_lightning.pretrained import switch_dropout_off
from tests.conftest import one_by_one, tiny_llama


def shared(seed: int = 0) -> Sequences:
    """Two completions of one prompt, two of another, and one of a third; the prompts also differ in length."""
    random = np.random.default_rng(seed)
    first, second, third = (random.integers(0, 61, length) for length in (7, 1, 4))
    prompts = [first, second, first, third, second]
    return pack(prompts, [random.integers(0, 61, length) for length in (3, 5, 8, 1, 2)])


def partly_learned() -> Sequences:
    """The same, with the loss on some tokens of each completion only."""
    sequences, random = shared(), np.random.default_rng(1)
    masks = [random.random(len(completion)) < 0.5 for _, completion in sequences.unpacked()]
    for mask in masks:
        mask[0] = True
    assert 5 < sum(mask.sum() for mask in masks) < len(sequences.targets) - 3
    return pack(*zip(*sequences.unpacked(), strict=True), learned=masks)


def configurations() -> dict[str, tuple[Any, bool]]:
    """A tiny configuration of each architecture, and whether it can do without padding."""
    import transformers as t

    small = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    like_llama = {**small, "intermediate_size": 64, "max_position_embeddings": 64, "num_key_value_heads": 2}
    heads = {"head_dim": 8}
    return {
        "gpt2": (t.GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=64), True),
        "pythia": (t.GPTNeoXConfig(**small, intermediate_size=64, max_position_embeddings=64), True),
        "llama": (t.LlamaConfig(**like_llama), True),
        "tied": (t.LlamaConfig(**like_llama, tie_word_embeddings=True), True),
        "mistral": (t.MistralConfig(**like_llama), True),
        "sliding": (t.MistralConfig(**like_llama, sliding_window=4), True),
        "mixtral": (t.MixtralConfig(**like_llama, num_local_experts=4), True),
        "qwen2": (t.Qwen2Config(**like_llama), True),
        "qwen3": (t.Qwen3Config(**like_llama, **heads), True),
        "gemma": (t.GemmaConfig(**like_llama, **heads), True),
        "gemma2": (t.Gemma2Config(**like_llama, **heads, final_logit_softcapping=3.0, sliding_window=4), True),
        "gemma3": (t.Gemma3TextConfig(**like_llama, **heads, sliding_window=4), True),
        "cohere": (t.CohereConfig(**like_llama, logit_scale=0.25), True),
        "granite": (t.GraniteConfig(**like_llama, logits_scaling=4.0), True),
        # That of transformers 5.0.0 has no padding token of its own, and asks for it.
        "phi": (t.PhiConfig(**like_llama, pad_token_id=None), True),
        "opt": (
            t.OPTConfig(**small, ffn_dim=64, max_position_embeddings=64, word_embed_proj_dim=32),
            True,
        ),
        # Attention of their own, positions in the mask, a recurrent state, sinks: these need padded rows.
        "gptj": (t.GPTJConfig(vocab_size=61, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=64), False),
        "bloom": (t.BloomConfig(vocab_size=61, hidden_size=32, n_layer=2, n_head=4), False),
        "falcon": (t.FalconConfig(**small), False),
        "mamba": (t.MambaConfig(vocab_size=61, hidden_size=32, num_hidden_layers=2, state_size=4), False),
        "lfm2": (t.Lfm2Config(**like_llama, full_attn_idxs=[1]), False),
        "gpt_oss": (t.GptOssConfig(**like_llama, **heads, num_local_experts=4), False),
    }


CONFIGURATIONS = configurations()


def built(name: str, dtype: torch.dtype = torch.float32) -> Any:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGURATIONS[name][0], dtype=dtype)
    for parameter in model.parameters():
        parameter.data.mul_(4.0)  # far enough from zero for caps, scales and mistakes to matter
    switch_dropout_off(model)
    return model


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_equals_a_plain_forward_pass_of_each_sequence(name: str) -> None:
    model, sequences = built(name), shared()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ways = ways_of(model)
    assert ways.packed == CONFIGURATIONS[name][1]
    assert ways.packed != any("cannot be run over sequences without padding" in str(w.message) for w in caught)
    expected = one_by_one(model, sequences)
    assert expected.abs().max() > 0.5
    tolerance = 2e-3 if name == "mamba" else 1e-4
    torch.testing.assert_close(
        sequences.table(target_logps(model, sequences)), expected, rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("name", ["llama", "pythia", "gemma2", "gpt2", "sliding", "bloom"])
@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
def test_gradients_equal_those_of_plain_forward_passes(name: str, checkpointing: Any) -> None:
    model, sequences = built(name, torch.float64), shared()
    weights = torch.randn(sequences.completion_mask.shape, dtype=torch.float64)
    (one_by_one(model, sequences) * weights).sum().backward()
    expected = {key: parameter.grad for key, parameter in model.named_parameters()}
    model.zero_grad()
    checkpoint_activations(model.train(), checkpointing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (sequences.table(target_logps(model, sequences)) * weights).sum().backward()
    for key, parameter in model.named_parameters():
        # Llama's norms compute in float32, whatever the weights are.
        torch.testing.assert_close(parameter.grad, expected[key], rtol=1e-5, atol=1e-5, msg=key)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("name", ["llama", "pythia", "bloom"])
def test_loss_on_some_tokens(name: str, head: bool, share: bool) -> None:
    """Packed, padded, and with the model's own logits: values and gradients are those of each sequence alone."""
    model, sequences = built(name, torch.float64), partly_learned()
    if not share:
        sequences = pack(*zip(*sequences.unpacked(), strict=True), learned=sequences.learned(), share_prompts=False)
    weights = torch.randn(sequences.completion_mask.shape, dtype=torch.float64)
    expected = one_by_one(model, sequences)
    (expected * weights).sum().backward()
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    model.zero_grad()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model._halo_ways = ways_of(model)._replace(head=head)
    logps = sequences.table(target_logps(model, sequences))
    torch.testing.assert_close(logps, expected, rtol=1e-6, atol=1e-6)
    (logps * weights).sum().backward()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[key], rtol=1e-5, atol=1e-5, msg=key)


def kept_bytes(model: Any, sequences: Sequences) -> int:
    """Bytes that the backward pass of a batch finds in memory, weights left out."""
    kept: dict[int, int] = {}
    weights = {parameter.data_ptr() for parameter in model.parameters()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        target_logps(model, sequences).sum()
    return sum(kept.values())


def test_what_checkpointing_keeps() -> None:
    sequences = shared()
    sizes = {}
    for what in ("none", "full", "auto"):
        model = tiny_llama(num_hidden_layers=6).train()
        checkpoint_activations(model, what)
        ways_of(model)
        sizes[what] = kept_bytes(model, sequences)
    assert sizes["full"] < 0.5 * sizes["none"]
    assert sizes["auto"] == sizes["none"]  # a small batch


def test_long_batches_are_checkpointed() -> None:
    from halo_lightning.forward import _decide_about_activations

    model = tiny_llama(num_hidden_layers=6).train()
    checkpoint_activations(model, "auto")
    state = 4 * sum(parameter.nbytes for parameter in model.parameters())
    per_token = 4 * 6 * (12 * 32 + 4 * 64)
    for tokens, expected in ((100, False), (10**6, True), (100, False)):
        assert (tokens * per_token > max(state / 2, 256 * 2**20)) == expected
        _decide_about_activations(model, tokens)
        flags = [block.gradient_checkpointing for block in model.model.layers]
        assert flags == [expected] * 5 + [False]  # never the last one


@pytest.mark.parametrize("name", ["llama", "pythia"])
def test_in_bfloat16(name: str) -> None:
    model, sequences = built(name, torch.bfloat16), shared()
    assert ways_of(model).packed
    logps = target_logps(model, sequences)
    assert logps.dtype == torch.float32
    torch.testing.assert_close(sequences.table(logps), one_by_one(model, sequences), rtol=0.05, atol=0.1)


def test_padded_rows_give_the_same() -> None:
    model, padded, sequences = tiny_llama(), tiny_llama(), shared()
    pad_rows(padded)
    assert ways_of(model).packed
    assert not ways_of(padded).packed
    torch.testing.assert_close(target_logps(model, sequences), target_logps(padded, sequences), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        last_hidden_states(model, sequences), last_hidden_states(padded, sequences), rtol=1e-5, atol=1e-5
    )


def test_no_token_is_computed_twice() -> None:
    """Neither padding nor a second copy of a prompt goes through the model, and the last block does still less."""
    model, sequences = tiny_llama(), shared()
    ways_of(model)
    seen: dict[str, int] = {}
    blocks = model.model.layers

    def note(key: str) -> Any:
        return lambda _, arguments: seen.__setitem__(key, arguments[0].shape[:-1].numel())

    for number, block in enumerate(blocks):
        block.mlp.gate_proj.register_forward_pre_hook(note(f"block {number}"))
    model.lm_head.register_forward_pre_hook(note("head"))
    target_logps(model, sequences)
    assert last_block(model) is blocks[-1]
    distinct = 7 + 1 + 4 + 3 + 5 + 8 + 1 + 2  # the three prompts once, and the completions
    assert sequences.real_tokens == distinct + 7 + 1
    assert seen == {"block 0": distinct, "block 1": len(sequences.predicting), "head": 3 + 5 + 8 + 1 + 2}


def test_a_model_that_mixes_sequences_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an attention that looks at the whole row, the trial must notice; without the trial nobody would."""
    import halo_lightning.attention as attention

    def whole_row(query: Any, key: Any, value: Any, segments: Any, *_: Any) -> torch.Tensor:
        q, k, v = (states.transpose(1, 2) for states in (query, key[:, : query.shape[1]], value[:, : query.shape[1]]))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)

    monkeypatch.setattr(attention, "_one_by_one", whole_row)
    model, sequences = tiny_llama(), shared()
    with pytest.warns(UserWarning, match="sequences see each other"):
        assert not ways_of(model).packed
    torch.testing.assert_close(
        sequences.table(target_logps(model, sequences)), one_by_one(model, sequences), rtol=1e-4, atol=1e-4
    )


def test_rounding_under_mixed_precision_is_no_reason_to_pad(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's kernel rounds the last bit of bfloat16 otherwise than the model's own attention."""
    import halo_lightning.attention as attention

    exact = attention._one_by_one
    monkeypatch.setattr(attention, "_one_by_one", lambda *arguments: exact(*arguments) * (1 + 2**-7))
    model = tiny_llama()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ways_of(model).packed


def test_what_the_kernel_computes_with() -> None:
    kernel = version.parse(torch.__version__) >= version.parse("2.11")
    assert fits_kernel(torch.bfloat16, 80) == kernel
    assert not fits_kernel(torch.float32, 80)
    assert not fits_kernel(torch.float16, 20)
    assert not fits_kernel(torch.float16, 320)


def test_a_head_that_is_not_understood_is_found_out() -> None:
    """Logits that something else than the output embedding makes come from the model itself."""
    model, sequences = tiny_llama(), shared()
    original = model.forward

    def doubled(*arguments: Any, **options: Any) -> Any:
        output = original(*arguments, **options)
        output.logits = 2 * output.logits
        return output

    model.forward = doubled
    with pytest.warns(UserWarning, match="not what its output embedding makes"):
        assert not ways_of(model).head
    torch.testing.assert_close(
        sequences.table(target_logps(model, sequences)), one_by_one(model, sequences), rtol=1e-4, atol=1e-4
    )


def test_generation_goes_on_as_before() -> None:
    model = tiny_llama().eval()
    ids = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    options = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    before = model.generate(ids, **options)
    assert ways_of(model).packed
    assert model.config._attn_implementation != "sdpa"
    assert model.generate(ids, **options).tolist() == before.tolist()
    assert "halo" not in str(model.config.to_dict())


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["llama", "pythia", "sliding", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu(name: str, dtype: torch.dtype) -> None:
    """By torch's kernel over sequences of different lengths, in bfloat16; one by one in float32."""
    model, sequences = built(name, dtype).cuda(), shared()
    expected = one_by_one(built(name), sequences)
    from lightning.fabric.utilities import move_data_to_device

    on_gpu = move_data_to_device(sequences, torch.device("cuda"))
    assert ways_of(model).packed
    tolerance = 1e-3 if dtype == torch.float32 else 0.2
    logps = on_gpu.table(target_logps(model, on_gpu))
    torch.testing.assert_close(logps.cpu(), expected, rtol=tolerance, atol=tolerance)
    logps.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_model_that_cannot_be_run_is_said() -> None:
    model = tiny_llama()
    model.model.layers[0].self_attn.q_proj = torch.nn.Linear(32, 31)
    with pytest.raises(ConfigError, match=r"cannot be run over a few tokens \(.*\): does its config.json go with it"):
        ways_of(model)
