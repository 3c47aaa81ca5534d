"""The configurations that come with the package: `configs/` of a clone, or their copy in an installed package."""

from __future__ import annotations

import shutil
from pathlib import Path

from halo_lightning.errors import ConfigError
from halo_lightning.files import replaced_folder


def configurations() -> Path:
    """The folder of the configurations.

    A wheel brings `configs/` inside the package; in a clone it is beside the package, where it is edited.

    Raises:
        ConfigError: They are in neither place.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "tiny_sft_kto.yaml").is_file():
            return folder
    raise ConfigError(f"the configurations are neither in {package} nor beside it: install halo-lightning again")


def copy_configurations(out: str = "configs") -> None:
    """Copies the configurations, to begin your own with.

    Args:
        out: The folder to write, which must not exist yet.

    Raises:
        ConfigError: The folder exists.
    """
    if Path(out).exists():
        raise ConfigError(f"{out}: it is there already; give another folder with --out")
    with replaced_folder(out) as partial:
        shutil.copytree(configurations(), partial, dirs_exist_ok=True)
    print(f"copied the configurations to {out}: halo fit --config {Path(out) / 'tiny_sft_kto.yaml'}")
