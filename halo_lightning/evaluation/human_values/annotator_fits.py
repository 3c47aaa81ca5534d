"""Feedback with names of annotators: a fit for everybody who gave enough of it, and the population that they are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from halo_lightning.errors import ConfigError, DataError
from halo_lightning.evaluation.human_values.fitting import Estimate, fit_value
from halo_lightning.evaluation.human_values.observations import Pairs, Thumbs, some
from halo_lightning.evaluation.human_values.population import FittedPopulation, fit_population
from halo_lightning.evaluation.progress import Counter

FEW = 10
"""From so many annotators on, simulations show that spreads are found (`recover-value`)."""


@dataclass(frozen=True)
class FittedAnnotator:
    """One annotator.

    Attributes:
        name: As the feedback has it.
        answers: How many were given.
        own: The estimates from these answers alone, by name; None where there are none.
        problem: Why there are none.
        shrunk: The parameters as the population and the answers suggest (see `FittedPopulation.individuals`).
    """

    name: str
    answers: int
    own: dict[str, Estimate] | None
    problem: str | None
    shrunk: dict[str, float]


@dataclass(frozen=True)
class FittedAnnotators:
    """What `fit_annotators` found.

    Attributes:
        population: Medians and spreads across annotators.
        annotators: Everybody, those with the most answers first.
        reference_point: z_ref, that of all together.
        fewest: With fewer answers, nobody got a fit.
        nameless: Answers that do not say whose they are; they are left out.
        confidence: Of the intervals.
    """

    population: FittedPopulation
    annotators: list[FittedAnnotator]
    reference_point: float
    fewest: int
    nameless: int
    confidence: float

    @property
    def too_few(self) -> int:
        """Annotators with fewer answers than it takes."""
        return sum(one.answers < self.fewest for one in self.annotators)

    def __str__(self) -> str:
        failed = sum(one.own is None for one in self.annotators) - self.too_few
        lines = [
            f"{len(self.annotators)} annotators, Kahneman-Tversky; intervals: {self.confidence:.0%}",
            f"  with a fit of their own: {sum(one.own is not None for one in self.annotators)};"
            f" {self.too_few} have fewer than {self.fewest} answers, and {failed} have answers without a maximum",
            "  (all of them count in the population, for what they say;"
            f" their reference point is that of all together, {self.reference_point:.3g})",
        ]
        if self.nameless:
            lines.append(f"  {self.nameless:,} answers do not say whose they are, and are left out")
        if len(self.annotators) < FEW:
            lines.append(f"  so few annotators hardly show how people differ: take the intervals ({FEW} would do)")
        for name, median in self.population.medians.items():
            spread, reliability = self.population.spreads[name], self.population.reliability[name]
            lines.append(f"  {name:<16} median {median}, standard deviation of log {name} {spread}")
            lines.append(f"  {'':<16} {reliability:.0%} of it shows in an annotator's own answers, on average")
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """The same, with everybody, as JSON has it."""
        return {
            "confidence": self.confidence,
            "reference_point": self.reference_point,
            "fewest": self.fewest,
            "too_few": self.too_few,
            "nameless": self.nameless,
            "medians": {name: one.as_json() for name, one in self.population.medians.items()},
            "spreads": {name: one.as_json() for name, one in self.population.spreads.items()},
            "reliability": self.population.reliability,
            "annotators": [
                {
                    "name": one.name,
                    "answers": one.answers,
                    "own": None if one.own is None else {name: each.as_json() for name, each in one.own.items()},
                    "problem": one.problem,
                    "shrunk": one.shrunk,
                }
                for one in self.annotators
            ],
        }


def fit_annotators(
    answers: Thumbs | Pairs,
    names: Sequence[str | None],
    *,
    reference_point: float,
    confidence: float = 0.95,
    fewest: int = 20,
) -> FittedAnnotators:
    """Fits a Kahneman-Tversky function to the answers of everybody, and to the population.

    Args:
        answers: Those of all annotators.
        names: Whose each is, `[N]`; None where that is not known.
        reference_point: z_ref, the same for everybody; one annotator's answers hardly show it.
        confidence: Of the intervals.
        fewest: Who gave fewer answers gets no fit.

    Raises:
        ConfigError: There are fewer than three annotators, or `fewest` is below 1.
        DataError: All of them together do not say enough.
    """
    if fewest < 1:
        raise ConfigError(f"fewest is {fewest}: expected 1 or more")
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        if name is not None:
            places.setdefault(name, []).append(place)
    by_name = {name: some(answers, which) for name, which in sorted(places.items(), key=lambda item: -len(item[1]))}
    population = fit_population(list(by_name.values()), reference_point=reference_point, confidence=confidence)
    found = []
    with Counter("annotators", len(by_name)) as counter:
        for (name, given), shrunk in zip(by_name.items(), population.individuals, strict=True):
            own, problem = _own_fit(given, reference_point, confidence, fewest)
            found.append(FittedAnnotator(name, len(given), own, problem, shrunk))
            counter.add(1)
    return FittedAnnotators(population, found, reference_point, fewest, sum(name is None for name in names), confidence)


def _own_fit(
    given: Thumbs | Pairs, reference_point: float, confidence: float, fewest: int
) -> tuple[dict[str, Estimate] | None, str | None]:
    """The estimates from the answers of one annotator, or why there are none."""
    if len(given) < fewest:
        return None, f"fewer than {fewest} answers"
    try:
        return fit_value(given, reference_point=reference_point, confidence=confidence).estimates, None
    except DataError as error:
        return None, str(error)
