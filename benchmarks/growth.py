"""How memory and speed grow with sequence length, vocabulary and batch: `python -m benchmarks.growth --data FILE`.

One method (DPO), one small body so that what grows is what is looked at, and this package beside straightforward
PyTorch. Writes a table and a picture.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.training import OURS, Run, machine, measure
from benchmarks.work import Work

OTHER = "straightforward PyTorch"
BODY = "256,2,4,704"
AXES: dict[str, list[tuple[int, Work]]] = {
    "sequence length": [
        (length, Work(shape=f"{BODY},8192", batch=2, steps=3, max_length=length, long_rows=True))
        for length in (256, 512, 1024, 2048, 4096)
    ],
    "vocabulary": [
        (vocabulary, Work(shape=f"{BODY},{vocabulary}", batch=4, steps=3))
        for vocabulary in (8192, 16384, 32768, 65536, 131072)
    ],
    "batch": [(batch, Work(shape=f"{BODY},16384", batch=batch, steps=3)) for batch in (2, 4, 8, 16, 32)],
}


def draw(results: dict[str, list[tuple[int, Run, Run]]], out: Path) -> None:
    """Tokens a second above, memory below, one column for each axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(results), figsize=(4 * len(results), 6), squeeze=False)
    for column, (axis, points) in enumerate(results.items()):
        sizes = [size for size, _, _ in points]
        for which, name in ((1, OURS), (2, OTHER)):
            axes[0][column].plot(sizes, [point[which].rate for point in points], "o-", label=name)  # type: ignore[union-attr]
            axes[1][column].plot(sizes, [point[which].peak_bytes / 1e9 for point in points], "o-", label=name)  # type: ignore[union-attr]
        for row, label in ((0, "real tokens a second"), (1, "peak memory, GB")):
            axes[row][column].set(xscale="log", xlabel=axis, ylabel=label, ylim=(0, None))
            axes[row][column].set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=30)
            axes[row][column].minorticks_off()
            axes[row][column].grid(alpha=0.3)
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(out, dpi=110)


def main() -> None:
    """Measures, and writes `growth.md` and `growth.png`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="an HH file as published, gzipped")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark"))
    options = parser.parse_args()
    results: dict[str, list[tuple[int, Run, Run]]] = {}
    lines = [
        f"| | | {OURS}, tokens/s | {OTHER}, tokens/s | {OURS}, memory | {OTHER}, memory |",
        "|---|---|---|---|---|---|",
    ]
    for axis, points in AXES.items():
        for size, work in points:
            folder = options.work / f"growth_{axis.replace(' ', '_')}_{size}"
            runs = measure(work, (OURS, OTHER), 1, options.data, folder)
            ours, other = runs[OURS][0], runs[OTHER][0]
            results.setdefault(axis, []).append((size, ours, other))
            lines.append(
                f"| {axis} | {size:,} | {ours.rate:,.0f} | {other.rate:,.0f} | {ours.peak_bytes / 1e9:.2f} GB |"
                f" {other.peak_bytes / 1e9:.2f} GB |"
            )
    options.out.mkdir(parents=True, exist_ok=True)
    command = "    python -m benchmarks.growth " + " ".join(sys.argv[1:])
    text = ["## growth", "", f"DPO, a body of {BODY} (hidden, layers, heads, feed-forward), on {machine()}.", ""]
    text += [command, "", *lines, "", "![growth](growth.png)"]
    (options.out / "growth.md").write_text("\n".join(text) + "\n")
    draw(results, options.out / "growth.png")
    print(json.dumps({axis: [size for size, _, _ in points] for axis, points in results.items()}))


if __name__ == "__main__":
    main()
