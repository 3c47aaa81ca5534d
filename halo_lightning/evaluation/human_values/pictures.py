"""Pictures of fitted value functions: over figure 4's curves, and against the answers that they are to explain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from halo_lightning.evaluation.human_values.fitting import FittedValue
from halo_lightning.evaluation.human_values.observations import Observations, Pairs, Thumbs
from halo_lightning.figures import new_figure, save_figure, value_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 12
COLOURS = ("black", "tab:brown")

BELOW: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.12)}
"""Where legends are: curves and bands may be anywhere in the picture."""


def draw_fitted_values(fits: Sequence[FittedValue], observations: Observations, out: str) -> None:
    """Draws fitted value functions with their uncertainty.

    On the left over figure 4's curves, each in its own unit (equation 6 makes one unit of outcome worth 1); on the
    right what they say of the answers, beside the shares that were found.

    Args:
        fits: One or two fits to the same answers.
        observations: The answers.
        out: The PNG to write.
    """
    figure = new_figure(12, 6)
    left, right = figure.subplots(1, 2)
    value_curves(left, extent=5.0, faint=True)
    x = torch.linspace(-5, 5, 401, dtype=torch.float64)
    for fit, colour in zip(fits, COLOURS, strict=False):
        low, high = fit.band(x)
        parameters = ", ".join(f"{name} {fit.estimates[name].value:.3g}" for name in fit.shape.parameters)
        label = f"fitted {fit.shape.name}: {parameters}"
        left.plot(x, fit.value_function(x, torch.zeros_like(x)), color=colour, linewidth=2.5, label=label)
        left.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    left.set_title(f"Human value functions, with {fits[0].confidence:.0%} band")
    left.legend(fontsize="small", ncols=2, **BELOW)
    _draw_answers(right, fits, observations)
    save_figure(figure, out)


def _draw_answers(axis: Axes, fits: Sequence[FittedValue], observations: Observations) -> None:
    if isinstance(observations, Pairs):
        swap = np.arange(len(observations)) % 2 == 1  # chosen first in one half of the pairs, second in the other
        gap = (observations.chosen - observations.rejected).numpy()
        places, hits = np.where(swap, -gap, gap), ~swap
        axis.set_xlabel("reward of the first − reward of the second")
        axis.set_ylabel("share of first preferred")
    elif isinstance(observations, Thumbs):
        places, hits = observations.rewards.numpy(), observations.up.numpy()
        axis.set_xlabel("implicit reward z")
        axis.set_ylabel("share of thumbs up")
    else:
        axis.set_axis_off()
        return
    _draw_shares(axis, places, hits)
    for fit, colour in zip(fits, COLOURS, strict=False):
        _draw_prediction(axis, fit, observations, places, colour)
    axis.set_ylim(-0.02, 1.02)
    axis.set_title(f"{len(observations):,} answers, and what the fits say of them")
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small", ncols=2, **BELOW)


def _draw_shares(axis: Axes, places: np.ndarray, hits: np.ndarray) -> None:
    """Shares in bins of equally many answers, with 95 % Wilson intervals."""
    from scipy.stats import binomtest

    for part in np.array_split(np.argsort(places, kind="stable"), min(BINS, len(places))):
        share = hits[part].mean()
        interval = binomtest(int(hits[part].sum()), len(part)).proportion_ci(0.95, method="wilson")
        error = [[share - interval.low], [interval.high - share]]
        axis.errorbar(places[part].mean(), share, yerr=error, fmt="o", color="tab:blue", capsize=2, markersize=4)


def _draw_prediction(axis: Axes, fit: FittedValue, observations: Observations, places: np.ndarray, colour: str) -> None:
    true = fit.likelihood.unpack(fit.maximum)
    if isinstance(observations, Pairs):
        # What is predicted depends on both rewards: the mean over the pairs in each bin.
        first = fit.likelihood.log_probabilities(fit.maximum)[:, 0].exp().numpy()
        said = np.where(np.arange(len(first)) % 2 == 1, 1 - first, first)
        parts = np.array_split(np.argsort(places, kind="stable"), min(BINS, len(places)))
        middles, shares = zip(*((places[part].mean(), said[part].mean()) for part in parts), strict=True)
        axis.plot(middles, shares, color=colour, label=f"fitted {fit.shape.name}")
        return
    low, high = np.quantile(places, [0.002, 0.998]).tolist()
    z = torch.linspace(low, high, 300, dtype=torch.float64)
    axis.plot(z, torch.sigmoid(true.utility(z)), color=colour, label=f"fitted {fit.shape.name}")
    label = f"its reference point, {fit.reference_point:.2f}".replace("-", "−")
    axis.axvline(fit.reference_point, label=label, color=colour, linestyle=":", linewidth=1)
