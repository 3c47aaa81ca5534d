"""Does fitting find what annotators were given? Bias, and how often intervals cover, over simulations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from halo_lightning.errors import ConfigError
from halo_lightning.evaluation.grids import command_line
from halo_lightning.evaluation.human_values.annotators import Population, SimulatedAnnotator
from halo_lightning.evaluation.human_values.fitting import SIMULATIONS, Estimate, Intervals, fit_value
from halo_lightning.evaluation.human_values.observations import Observations
from halo_lightning.evaluation.human_values.population import fit_population
from halo_lightning.values import KahnemanTversky

CONFIDENCE = 0.95
"""Of the intervals that are counted."""

SPREAD = 2.0
"""Standard deviation of the simulated rewards, in units of the noise."""

Estimates = dict[str, Estimate]


@dataclass(frozen=True)
class Recovery:
    """What became of one parameter.

    Attributes:
        name: The parameter.
        truth: What the annotators were given.
        estimates: One for each simulation.
    """

    name: str
    truth: float
    estimates: list[Estimate]

    @property
    def median(self) -> float:
        """The median of the estimates."""
        return float(np.median([one.value for one in self.estimates]))

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between these is the middle half of the estimates."""
        low, high = np.quantile([one.value for one in self.estimates], [0.25, 0.75])
        return float(low), float(high)

    @property
    def covered(self) -> int:
        """How many intervals contain the truth."""
        return sum(one.low <= self.truth <= one.high for one in self.estimates)

    @property
    def coverage_interval(self) -> tuple[float, float]:
        """The exact 95 % interval of the share of intervals that contain the truth."""
        from scipy.stats import binomtest

        interval = binomtest(self.covered, len(self.estimates)).proportion_ci(CONFIDENCE, method="exact")
        return float(interval.low), float(interval.high)


def one_annotator(
    kind: str,
    seed: int,
    *,
    answers: int,
    known: bool,
    annotator: SimulatedAnnotator,
    intervals: Intervals = "profile",
    simulations: int = SIMULATIONS,
) -> Estimates:
    """Simulates the answers of one annotator, and fits.

    Args:
        kind: `thumbs`, `pairs` or `ratings`.
        seed: Of rewards and answers.
        answers: How many.
        known: Whether the fit is told the reference point.
        annotator: Who answers.
        intervals: As in `fit_value`.
        simulations: As in `fit_value`.
    """
    generator = torch.Generator().manual_seed(seed)
    first, second = SPREAD * torch.randn(2, answers, generator=generator, dtype=torch.float64)
    observations: Observations
    if kind == "thumbs":
        observations = annotator.thumbs(first, seed=seed)
    elif kind == "pairs":
        observations = annotator.pairs(first, second, seed=seed)
    elif kind == "ratings":
        observations = annotator.ratings(first, thresholds=[-4.0, -1.0, 1.0, 2.0], seed=seed)
    else:
        raise ConfigError(f"kind is {kind!r}: expected thumbs, pairs or ratings")
    known_point = annotator.reference_point if known else None
    return fit_value(
        observations, reference_point=known_point, intervals=intervals, simulations=simulations, seed=1000 * seed
    ).estimates


def many_annotators(seed: int, *, annotators: int, answers: int, population: Population) -> Estimates:
    """Simulates the thumbs of a population whose reference point is known, and fits medians and spreads."""
    generator = torch.Generator().manual_seed(seed)
    drawn = population.annotators(annotators, seed=seed)
    thumbs = [
        one.thumbs(SPREAD * torch.randn(answers, generator=generator, dtype=torch.float64), seed=seed * 1000 + number)
        for number, one in enumerate(drawn)
    ]
    fitted = fit_population(thumbs, reference_point=population.reference_point)
    spreads = {f"{name} spread": estimate for name, estimate in fitted.spreads.items()}
    return {**{f"{name} median": estimate for name, estimate in fitted.medians.items()}, **spreads}


def recover(
    simulate: Callable[[int], Estimates], truth: dict[str, float], simulations: int, seed: int = 1
) -> list[Recovery]:
    """Simulates and fits over and over, with seeds from this one on."""
    found = [simulate(each) for each in range(seed, seed + simulations)]
    return [Recovery(name, value, [estimates[name] for estimates in found]) for name, value in truth.items()]


