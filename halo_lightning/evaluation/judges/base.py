"""What every judge has: comparisons come in, verdicts go out as they arrive."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

CRITERIA = ("helpful", "harmless", "concise", "overall")
"""The report's three criteria, and all of them together."""

Answer = Literal["first", "second", "tie", "unparsable"]


@dataclass(frozen=True)
class Comparison:
    """Two completions of a prompt, in the order in which a judge sees them.

    Attributes:
        key: What identifies the comparison.
        prompt: The conversation, messages with `role` and `content`.
        first: The completion that is shown first.
        second: The other one.
    """

    key: str
    prompt: Sequence[dict[str, Any]]
    first: str
    second: str


@dataclass(frozen=True)
class Verdict:
    """What a judge says.

    Attributes:
        answers: For each criterion that it judges, which completion is better. `unparsable` is an answer that it gave
            and that could not be understood; it is counted and never guessed.
        details: What else is to be kept: the judge's words, tokens, scores; JSON values.
    """

    answers: dict[str, Answer]
    details: dict[str, Any] = field(default_factory=dict)


Keep = Callable[[Comparison, Verdict], None]
"""Takes a verdict and puts it on disk before it returns."""


class Judge(ABC):
    """Says which of two completions is better."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything that its verdicts depend on, JSON values; never a secret."""

    def check(self) -> None:  # noqa: B027  # a judge whose settings cannot be wrong has nothing to refuse
        """Refuses settings that cannot work, or with a secret in them, before they are written beside the verdicts.

        Raises:
            ConfigError: There are such settings.
        """

    @abstractmethod
    def judge(self, comparisons: Sequence[Comparison], keep: Keep) -> str | None:
        """Judges comparisons, in any order, and hands over each verdict as soon as it is there.

        Args:
            comparisons: What is to be judged.
            keep: Takes a verdict.

        Returns:
            Why some of the comparisons have no verdict; None where all of them have one.
        """
