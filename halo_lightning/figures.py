"""Pictures of a run, drawn from its TensorBoard files."""

from __future__ import annotations

from pathlib import Path

from halo_lightning.errors import ConfigError

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
    accumulator = EventAccumulator(str(files[-1].parent), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {
        name: [(event.step, event.value) for event in accumulator.Scalars(name)]
        for name in accumulator.Tags()["scalars"]
    }


def draw_run(runs: str | list[str], out: str) -> None:
    """Draws the curves of one or more runs side by side: training solid, held-out feedback dashed.

    Args:
        runs: One or several folders of runs.
        out: The PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    runs = [runs] if isinstance(runs, str) else runs
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3)
    for number, run in enumerate(runs):
        scalars = read_scalars(run)
        for axis, name in zip(axes.flat, PANELS, strict=True):
            for tag, style in ((name, "-"), (f"val/{name}", "--o")):
                if points := scalars.get(tag):
                    label = f"{Path(run).name}, {'held out' if tag != name else 'training'}"
                    axis.plot(*zip(*points, strict=True), style, color=f"C{number}", markersize=4, label=label)
    for axis, name in zip(axes.flat, PANELS, strict=True):
        axis.set_title(name)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    axes.flat[0].legend(fontsize="small")
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    print(f"drew {len(runs)} run(s) to {out}")
