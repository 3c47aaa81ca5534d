"""Can the data tell two value functions apart? A test for shapes of which neither contains the other.

The difference of two maximal log-likelihoods says which shape fits better, and not whether that means anything: shapes
imitate each other, the more so the fewer the answers, and one with more parameters imitates better. So the question is
put to simulation (Williams 1970; as the parametric bootstrap cross-fitting method in Wagenmakers et al. 2004): answers
are drawn from either fitted shape at the rewards that were seen, both shapes are fitted to them, and the difference
that was found is compared with those that come out when the one shape is true, and when the other one is.

Where both shapes make the same answers, either would be "rejected" now and then by chance, and the other one left. So a
p-value is divided by the probability of the same result under the other shape (CL_s of Read 2002): a shape is rejected
only for what the other one explains better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from halo_lightning.evaluation.human_values.fitting import FittedValue, fit_value
from halo_lightning.evaluation.human_values.likelihood import highest
from halo_lightning.evaluation.human_values.observations import Observations
from halo_lightning.evaluation.human_values.shapes import KAHNEMAN_TVERSKY, LOGISTIC, Shape

Verdict = Literal["first", "second", "cannot tell", "neither"]


@dataclass(frozen=True)
class Comparison:
    """What `tell_apart` found.

    Attributes:
        first: The one shape, fitted.
        second: The other one.
        if_first: Differences of log-likelihoods, first − second, when the first shape is true, `[simulations]`.
        if_second: The same when the second one is true.
        level: Of the two tests.
    """

    first: FittedValue
    second: FittedValue
    if_first: NDArray[np.float64]
    if_second: NDArray[np.float64]
    level: float

    @property
    def difference(self) -> float:
        """Log L of the first − log L of the second."""
        return self.first.log_likelihood - self.second.log_likelihood

    @property
    def p_first(self) -> float:
        """P(as small a difference | first) / P(the same | second): small speaks against the first shape."""
        return min(1.0, _tail(-self.if_first, -self.difference) / _tail(-self.if_second, -self.difference))

    @property
    def p_second(self) -> float:
        """P(as large a difference | second) / P(the same | first): small speaks against the second shape."""
        return min(1.0, _tail(self.if_second, self.difference) / _tail(self.if_first, self.difference))

    @property
    def verdict(self) -> Verdict:
        """Which shape is left: the one that is not rejected, both (the data cannot tell), or neither."""
        keeps = (self.p_first >= self.level, self.p_second >= self.level)
        verdicts: dict[tuple[bool, bool], Verdict] = {
            (True, True): "cannot tell",
            (True, False): "first",
            (False, True): "second",
            (False, False): "neither",
        }
        return verdicts[keeps]

    def __str__(self) -> str:
        one, other = self.first.shape.name, self.second.shape.name
        found = {
            "cannot tell": f"the data cannot tell {one} and {other} apart",
            "first": f"the data speak for {one} and against {other}",
            "second": f"the data speak for {other} and against {one}",
            "neither": f"neither {one} nor {other} makes data like these",
        }[self.verdict]
        return (
            f"{found}: log-likelihood {self.first.log_likelihood:.2f} and {self.second.log_likelihood:.2f}"
            f" (AIC {self.first.aic:.1f} and {self.second.aic:.1f}); p = {self.p_first:.2g} against {one},"
            f" p = {self.p_second:.2g} against {other}"
        )


def _tail(simulated: NDArray[np.float64], found: float) -> float:
    """The share of simulations that reach what was found.

    The data themselves count as one, so that it is never 0. Beyond all simulations it falls exponentially, by e with
    each standard deviation: more slowly than differences of log-likelihoods do, and fast enough that a hundred
    simulations can reject what is far from all of them.
    """
    count = len(simulated)
    beyond = max(0.0, found - float(simulated.max())) / max(float(simulated.std()), 1e-3)
    return float(1 + (simulated >= found).sum()) / (1 + count) * max(math.exp(-beyond), 1e-12)


def tell_apart(
    observations: Observations,
    first: Shape = KAHNEMAN_TVERSKY,
    second: Shape = LOGISTIC,
    *,
    reference_point: float | None = None,
    simulations: int = 100,
    level: float = 0.05,
    seed: int = 1,
) -> Comparison:
    """Fits two shapes and tests either against the other.

    Args:
        observations: `Thumbs`, `Pairs` or `Ratings`.
        first: The one shape.
        second: The other one.
        reference_point: z_ref where it is known; None estimates it, for each shape and in each simulation.
        simulations: How many for either shape; no p-value is below 1 / (simulations + 1).
        level: Below which p-value a shape is rejected.
        seed: Of the simulations.

    Raises:
        DataError: As `fit_value`.
    """
    fits = [
        fit_value(observations, shape, reference_point=reference_point, intervals="none") for shape in (first, second)
    ]
    differences: list[list[float]] = [[], []]
    for which, truth in enumerate(fits):
        true = truth.likelihood.unpack(truth.maximum)
        for number in range(simulations):
            drawn = observations.simulated(true.utility, true.thresholds, seed=seed * 1_000_003 + 2 * number + which)
            differences[which].append(_difference(drawn, fits))
    return Comparison(fits[0], fits[1], np.array(differences[0]), np.array(differences[1]), level)


def _difference(drawn: Observations, fits: list[FittedValue]) -> float:
    """Log L of the first shape − log L of the second, each at its maximum for these answers."""
    heights = []
    for fit in fits:
        likelihood = replace(fit.likelihood, observations=drawn)
        maximum = highest(likelihood.penalized, [fit.maximum])
        heights.append(float(likelihood.log_likelihoods(maximum[None])[0]))
    return heights[0] - heights[1]
