"""Puts the tables of `benchmarks/results/` together: `python -m benchmarks.results` writes `benchmarks/RESULTS.md`."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
ORDER = ("dpo_50M", "kto_50M", "sft_50M", "dpo_30M", "kto_30M", "dpo_1.4B", "kto_1.4B", "growth", "preparation")


def main() -> None:
    """Writes the page: what is measured and what was learnt (`NOTES.md`), then every table."""
    tables = sorted((FOLDER / "results").glob("*.md"), key=lambda path: (_place(path.stem), path.stem))
    parts = [(FOLDER / "NOTES.md").read_text(), *(path.read_text() for path in tables)]
    (FOLDER / "RESULTS.md").write_text("\n".join(parts).replace("](growth.png)", "](results/growth.png)"))


def _place(name: str) -> int:
    return next((number for number, start in enumerate(ORDER) if name.startswith(start)), len(ORDER))


if __name__ == "__main__":
    main()
