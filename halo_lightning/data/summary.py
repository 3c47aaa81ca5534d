"""Summary: what a data module made of its sources, in numbers."""

from __future__ import annotations

from dataclasses import dataclass, fields

from halo_lightning.data.batching import TokenizedDataset
from halo_lightning.data.feedback import Feedback
from halo_lightning.data.preparation import Prepared

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
    """

    feedback: Feedback
    train: int
    validation: int
    desirable: int | None
    undesirable: int | None
    left_out: int
    cut_prompts: int
    cut_completions: int
    tokens: int
    completion_tokens: int
    notes: tuple[str, ...] = ()
    bad_rows: int = 0
    too_long: int = 0

    @classmethod
    def of(cls, train: TokenizedDataset, validation: TokenizedDataset, prepared: list[Prepared]) -> DataSummary:
        """Counts two data sets and what their preparation reported."""
        left_out = [(source, rows) for one in prepared for source, rows in one.left_out.items() if len(rows)]
        truncations = [one.truncation for one in prepared if one.truncation]
        skipped = list({id(one.bad_rows): one.bad_rows for one in prepared if one.bad_rows.count}.values())
        desirable = None if train.desirable is None else int(train.desirable.sum())
        tokens = len(train.tokens)
        return cls(
            feedback=train.feedback,
            train=len(train),
            validation=len(validation),
            desirable=desirable,
            undesirable=None if desirable is None else len(train) - desirable,
            left_out=sum(len(rows) for _, rows in left_out),
            cut_prompts=sum(truncation.prompts for truncation in truncations),
            cut_completions=sum(truncation.completions for truncation in truncations),
            tokens=tokens,
            completion_tokens=int(train.completion_offsets[-1]),
            notes=(
                *(f"{source}: {rows}" for source, rows in left_out),
                *(
                    f"{source}: {rows.implicit_prompts} pairs have no prompt but what both texts begin with"
                    for one in prepared
                    for source, rows in one.left_out.items()
                    if rows.implicit_prompts
                ),
                *(note for one in prepared for note in one.notes),
                *map(str, skipped),
                *map(str, truncations),
            ),
            bad_rows=sum(bad.count for bad in skipped),
            too_long=sum(truncation.dropped for truncation in truncations),
        )

    def counts(self) -> dict[str, int]:
        """All counts by name; those of labels where there are labels."""
        return {field.name: value for field in fields(self) if isinstance(value := getattr(self, field.name), int)}

    def __str__(self) -> str:
        kinds = "" if self.desirable is None else f" ({self.desirable:,} desirable, {self.undesirable:,} undesirable)"
        first = (
            f"{self.train:,} {_NAMES[self.feedback]} to train on{kinds}, {self.tokens:,} tokens"
            f" ({self.completion_tokens:,} of completions); {self.validation:,} to validate on"
        )
        return "\n".join([first, *self.notes])
