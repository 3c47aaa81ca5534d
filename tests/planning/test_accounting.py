"""Memory of a device by hand: what is spread, what is gathered, and which moment is the peak."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from halo_lightning.data.batching import TokenizedDatasetBuilder
from halo_lightning.data.rendering import Encoded
from halo_lightning.errors import ConfigError
from halo_lightning.planning.accounting import (
    COMMUNICATION_BYTES,
    CONTEXT_BYTES,
    FRAGMENTATION,
    Sizes,
    Strategy,
    memory,
)
from halo_lightning.planning.gpus import GPUS, gpus_named
from halo_lightning.planning.job import strategy_on
from halo_lightning.planning.steps import OptimizerBytes
from halo_lightning.planning.tracing import Moment, Trace
from halo_lightning.planning.workload import Assumed, Read

SIZES = Sizes(
    weights=1000,
    reference=400,
    gradients=1000,
    optimizer=OptimizerBytes(2000, 300),
    computed=500,
    block=50,
    outside=100,
    block_gradients=50,
    outside_gradients=100,
    reduced=2,
)
# Activations go as gradients come.
STEP = Trace((Moment(900, 60, 0), Moment(500, 0, 300), Moment(10, 0, 1000)), flops=1)
FEW = Trace((Moment(9, 6, 0), Moment(5, 0, 1000)), flops=1)
SINGLE, DDP, FSDP = Strategy("single"), Strategy("DDP"), Strategy("FSDP")


def test_one_device_at_the_end_of_backward() -> None:
    parts = memory(SIZES, STEP, SINGLE, 1, gpu=False).parts
    # 1000 + 400 + 2000 + max(960, 800, 1010), or 1000 + 300 in the optimizer's step.
    assert parts.total == 3400 + 1300
    assert (parts.weights, parts.reference, parts.optimizer, parts.gradients) == (1000, 400, 2300, 1000)
    calm = replace(SIZES, optimizer=OptimizerBytes(2000, 0))
    parts = memory(calm, STEP, SINGLE, 1, gpu=False).parts
    assert (parts.total, parts.activations, parts.gradients) == (3400 + 1010, 10, 1000)


def test_ddp_has_buckets_beside_gradients() -> None:
    parts = memory(SIZES, FEW, DDP, 4, gpu=False).parts
    assert parts.gradients == 2000
    assert memory(SIZES, FEW, Strategy("DDP", bucket_view=True), 4, gpu=False).parts.gradients == 1000


def test_fsdp_has_a_share_and_gathers_blocks() -> None:
    parts = memory(SIZES, STEP, FSDP, 4, gpu=False).parts
    # Most is in memory at the first moment: 960, where the second has 500 + 75 and the third 10 + 250.
    assert (parts.weights, parts.reference, parts.optimizer, parts.gradients) == (250, 100, 500, 0)
    assert (parts.activations, parts.logits) == (900, 60)
    assert parts.gathered == 100 + 2 * 50 + 100 + 50 * (1 + 2)
    kept = memory(SIZES, STEP, Strategy("FSDP", keeps_weights=True), 4, gpu=False).parts
    assert kept.gathered == 500 + 100 + 50 * (1 + 2)


def test_offloading_leaves_what_is_gathered() -> None:
    found = memory(SIZES, STEP, Strategy("FSDP", offload=True), 4, gpu=False)
    assert found.parts.total == 900 + 60 + 100 + 2 * 50 + 100 + 50 * (1 + 2)
    assert found.host == (1000 + 400 + 1000 + 2300) / 4


def test_the_reference_pass_may_be_the_peak() -> None:
    before = Trace((Moment(5000, 70, 0),), flops=1)
    parts = memory(SIZES, STEP, SINGLE, 1, reference_pass=before, separate_reference=1000, gpu=False).parts
    assert parts.total == 1000 + 1000 + 5000 + 70
    assert parts.optimizer == 0


def test_a_gpu_takes_memory_for_itself() -> None:
    one, several = (memory(SIZES, STEP, FSDP, devices).parts for devices in (1, 4))
    assert several.overhead - one.overhead == pytest.approx(COMMUNICATION_BYTES)
    assert one.overhead == pytest.approx(CONTEXT_BYTES + FRAGMENTATION * (one.activations + one.logits + one.gathered))


@pytest.mark.parametrize(
    ("name", "options", "devices", "expected"),
    [
        ("auto", {}, 1, "single"),
        ("auto", {}, 4, "DDP"),
        ("ddp_find_unused_parameters_true", {}, 2, "DDP"),
        ("fsdp", {}, 8, "FSDP"),
        ("FSDPStrategy", {"cpu_offload": True}, 8, "FSDP with CPU offload"),
        ("fsdp_cpu_offload", {}, 8, "FSDP with CPU offload"),
        ("FSDP2", {}, 8, "FSDP2"),
        ("ModelParallelStrategy", {}, 8, "FSDP2"),
        ("fsdp2_cpu_offload", {}, 8, "FSDP2 with CPU offload"),
    ],
)
def test_strategies(name: str, options: dict[str, object], devices: int, expected: str) -> None:
    assert str(strategy_on(name, options, devices)) == expected


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(ConfigError, match="'xla', which cannot be planned"):
        strategy_on("xla", {}, 8)
    with pytest.raises(ConfigError, match=r"deepspeed_stage_3.* stage 3 is refused by `fit`"):
        strategy_on("deepspeed_stage_3", {}, 8)


def test_gpus_by_part_of_their_names() -> None:
    assert [gpu.name for gpu in gpus_named(["a100"])] == ["A100 80 GB", "A100 40 GB"]
    assert len(gpus_named(["24gb"])) == 3
    assert gpus_named([]) == list(GPUS.values())
    with pytest.raises(ConfigError, match="'A1000' is not known, did you mean"):
        gpus_named(["A1000"])


def test_assumed_pairs_share_their_prompts() -> None:
    assumed = Assumed("paired", 10, 40, 0.5, max_length=96, max_prompt_length=32)
    batch = assumed.largest(3, cached=True)
    assert len(batch.sequences.input_ids) == 3 * (32 + 2 * 64)
    assert batch.sequences.real_tokens == 3 * 2 * 96
    assert batch.sequences.reference_logps is not None
    assert assumed.typical(3, cached=False).sequences.reference_logps is None
    assert assumed.real_tokens == 10 * 2 * 40


def test_of_data_that_was_read_the_largest_batch_is_found() -> None:
    builder = TokenizedDatasetBuilder("sft")
    for length in (3, 30, 4, 5, 20, 21, 6):
        builder.add([Encoded([1], [2] * length)], [1.0], [])
    read = Read(builder.build(), range(7), "rows")
    assert read.examples == 7
    assert read.real_tokens == 7 + 3 + 30 + 4 + 5 + 20 + 21 + 6
    assert read.largest(2, cached=False).index.tolist() == [4, 5]
    assert read.largest(1, cached=False).index.tolist() == [1]
    lengths = np.array([3, 30, 4, 5, 20, 21, 6])
    assert lengths[read.typical(3, cached=False).index.numpy()].tolist() == [4, 6, 21]
