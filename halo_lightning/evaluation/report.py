"""What a report says: the numbers of each model, and of each two models that stand side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from statistics import fmean
from typing import Any

from halo_lightning.errors import ConfigError, DataError
from halo_lightning.evaluation.length_control import LengthControlled, length_controlled
from halo_lightning.evaluation.statistics import Paired, false_discovery_rate, holm, paired_test, proportion_interval
from halo_lightning.evaluation.verdicts import Judged
from halo_lightning.evaluation.win_rates import WinRate, win_rate
from halo_lightning.settings import differences, flat

SCORES = {"win": 1.0, "tie": 0.5, "loss": 0.0}


def find_verdicts(runs: Sequence[str | Path]) -> list[Path]:
    """The files of verdicts among files and in folders (and below them), each once.

    Raises:
        DataError: There is none in one of them.
    """
    found: dict[Path, Path] = {}
    for run in runs:
        path = Path(run)
        files = sorted(path.rglob("*verdicts*.jsonl")) if path.is_dir() else [path]
        if not files:
            raise DataError("there are no verdicts in this folder (the command judge makes them)", file=str(run))
        found.update({file.resolve(): file for file in files})
    return list(found.values())


@dataclass
class Cell:
    """One model of one group: a run, or several runs of the same (other seeds) together.

    Attributes:
        group: What it is compared within.
        name: What it is called.
        runs: What was said of each run.
        confidence: Of the intervals.
    """

    group: str
    name: str
    runs: list[Judged] = field(default_factory=list)
    confidence: float = 0.75

    @property
    def label(self) -> str:
        """Group and name."""
        return f"{self.group} {self.name}".strip()

    def win_rate(self, criterion: str = "overall") -> WinRate:
        """The win rate over all runs, with the exact interval."""
        outcomes = [outcome for run in self.runs for outcome in run.outcomes(criterion).values()]
        return win_rate(outcomes, confidence=self.confidence)

    def wilson(self, criterion: str = "overall") -> tuple[float, float]:
        """Wilson's interval of the same."""
        rate = self.win_rate(criterion)
        return proportion_interval(rate.wins, rate.wins + rate.losses, confidence=self.confidence, method="wilson")

    def rates_of_runs(self, criterion: str = "overall") -> list[float]:
        """The win rate of each run."""
        return [win_rate(run.outcomes(criterion).values()).rate for run in self.runs]

    def length_controlled(self) -> LengthControlled:
        """The overall win rate at equal lengths."""
        wins, deltas = [], []
        for run in self.runs:
            own, other = run.by_prompt("characters"), run.by_prompt("other_characters")
            for prompt, outcome in run.outcomes().items():
                if outcome != "tie":
                    wins.append(outcome == "win")
                    deltas.append(own[prompt] - other[prompt])
        return length_controlled(wins, deltas, confidence=self.confidence)

    def tokens(self) -> float:
        """Mean length of a completion."""
        return fmean(length for run in self.runs for length in run.by_prompt("tokens").values())

    def tokens_of_runs(self) -> list[float]:
        """The same of each run."""
        return [fmean(run.by_prompt("tokens").values()) for run in self.runs]

    def other_tokens(self) -> float:
        """Mean length of what it is compared with."""
        return fmean(length for run in self.runs for length in run.by_prompt("other_tokens").values())

    def scores(self) -> dict[str, float]:
        """For each prompt how well it does, 1 (win) to 0 (loss), as the mean over its runs."""
        collected: dict[str, list[float]] = {}
        for run in self.runs:
            for prompt, outcome in run.outcomes().items():
                collected.setdefault(prompt, []).append(SCORES[outcome])
        return {prompt: fmean(values) for prompt, values in collected.items()}

    def unparsable(self) -> int:
        """Verdicts that could not be read."""
        return sum(run.unparsable() for run in self.runs)


@dataclass
class Difference:
    """Two models of a group on the same prompts, with the p-values corrected for all comparisons of the report."""

    first: Cell
    second: Cell
    paired: Paired
    holm: float = 1.0
    false_discovery_rate: float = 1.0


