"""TensorBoard's page of a run in a real browser: a headless Chromium takes screenshots of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from halo_lightning.cli import main
from tests.conftest import REPOSITORY


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_pictures", REPOSITORY / "docs" / "make_pictures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pictures = load()
needs_browser = pytest.mark.skipif(
    pictures.browser() is None, reason="there is no Chromium here (Debian: apt-get install chromium)"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    settings = ["--data.train=embedded:thumbs?examples=300", "--trainer.max_steps=8", "--trainer.log_every_n_steps=1"]
    config = f"--config={REPOSITORY / 'configs' / 'tiny_kto.yaml'}"
    assert main(["fit", config, f"--run_dir={folder / 'kto'}", *settings, "--trainer.val_check_interval=4"]) == 0
    return folder


def drawn(address: str, out: Path) -> float:
    """How much of a page below its header and beside its settings is not background."""
    pictures.screenshot(address, out)
    pixels = np.asarray(Image.open(out).convert("RGB"))
    assert pixels.shape == (1100, 1500, 3)
    return float((pixels[100:, 340:] < 230).any(-1).mean())


@pytest.mark.slow
@needs_browser
def test_tensorboard_shows_curves_pictures_distributions_and_hyperparameters(run: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    tabs = ("custom_scalars", "images", "histograms", "hparams")
    with pictures.tensorboard(run) as address:
        shown = {tab: drawn(f"{address}/#{tab}", tmp_path / f"{tab}.png") for tab in tabs}
    with pictures.tensorboard(tmp_path / "nothing") as address:
        empty = {tab: drawn(f"{address}/#{tab}", tmp_path / f"no_{tab}.png") for tab in tabs}
    assert all(shown[tab] > max(0.01, 1.3 * empty[tab]) for tab in tabs), (shown, empty)


def test_without_a_browser_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pictures, "browser", lambda: None)
    with pytest.raises(RuntimeError, match="no Chromium"):
        pictures.screenshot("http://localhost", tmp_path / "a.png")
