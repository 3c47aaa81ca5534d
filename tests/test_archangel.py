"""The report's 56 models: every configuration is there, and two differ in what their names say alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from halo_lightning.composition import composed
from halo_lightning.forward import blocks_of
from halo_lightning.settings import flat
from halo_lightning.training_cli import HaloCLI
from tests.conftest import REPOSITORY

CONFIGS = REPOSITORY / "configs"

# Published numbers of parameters, and of blocks.
MODELS = {
    "pythia1-4b": ("EleutherAI/pythia-1.4b", 1_414_647_808, 24),
    "pythia2-8b": ("EleutherAI/pythia-2.8b", 2_775_208_960, 32),
    "pythia6-9b": ("EleutherAI/pythia-6.9b", 6_857_302_016, 32),
    "pythia12b": ("EleutherAI/pythia-12b", 11_846_072_320, 36),
    "llama7b": ("huggyllama/llama-7b", 6_738_415_616, 32),
    "llama13b": ("huggyllama/llama-13b", 13_015_864_320, 40),
    "llama30b": ("huggyllama/llama-30b", 32_528_943_616, 60),
}


def shape(model: str) -> dict[str, Any]:
    """The `config.json` of a model, as far as it says sizes, since there is no network."""
    sizes = {
        "pythia1-4b": (2048, 24, 16, 8192, 50304),
        "pythia2-8b": (2560, 32, 32, 10240, 50304),
        "pythia6-9b": (4096, 32, 32, 16384, 50432),
        "pythia12b": (5120, 36, 40, 20480, 50688),
        "llama7b": (4096, 32, 32, 11008, 32000),
        "llama13b": (5120, 40, 40, 13824, 32000),
        "llama30b": (6656, 60, 52, 17920, 32000),
    }
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    kind = {"model_type": "llama"} if model.startswith("llama") else {"model_type": "gpt_neox", "rotary_pct": 0.25}
    ends = {"max_position_embeddings": 2048, "tie_word_embeddings": False}
    return {**dict(zip(names, sizes[model], strict=True)), **kind, **ends}


# What is a method's own: the class, the data module, and arguments of the class.
METHODS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "sft": ("SFT", "SFT", {"average": "examples"}),
    "slic": ("SLiC", "Paired", {"margin": 1.0, "regularization": 0.1}),
    "dpo": ("DPO", "Paired", {"beta": 0.1}),
    "ppo": (
        "OfflinePPO",
        "Unary",
        {
            "ratio": "probability",
            "clip": [0.5, 2.0],
            "advantage": "gae",
            "gamma": 0.99,
            "lam": 0.95,
            "whiten_over": 4,
            "value_coefficient": 0.01,
            "value_clip": 0.1,
            "kl_penalty": 0.1,
        },
    ),
    "kto": ("KTO", "Unary", {"beta": 0.1, "kl": "halves", "kl_gradient": True, "kl_over": 4}),
}
STAGED = ("dpo", "ppo", "kto")
GRID = [*METHODS, *(f"sft_{method}" for method in STAGED)]
CELLS = [f"{method}_{model}" for method in GRID for model in MODELS]

# What all of them have in common, each number from the report or the code released with it.
SHARED = {
    "seed_everything": 1,
    "model.init_args.optimizer.class_path": "torch.optim.RMSprop",
    "model.init_args.optimizer.init_args.lr": 5e-7,
    "model.init_args.scheduler.class_path": "halo_lightning.optimization.LinearWarmup",
    "model.init_args.scheduler.init_args.warmup": 150,
    "model.init_args.scheduler.init_args.then": "constant",
    "model.init_args.activation_checkpointing": "full",
    "model.init_args.dtype": "float32",
    "data.init_args.batch_size": 32,
    "data.init_args.max_length": 2048,
    "data.init_args.max_prompt_length": 1024,
    "data.init_args.validation_examples": 512,
    "trainer.max_epochs": 1,
    "trainer.precision": "bf16-mixed",
    "trainer.strategy.class_path": "halo_lightning.strategies.FSDP",
    "trainer.gradient_clip_val": 10.0,
    "trainer.num_sanity_val_steps": -1,
    "validate_every.examples": 20000,
}


def cell(name: str) -> dict[str, Any]:
    """All settings of a configuration by dotted key; lists are values."""
    return flat(composed(CONFIGS / f"{name}.yaml"))


def test_the_set_is_complete() -> None:
    others = {path.stem for path in CONFIGS.glob("*.yaml") if path.name.startswith(("tiny_", "hh_"))}
    assert {path.stem for path in CONFIGS.glob("*.yaml")} - others == set(CELLS)
    assert len(CELLS) == 56


@pytest.mark.parametrize("name", CELLS)
def test_a_configuration_is_what_its_name_says_and_nothing_else(name: str) -> None:
    """Taking away what the name says has to leave the same of every cell."""
    method, model = name.rsplit("_", 1)
    settings = cell(name)
    assert settings.pop("run_dir") == f"runs/{name}"
    assert settings.pop("model.init_args.policy") == MODELS[model][0]
    stage = settings.pop("sft_stage.config", None)
    assert stage == (f"sft_{model}.yaml" if method.startswith("sft_") else None)
    class_name, data, own = METHODS[method.removeprefix("sft_")]
    assert settings.pop("model.class_path") == f"halo_lightning.{class_name}"
    assert settings.pop("data.class_path") == f"halo_lightning.{data}DataModule"
    assert {key: settings.pop(f"model.init_args.{key}", None) for key in own} == own
    common = cell("sft_pythia1-4b")
    for key in (
        "run_dir",
        "model.init_args.policy",
        "model.init_args.average",
        "model.class_path",
        "data.class_path",
    ):
        common.pop(key)
    assert settings == common
    assert {key: settings.get(key) for key in SHARED} == SHARED


def test_a_fact_is_in_one_part() -> None:
    """Only what belongs to a method may be in several files, one for each method."""
    places: dict[str, list[Path]] = {}
    for path in [*(CONFIGS / "parts" / "archangel").glob("*.yaml"), *(CONFIGS / "parts" / "models").glob("*.yaml")]:
        for key in flat(yaml.safe_load(path.read_text()) or {}):
            places.setdefault(key, []).append(path)
    several = {key: {path.parent.name for path in paths} for key, paths in places.items() if len(paths) > 1}
    assert several == {
        "include": {"archangel"},
        "model.class_path": {"archangel"},
        "data.class_path": {"archangel"},
        "model.init_args.policy": {"models"},
    }


@pytest.mark.parametrize("name", CELLS)
def test_a_configuration_is_short(name: str) -> None:
    lines = (CONFIGS / f"{name}.yaml").read_text().splitlines()
    assert len([line for line in lines if not line.startswith("#")]) <= 3
    assert f"#   python cli.py fit --config configs/{name}.yaml" in lines


class Built(HaloCLI):
    """The command line up to where training would begin, with an SFT stage that is finished."""

    policy = ""

    def finished_stage(self, stage: Any, *, goes_on: bool = False) -> str:
        """Where a model is."""
        return self.policy

    def _run_subcommand(self, subcommand: str) -> None:
        """Trains nothing."""


def built(name: str, folder: Path) -> Built:
    """A cell as `python cli.py fit --config configs/NAME.yaml` builds it, for a model that has a shape alone."""
    (folder / "config.json").write_text(json.dumps(shape(name.rsplit("_", 1)[1])))
    Built.policy = str(folder)
    return Built(
        args=["fit", f"--config={CONFIGS / name}.yaml", f"--model.policy={folder}", f"--run_dir={folder / 'run'}"]
    )


def check_model(name: str, folder: Path) -> None:
    """Builds a cell and its model without weights, and compares it with what its name says."""
    _, parameters, blocks = MODELS[name.rsplit("_", 1)[1]]
    method = METHODS[name.rsplit("_", 1)[0].removeprefix("sft_")][0]
    cli = built(name, folder)
    module: Any = cli.model
    assert type(module).__name__ == method
    assert module.policy_path == str(folder)
    assert cli.trainer.gradient_clip_val == 10.0
    with torch.device("meta"):
        module.configure_model()
        own = sum(weight.numel() for weight in module.pair.policy.parameters())
        optimizer = module.configure_optimizers()["optimizer"]
    assert own == parameters
    assert len(blocks_of(module.pair.policy)) == blocks
    assert all(block.gradient_checkpointing for block in list(blocks_of(module.pair.policy))[:-1])
    assert isinstance(optimizer, torch.optim.RMSprop)
    assert optimizer.defaults["lr"] == 5e-7
    assert {weight.dtype for weight in module.parameters()} == {torch.float32}
    assert (method == "OfflinePPO") == (getattr(module, "value_head", None) is not None)


@pytest.mark.parametrize("name", ["sft_kto_llama13b", "ppo_pythia12b"])
def test_builds_without_weights(name: str, tmp_path: Path) -> None:
    check_model(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", CELLS)
def test_every_one_builds_without_weights(name: str, tmp_path: Path) -> None:
    check_model(name, tmp_path)
