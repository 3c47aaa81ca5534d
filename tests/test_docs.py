"""The pages of the documentation: links lead somewhere, blocks run, and options that are named exist."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

import halo_lightning
from halo_lightning.cli import FUNCTIONS, TRAINING
from halo_lightning.completion import training_options
from tests.conftest import REPOSITORY
from tests.page_blocks import blocks, check, commands, like_a_clone, run

DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
HOWTO = sorted((DOCS / "howto").glob("*.md"))
TEXTS = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *PAGES]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
QUICK = (
    "--trainer.num_sanity_val_steps=0",
    "--trainer.log_every_n_steps=1",
    "--samples.prompts=0",
    "--pictures.every_n_steps=0",
)
"""What makes a run quick, and changes nothing that a page shows."""
MADE = ["index", "methods", "archangel_tiny", "value_lab"]
"""Pages whose commands take too long to be run here."""
FEW = "--data.train=embedded:thumbs?examples=24"


known_options = cache(lambda: set(training_options()))


def name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def prose(path: Path) -> str:
    """The text of a page or notebook without its blocks."""
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text())["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    else:
        text = path.read_text()
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """What a heading can be linked by, as Python-Markdown and GitHub make it."""
    headings = re.findall(r"^#+ (.+)$", prose(path), flags=re.MULTILINE)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("path", [*TEXTS, *NOTEBOOKS], ids=name)
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if link.startswith(("http://", "https://")):
            continue
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), link
        assert not anchor or anchor in anchors(file), link


def in_navigation(entries: object) -> list[str]:
    """The pages of a navigation, in order."""
    if isinstance(entries, str):
        return [entries]
    values = entries.values() if isinstance(entries, dict) else entries
    return [page for value in values for page in in_navigation(value)]  # type: ignore[attr-defined]


def test_the_navigation_is_of_pages_and_has_every_how_to() -> None:
    pages = in_navigation(yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())["nav"])
    there = {str(page.relative_to(DOCS)) for page in PAGES}
    assert len(set(pages)) == len(pages)
    assert set(pages) <= there
    assert {page for page in there if page.startswith(("howto/", "reference/"))} <= set(pages)


def test_every_public_name_is_in_the_reference() -> None:
    text = "".join(path.read_text() for path in (DOCS / "reference").glob("*.md"))
    from halo_lightning import callbacks

    for callback in callbacks.__all__:
        assert f"::: {getattr(callbacks, callback).__module__}.{callback}\n" in text
    for public in halo_lightning._HOMES:
        module = getattr(halo_lightning, public).__module__
        assert re.search(rf"^::: {re.escape(module)}\.{public}$", text, flags=re.MULTILINE), public
    for path in re.findall(r"^::: ([\w.]+)$", text, flags=re.MULTILINE):
        file = REPOSITORY / f"{path.replace('.', '/')}.py"
        if not file.is_file():
            module, _, member = path.rpartition(".")
            assert re.search(
                rf"^(class|def) {member}\b", (REPOSITORY / f"{module.replace('.', '/')}.py").read_text(), re.MULTILINE
            ), path


@pytest.mark.parametrize("path", HOWTO, ids=name)
def test_blocks_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, since later blocks use files of earlier ones; what needs more than this machine is read alone."""
    monkeypatch.chdir(like_a_clone(tmp_path))
    for block in blocks(path.read_text()):
        if block.language == "python":
            exec(compile(block.code, name(path), "exec"), {"__name__": "page"})
            continue
        assert block.language == "bash"
        for command in commands(block.code):
            if block.not_run:
                check(command)
            else:
                run(command, QUICK if "--data.train" in command else (*QUICK, FEW))


@pytest.mark.parametrize("path", [DOCS / f"{page}.md" for page in MADE], ids=name)
def test_commands_are_understood(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(like_a_clone(tmp_path))
    shown = [command for block in blocks(path.read_text()) for command in commands(block.code)]
    assert shown
    for command in shown:
        check(command)


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_options_and_commands_that_are_named_exist(path: Path) -> None:
    text = path.read_text()
    known = known_options()
    for option in re.findall(r"--((?:model|data|trainer|checkpoint|export|samples|pictures|watch)\.[\w.]+\w)", text):
        assert ".".join(option.split(".")[:2]) in known or option.startswith("trainer.logger."), option
    for command in re.findall(r"(?:`|^)python cli\.py ([a-z-]+)", text, flags=re.MULTILINE):
        assert command in {**TRAINING, **FUNCTIONS}, command
    extras = re.search(
        r"\[project.optional-dependencies\]\n(.*?)\n\n", (REPOSITORY / "pyproject.toml").read_text(), re.S
    )
    assert extras
    for extra in re.findall(r"halo-lightning\[(\w+)\]", text):
        assert re.search(rf"^{extra} = ", extras.group(1), flags=re.MULTILINE), extra


def test_equations_and_links_of_the_site() -> None:
    pytest.importorskip("latex2mathml")
    sys.path.insert(0, str(DOCS))
    try:
        import site_hooks
    finally:
        sys.path.remove(str(DOCS))

    class Page:
        class file:  # noqa: N801
            src_uri = "plan.md"

    made = site_hooks.on_page_content(r'<p><span class="arithmatex">\(\beta &gt; 0\)</span></p>')
    assert "<math" in made
    assert "arithmatex" not in made
    text = "[data](data.md) and [tables](../benchmarks/RESULTS.md) and ![p](images/a.png)"
    told = site_hooks.on_page_markdown(text, page=Page)
    assert told == "[data](data.md) and tables (`benchmarks/RESULTS.md`) and ![p](images/a.png)"


@pytest.mark.slow
def test_the_site_is_built(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    losses = (tmp_path / "site" / "reference" / "losses.html").read_text()
    assert 'id="halo_lightning.losses.kto_loss"' in losses
    assert "λ_D, weight" in losses or "desirable_weight" in losses
    equations = (tmp_path / "site" / "equations.html").read_text()
    assert equations.count("<math") > 20
    assert "arithmatex" not in equations
    loaded = r'(?:src|href)="(https?://[^"]+\.(?:js|css|woff2?))"'
    for page in (tmp_path / "site").rglob("*.html"):
        assert not re.findall(loaded, page.read_text()), page  # nothing comes from elsewhere
