"""Truncation: what is cut from an example that is too long, and how often that happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from halo_lightning.data.rendering import Encoded
from halo_lightning.data.sources.config import KeepPrompt
from halo_lightning.errors import ConfigError, DataError, place

TooLong = Literal["truncate", "drop", "error"]


@dataclass(frozen=True)
class Limits:
    """How long an example may be, and what happens to one that is longer.

    Args:
        max_length: Most tokens of prompt and completion together.
        max_prompt_length: Where the whole is too long, the prompt is cut to no fewer tokens than this.
        too_long: `truncate` cuts an example that is too long, `drop` leaves it out, `error` refuses it.

    Raises:
        ConfigError: With these numbers there would be examples without prompt or without completion.
    """

    max_length: int = 1024
    max_prompt_length: int = 512
    too_long: TooLong = "truncate"

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise ConfigError(
                f"max_length is {self.max_length}: at least 2 are needed, one of prompt, one of completion"
            )
        if not 1 <= self.max_prompt_length < self.max_length:
            raise ConfigError(
                f"max_prompt_length is {self.max_prompt_length} and max_length is {self.max_length}: expected"
                " max_prompt_length from 1 to max_length - 1, so that prompt and completion both have room"
            )
        if self.too_long not in get_args(TooLong):
            raise ConfigError(f"too_long is {self.too_long!r}: expected 'truncate', 'drop' or 'error'")


def truncate(
    prompt_ids: list[int],
    completion_ids: list[int],
    max_length: int,
    max_prompt_length: int,
    bos_id: int | None = None,
    keep_prompt: KeepPrompt = "end",
    tail: int = 0,
) -> tuple[list[int], list[int]]:
    """Cuts an example to `max_length` tokens; one that is not longer stays as it is, however long its prompt.

    The prompt goes first, from its old end (its start), as far as needed but not below `max_prompt_length` tokens.
    If that is not enough, the completion is cut at its end, and so loses its end-of-sequence token: a model must not
    learn to stop in the middle of a sentence. A beginning-of-sequence token at the start of the prompt stays, and
    counts as one of its tokens.

    Args:
        prompt_ids: Tokens of the prompt.
        completion_ids: Tokens of the completion.
        max_length: Most tokens of both together.
        max_prompt_length: The prompt is cut to no fewer tokens than this; less than `max_length`.
        bos_id: The beginning-of-sequence token.
        keep_prompt: `start` cuts the prompt in front of its tail instead.
        tail: How many tokens at the end of the prompt only say whose turn comes next.
    """
    room = max_length - len(completion_ids)
    kept = min(len(prompt_ids), max(room, max_prompt_length))
    if kept == len(prompt_ids):
        prompt = prompt_ids
    elif keep_prompt == "start" and kept > tail:
        prompt = prompt_ids[: kept - tail] + prompt_ids[len(prompt_ids) - tail :]
    elif prompt_ids[0] == bos_id:
        prompt = [prompt_ids[0], *prompt_ids[len(prompt_ids) - kept + 1 :]]
    else:
        prompt = prompt_ids[-kept:]
    return prompt, completion_ids[: max_length - len(prompt)]


@dataclass
class Truncation:
    """Applies `Limits`, and counts what they cut.

    Attributes:
        limits: The limits.
        bos_id: The beginning-of-sequence token, which stays where a prompt is cut.
        tail: How many tokens at the end of every prompt stay, too: those that say whose turn comes next.
        examples: Sequences (prompt and completion) seen.
        prompts: Prompts cut.
        prompt_ends: Those among them that were cut at their end, since `keep_prompt` is `start`.
        completions: Completions cut.
        dropped: Examples left out because they are too long, since `too_long` is `drop`.
        first_prompt: File and line of the first prompt cut.
        first_completion: File and line of the first completion cut.
        first_dropped: File and line of the first example left out.
    """

    limits: Limits
    bos_id: int | None = None
    tail: int = 0
    examples: int = 0
    prompts: int = 0
    prompt_ends: int = 0
    completions: int = 0
    dropped: int = 0
    first_prompt: str = field(default="", repr=False)
    first_completion: str = field(default="", repr=False)
    first_dropped: str = field(default="", repr=False)

    def drop(self, sequences: Sequence[Encoded], file: str, line: int) -> bool:
        """Whether an example of these sequences is left out, and counted, because one of them is too long."""
        longest = max(len(one.prompt_ids) + len(one.completion_ids) for one in sequences)
        if self.limits.too_long != "drop" or longest <= self.limits.max_length:
            return False
        self.dropped += 1
        self.first_dropped = self.first_dropped or place(file, line)
        return True

    def apply(self, encoded: Encoded, file: str, line: int, keep_prompt: KeepPrompt = "end") -> Encoded:
        """One example within the limits.

        Raises:
            DataError: It is too long, and `too_long` is `error`.
        """
        self.examples += 1
        limits = self.limits
        prompt, completion = len(encoded.prompt_ids), len(encoded.completion_ids)
        if prompt + completion <= limits.max_length:
            return encoded
        if limits.too_long == "error":
            raise DataError(
                f"found {prompt} tokens of prompt and {completion} of completion, together {prompt + completion},"
                f" expected at most {limits.max_length}: raise max_length, shorten the row, or set too_long to"
                " 'truncate'",
                file=file,
                line=line,
            )
        prompt_ids, completion_ids = truncate(
            encoded.prompt_ids,
            encoded.completion_ids,
            limits.max_length,
            limits.max_prompt_length,
            self.bos_id,
            keep_prompt,
            self.tail,
        )
        prompt_cut, completion_cut = prompt - len(prompt_ids), completion - len(completion_ids)
        if prompt_cut:
            self.prompts += 1
            self.prompt_ends += keep_prompt == "start"
            self.first_prompt = self.first_prompt or place(file, line)
        if completion_cut:
            self.completions += 1
            self.first_completion = self.first_completion or place(file, line)
        learned = None if encoded.learned is None else encoded.learned[: len(completion_ids)]
        return Encoded(prompt_ids, completion_ids, learned, prompt_cut, completion_cut)

    def count(self, other: Truncation) -> None:
        """Adds what was counted elsewhere."""
        for name in ("examples", "prompts", "prompt_ends", "completions", "dropped"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("first_prompt", "first_completion", "first_dropped"):
            setattr(self, name, getattr(self, name) or getattr(other, name))

    def __bool__(self) -> bool:
        """Whether anything was cut or left out."""
        return bool(self.prompts or self.completions or self.dropped)

    def __str__(self) -> str:
        if self.dropped:
            return (
                f"left out {self.dropped} examples that are longer than max_length={self.limits.max_length} (first:"
                f" {self.first_dropped})"
            )
        if not (self.prompts or self.completions):
            return f"none of {self.examples} sequences is longer than max_length={self.limits.max_length}"
        parts = []
        if self.prompts:
            ends = f" or end ({self.prompt_ends})" if 0 < self.prompt_ends < self.prompts else ""
            side = "end" if self.prompt_ends == self.prompts else f"start{ends}"
            parts.append(f"{self.prompts} prompts at their {side} (first: {self.first_prompt})")
        if self.completions:
            parts.append(f"{self.completions} completions at their end (first: {self.first_completion})")
        return (
            f"cut {' and '.join(parts)} of {self.examples} sequences to fit max_length={self.limits.max_length}"
            f" (max_prompt_length={self.limits.max_prompt_length})"
        )
