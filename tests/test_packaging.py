"""The wheel: what is in it, and that it works where there is no clone."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import halo_lightning
from halo_lightning.cli import main
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(REPOSITORY)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of a fresh environment, in which the wheel is installed.

    The dependencies are those of this environment: it is the package that is looked at, not the index.
    """
    root = tmp_path_factory.mktemp("fresh")
    venv.create(root)
    site = next((root / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(root / "bin" / "python")]
    command = [*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return root / "bin"


def run(program: Path, *arguments: str, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(program), *arguments], capture_output=True, text=True, cwd=cwd, timeout=600, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_what_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    here = REPOSITORY / "halo_lightning"
    sources = {str(path.relative_to(REPOSITORY)) for path in here.rglob("*.py")}
    assets = {str(path.relative_to(REPOSITORY)) for path in (here / "world" / "assets").rglob("*") if path.is_file()}
    configs = {f"halo_lightning/{path.relative_to(REPOSITORY)}" for path in (REPOSITORY / "configs").rglob("*.yaml")}
    assert sources | assets | configs | {"halo_lightning/py.typed"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests", "runs", "docs", "benchmarks"))]
    metadata = next(name for name in names if name.endswith("METADATA"))
    text = zipfile.ZipFile(wheel).read(metadata).decode()
    assert f"Version: {halo_lightning.__version__}\n" in text
    assert "Requires-Python: >=3.10" in text


def test_it_works_without_a_clone(installed: Path, tmp_path: Path) -> None:
    assert "usage: halo COMMAND" in run(installed / "halo", "--help", cwd=tmp_path)
    where = run(installed / "python", "-c", "import halo_lightning; print(halo_lightning.__file__)", cwd=tmp_path)
    assert where.startswith(str(installed.parent))
    assert "copied" in run(installed / "halo", "configs", cwd=tmp_path)
    copied = {path.relative_to(tmp_path) for path in (tmp_path / "configs").rglob("*.yaml")}
    assert copied == {path.relative_to(REPOSITORY) for path in (REPOSITORY / "configs").rglob("*.yaml")}


@pytest.mark.slow
def test_the_demo_of_an_installed_package(installed: Path, tmp_path: Path) -> None:
    printed = run(installed / "halo", "demo", "--prompts=20", cwd=tmp_path)
    assert "win rate" in printed
    assert (tmp_path / "runs" / "demo" / "aligned" / "export" / "model.safetensors").is_file()


def test_importing_the_package_imports_nothing_large() -> None:
    code = (
        "import sys, halo_lightning; dir(halo_lightning)\n"
        "large = {'torch', 'lightning', 'transformers', 'datasets', 'numpy', 'jsonargparse'} & set(sys.modules)\n"
        "assert not large, large\n"
        "import halo_lightning.losses\n"
        "large = {'lightning', 'transformers', 'datasets', 'jsonargparse'} & set(sys.modules)\n"
        "assert not large, large\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr


def test_existing_configurations_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    assert main(["configs", f"--out={tmp_path / 'mine'}"]) == 2
    assert "it is there already" in capsys.readouterr().err


def test_the_version_is_the_newest_of_the_changelog_and_of_the_citation() -> None:
    version = halo_lightning.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    newest = re.search(r"^## (\d+\.\d+\.\d+)", (REPOSITORY / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert newest
    assert newest.group(1) == version
    assert f"\nversion: {version}\n" in (REPOSITORY / "CITATION.cff").read_text()


@pytest.mark.parametrize("path", sorted((REPOSITORY / "halo_lightning").rglob("*.py")), ids=lambda path: path.stem)
def test_the_syntax_is_that_of_python_3_10(path: Path) -> None:
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))


def test_the_lowest_versions_that_are_tested_are_those_that_are_declared() -> None:
    """`make test-lowest LOWEST_TORCH=2.9` installs the lower end of each range."""
    project = (REPOSITORY / "pyproject.toml").read_text()
    declared = dict(re.findall(r'"([\w-]+)(?:\[\w+\])?>=([\d.]+)"', project))
    tested = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (REPOSITORY / "constraints-lowest.txt").read_text(), re.M))
    of_the_package = re.search(r"^dependencies = \[\n(.*?)^\]", project, re.M | re.S)
    assert of_the_package is not None
    assert set(re.findall(r'"([\w-]+)', of_the_package[1])) <= tested.keys()
    assert tested == {name: declared[name] for name in tested}
