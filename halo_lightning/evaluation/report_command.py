"""`report`: figures and tables from verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from halo_lightning.evaluation.report import Report


def report(
    runs: list[str] | str,
    out: str = "runs/report",
    confidence: float = 0.75,
    title: str = "Who wins",
) -> None:
    """Makes the report's figures and tables from verdicts, as pictures, one HTML page, JSON, and for TensorBoard.

    Runs with the same `--name` and `--group` (of the command generate) are taken together; groups stand side by side.

    Args:
        runs: Files of verdicts, or folders with some in them or below them; all of one judge.
        out: The folder to write.
        confidence: Of the intervals; the report's figures have 75 %.
        title: The heading of the page.
    """
    from halo_lightning.evaluation.report import find_verdicts

    write_report(find_verdicts([runs] if isinstance(runs, str) else runs), Path(out), title, confidence)


def write_report(verdicts: Sequence[Path], folder: Path, title: str, confidence: float = 0.75) -> Report:
    """What the command does with files of verdicts, and the report for whoever goes on with it.

    Args:
        verdicts: The files.
        folder: The folder to write.
        title: The heading of the page.
        confidence: Of the intervals.
    """
    from halo_lightning.evaluation.report import Report
    from halo_lightning.evaluation.report_page import print_report, write_page
    from halo_lightning.files import make_folder, write_json

    made = Report.of(verdicts, confidence)
    make_folder(folder)
    pictures = draw(made, folder)
    write_json(folder / "report.json", made.as_plain_data())
    write_page(made, pictures, folder / "report.html", title=title)
    print_report(made)
    print(f"the page is {folder / 'report.html'}, every number in {folder / 'report.json'}")
    print(f"tensorboard --logdir {folder / 'tensorboard'}")
    return made


def draw(made: Report, folder: Path) -> list[tuple[str, Path]]:
    """Draws every figure as a PNG and for TensorBoard, where the numbers go as well.

    Returns:
        A caption and the file of each picture.
    """
    import contextlib
    import io
    import shutil
    from math import isnan

    import numpy as np
    from PIL import Image
    from torch.utils.tensorboard import SummaryWriter

    from halo_lightning.evaluation.report_figures import draw_lengths, draw_win_rates
    from halo_lightning.figures import draw_values, save_figure

    pictures = []
    for criterion in ["overall", *(name for name in made.criteria if name != "overall")]:
        path = folder / f"win_rate_{criterion}.png"
        save_figure(draw_win_rates(made, criterion), str(path))
        caption = "Win rate − 0.5" if criterion == "overall" else f"Win rate − 0.5: {criterion}"
        pictures.append((f"{caption} (figures 2 and 5)", path))
    save_figure(draw_lengths(made), str(folder / "lengths.png"))
    pictures.append(("Length of completions (figure 3)", folder / "lengths.png"))
    with contextlib.redirect_stdout(io.StringIO()):
        draw_values(str(folder / "values.png"))
    pictures.append(("Human value functions (figure 4)", folder / "values.png"))
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)  # of the report before this one
    with SummaryWriter(str(folder / "tensorboard")) as writer:
        for _, path in pictures:
            writer.add_image(path.stem, np.asarray(Image.open(path).convert("RGB")), dataformats="HWC")
        for cell in made.cells:
            tag = "/".join(part.replace(" ", "_") for part in (cell.group, cell.name) if part)
            scalars = {f"win_rate_{name}": cell.win_rate(name).rate for name in made.criteria}
            scalars |= {"win_rate_length_controlled": cell.length_controlled().rate, "tokens": cell.tokens()}
            for name, value in scalars.items():
                if not isnan(value):
                    writer.add_scalar(f"{name}/{tag}", value)
    return pictures
