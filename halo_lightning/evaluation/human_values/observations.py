"""What annotators say of outcomes whose rewards are known: thumbs, pairs or ratings, and how likely each answer is.

What an annotator feels about an outcome z (a reward, in any unit) is its *utility*

    u(z) = (h(z, z_ref) − h(z_ref, z_ref)) / τ,

by how much its value exceeds that of the reference point, in units of the noise τ. An answer is u seen through
logistic noise:

| feedback | probability of an answer |
|---|---|
| thumbs | P(up) = σ(u(z)) |
| pairs | P(first preferred) = σ(u(z₁) − u(z₂)): Bradley-Terry, the report's equation 1 |
| ratings | P(rating ≤ k) = σ(c_k − u(z)) with increasing thresholds c_k: a cumulative logit |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from halo_lightning.errors import DataError
from halo_lightning.values import ValueFunction

Utility = Callable[[Tensor], Tensor]
"""From rewards `[N]` to utilities `[N]`, or `[B, N]` for B annotators at once."""

Own = TypeVar("Own", bound="Observations")


def utility(value_function: ValueFunction, reference_point: Any = 0.0, noise: Any = 1.0) -> Utility:
    """The utility u of an annotator.

    Args:
        value_function: h.
        reference_point: z_ref, a number or a tensor that broadcasts with the rewards, in their unit.
        noise: τ, the same, in the unit of the values.
    """

    def of(rewards: Tensor) -> Tensor:
        reference = torch.as_tensor(reference_point, dtype=rewards.dtype)
        return (value_function(rewards, reference) - value_function(reference, reference)) / noise

    return of


class Observations(ABC):
    """N answers of annotators; each is one of K possible ones, and which ones there are is the kind of feedback."""

    @property
    @abstractmethod
    def answers(self) -> Tensor:
        """Which of the K possible answers was given, int64 `[N]`."""

    @property
    @abstractmethod
    def rewards_seen(self) -> Tensor:
        """Every reward that somebody saw, float64, in any order."""

    @property
    def thresholds(self) -> int:
        """How many thresholds the probabilities of the answers need."""
        return 0

    @abstractmethod
    def log_probabilities(self, u: Utility, thresholds: Tensor) -> Tensor:
        """Log-probability of each possible answer, float64 `[N, K]`, or `[B, N, K]` for B annotators at once.

        Args:
            u: The annotator's utility.
            thresholds: float64 `[K − 1]` or `[B, 1, K − 1]`, increasing; for ratings.
        """

    @abstractmethod
    def answered(self: Own, answers: Tensor) -> Own:
        """The same outcomes with other answers, int64 `[N]`."""

    def __len__(self) -> int:
        return len(self.answers)

    def of_answers(self, table: Tensor) -> Tensor:
        """What belongs to the answers that were given, `[…, N]`, of a table of all possible ones, `[…, N, K]`."""
        index = self.answers[:, None].expand(*table.shape[:-1], 1)
        return table.gather(-1, index)[..., 0]

    def simulated(self: Own, u: Utility, thresholds: Tensor | None = None, *, seed: int) -> Own:
        """The same outcomes, answered at random by an annotator with this utility."""
        generator = torch.Generator().manual_seed(seed)
        none = torch.zeros(0, dtype=torch.float64)
        table = self.log_probabilities(u, none if thresholds is None else thresholds).exp()
        return self.answered(torch.multinomial(table, 1, generator=generator)[:, 0])


@dataclass(frozen=True)
class Thumbs(Observations):
    """Thumbs up and down.

    Args:
        rewards: z of each completion, `[N]`.
        up: Whether it got a thumb up, bool `[N]`.

    Raises:
        DataError: The lengths differ, or a reward is not finite.
    """

    rewards: Tensor
    up: Tensor

    def __post_init__(self) -> None:
        _take(self, rewards=_finite(self.rewards), up=torch.as_tensor(self.up).bool())

    @property
    def answers(self) -> Tensor:
        """1 is up, 0 is down."""
        return self.up.long()

    @property
    def rewards_seen(self) -> Tensor:
        """The reward of each completion."""
        return self.rewards

    def log_probabilities(self, u: Utility, thresholds: Tensor) -> Tensor:
        """Of down and up, `[N, 2]`."""
        value = u(self.rewards)
        return torch.stack([F.logsigmoid(-value), F.logsigmoid(value)], dim=-1)

    def answered(self, answers: Tensor) -> Thumbs:
        """The same completions with other thumbs."""
        return Thumbs(self.rewards, answers == 1)


@dataclass(frozen=True)
class Pairs(Observations):
    """Choices between two completions.

    Args:
        chosen: z of the preferred completions, `[N]`.
        rejected: z of the others, `[N]`.

    Raises:
        DataError: The lengths differ, or a reward is not finite.
    """

    chosen: Tensor
    rejected: Tensor

    def __post_init__(self) -> None:
        _take(self, chosen=_finite(self.chosen), rejected=_finite(self.rejected))

    @property
    def answers(self) -> Tensor:
        """0 everywhere: the first one of each pair is the chosen one."""
        return torch.zeros(len(self.chosen), dtype=torch.long)

    @property
    def rewards_seen(self) -> Tensor:
        """The rewards of both completions of each pair."""
        return torch.cat([self.chosen, self.rejected])

    def log_probabilities(self, u: Utility, thresholds: Tensor) -> Tensor:
        """Of the chosen one and of the rejected one being preferred, `[N, 2]`."""
        difference = u(self.chosen) - u(self.rejected)
        return torch.stack([F.logsigmoid(difference), F.logsigmoid(-difference)], dim=-1)

    def answered(self, answers: Tensor) -> Pairs:
        """The same pairs, with the two exchanged where the answer is 1."""
        other = answers == 1
        return Pairs(torch.where(other, self.rejected, self.chosen), torch.where(other, self.chosen, self.rejected))


@dataclass(frozen=True)
class Ratings(Observations):
    """Ratings on a scale of K steps, of which only the order matters.

    Args:
        rewards: z of each completion, `[N]`.
        ratings: Its rating, int64 `[N]`, from 0 to K − 1.
        levels: K; None takes the highest rating that occurs and one more.

    Raises:
        DataError: The lengths differ, a reward is not finite, or a rating is outside of the scale.
    """

    rewards: Tensor
    ratings: Tensor
    levels: int | None = None

    def __post_init__(self) -> None:
        ratings = torch.as_tensor(self.ratings).long()
        levels = int(ratings.max()) + 1 if self.levels is None else self.levels
        if levels < 2 or int(ratings.min()) < 0 or int(ratings.max()) >= levels:
            found = f"{int(ratings.min())} to {int(ratings.max())}"
            raise DataError(f"ratings are {found}: expected whole numbers from 0 to {max(levels, 2) - 1}")
        _take(self, rewards=_finite(self.rewards), ratings=ratings)
        object.__setattr__(self, "levels", levels)

    @property
    def answers(self) -> Tensor:
        """The ratings."""
        return self.ratings

    @property
    def rewards_seen(self) -> Tensor:
        """The reward of each completion."""
        return self.rewards

    @property
    def thresholds(self) -> int:
        """One between every two neighbouring ratings."""
        assert self.levels is not None
        return self.levels - 1

    def log_probabilities(self, u: Utility, thresholds: Tensor) -> Tensor:
        """Of each rating, `[N, K]`."""
        value = u(self.rewards)[..., None]
        below = F.logsigmoid(thresholds - value)  # log P(rating ≤ k)
        above = F.logsigmoid(value - thresholds)  # log P(rating > k)
        # σ(b) − σ(a) = σ(b) σ(−a) (1 − e^(a − b)), which does not cancel.
        gaps = torch.log1p(-torch.exp(-thresholds.diff()))
        return torch.cat([below[..., :1], below[..., 1:] + above[..., :-1] + gaps, above[..., -1:]], dim=-1)

    def answered(self, answers: Tensor) -> Ratings:
        """The same completions with other ratings."""
        return Ratings(self.rewards, answers, self.levels)


def some(observations: Thumbs | Pairs, which: Sequence[int]) -> Thumbs | Pairs:
    """The answers with these numbers, counted from 0."""
    index = torch.tensor(which, dtype=torch.long)
    return type(observations)(*(getattr(observations, field.name)[index] for field in fields(observations)))


def joined(parts: Sequence[Thumbs | Pairs]) -> Thumbs | Pairs:
    """The answers of several annotators, one after the other.

    Raises:
        DataError: There are none, or they are not all thumbs or all pairs.
    """
    kinds = {type(part) for part in parts}
    if kinds not in ({Thumbs}, {Pairs}):
        found = sorted(kind.__name__.lower() for kind in kinds)
        raise DataError(f"found {' and '.join(found) or 'no'} answers: expected thumbs of everybody, or pairs")
    columns = [torch.cat([getattr(part, field.name) for part in parts]) for field in fields(parts[0])]
    return type(parts[0])(*columns)


def _finite(rewards: Tensor) -> Tensor:
    made = torch.as_tensor(rewards, dtype=torch.float64).detach()
    if made.dim() != 1 or not len(made) or not made.isfinite().all():
        raise DataError(f"rewards: found shape {list(made.shape)}, expected [N] finite numbers, N at least 1")
    return made


def _take(observations: Observations, **fields: Tensor) -> None:
    lengths = {name: len(field) for name, field in fields.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"found {lengths}: expected the same number of each")
    for name, field in fields.items():
        object.__setattr__(observations, name, field)
