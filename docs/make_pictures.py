"""Makes the README's pictures from what a person sees: `make pictures`, or `python docs/make_pictures.py`.

It trains the runs, opens TensorBoard's pages in a headless Chromium, and takes the terminal's screen out of tmux. On
Debian: `apt-get install chromium tmux`. Nothing else of this package needs either of them.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
IMAGES = REPOSITORY / "docs" / "images"
TABS = {
    "custom_scalars": ("tensorboard.png", 1100),
    "images": ("tensorboard_pictures.png", 1060),
    "histograms": ("tensorboard_histograms.png", 760),
    "hparams": ("tensorboard_hparams.png", 500),
}
"""The picture of each of TensorBoard's tabs, and its height in pixels."""


def browser() -> str | None:
    """The Chromium of this machine, or None."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def tensorboard(folder: str | Path) -> Iterator[str]:
    """A TensorBoard on a free port, as long as the block lasts.

    Args:
        folder: What it shows.

    Yields:
        Its address.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # By its own name, since TensorBoard shows what it was called with.
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", Path(folder).name, "--port", str(port)]
    server = subprocess.Popen(
        [*command, "--load_fast=false"],
        cwd=Path(folder).resolve().parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                # It answers before it has read the runs.
                runs = urllib.request.urlopen(f"{address}/data/runs", timeout=5).read()
                if runs.strip() != b"[]" or not list(Path(folder).rglob("events.*")):
                    break
            except OSError:
                pass
            time.sleep(0.5)
        else:
            raise TimeoutError(f"TensorBoard does not answer for {folder}")
        yield address
    finally:
        server.terminate()
        server.wait()


def screenshot(address: str, out: str | Path, *, width: int = 1500, height: int = 1100) -> None:
    """A picture of a page as Chromium shows it.

    Args:
        address: Of the page.
        out: The PNG to write.
        width: Of the window, in pixels.
        height: Of the window.

    Raises:
        RuntimeError: There is no Chromium, or it made no picture.
    """
    program = browser()
    if program is None:
        raise RuntimeError("there is no Chromium (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [
                program,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                f"--window-size={width},{height}",
                "--virtual-time-budget=20000",  # of the page's own clock: everything is loaded and drawn by then
                f"--user-data-dir={profile}",
                f"--screenshot={Path(out).resolve()}",
                address,
            ],
            capture_output=True,
            text=True,
            timeout=180,
        )
    if not Path(out).is_file():
        raise RuntimeError(f"Chromium made no picture of {address}: {done.stderr[-1000:]}")


def terminal_picture(command: str, folder: Path, out: Path, *, width: int = 112, height: int = 70) -> None:
    """A picture of the terminal at the end of a command, with its colours.

    Args:
        command: What is typed.
        folder: Where.
        out: The SVG to write.
        width: Columns of the terminal.
        height: Its lines; those that stay empty are not drawn.
    """
    from rich.console import Console
    from rich.text import Text

    tmux = ["tmux", "-L", f"pictures{time.time_ns()}", "-f", "/dev/null"]
    with tempfile.TemporaryDirectory() as notes:
        line = f"printf '$ %s\\n' {shlex.quote(command)}; {command}; echo; sleep 1; touch {notes}/done; sleep 60"
        size = ["-x", str(width), "-y", str(height)]
        subprocess.run([*tmux, "new-session", "-d", *size, "-c", str(folder), line], check=True, env=environment())
        for _ in range(1200):
            if (Path(notes) / "done").exists():
                break
            time.sleep(0.5)
        screen = subprocess.run([*tmux, "capture-pane", "-e", "-p"], check=True, capture_output=True, text=True).stdout
        subprocess.run([*tmux, "kill-server"], check=True)
    console = Console(record=True, width=width, file=open("/dev/null", "w"), force_terminal=True)  # noqa: SIM115
    # Warnings name the file that they come from: not where this repository is.
    console.print(Text.from_ansi(screen.replace(f"{REPOSITORY}/", "").rstrip()))
    console.save_svg(str(out), title="halo_lightning")


def environment() -> dict[str, str]:
    """That of this process, in which `python` is the Python that runs this."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def make_pictures(folder: Path) -> None:
    """Trains the runs of the README in a folder that looks like a clone, and makes its pictures of them.

    Args:
        folder: Runs that are there already are not trained again.
    """
    for name in ("cli.py", "configs", "halo_lightning"):
        if not (folder / name).exists():
            (folder / name).symlink_to(REPOSITORY / name)
    if not (folder / "runs" / "tiny_sft_kto" / "export").is_dir():
        command = "python cli.py fit --config configs/tiny_sft_kto.yaml"
        terminal_picture(command, folder, IMAGES / "terminal.svg")
    rest = [["curves", "--runs=runs/tiny_sft_kto", f"--out={IMAGES / 'curves.png'}"]]
    rest.append(["values", f"--out={IMAGES / 'values.png'}"])
    if not (folder / "runs" / "tiny_sft_dpo" / "export").is_dir():
        rest.append(["fit", "--config=configs/tiny_sft_dpo.yaml"])
    for arguments in rest:
        subprocess.run([sys.executable, "cli.py", *arguments], check=True, cwd=folder, env=environment())
    with tempfile.TemporaryDirectory() as temporary:
        shown = Path(temporary) / "runs"
        shown.mkdir()
        for name in ("kto", "dpo"):  # short names, for TensorBoard cuts long ones
            (shown / name).symlink_to(folder / "runs" / f"tiny_sft_{name}" / "tensorboard" / "version_0")
        with tensorboard(shown) as address:
            for tab, (picture, height) in TABS.items():
                screenshot(f"{address}/#{tab}", IMAGES / picture, height=height)
                print(f"made {IMAGES / picture}")


def main() -> None:
    """Makes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="where the runs are trained, to be kept; by default a temporary folder")
    given = parser.parse_args().folder
    IMAGES.mkdir(exist_ok=True)
    if given:
        Path(given).mkdir(parents=True, exist_ok=True)
        make_pictures(Path(given).resolve())
    else:
        with tempfile.TemporaryDirectory() as folder:
            make_pictures(Path(folder))


if __name__ == "__main__":
    main()
