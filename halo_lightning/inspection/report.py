"""The report of an inspection, as one object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from halo_lightning.data.base import FeedbackDataModule
from halo_lightning.data.batching import TokenizedDataset
from halo_lightning.data.summary import DataSummary
from halo_lightning.errors import ConfigError
from halo_lightning.inspection import findings
from halo_lightning.inspection.examples import Shown, show
from halo_lightning.inspection.findings import Finding, Lengths

PROBLEMS = (
    "contradictions",
    "leakage",
    "duplicates",
    "same_on_both_sides",
    "ends_inside",
    "cut",
    "left_out",
    "unknown",
)
"""What can be asked to be no part of the data."""


@dataclass(frozen=True)
class Split:
    """What one data set is made of.

    Attributes:
        examples: How many there are.
        prompts: How many different prompts they have.
        most_per_prompt: The most examples of a prompt.
        lengths: Lengths in tokens, by what is long.
        unknown: Tokens that stand for text that the tokenizer does not know.
        findings: What is odd, by name.
    """

    examples: int
    prompts: int
    most_per_prompt: int
    lengths: dict[str, Lengths]
    unknown: int
    findings: dict[str, Finding]


@dataclass(frozen=True)
class Report:
    """What the model will see of the data.

    Attributes:
        title: What was inspected.
        settings: What the tokens depend on, by name.
        summary: The counts of the data module.
        labels: What batches make of unequal labels, or nothing.
        splits: `training` and `validation`, where there is one.
        leakage: Examples to validate on with a prompt that is also trained on.
        leakage_whole: Those among them that are trained on as they are.
        shown: Some examples to train on.
    """

    title: str
    settings: dict[str, str]
    summary: DataSummary
    labels: str
    splits: dict[str, Split]
    leakage: Finding
    leakage_whole: Finding
    shown: list[Shown]

    def problems(self) -> dict[str, int]:
        """How many examples each of `PROBLEMS` concerns, in training and validation."""
        counts = {
            name: sum(split.findings[name].examples for split in self.splits.values())
            for name in ("contradictions", "duplicates", "same_on_both_sides", "ends_inside")
        }
        counts["cut"] = self.summary.cut_prompts + self.summary.cut_completions
        counts["left_out"] = self.summary.left_out + self.summary.bad_rows + self.summary.too_long
        counts["leakage"] = self.leakage.examples
        counts["unknown"] = sum(split.unknown for split in self.splits.values())
        return {name: counts[name] for name in PROBLEMS}

    def as_plain_data(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "title": self.title,
            "settings": self.settings,
            "counts": self.summary.counts(),
            "notes": list(self.summary.notes),
            "problems": self.problems(),
            "splits": {
                name: {
                    "examples": split.examples,
                    "prompts": split.prompts,
                    "most_per_prompt": split.most_per_prompt,
                    "unknown_tokens": split.unknown,
                    "lengths": {what: lengths._asdict() for what, lengths in split.lengths.items()},
                    "findings": {what: finding._asdict() for what, finding in split.findings.items()},
                }
                for name, split in self.splits.items()
            },
            "leakage": {"prompts": self.leakage._asdict(), "examples": self.leakage_whole._asdict()},
            "examples": [_plain(example) for example in self.shown],
        }


def _plain(example: Shown) -> dict[str, Any]:
    sequences = [
        {**sequence._asdict(), "spans": [span._asdict() for span in sequence.spans]} for sequence in example.sequences
    ]
    return {**example._asdict(), "sequences": sequences}


def inspect_data(
    data: FeedbackDataModule, *, title: str, examples: int | Sequence[int] | str = 4, seed: int = 1
) -> Report:
    """Looks at everything that a data module has prepared.

    Args:
        data: A data module that is set up.
        title: What it is called.
        examples: Which examples to train on are shown: so many drawn at random, those with these numbers, or those of a
            finding, by its name.
        seed: Of what is drawn at random.
    """
    training, validation = data.train_dataset, data.validation_dataset
    found = findings.fingerprints(training)
    splits = {"training": _split(training, found, data.tokenizer)}
    nothing = Finding(0, [])
    leaked, leaked_whole = nothing, nothing
    if len(validation):
        held_out = findings.fingerprints(validation)
        splits["validation"] = _split(validation, held_out, data.tokenizer)
        leaked = findings.leakage(validation, held_out, found, whole=False)
        leaked_whole = findings.leakage(validation, held_out, found, whole=True)
    numbers = _chosen(training, splits["training"], examples, seed)
    return Report(
        title=title,
        settings=_settings(data),
        summary=data.summary,
        labels=_labels(data),
        splits=splits,
        leakage=leaked,
        leakage_whole=leaked_whole,
        shown=[show(training, number, data.tokenizer) for number in numbers],
    )


def _split(data: TokenizedDataset, found: findings.Fingerprints, tokenizer: Any) -> Split:
    per_prompt = findings.prompts_of(data, found)
    unknown = tokenizer.unk_token_id
    if unknown == tokenizer.eos_token_id:  # GPT-2's, which knows everything
        unknown = None
    return Split(
        examples=len(data),
        prompts=len(per_prompt),
        most_per_prompt=int(per_prompt.max()),
        lengths=_lengths(data),
        unknown=0 if unknown is None else len(findings.places_of(data, unknown)),
        findings={
            "contradictions": findings.contradictions(data, found),
            "duplicates": findings.duplicates(data, found),
            "same_on_both_sides": findings.same_on_both_sides(data, found),
            "ends_inside": findings.ends_inside(data, tokenizer.eos_token_id),
            "cut_prompts": findings.cut_examples(data, "prompt_cut"),
            "cut_completions": findings.cut_examples(data, "completion_cut"),
        },
    )


def _lengths(data: TokenizedDataset) -> dict[str, Lengths]:
    """Lengths of prompts, of completions by their kind, and of both together."""
    completions = np.diff(data.offsets) - data.prompt_lengths
    kinds: dict[str, Any] = {"prompt": data.prompt_lengths[:: data.per_example]}
    if data.feedback == "paired":
        kinds |= {"chosen completion": completions[0::2], "rejected completion": completions[1::2]}
    elif data.desirable is not None and data.desirable.any() and not data.desirable.all():
        kinds |= {
            "desirable completion": completions[data.desirable],
            "undesirable completion": completions[~data.desirable],
        }
    else:
        kinds["completion"] = completions
    if data.learned is not None:
        kinds["learned"] = np.diff(data.completion_offsets)
    kinds["prompt and completion"] = np.diff(data.offsets)
    return {name: Lengths.of(lengths) for name, lengths in kinds.items()}


def _settings(data: FeedbackDataModule) -> dict[str, str]:
    limits = data.limits
    too_long = {"truncate": "cut", "drop": "left out", "error": "an error"}[limits.too_long]
    lengths = f"{limits.max_length:,}, max_prompt_length {limits.max_prompt_length:,}"
    part = {} if data.most is None else {"read": f"the first {data.most:,} examples to train on, and no more"}
    return part | {
        "tokenizer": data.tokenizer_path or type(data.tokenizer).__name__,
        "max_length": f"{lengths}; longer ones are {too_long}",
        "loss on": "all turns of the assistant" if data.all_turns else "the completion, its end included",
    }


def _labels(data: FeedbackDataModule) -> str:
    summary, balance = data.summary, getattr(data, "balance", "none")
    if not summary.desirable or not summary.undesirable:
        return ""
    share = f"{summary.desirable / (summary.desirable + summary.undesirable):.1%} desirable"
    ratio = max(summary.desirable, summary.undesirable) / min(summary.desirable, summary.undesirable)
    if ratio == 1:
        return share
    smaller = "desirable" if summary.desirable < summary.undesirable else "undesirable"
    larger = "undesirable" if smaller == "desirable" else "desirable"
    return share + {
        "oversample": f"; an epoch repeats each {smaller} one {ratio:.3g} times (balance: oversample)",
        "undersample": f"; an epoch has one in {ratio:.3g} of the {larger} ones (balance: undersample)",
        "none": "; batches are as unequal (balance: none)",
    }.get(balance, "")


def _chosen(data: TokenizedDataset, split: Split, examples: int | Sequence[int] | str, seed: int) -> list[int]:
    """The numbers of the examples to show."""
    if isinstance(examples, str):
        names = {"cut": ("cut_prompts", "cut_completions")}.get(examples, (examples,))
        if not set(names) <= split.findings.keys():
            raise ConfigError(
                f"examples is {examples!r}: expected a number, or one of cut, {', '.join(split.findings)}"
            )
        return list(
            dict.fromkeys(number for name in names for group in split.findings[name].groups for number in group)
        )
    if not isinstance(examples, int):
        wrong = [number for number in examples if not 0 <= number < len(data)]
        if wrong:
            raise ConfigError(f"there is no example {wrong[0]}: expected numbers from 0 to {len(data) - 1}")
        return list(examples)
    random = np.random.default_rng(seed)
    if data.desirable is None:
        return sorted(random.choice(len(data), min(examples, len(data)), replace=False).tolist())
    # As many of each label as there are, as far as that goes.
    kinds = [random.permutation(np.flatnonzero(data.desirable == label)).tolist() for label in (True, False)]
    first = min(len(kinds[0]), max(examples - examples // 2, examples - len(kinds[1])))
    return sorted(kinds[0][:first] + kinds[1][: examples - first])
