"""Summary: what a data module made of its sources, in numbers."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from halo_lightning.data.batching import TokenizedDataset
from halo_lightning.data.feedback import Feedback
from halo_lightning.data.preparation import Prepared
from halo_lightning.data.sources.bad_rows import BadRows

_NAMES: dict[Feedback, str] = {"sft": "demonstrations", "paired": "pairs", "unary": "examples"}


@dataclass(frozen=True)
class DataSummary:
    """Counts of a data module's examples.

    Attributes:
        feedback: `sft`, `paired` or `unary`.
        train: Examples to train on.
        validation: Examples to validate on.
        desirable: Desirable ones among those to train on; for unary feedback.
        undesirable: Undesirable ones among those to train on; for unary feedback.
        left_out: Rows that gave no example.
        cut_prompts: Prompts that were cut, in training and validation.
        cut_completions: Completions that were cut, in training and validation.
        tokens: Tokens to train on, prompts included.
        completion_tokens: Tokens that the loss is on among them.
        notes: What was left out, skipped and cut, one line each, with the place of the first.
        bad_rows: Rows that were skipped because they cannot be used.
        too_long: Examples that were left out because they are too long.
        streamed: The sources, where the examples to train on are streamed: what was said of them above is None or of
            validation alone then.
    """

    feedback: Feedback
    train: int | None
    validation: int
    desirable: int | None
    undesirable: int | None
    left_out: int
    cut_prompts: int
    cut_completions: int
    tokens: int | None
    completion_tokens: int | None
    notes: tuple[str, ...] = ()
    bad_rows: int = 0
    too_long: int = 0
    streamed: str = ""

    @classmethod
    def of(cls, train: TokenizedDataset, validation: TokenizedDataset, prepared: list[Prepared]) -> DataSummary:
        """Counts two data sets and what their preparation reported."""
        skipped = _distinct(prepared)
        desirable = None if train.desirable is None else int(train.desirable.sum())
        return cls(
            feedback=train.feedback,
            train=len(train),
            validation=len(validation),
            desirable=desirable,
            undesirable=None if desirable is None else len(train) - desirable,
            left_out=sum(len(rows) for one in prepared for rows in one.left_out.values()),
            cut_prompts=sum(one.truncation.prompts for one in prepared),
            cut_completions=sum(one.truncation.completions for one in prepared),
            tokens=len(train.tokens),
            completion_tokens=int(train.completion_offsets[-1]),
            notes=notes_of(prepared),
            bad_rows=sum(bad.count for bad in skipped),
            too_long=sum(one.truncation.dropped for one in prepared),
        )

    def counts(self) -> dict[str, int]:
        """All counts by name; those of labels where there are labels."""
        return {field.name: value for field in fields(self) if isinstance(value := getattr(self, field.name), int)}

    @classmethod
    def of_stream(cls, sources: str, validation: TokenizedDataset, prepared: list[Prepared]) -> DataSummary:
        """Counts the data set to validate on, where examples to train on are streamed."""
        counted = cls.of(validation, validation, prepared)
        unknown = dict.fromkeys(("train", "desirable", "undesirable", "tokens", "completion_tokens"))
        return replace(counted, streamed=sources, **unknown)  # type: ignore[arg-type]

    def __str__(self) -> str:
        if self.streamed:
            first = (
                f"{_NAMES[self.feedback]} to train on are streamed from {self.streamed}; {self.validation:,} to"
                " validate on"
            )
            return "\n".join([first, *self.notes])
        kinds = "" if self.desirable is None else f" ({self.desirable:,} desirable, {self.undesirable:,} undesirable)"
        first = (
            f"{self.train:,} {_NAMES[self.feedback]} to train on{kinds}, {self.tokens:,} tokens"
            f" ({self.completion_tokens:,} of completions); {self.validation:,} to validate on"
        )
        return "\n".join([first, *self.notes])


def notes_of(prepared: list[Prepared]) -> tuple[str, ...]:
    """What was left out, skipped and cut, one line each, with the place of the first."""
    return (
        *(f"{source}: {rows}" for one in prepared for source, rows in one.left_out.items() if len(rows)),
        *(
            f"{source}: {rows.implicit_prompts} pairs have no prompt but what both texts begin with"
            for one in prepared
            for source, rows in one.left_out.items()
            if rows.implicit_prompts
        ),
        *(note for one in prepared for note in one.notes),
        *map(str, _distinct(prepared)),
        *(str(one.truncation) for one in prepared if one.truncation),
    )


def _distinct(prepared: list[Prepared]) -> list[BadRows]:
    """The counts of bad rows that count any, each once: training and validation may have theirs in common."""
    return list({id(one.bad_rows): one.bad_rows for one in prepared if one.bad_rows.count}.values())
