"""Pictures of a run, drawn from its TensorBoard files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from halo_lightning.errors import ConfigError
from halo_lightning.files import replaced_file

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from halo_lightning.values import HumanValue

PANELS = ("loss", "rewards/accuracies", "rewards/margins", "kl", "rewards/chosen", "rewards/rejected")


def read_scalars(run: str | Path) -> dict[str, list[tuple[int, float]]]:
    """The scalars of the newest TensorBoard version of a run.

    Args:
        run: The folder of the run, or any folder with event files in it or below it.

    Returns:
        For each name the points (step, value), in the order of the steps.

    Raises:
        ConfigError: There are no event files there.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = sorted(Path(run).rglob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns)
    if not files:
        raise ConfigError(f"{run}: there are no TensorBoard files in this folder; a run writes them during fit")
    for path in files:
        if path.parent == files[-1].parent and (read := whole_bytes(path)) < (size := path.stat().st_size):
            print(f"{path}: cut off or damaged after {read:,} of {size:,} bytes; what comes after is left out")
    accumulator = EventAccumulator(str(files[-1].parent), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {
        name: [(event.step, event.value) for event in accumulator.Scalars(name)]
        for name in accumulator.Tags()["scalars"]
    }


def whole_bytes(events: Path) -> int:
    """How many bytes of an event file are whole: TensorBoard reads no further, and says nothing."""
    from tensorboard.compat.tensorflow_stub.errors import DataLossError, OutOfRangeError
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New

    reader, whole = PyRecordReader_New(str(events)), 0
    try:
        while True:
            reader.GetNext()
            whole += len(reader.curr_event) + 16  # its length, and two checksums
    except (DataLossError, OutOfRangeError):
        return whole


def draw_run(runs: str | list[str], out: str) -> None:
    """Draws the curves of one or more runs side by side: training solid, held-out feedback dashed.

    Args:
        runs: One or several folders of runs.
        out: The PNG to write.
    """
    runs = [runs] if isinstance(runs, str) else runs
    figure = new_figure(11, 5.5)
    axes = figure.subplots(2, 3)
    for number, run in enumerate(runs):
        scalars = read_scalars(run)
        for axis, name in zip(axes.flat, PANELS, strict=True):
            for tag, style in ((name, "-"), (f"val/{name}", "--o")):
                if points := scalars.get(tag):
                    label = f"{Path(run).name}, {'held out' if tag != name else 'training'}"
                    axis.plot(*zip(*points, strict=True), style, color=f"C{number}", markersize=4, label=label)
    if not any(axis.lines for axis in axes.flat):
        raise ConfigError(
            f"{', '.join(runs)}: found no curve in the TensorBoard files, expected one of {', '.join(PANELS)}"
        )
    for axis, name in zip(axes.flat, PANELS, strict=True):
        axis.set_title(name)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    axes.flat[0].legend(fontsize="small")
    save_figure(figure, out)
    print(f"drew {len(runs)} run(s) to {out}")


def draw_values(out: str, extent: float = 5.0) -> None:
    """Draws figure 4, the human value functions, and prints which of section 4's properties each of them has.

    Args:
        out: The PNG to write.
        extent: Largest relative gain and loss that is drawn.
    """
    from halo_lightning.values import check_properties

    figure = new_figure(7, 5)
    axis = figure.subplots()
    functions = value_curves(axis, extent)
    for name, function in functions.items():
        print(f"{name}: {check_properties(function)}")
    axis.set_title("Human value functions (figure 4)")
    axis.legend()
    save_figure(figure, out)
    print(f"drew {len(functions)} value functions to {out}")


def value_curves(axis: Axes, extent: float, *, faint: bool = False) -> dict[str, HumanValue]:
    """Figure 4's curves.

    Args:
        axis: Where to draw.
        extent: Largest relative gain and loss that is drawn.
        faint: Whether other curves are to stand out against them.

    Returns:
        The value functions by name.
    """
    import torch

    from halo_lightning.values import DPOValue, KahnemanTversky, Logistic, RLHFValue, SLiCValue

    functions: dict[str, HumanValue] = {
        "Kahneman-Tversky (eq. 6)": KahnemanTversky(),
        "RLHF": RLHFValue(),
        "DPO": DPOValue(),
        "SLiC": SLiCValue(),
        "KTO (eq. 7)": Logistic(),
    }
    z = torch.linspace(-extent, extent, 801, dtype=torch.float64)
    # RLHF's and KTO's are the same function of the relative gain.
    styles: dict[str, Any] = {"RLHF": {"linewidth": 5, "alpha": 0.4}, "KTO (eq. 7)": {"linestyle": "--"}}
    for name, function in functions.items():
        style = {**styles.get(name, {}), **({"alpha": 0.45} if faint else {})}
        axis.plot(z, function(z, torch.zeros_like(z)), label=name, **style)
    axis.axhline(0, color="black", linewidth=0.6)
    axis.axvline(0, color="black", linewidth=0.6)
    axis.set_ylim(-extent, extent)
    axis.set_xlabel("gain relative to the reference point, z − z_ref")
    axis.set_ylabel("value to the human, h(z, z_ref)")
    axis.grid(alpha=0.3)
    return functions


def draw_scores(scores: NDArray[np.float64], threshold: float, out: str) -> None:
    """Draws a histogram of scores, with the threshold from which on a completion is desirable.

    Args:
        scores: Of all completions.
        threshold: The lowest desirable score.
        out: The PNG to write.
    """
    import numpy as np

    figure = new_figure(7, 4)
    axis = figure.subplots()
    desirable = scores >= threshold
    kinds = {"desirable": (scores[desirable], "C2"), "undesirable": (scores[~desirable], "C3")}
    labels = [f"{len(values):,} {name}" for name, (values, _) in kinds.items()]
    different = np.unique(scores)
    if len(different) <= 20:  # few values, such as a number of criteria: a bar for each
        width = 0.8 * (float(np.diff(different).min()) if len(different) > 1 else 1.0)
        for (values, colour), label in zip(kinds.values(), labels, strict=True):
            places, counts = np.unique(values, return_counts=True)
            axis.bar(places, counts, width=width, color=colour, label=label)
    else:
        colours = [colour for _, colour in kinds.values()]
        axis.hist([values for values, _ in kinds.values()], bins=40, stacked=True, color=colours, label=labels)
    axis.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.4g}")
    axis.set_xlabel("score")
    axis.set_ylabel("completions")
    axis.legend()
    save_figure(figure, out)


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """A figure that needs no display, and that no other code's figures know of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, out: str) -> None:
    """Writes a figure as a picture, in a folder that is made if it is not there; the name's ending says which kind."""
    with replaced_file(out) as stream:
        figure.savefig(stream, dpi=110, format=Path(out).suffix[1:] or "png")
