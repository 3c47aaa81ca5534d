"""Signs in the metrics of a run that it will end badly, and what each of them usually means.

The thresholds are here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

IN_A_ROW = 3
"""A sign has to be seen in so many logs in a row: one log is a few examples."""

EXPLODED_KL = 100.0
"""Nats of KL from the reference, a completion, from which on the policy has little left of it."""

COLLAPSED_SPREAD = 0.02
"""The margin between chosen and rejected rewards, as a part of the larger one, below which they are the same."""
COLLAPSED_REWARD = 0.5
"""Rewards that are closer to 0 have not gone anywhere yet."""

LEAKED_ACCURACY = 0.999
"""The reward accuracy that feedback of people does not allow for at the start of a run."""
LEAKED_EXAMPLES = 100
"""Examples that have to show it, so that it is no chance."""
LEAKED_WITHIN = 5
"""Logs that count as the start of a run; in the first one the policy still is its reference."""

FALLEN_NATS = 10.0
"""Nats that the log-probability of chosen completions has to fall by."""
FALLEN_PART = 0.1
"""The part of itself that it has to fall by."""


@dataclass
class History:
    """The metrics of the last logs of a run, and of its first one.

    Attributes:
        first: The metrics of the first log.
        last: Those of the last `LEAKED_WITHIN` logs, the newest one at the end.
        logs: How many logs there were.
        examples: Training examples of one log.
    """

    first: dict[str, float] = field(default_factory=dict)
    last: list[dict[str, float]] = field(default_factory=list)
    logs: int = 0
    examples: int = 0

    def add(self, metrics: dict[str, float], examples: int) -> None:
        """Adds the metrics of a log."""
        if not self.logs:
            self.first = metrics
        self.last = [*self.last, metrics][-LEAKED_WITHIN:]
        self.logs, self.examples = self.logs + 1, examples

    def values(self, *names: str, count: int = IN_A_ROW) -> list[tuple[float, ...]]:
        """Some metrics in the last logs, the newest last; none where there are fewer logs, or no such metrics."""
        rows = self.last[-count:]
        if len(rows) < count or any(name not in row for row in rows for name in names):
            return []
        return [tuple(row[name] for name in names) for row in rows]

    def state(self) -> dict[str, Any]:
        """As plain values, for a checkpoint."""
        return asdict(self)

    @staticmethod
    def of(state: dict[str, Any]) -> History:
        """What `state` gave."""
        return History(**state)


def exploding_kl(history: History) -> str | None:
    """The policy runs away from its reference."""
    rows = history.values("kl")
    if not rows or not all(kl > EXPLODED_KL for (kl,) in rows):
        return None
    return (
        f"the KL from the reference is {rows[-1][0]:.0f} nats a completion: the policy runs away from it, usually"
        " because the learning rate is too high or beta too low"
    )


def collapsed_rewards(history: History) -> str | None:
    """Chosen and rejected completions get the same reward, far from 0."""
    rows = history.values("rewards/chosen", "rewards/rejected")
    if not rows or not all(
        max(abs(chosen), abs(rejected)) > COLLAPSED_REWARD
        and abs(chosen - rejected) < COLLAPSED_SPREAD * max(abs(chosen), abs(rejected))
        for chosen, rejected in rows
    ):
        return None
    return (
        f"the rewards of chosen and rejected completions have collapsed to the same value (about {rows[-1][0]:.2f}):"
        " the policy moves without telling them apart, usually because labels are noise or the learning rate is too"
        " high"
    )


def leaked_labels(history: History) -> str | None:
    """The first steps tell all chosen from all rejected completions."""
    count = -(-LEAKED_EXAMPLES // max(1, history.examples))  # logs that it takes
    rows = history.values("rewards/accuracies", count=count)
    at_the_start = count < history.logs <= LEAKED_WITHIN
    if not rows or not at_the_start or not all(accuracy >= LEAKED_ACCURACY for (accuracy,) in rows):
        return None
    return (
        f"the reward accuracy is {rows[-1][0]:.3f} from the start: usually something beside quality gives the label"
        " away, such as an end of text, a template or a length that only one kind of completion has (see `inspect`)"
    )


def falling_chosen(history: History) -> str | None:
    """Chosen completions become less likely, together with rejected ones."""
    rows = history.values("logps/chosen", "logps/rejected")
    if not rows or not {"logps/chosen", "logps/rejected"} <= history.first.keys():
        return None
    first = history.first["logps/chosen"], history.first["logps/rejected"]
    needed = [max(FALLEN_NATS, FALLEN_PART * abs(value)) for value in first]
    if not all(value < start - least for row in rows for value, start, least in zip(row, first, needed, strict=True)):
        return None
    return (
        f"chosen completions have become less likely (log-probability {first[0]:.0f} at first, now {rows[-1][0]:.0f}),"
        " along with rejected ones: usually what pairs have in common is unlearned; a lower learning rate, a higher"
        " beta, or a method that keeps the chosen likely (RPO, APO-zero) help"
    )


SIGNS: dict[str, Callable[[History], str | None]] = {
    "exploding KL": exploding_kl,
    "collapsed rewards": collapsed_rewards,
    "leaked labels": leaked_labels,
    "falling chosen": falling_chosen,
}
"""What is looked for, by name; each says what it saw, or None."""
