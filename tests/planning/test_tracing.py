"""What is traced on tensors without contents is what real tensors take."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker

from halo_lightning import DPO, KTO, SFT, OfflinePPO, SLiC
from halo_lightning.forward import Ways, checkpoint_activations, ways_of
from halo_lightning.planning import shapes
from halo_lightning.planning.shapes import REPORT, Shape, model_config, shape_of
from halo_lightning.planning.steps import Numbers, optimizer_bytes, trace_reference_pass, trace_step
from halo_lightning.planning.tracing import attended_pairs
from halo_lightning.planning.workload import Assumed
from halo_lightning.policy import PolicyAndReference

FLOAT = Numbers(torch.float32, None, on_gpu=False)
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"intermediate_size": 176, "num_key_value_heads": 2},
    "gpt_neox": {"intermediate_size": 256},
    "gpt2": {},
}


def config_of(family: str, layers: int = 5, **changes: Any) -> Any:
    from transformers import AutoConfig

    settings = {"hidden_size": 64, "num_hidden_layers": layers, "num_attention_heads": 4, "vocab_size": 300}
    return AutoConfig.for_model(family, **{**settings, **FAMILIES[family], **changes})


def workload(feedback: Any = "paired", **changes: Any) -> Assumed:
    return replace(Assumed(feedback, 100, 40, 0.5, max_length=96, max_prompt_length=32), **changes)


def whole(shape: Shape, config: Any, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Shape:
    """The same model with all its blocks."""
    with monkeypatch.context() as patch:
        patch.setattr(shapes, "blocks_of", lambda model: None)
        every = shape_of(config, **options)
    assert every.omitted == 0
    return every


# Totals as published with the models.
PUBLISHED = [1414647808, 2775208960, 6857302016, 11846072320, 6738415616, 13015864320, 32528943616]


@pytest.mark.parametrize(("name", "total"), zip(REPORT, PUBLISHED, strict=True))
def test_the_reports_models_have_as_many_weights_as_published(name: str, total: int) -> None:
    shape = shape_of(model_config(name))
    assert shape.parameters == shape.trained == total
    assert shape.omitted == REPORT[name]["num_hidden_layers"] - 3
    assert len(shape.blocks) == 3


def test_weights_of_an_adapter() -> None:
    from halo_lightning.adapters import LoRA

    shape = shape_of(model_config("huggyllama/llama-7b"), lora=LoRA(rank=16))
    # Each linear layer of n × m has 16 (n + m) of them.
    assert shape.trained == 32 * 16 * (4 * (4096 + 4096) + 3 * (4096 + 11008))
    assert shape.frozen == 6738415616


@pytest.mark.parametrize(
    ("family", "checkpointing", "accumulated"),
    [("llama", "none", False), ("gpt_neox", "full", True), ("gpt2", "full", False)],
)
def test_three_blocks_stand_for_all(
    family: str, checkpointing: Any, accumulated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, batch = config_of(family, layers=5), workload().largest(1, True)
    few = shape_of(config, checkpointing=checkpointing)
    assert few.omitted == 2
    every = whole(few, config, monkeypatch, checkpointing=checkpointing)
    module = DPO("nowhere")
    short, long = (trace_step(module, s, None, batch, FLOAT, accumulated=accumulated).trace for s in (few, every))
    assert short.flops == long.flops
    for share in (0.0, 0.125, 1.0):
        peaks = [trace.peak(share) for trace in (short, long)]
        totals = [moment.kept + share * moment.gradients for moment in peaks]
        assert totals[0] == pytest.approx(totals[1], rel=1e-3)
    assert short.moments[-1].gradients == long.moments[-1].gradients


@pytest.mark.parametrize(("family", "checkpointing"), [("llama", "full"), ("gpt2", "none")])
def test_equals_torchs_own_tracker_of_real_tensors(family: str, checkpointing: Any) -> None:
    from transformers import AutoModelForCausalLM

    config, batch = config_of(family), workload().largest(2, True)
    planned = trace_step(DPO("nowhere"), shape_of(config, checkpointing=checkpointing), None, batch, FLOAT).trace
    model = AutoModelForCausalLM.from_config(config)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    checkpoint_activations(model.train(), checkpointing)
    ways_of(model)
    halo = DPO("nowhere")
    halo.models = PolicyAndReference(model)
    tracker = MemTracker()
    tracker.track_external(model)
    with tracker:
        halo.loss_and_metrics(batch)[0].backward()
    (peak,) = (sizes["Total"] for sizes in tracker.get_tracker_snapshot("peak").values())
    weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    moment = planned.peak()
    assert moment.kept + moment.gradients == pytest.approx(peak - weights, rel=0.03)


def test_flops_by_hand() -> None:
    hidden, wide, layers, vocabulary = 64, 256, 5, 300
    config, batch = config_of("gpt_neox", layers), workload("sft").largest(2, False)
    trace = trace_step(SFT("nowhere"), shape_of(config), None, batch, FLOAT).trace
    tokens, targets = 2 * 96, 2 * 64
    pairs = 2 * 96 * 97 // 2
    block = 2 * (4 * hidden**2 + 2 * hidden * wide) * tokens + 4 * hidden * pairs
    # The last block's feed-forward layer is computed where something is predicted from.
    skipped = 2 * 2 * hidden * wide * (tokens - targets)
    forward = layers * block - skipped + 2 * hidden * vocabulary * targets
    # The angles of rotary embeddings are a matrix product in older versions of transformers, of a few hundred FLOPs.
    assert trace.flops == pytest.approx(3 * forward, rel=1e-5)
    without = trace_reference_pass(shape_of(config), batch.sequences, FLOAT)
    assert without.flops == pytest.approx(forward, rel=1e-5)
    again = trace_step(SFT("nowhere"), shape_of(config, checkpointing="full"), None, batch, FLOAT).trace
    # All blocks but the last once more, up to the last product, which nobody needs again.
    assert trace.flops < again.flops <= trace.flops + (layers - 1) * block


def test_pairs_of_tokens_that_attend() -> None:
    assert attended_pairs([3], [3]) == 1 + 2 + 3
    assert attended_pairs([3, 2], [3, 4]) == 6 + 3 + 4


@pytest.mark.parametrize(
    ("make", "states", "temporaries"),
    [
        (lambda p: torch.optim.AdamW(p, fused=True), 2, 0),
        (lambda p: torch.optim.AdamW(p, foreach=True), 2, 1),
        (lambda p: torch.optim.RMSprop(p, foreach=True), 1, 1),
        (lambda p: torch.optim.SGD(p, lr=0.1), 0, 0),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), 1, 0),
    ],
)
def test_state_of_optimizers(make: Any, states: int, temporaries: int) -> None:
    shape = shape_of(config_of("llama", layers=9))
    found = optimizer_bytes(DPO("nowhere", optimizer=make), shape, 0, FLOAT)
    assert found.state == pytest.approx(4 * states * shape.parameters, rel=0.01)
    if temporaries:
        assert found.temporary == pytest.approx(4 * temporaries * shape.parameters, rel=0.15)
    else:
        assert found.temporary < 0.2 * 4 * shape.parameters


def test_gpus_run_the_optimizer_over_all_weights_at_one_time() -> None:
    shape = shape_of(config_of("llama", layers=9))
    module = DPO("nowhere", optimizer=lambda p: torch.optim.RMSprop(p))
    on_cpu, on_gpu = (optimizer_bytes(module, shape, 0, replace(FLOAT, on_gpu=gpu)) for gpu in (False, True))
    assert on_cpu.state == on_gpu.state
    assert on_cpu.temporary < 0.5 * on_gpu.temporary


def test_what_a_reference_takes() -> None:
    config, thumbs = config_of("llama"), workload("unary")
    shape = shape_of(config)
    cached = trace_step(KTO("nowhere"), shape, shape, thumbs.largest(4, True), FLOAT)
    live = trace_step(KTO("nowhere"), shape, shape, thumbs.largest(4, False), FLOAT, frozen=True)
    mismatched = trace_step(KTO("nowhere", kl="mismatched"), shape, shape, thumbs.largest(4, True), FLOAT)
    assert [step.with_reference for step in (cached, live, mismatched)] == [False, True, True]
    assert live.trace.flops == pytest.approx(cached.trace.flops * 4 / 3, rel=0.02)


def test_a_value_head_is_counted() -> None:
    shape, batch = shape_of(config_of("llama")), workload("unary").largest(4, True)
    step = trace_step(OfflinePPO("nowhere", advantage="gae"), shape, None, batch, FLOAT)
    assert step.other_weights == 2 * (64 * 64 + 64) + 64 + 1


def test_norms_of_mixed_precision_are_computed_again_as_they_were() -> None:
    shape, batch = shape_of(config_of("gpt_neox"), checkpointing="full"), workload().largest(1, True)
    for weights in (torch.float32, torch.bfloat16):
        trace = trace_step(DPO("nowhere"), shape, None, batch, Numbers(weights, torch.bfloat16)).trace
        assert trace.moments[-1].gradients == shape.trained * weights.itemsize


def test_mixed_precision_keeps_a_copy_of_the_weights() -> None:
    shape, batch = shape_of(config_of("llama")), workload().largest(1, True)
    mixed = trace_step(DPO("nowhere"), shape, None, batch, Numbers(torch.float32, torch.bfloat16)).trace
    half = trace_step(DPO("nowhere"), shape, None, batch, Numbers(torch.bfloat16, torch.bfloat16)).trace
    linear = shape.parameters - 300 * 64 - (2 * 5 + 1) * 64
    assert mixed.peak(0).kept - half.peak(0).kept > 2 * linear


def test_logits_are_told_apart() -> None:
    batch = workload("sft").largest(4, False)
    trace = trace_step(SFT("nowhere"), shape_of(config_of("llama")), None, batch, FLOAT).trace
    targets = len(batch.sequences.targets)
    assert max(moment.logits for moment in trace.moments) == pytest.approx(4 * 300 * targets, rel=0.01)


def test_padded_rows_take_more() -> None:
    batch, numbers = workload().typical(2, False), Numbers(torch.bfloat16)
    flat, padded = (
        trace_step(SLiC("nowhere"), shape_of(config_of("llama", 4)), None, batch, numbers, ways=ways)
        for ways in (Ways(), Ways(packed=False))
    )
    assert padded.trace.flops > flat.trace.flops
    assert padded.trace.peak().kept > flat.trace.peak().kept  # the prompt of a pair is there twice
