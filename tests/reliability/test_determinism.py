"""The same seed on the same machine gives the same bytes: every method, with packing and caches, with data workers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from halo_lightning import PairedDataModule, UnaryDataModule, modules
from halo_lightning.cli import main
from halo_lightning.modules import HaloModule
from tests.reliability.comparison import differences, newest_checkpoint, points

METHODS = [getattr(modules, name) for name in modules.__all__ if name != "HaloModule"]
DATA = {
    "sft": ("halo_lightning.SFTDataModule", "embedded:sft?examples=120"),
    "paired": ("halo_lightning.PairedDataModule", "embedded:pairs?examples=120"),
    "unary": ("halo_lightning.UnaryDataModule", "embedded:thumbs?examples=120"),
}


@pytest.fixture(autouse=True)
def determinism_is_switched_off_again() -> Iterator[None]:
    """The trainer switches it on for the whole process."""
    yield
    torch.use_deterministic_algorithms(False)


def fit(
    folder: Path,
    method: type[HaloModule],
    monkeypatch: pytest.MonkeyPatch,
    *,
    seed: int = 3,
    num_workers: int = 0,
    **trainer: Any,
) -> Path:
    """Trains three steps in a folder, with the caches in it, and returns the folder."""
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HALO_LIGHTNING_CACHE", str(folder / "cache"))
    kind, rows = DATA[method.feedback[0]]
    config = {
        "seed_everything": seed,
        "run_dir": "runs/one",
        "model": {"class_path": f"halo_lightning.{method.__name__}", "init_args": {"policy": "embedded:small"}},
        "data": {
            "class_path": kind,
            "init_args": {
                "train": rows,
                "batch_size": 8,
                "max_length": 128,
                "validation_fraction": 0.2,
                "seed": seed,
                "num_workers": num_workers,
            },
        },
        "trainer": {"max_steps": 3, "accelerator": "cpu", "devices": 1, "log_every_n_steps": 1, **trainer},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--config=config.yaml"]) == 0
    return folder


def results(folder: Path) -> tuple[str, dict[str, list[float]]]:
    """All curves, and all weights, of the run in a folder."""
    run = folder / "runs" / "one"
    return repr(points(run)), {name: value.tolist() for name, value in newest_checkpoint(run)["state_dict"].items()}


def unlike(one: Path, two: Path) -> list[str]:
    """What differs, but for the exported record of the settings, in which the trainer's own switch is."""
    return [found for found in differences(one, two) if "export/halo_lightning.json" not in found]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=lambda cls: cls.__name__)
def test_every_method_gives_the_same_bytes(
    method: type[HaloModule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run finds in its caches what the first one computed, and torch's own switch changes nothing, too."""
    one = fit(tmp_path / "one", method, monkeypatch)
    if method.needs_reference:  # others have nothing in a cache
        shutil.copytree(one / "cache", tmp_path / "two" / "cache")
    two = fit(tmp_path / "two", method, monkeypatch, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert unlike(one, two) == []


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = fit(tmp_path / "one", modules.KTO, monkeypatch)
    shutil.copytree(one / "cache", tmp_path / "two" / "cache")
    two = fit(tmp_path / "two", modules.KTO, monkeypatch, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert unlike(one, two) == []

    # With data workers, whose number is in the hyperparameters and nowhere else; and what compares sees another seed.
    same = results(fit(tmp_path / "helped", modules.KTO, monkeypatch, num_workers=2))
    unequal = results(fit(tmp_path / "other", modules.KTO, monkeypatch, seed=4))
    assert same == results(one)
    assert unequal[0] != same[0]
    assert unequal[1] != same[1]


@pytest.mark.parametrize(
    ("kind", "rows"),
    [(PairedDataModule, "embedded:pairs?examples=60"), (UnaryDataModule, "embedded:thumbs?examples=60")],
)
def test_data_workers_keep_the_order(kind: type[PairedDataModule] | type[UnaryDataModule], rows: str) -> None:
    from halo_lightning.pretrained import load_tokenizer

    orders = []
    for workers in (0, 1, 2):
        data = kind(rows, tokenizer=load_tokenizer("embedded:small"), batch_size=8, num_workers=workers)
        data.setup("fit")
        orders.append([batch.index.tolist() for batch in data.train_dataloader()])
    assert orders[0] == orders[1] == orders[2]
    assert len(orders[0]) > 4