@dataclass
class Report:
    """Everything that is shown.

    Attributes:
        cells: The models, groups together, in the order in which they were given.
        differences: Each two models of a group.
        notes: What a reader has to know.
        confidence: Of the intervals.
    """

    cells: list[Cell]
    differences: list[Difference]
    notes: list[str]
    confidence: float

    @classmethod
    def of(cls, paths: Sequence[str | Path], confidence: float = 0.75) -> Report:
        """Reads files of verdicts.

        Args:
            paths: The files.
            confidence: Of the intervals.

        Raises:
            ConfigError: They are of several judges, or were judged differently.
        """
        if not 0 < confidence < 1:
            raise ConfigError(f"confidence is {confidence}: expected a number between 0 and 1")
        judged = [Judged.read(path) for path in paths]
        check_same_judge(judged)
        by_name: dict[tuple[str, str], Cell] = {}
        for one in judged:
            cell = by_name.setdefault((one.group, one.name), Cell(one.group, one.name, confidence=confidence))
            cell.runs.append(one)
        groups = list(dict.fromkeys(cell.group for cell in by_name.values()))
        cells = sorted(by_name.values(), key=lambda cell: groups.index(cell.group))
        return cls(cells, compare_all(cells), notes_of(judged, cells), confidence)

    @property
    def groups(self) -> list[str]:
        """The groups, in order."""
        return list(dict.fromkeys(cell.group for cell in self.cells))

    @property
    def criteria(self) -> list[str]:
        """The criteria that the judge has said something of."""
        return list(dict.fromkeys(name for cell in self.cells for run in cell.runs for name in run.criteria))

    def as_plain_data(self) -> dict[str, Any]:
        """Every number, for a JSON file; None where there is none."""
        numbers = {
            "confidence": self.confidence,
            "notes": self.notes,
            "models": [
                {
                    "group": cell.group,
                    "name": cell.name,
                    "runs": [str(run.path) for run in cell.runs],
                    "tokens": cell.tokens(),
                    "other_tokens": cell.other_tokens(),
                    "unparsable": cell.unparsable(),
                    "length_controlled": cell.length_controlled()._asdict(),
                    "win_rates": {
                        name: {
                            **cell.win_rate(name)._asdict(),
                            "wilson": cell.wilson(name),
                            "of_runs": cell.rates_of_runs(name),
                        }
                        for name in self.criteria
                    },
                }
                for cell in self.cells
            ],
            "differences": [
                {
                    "group": one.first.group,
                    "first": one.first.name,
                    "second": one.second.name,
                    **one.paired._asdict(),
                    "holm": one.holm,
                    "false_discovery_rate": one.false_discovery_rate,
                }
                for one in self.differences
            ],
        }
        plain: dict[str, Any] = _without_nan(numbers)
        return plain


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and isnan(value) else value


def check_same_judge(judged: Sequence[Judged]) -> None:
    """Refuses verdicts that cannot stand in one table.

    Raises:
        ConfigError: They differ in the judge, in what was compared, or in how.
    """
    how = [{key: value for key, value in one.settings.items() if key != "generations"} for one in judged]
    for one, settings in zip(judged, how, strict=True):
        if changed := differences(flat(how[0]), flat(settings)):
            raise ConfigError(
                f"{judged[0].path} and {one.path} were judged differently ({'; '.join(changed)}): name the files of one"
                " judge only"
            )


def compare_all(cells: Sequence[Cell]) -> list[Difference]:
    """Each two models of a group on the prompts that both have."""
    made = []
    for position, first in enumerate(cells):
        for second in cells[position + 1 :]:
            scores = first.scores(), second.scores()
            if first.group == second.group and scores[0].keys() & scores[1].keys():
                made.append(Difference(first, second, paired_test(*scores)))
    values = [one.paired.p for one in made]
    for one, corrected, rate in zip(made, holm(values), false_discovery_rate(values), strict=True):
        one.holm, one.false_discovery_rate = corrected, rate
    return made


def notes_of(judged: Sequence[Judged], cells: Sequence[Cell]) -> list[str]:
    """What a reader has to know to trust the numbers."""
    notes = []
    alike = [{**one.settings["generations"]["sampling"], **_how_sampled(one)} for one in judged]
    for one, settings in zip(judged, alike, strict=True):
        if changed := differences({**alike[0], "seed": 0}, {**settings, "seed": 0}):
            notes.append(f"{one.path} was not sampled as {judged[0].path} was: {'; '.join(changed)}.")
    for one in judged:
        orders = 2 if one.settings["order"] == "both" else 1
        if missing := orders * one.settings["generations"]["prompts"]["count"] - len(one.records):
            notes.append(f"{one.path}: {missing} comparisons have no verdict (yet).")
    for cell in cells:
        if count := cell.unparsable():
            notes.append(f"{cell.label}: {count} verdicts could not be read, and count for neither side.")
        if cell.length_controlled().extrapolated:
            notes.append(
                f"{cell.label}: its completions are all longer, or all shorter, than what they are compared with, so"
                " the length-controlled win rate is a guess outside of what was seen."
            )
    return notes


def _how_sampled(one: Judged) -> dict[str, Any]:
    return {key: one.settings["generations"][key] for key in ("dtype", "backend")}
