"""What the numbers of a report mean, in words, for the terminal and for the page."""

from __future__ import annotations

from typing import NamedTuple

from halo_lightning.inspection.examples import Sequence, Shown
from halo_lightning.inspection.findings import Finding, Lengths
from halo_lightning.inspection.report import Report, Split


class Row(NamedTuple):
    """A finding in words.

    Attributes:
        name: Its name.
        examples: How many examples it concerns.
        text: What it means.
        groups: Numbers of examples that belong together, some of them.
        serious: Whether somebody should do something about it.
    """

    name: str
    examples: int
    text: str
    groups: list[list[int]]
    serious: bool = True


def finding_rows(report: Report) -> dict[str, list[Row]]:
    """The findings of each split, those that concern no example, too, and leakage."""
    rows = {name: _rows(split, report.summary.feedback) for name, split in report.splits.items()}
    if "validation" in rows:
        rows["validation"] += [
            Row("leakage", report.leakage.examples, "examples whose prompt is trained on", report.leakage.groups),
            Row(
                "leakage, whole",
                report.leakage_whole.examples,
                "of these are trained on just as they are",
                report.leakage_whole.groups,
            ),
        ]
    return rows


def _rows(split: Split, feedback: str) -> list[Row]:
    opposite = {
        "unary": "examples whose prompt and completion are labelled both ways",
        "paired": "pairs of two completions that are preferred both ways",
    }.get(feedback)
    texts = {
        "contradictions": opposite,
        "duplicates": "examples that are there already, word for word",
        "same_on_both_sides": "pairs of a completion with itself" if feedback == "paired" else None,
        "ends_inside": "examples with an end-of-sequence token inside of a completion, where the model learns to stop",
        "cut_prompts": "examples whose prompt is cut",
        "cut_completions": "examples whose completion is cut, so that its end is not learned",
    }
    rows = [
        Row(name.replace("_", " "), finding.examples, text, finding.groups, not name.startswith("cut"))
        for name, text in texts.items()
        if text is not None
        for finding in [split.findings[name]]
    ]
    return [*rows, Row("unknown", split.unknown, "tokens for text that the tokenizer does not know", [])]


def places(row: Row | Finding, place_of: dict[int, str]) -> list[str]:
    """The places of a finding's examples, one text for each group."""
    return [" = ".join(place_of.get(number) or f"example {number}" for number in group) for group in row.groups]


def title_of(example: Shown) -> str:
    """Which example it is."""
    label = {True: "desirable", False: "undesirable", None: ""}[example.label]
    weight = "" if example.weight == 1 else f"weight {example.weight:g}"
    about = ", ".join(part for part in (label, weight) if part)
    return (
        f"example {example.number}" + (f" ({example.place})" if example.place else "") + (f": {about}" if about else "")
    )


def counts_of(sequence: Sequence) -> str:
    """How many tokens it has, how many are learned, and what was cut."""
    learned = sum(sequence.loss_mask)
    text = f"{len(sequence.token_ids)} tokens: {sequence.prompt_tokens} of the prompt, {learned} learned"
    others = len(sequence.token_ids) - sequence.prompt_tokens - learned
    text += f", {others} of others' turns" if others else ""
    cuts = [(sequence.prompt_cut, "the prompt"), (sequence.completion_cut, "the completion")]
    cut = [f"{count} of {what}" for count, what in cuts if count]
    return text + (f"; cut: {' and '.join(cut)}" if cut else "")


def lengths_line(lengths: Lengths) -> str:
    """Lengths in one line."""
    return (
        f"{lengths.smallest:,} to {lengths.largest:,}, median {lengths.median:,.0f}, mean {lengths.mean:,.1f},"
        f" 95 % up to {lengths.p95:,.0f}"
    )


def bins(lengths: Lengths) -> list[tuple[str, int]]:
    """The bins of a histogram, each with what is in it."""
    pairs = list(zip(lengths.edges[:-1], lengths.edges[1:], strict=True))
    names = [f"{low:,}" if high == low + 1 else f"{low:,}–{high - 1:,}" for low, high in pairs]
    return list(zip(names, lengths.counts, strict=True))
