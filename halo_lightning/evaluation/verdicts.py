"""From generations to comparisons, and from verdicts to outcomes: who won, on which criterion, in which order."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from halo_lightning.errors import ConfigError, DataError
from halo_lightning.evaluation.judges.base import CRITERIA, Comparison, Verdict
from halo_lightning.evaluation.records import GENERATED_WITH, Needs, Record, read_records, read_settings
from halo_lightning.evaluation.streams import stream_key, uniforms
from halo_lightning.evaluation.win_rates import Outcome

Order = Literal["random", "both"]
Cut = Literal["all", "unfinished", "none"]

VERDICT: Needs = {
    "id": str,
    "outcomes": dict,
    "answers": dict,
    "tokens": int,
    "other_tokens": int,
    "characters": int,
    "other_characters": int,
}
"""What every line that `judge` wrote has, as far as it is read."""

_FULL_STOP = re.compile(r"\.(?=\s|$)")


def cut_at_full_stop(text: str) -> str:
    """A text up to its last full stop (at the end of a word); the whole text where it has none."""
    ends = [match.end() for match in _FULL_STOP.finditer(text)]
    return text[: ends[-1]] if ends else text


@dataclass(frozen=True)
class Match:
    """One completion of the model against another one, in one order.

    Attributes:
        comparison: As the judge sees it.
        model_first: Whether the model's completion is shown first.
        row: The line of the generations that it is from.
        other_tokens: Tokens of the other completion.
        texts: The model's completion and the other one, as they are judged.
    """

    comparison: Comparison
    model_first: bool
    row: Record
    other_tokens: int
    texts: tuple[str, str]

    def record(self, verdict: Verdict) -> Record:
        """What is written of a verdict."""
        return {
            "key": self.comparison.key,
            "id": self.row["id"],
            "number": self.row["number"],
            "model_first": self.model_first,
            "outcomes": {name: self.outcome(answer) for name, answer in verdict.answers.items()},
            "answers": verdict.answers,
            "tokens": self.row["tokens"],
            "other_tokens": self.other_tokens,
            "characters": len(self.texts[0]),
            "other_characters": len(self.texts[1]),
            **{self.whose(name): value for name, value in verdict.details.items()},
        }

    def whose(self, name: str) -> str:
        """The name of a detail: what is said of the first completion is said of the model, or of the other one."""
        place, _, rest = name.partition("_")
        if place not in ("first", "second"):
            return name
        return f"{'model' if (place == 'first') == self.model_first else 'other'}_{rest}"

    def outcome(self, answer: str) -> str:
        """What an answer means for the model: win, loss, tie or unparsable."""
        if answer not in ("first", "second"):
            return answer
        return "win" if (answer == "first") == self.model_first else "loss"


def matches(
    generations: Sequence[Record], others: Sequence[Record] | None, *, order: Order, cut: Cut, seed: int
) -> list[Match]:
    """What is to be judged.

    Args:
        generations: Lines that `generate` wrote.
        others: Lines of another model over the same prompts; None compares with the human-chosen completions.
        order: Whether each is judged in an order drawn by (seed, prompt), or in both.
        cut: Which completions of models are cut at their last full stop; the human-chosen ones never are.
        seed: Of the order.

    Raises:
        DataError: The other model has no completion of some prompt.
    """
    by_id = None if others is None else {row["id"]: row for row in others}
    made = []
    for row in sorted(generations, key=lambda row: row["number"]):
        if by_id is None:
            other, other_tokens = row["chosen"], row["chosen_tokens"]
        elif row["id"] in by_id:
            other, other_tokens = _cut(by_id[row["id"]], cut), by_id[row["id"]]["tokens"]
        else:
            raise DataError(
                f"the other model has no completion of prompt {row['number']} (id {row['id']}); sample both from the"
                " same prompts"
            )
        texts = (_cut(row, cut), other)
        drawn = bool(uniforms(stream_key(seed, f"order\n{row['id']}"), 1)[0] < 0.5)
        for model_first in (drawn,) if order == "random" else (True, False):
            first, second = texts if model_first else texts[::-1]
            text = json.dumps([row["id"], first, second])
            key = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
            comparison = Comparison(f"{key}-{'first' if model_first else 'second'}", row["prompt"], first, second)
            made.append(Match(comparison, model_first, row, other_tokens, texts))
    return made


def _cut(row: Record, cut: Cut) -> str:
    text: str = row["completion"]
    return cut_at_full_stop(text) if cut == "all" or (cut == "unfinished" and not row["finished"]) else text


@dataclass(frozen=True)
class Judged:
    """What a judge said of one model.

    Attributes:
        path: The file of the verdicts.
        settings: What they were made with.
        records: The verdicts.
    """

    path: Path
    settings: dict[str, Any]
    records: list[Record]

    @classmethod
    def read(cls, path: str | Path) -> Judged:
        """Reads a file that `judge` wrote.

        Raises:
            ConfigError: Its settings are missing, or not those of verdicts.
            DataError: It is missing, damaged or empty.
        """
        settings = read_settings(path)
        if "generations" not in settings:
            raise ConfigError(f"{path}: this is no file of verdicts (generations are judged with the command judge)")
        read_settings(path, ("order", "cut", *(f"generations.{name}" for name in GENERATED_WITH)))
        records = read_records(path, VERDICT)
        if not records:
            raise DataError("there is no verdict in this file", file=str(path))
        return cls(Path(path), settings, records)

    @property
    def name(self) -> str:
        """What the model is called."""
        name: str = self.settings["generations"]["name"]
        return name

    @property
    def group(self) -> str:
        """What the model is compared within."""
        group: str = self.settings["generations"]["group"]
        return group

    @property
    def criteria(self) -> list[str]:
        """The criteria that were judged."""
        return [name for name in CRITERIA if any(name in record["outcomes"] for record in self.records)]

    def outcomes(self, criterion: str = "overall") -> dict[str, Outcome]:
        """By prompt, what came of it; prompts without a verdict that could be read are left out.

        Where both orders were asked for, a completion wins that wins in both of them, or wins in one and ties in the
        other; two verdicts that contradict each other are a tie. A prompt with one of its two verdicts only is left
        out.
        """
        wanted = 2 if self.settings["order"] == "both" else 1
        by_prompt: dict[str, list[str]] = {}
        for record in self.records:
            by_prompt.setdefault(record["id"], []).append(record["outcomes"].get(criterion, "unparsable"))
        result: dict[str, Outcome] = {}
        for prompt, found in by_prompt.items():
            if len(found) == wanted and "unparsable" not in found:
                score = found.count("win") - found.count("loss")
                result[prompt] = "win" if score > 0 else "loss" if score < 0 else "tie"
        return result

    def unparsable(self, criterion: str = "overall") -> int:
        """How many verdicts could not be read."""
        return sum(record["outcomes"].get(criterion) == "unparsable" for record in self.records)

    def position(self, criterion: str = "overall") -> tuple[int, int]:
        """How often the completion that was shown first won, among all verdicts that decided."""
        answers = [record["answers"].get(criterion) for record in self.records]
        return answers.count("first"), answers.count("first") + answers.count("second")

    def contradictions(self, criterion: str = "overall") -> tuple[int, int]:
        """Of the prompts that were judged in both orders, how many got the two opposite verdicts, and all of them."""
        by_prompt: dict[str, list[str]] = {}
        for record in self.records:
            by_prompt.setdefault(record["id"], []).append(record["outcomes"].get(criterion, "unparsable"))
        pairs = [set(found) for found in by_prompt.values() if len(found) == 2]
        return sum(pair == {"win", "loss"} for pair in pairs), len(pairs)

    def by_prompt(self, key: str) -> dict[str, float]:
        """A number of each prompt, such as `tokens`."""
        return {record["id"]: float(record[key]) for record in self.records}

    def spent(self) -> tuple[int, int]:
        """Tokens of the requests and of the answers, as the judge's endpoint counted them."""
        return _sum(self.records, "prompt_tokens"), _sum(self.records, "completion_tokens")


def _sum(records: Iterable[Record], key: str) -> int:
    return sum(record.get(key, 0) for record in records)
