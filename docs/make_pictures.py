"""Makes the README's pictures from what a person sees: `make pictures`, or `python docs/make_pictures.py`.

It trains the runs, opens TensorBoard's pages in a headless Chromium, and takes the terminal's screen out of tmux. On
Debian: `apt-get install chromium tmux`. Nothing else of this package needs either of them.
"""

from __future__ import annotations

import argparse
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

IMAGES = Path(__file__).resolve().parent / "images"
CLI = [sys.executable, "cli.py"]
TABS = {"custom_scalars": "tensorboard.png", "images": "tensorboard_pictures.png", "histograms": "histograms.png"}
COMMAND = "python cli.py fit --config configs/tiny_sft_kto.yaml"


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
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", str(port)]
    server = subprocess.Popen([*command, "--load_fast=false"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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


def terminal_picture(command: list[str], shown: str, out: str | Path, *, width: int = 100, height: int = 34) -> None:
    """A picture of the terminal at the end of a command, with its colours.

    Args:
        command: What is run, in this folder.
        shown: What the prompt of the picture says was typed.
        out: The SVG to write.
        width: Columns of the terminal.
        height: Its lines.
    """
    from rich.console import Console
    from rich.text import Text

    tmux = ["tmux", "-L", f"pictures{time.time_ns()}", "-f", "/dev/null"]
    typed = f"printf '$ %s\\n' {shlex.quote(shown)}; {shlex.join(command)}; echo; sleep 1; touch done"
    with tempfile.TemporaryDirectory() as folder:
        line = typed.replace("touch done", f"touch {folder}/done; sleep 60")
        subprocess.run([*tmux, "new-session", "-d", "-x", str(width), "-y", str(height), line], check=True)
        for _ in range(1200):
            if (Path(folder) / "done").exists():
                break
            time.sleep(0.5)
        screen = subprocess.run([*tmux, "capture-pane", "-e", "-p"], check=True, capture_output=True, text=True).stdout
        subprocess.run([*tmux, "kill-server"], check=True)
    console = Console(record=True, width=width, file=open("/dev/null", "w"), force_terminal=True)  # noqa: SIM115
    console.print(Text.from_ansi(screen.rstrip()))
    console.save_svg(str(out), title="halo_lightning")


def main() -> None:
    """Trains the runs of the README and makes its pictures of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", default="runs/pictures", help="the folder of the runs, which are trained if missing")
    folder = Path(parser.parse_args().runs)
    IMAGES.mkdir(exist_ok=True)
    for method, stage in (("kto", "tiny_sft_kto"), ("dpo", "tiny_sft_dpo")):
        if not (folder / method / "export").is_dir():
            command = [*CLI, "fit", "--config", f"configs/{stage}.yaml", f"--run_dir={folder / method}"]
            if method == "kto":
                terminal_picture(command, COMMAND, IMAGES / "terminal.svg")
            else:
                subprocess.run(command, check=True)
    subprocess.run([*CLI, "curves", f"--runs={folder / 'kto'}", f"--out={IMAGES / 'curves.png'}"], check=True)
    subprocess.run([*CLI, "values", f"--out={IMAGES / 'values.png'}"], check=True)
    with tensorboard(folder) as address:
        for tab, name in TABS.items():
            screenshot(f"{address}/#{tab}", IMAGES / name)
            print(f"made {IMAGES / name}")


if __name__ == "__main__":
    main()
