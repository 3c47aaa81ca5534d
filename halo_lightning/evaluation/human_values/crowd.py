"""The likelihoods of many annotators, each with parameters of its own, computed at one time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halo_lightning.evaluation.human_values.likelihood import Likelihood, Vector, slopes, steps
from halo_lightning.evaluation.human_values.observations import Pairs, Thumbs, joined
from halo_lightning.evaluation.human_values.shapes import Shape

Array = NDArray[np.float64]

AT_ONCE = 2_000_000
"""Answers, times sets of parameters, that are computed at one time: some hundred megabytes."""


class Crowd:
    """A annotators: the log-probability of the answers of each, as a function of its parameters.

    Args:
        answers: The thumbs or the pairs of each annotator.
        shape: The family of value functions.
        reference_point: z_ref where it is known, and the same for everybody.
    """

    def __init__(self, answers: Sequence[Thumbs | Pairs], shape: Shape, reference_point: float | None) -> None:
        self.likelihood = Likelihood(joined(answers), shape, reference_point, relative_noise=False)
        lengths = [len(one) for one in answers]
        self._annotator = np.repeat(np.arange(len(lengths)), lengths)
        self._begins = np.cumsum([0, *lengths[:-1]])

    def __len__(self) -> int:
        return len(self._begins)

    def log_likelihoods(self, parameters: Array) -> Array:
        """Log-probability of all answers of each annotator, `[B, A]`, with parameters `[B, A, d]`."""
        parts = np.array_split(parameters, max(1, len(parameters) * len(self._annotator) // AT_ONCE))
        answers = self.likelihood.observations
        return np.concatenate([self._sums(answers.of_answers(self._log_probabilities(part))) for part in parts])

    def points(self, parameters: Array) -> tuple[Vector, Array, Array]:
        """Log-likelihoods `[A]`, scores `[A, d]` and expected information `[A, d, d]` at parameters `[A, d]`."""
        table = self._log_probabilities(parameters + steps(parameters.shape[-1])[:, None])
        jacobian = slopes(table)  # [d, N, K]
        answers = self.likelihood.observations
        products = (jacobian[:, None] * jacobian[None] * table[0].exp()).sum(-1)  # [d, d, N]
        return (
            self._sums(answers.of_answers(table[0])),
            np.moveaxis(self._sums(answers.of_answers(jacobian)), -1, 0),
            np.moveaxis(self._sums(products), -1, 0),
        )

    def modes(self, start: Array, mean: Vector, spread: Vector, *, most: int = 60) -> tuple[Array, Array]:
        """Where each annotator's likelihood times the population's density is highest, by damped Fisher scoring.

        Args:
            start: Where to begin, `[A, d]`.
            mean: Of the (normal) population, `[d]`.
            spread: Standard deviations of the population, `[d]`.
            most: Most steps.

        Returns:
            The modes, `[A, d]`, and the information there, `[A, d, d]`.
        """

        def posterior(places: Array) -> tuple[Vector, Array, Array]:
            value, score, information = self.points(places)
            away = (places - mean) / spread
            return value - 0.5 * (away**2).sum(-1), score - away / spread, information + np.diag(1 / spread**2)

        places = start.copy()
        value, score, information = posterior(places)
        damping = np.full(len(places), 1e-3)
        for _ in range(most):
            diagonal = np.einsum("add->ad", information)
            damped = information + (damping[:, None] * diagonal)[:, :, None] * np.eye(len(mean))
            moves = np.linalg.solve(damped, score[..., None])[..., 0]
            if (score * moves).sum(-1).max() < 1e-5:
                break
            tried = posterior(places + moves)
            better = tried[0] >= value
            places = np.where(better[:, None], places + moves, places)
            value = np.where(better, tried[0], value)
            score = np.where(better[:, None], tried[1], score)
            information = np.where(better[:, None, None], tried[2], information)
            damping = np.where(better, damping / 5, damping * 10)
            if damping.min() > 1e8:  # a cusp: no step rises
                break
        return places, information

    def _log_probabilities(self, parameters: Array) -> Tensor:
        """Log-probability of each possible answer, `[B, N, K]`, with parameters `[B, A, d]`."""
        columns = np.moveaxis(parameters[..., self._annotator, :], -1, 0)
        unpacked = self.likelihood.unpack_columns(list(torch.from_numpy(np.ascontiguousarray(columns))))
        return self.likelihood.observations.log_probabilities(unpacked.utility, unpacked.thresholds)

    def _sums(self, of_answers: Tensor) -> Array:
        """Sums over the answers of each annotator: `[…, N]` to `[…, A]`."""
        summed: Array = np.add.reduceat(of_answers.numpy(), self._begins, axis=-1)
        return summed