PAGE = """\
# Value functions recovered

Everything on this page is written by

```bash
{command}
```

Simulated annotators whose value function is known answer; a value function is fitted to their answers and the true
rewards by maximum likelihood. Are the estimates right, and do the 95 % intervals contain the truth as often as they
say? In brackets: the exact 95 % interval of the share of intervals that do. Intervals are those of the profile
likelihood, of pairs whose reference point is not known calibrated by simulation, and of populations from restricted
likelihood.

{table}

{conclusion}
"""

SETTINGS: dict[str, tuple[str, bool]] = {
    "thumbs": ("thumbs", False),
    "thumbs, z_ref known": ("thumbs", True),
    "pairs": ("pairs", False),
    "pairs, z_ref known": ("pairs", True),
    "ratings, z_ref known": ("ratings", True),
}


def conclusion(found: Sequence[tuple[str, Recovery]]) -> str:
    """Which intervals do not contain the truth as often as they say, by feedback, in words."""
    narrow: dict[str, list[str]] = {}
    for feedback, one in found:
        if one.coverage_interval[1] < CONFIDENCE:
            narrow.setdefault(feedback, []).append(one.name)
    if not narrow:
        return f"No bracket ends below {CONFIDENCE}: nowhere do the simulations show intervals that are too narrow."
    listed = "; ".join(f"{feedback} ({', '.join(names)})" for feedback, names in narrow.items())
    return f"The bracket ends below {CONFIDENCE}, so that the intervals are **too narrow**, with {listed}."


def recover_values(
    simulations: int = 100, answers: int = 1000, population: int = 30, seed: int = 1, out: str | None = None
) -> None:
    """Fits simulated annotators whose value function is known: what is found, and how often intervals cover it.

    Args:
        simulations: Of each kind of feedback; the intervals are 95 % profile-likelihood intervals.
        answers: Of the annotator in each simulation.
        population: Annotators of a population, with 100 thumbs each; 0 leaves the populations out.
        seed: Of the first simulation; the others have those that follow.
        out: A Markdown file for the page.
    """
    from halo_lightning.files import write_text

    annotator = SimulatedAnnotator(KahnemanTversky(alpha=0.88, lam=2.25), reference_point=0.5, noise=1.0)
    rows = [
        "| feedback | parameter | truth | median | middle half | intervals that cover |",
        "|---|---|--:|--:|--:|--:|",
    ]
    print("\n".join(rows), flush=True)
    found: list[tuple[str, Recovery]] = []

    def show(name: str, recoveries: list[Recovery]) -> None:
        for one in recoveries:
            found.append((name, one))
            low, high = one.quartiles
            ends = "–".join(f"{end:.2f}" for end in one.coverage_interval)
            share = f"{one.covered} of {len(one.estimates)} ({ends})"
            rows.append(f"| {name} | {one.name} | {one.truth:g} | {one.median:.2f} | {low:.2f}–{high:.2f} | {share} |")
            print(rows[-1], flush=True)

    for name, (kind, known) in SETTINGS.items():
        truth = {"alpha": 0.88, "lam": 2.25, **({} if known else {"reference_point": 0.5}), "noise": 1.0}

        def simulate(seed: int, kind: str = kind, known: bool = known) -> Estimates:
            return one_annotator(kind, seed, answers=answers, known=known, annotator=annotator)

        show(name, recover(simulate, truth, simulations, seed))
    if population:
        people = Population(noise_spread=0.3)
        truth = {"alpha median": 0.88, "lam median": 2.25, "noise median": 1.0}
        truth |= {"alpha spread": 0.2, "lam spread": 0.5, "noise spread": 0.3}

        def simulate_all(seed: int) -> Estimates:
            return many_annotators(seed, annotators=population, answers=100, population=people)

        show(f"thumbs of {population} annotators", recover(simulate_all, truth, simulations, seed))
    print(conclusion(found))
    if out is not None:
        options = {
            "simulations": simulations if simulations != 100 else None,
            "answers": answers if answers != 1000 else None,
            "population": population if population != 30 else None,
            "seed": seed if seed != 1 else None,
            "out": out,
        }
        command = command_line("recover-value", options)
        write_text(out, PAGE.format(command=command, table="\n".join(rows), conclusion=conclusion(found)))
