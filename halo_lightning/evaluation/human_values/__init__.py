"""Which human value function fits? Simulated annotators, and estimates from their feedback or from real feedback."""

from halo_lightning.evaluation.human_values.annotators import Population, SimulatedAnnotator
from halo_lightning.evaluation.human_values.fitting import Estimate, FittedValue, fit_value
from halo_lightning.evaluation.human_values.observations import Observations, Pairs, Ratings, Thumbs
from halo_lightning.evaluation.human_values.population import FittedPopulation, fit_population
from halo_lightning.evaluation.human_values.shapes import KAHNEMAN_TVERSKY, LOGISTIC, STRAIGHT, SYMMETRIC, Shape
from halo_lightning.evaluation.human_values.telling_apart import Comparison, tell_apart

__all__ = [
    "KAHNEMAN_TVERSKY",
    "LOGISTIC",
    "STRAIGHT",
    "SYMMETRIC",
    "Comparison",
    "Estimate",
    "FittedPopulation",
    "FittedValue",
    "Observations",
    "Pairs",
    "Population",
    "Ratings",
    "Shape",
    "SimulatedAnnotator",
    "Thumbs",
    "fit_population",
    "fit_value",
    "tell_apart",
]
