"""DeepSpeed needs GPUs and is not installed for the tests: a stand-in for it does what Lightning asks of it, on CPUs.

So what is tested is that this package's hooks go with Lightning's DeepSpeedStrategy, and not DeepSpeed itself.
"""

from __future__ import annotations

import json
import logging
import sys
from contextlib import nullcontext
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DeepSpeedStrategy, SingleDeviceStrategy, deepspeed

from halo_lightning import KTO, HuggingFaceExport, OfflinePPO, UnaryDataModule
from halo_lightning.callbacks import RunCheckpoint
from halo_lightning.checkpoints import newest_good
from halo_lightning.errors import ConfigError
from halo_lightning.export import export_checkpoint
from halo_lightning.world import rows


class Engine(torch.nn.Module):
    """What `deepspeed.initialize` gives: it accumulates, clips and steps itself."""

    def __init__(self, model: Any, optimizer: Any, config: dict[str, Any]) -> None:
        super().__init__()
        self.module, self.optimizer, self.config = model, optimizer, config
        self.lr_scheduler = None
        self.micro_steps = 0

    def forward(self, *arguments: Any, **options: Any) -> Any:
        return self.module(*arguments, **options)

    def backward(self, loss: torch.Tensor, scale_wrt_gas: bool = True) -> None:
        (loss / self.config["gradient_accumulation_steps"] if scale_wrt_gas else loss).backward()

    def step(self) -> None:
        self.micro_steps += 1
        if self.micro_steps % self.config["gradient_accumulation_steps"] == 0:
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.config["gradient_clipping"])
            self.optimizer.step()
            self.optimizer.zero_grad()

    def save_checkpoint(self, folder: str, client_state: dict[str, Any], tag: str, **_: Any) -> None:
        Path(folder, tag).mkdir(parents=True)
        Path(folder, "latest").write_text(tag)
        state = {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict(), **client_state}
        torch.save(state, Path(folder, tag, "states.pt"))

    def load_checkpoint(self, folder: str, **_: Any) -> tuple[str, dict[str, Any]]:
        state = torch.load(Path(folder, "checkpoint", "states.pt"), weights_only=True)
        self.module.load_state_dict(state.pop("module"))
        self.optimizer.load_state_dict(state.pop("optimizer"))
        return folder, state


class OnCPU(DeepSpeedStrategy):
    """Lightning's, without a GPU and its process group."""

    def setup_environment(self) -> None:
        self.set_world_ranks()

    root_device = property(lambda self: torch.device("cpu"))
    world_size = 1
    barrier = SingleDeviceStrategy.barrier
    broadcast = SingleDeviceStrategy.broadcast
    reduce = SingleDeviceStrategy.reduce
    reduce_boolean_decision = SingleDeviceStrategy.reduce_boolean_decision
    teardown = SingleDeviceStrategy.teardown


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def initialize(model: Any, optimizer: Any, config: dict[str, Any], **_: Any) -> tuple[Any, ...]:
        engine = Engine(model, optimizer, config)
        return engine, optimizer, None, None

    module: Any = ModuleType("deepspeed")
    module.__spec__ = ModuleSpec("deepspeed", None)  # transformers looks for it
    module.initialize = initialize
    module.utils = SimpleNamespace(logging=SimpleNamespace(logger=logging.getLogger("deepspeed")))
    module.zero = SimpleNamespace(Init=lambda **_: nullcontext())
    module.checkpointing = SimpleNamespace(configure=lambda *_, **__: None)
    monkeypatch.setitem(sys.modules, "deepspeed", module)
    monkeypatch.setattr(deepspeed, "_DEEPSPEED_AVAILABLE", True)
    monkeypatch.setattr(deepspeed, "_DEEPSPEED_GREATER_EQUAL_0_16", True)
    monkeypatch.setattr(deepspeed, "_validate_checkpoint_directory", lambda path: None)


def fit(folder: Path, out: str, strategy: Any, *, method: Any = KTO, **options: Any) -> tuple[Any, L.Trainer]:
    """Three steps of two micro-batches of four, with clipping and checkpoints."""
    data = folder / "thumbs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows("thumbs", examples=64, seed=1)))
    L.seed_everything(1, verbose=False)
    module = method("embedded:base", reference_cache=str(folder / "cache"), **options.pop("model", {}))
    trainer = L.Trainer(
        accelerator="cpu",
        strategy=strategy,
        max_steps=3,
        gradient_clip_val=0.5,
        log_every_n_steps=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[
            HuggingFaceExport(str(folder / out / "export")),
            RunCheckpoint(
                dirpath=folder / out / "checkpoints", filename="{step}", every_n_train_steps=1, save_top_k=-1
            ),
        ],
    )
    batches = UnaryDataModule(str(data), batch_size=8, micro_batch_size=4, validation_examples=8)
    trainer.fit(module, datamodule=batches, ckpt_path=options.pop("resume", None))
    return module, trainer


def test_training_equals_that_without_it_and_goes_on_from_its_checkpoints(tmp_path: Path) -> None:
    """Gradients are kept between micro-batches and clipped once; the loader is not made before a checkpoint is read."""
    expected, _ = fit(tmp_path, "plain", "auto")
    module, trainer = fit(tmp_path, "deepspeed", OnCPU(stage=2))
    assert trainer.global_step == 3
    config = trainer.strategy.config
    assert config["gradient_accumulation_steps"] == 2
    assert config["train_micro_batch_size_per_gpu"] == 4
    assert config["gradient_clipping"] == 0.5
    weights = dict(expected.named_parameters())
    for name, weight in module.named_parameters():
        torch.testing.assert_close(weight, weights[name], rtol=0, atol=1e-7, msg=name)
    first = tmp_path / "deepspeed" / "checkpoints" / "step=1.ckpt"
    assert newest_good(first.parent).path == first.with_name("step=3.ckpt")
    resumed, _ = fit(tmp_path, "again", OnCPU(stage=2), resume=first)
    for name, weight in resumed.named_parameters():
        torch.testing.assert_close(weight, weights[name], rtol=0, atol=1e-7, msg=name)
    with pytest.raises(ConfigError, match="a checkpoint of DeepSpeed"):
        export_checkpoint(str(first), str(tmp_path / "out"))
    assert isinstance(trainer.checkpoint_callback, ModelCheckpoint)


def test_what_it_would_do_in_another_way_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stage 3 divides weights while a model is built"):
        fit(tmp_path, "three", OnCPU(stage=3))
    with pytest.raises(ConfigError, match="but the value head has its own"):
        fit(tmp_path, "ppo", OnCPU(stage=2), method=OfflinePPO, model={"advantage": "gae"})


def test_without_it_lightning_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deepspeed, "_DEEPSPEED_AVAILABLE", False)
    with pytest.raises(Exception, match="you must have DeepSpeed installed"):
        L.Trainer(accelerator="cpu", strategy="deepspeed_stage_2")
