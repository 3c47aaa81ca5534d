"""From real feedback to observations: each completion with its implicit reward β·log(π/π_ref)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from halo_lightning.data import FeedbackDataModule, PairedDataModule, UnaryDataModule
from halo_lightning.data.batching import TokenizedDataset
from halo_lightning.data.sources import BadRows, Source, read_rows
from halo_lightning.data.sources.rows import Row, describe, problem, require
from halo_lightning.errors import ConfigError, place
from halo_lightning.evaluation.human_values.observations import Pairs, Thumbs
from halo_lightning.evaluation.progress import Counter
from halo_lightning.evaluation.prompts import kind_of_source
from halo_lightning.forward import check_tokens
from halo_lightning.losses import implicit_reward
from halo_lightning.policy import completion_logps
from halo_lightning.pretrained import load_model

AT_ONCE = 64
"""Completions whose log-probabilities are computed at one time."""

Kind = Literal["auto", "thumbs", "pairs"]


class Observed(NamedTuple):
    """Feedback with rewards.

    Attributes:
        answers: Thumbs or pairs, in the order of the feedback.
        annotators: Who gave each, `[N]`, None for those that do not say; None where nobody asked.
    """

    answers: Thumbs | Pairs
    annotators: list[str | None] | None


def observe(
    feedback: str | Source | list[str | Source],
    policy: str,
    reference: str,
    *,
    beta: float = 0.1,
    kind: Kind = "auto",
    max_length: int = 1024,
    max_prompt_length: int | None = None,
    device: str = "cpu",
    annotator: str | None = None,
) -> Observed:
    """Reads feedback, and computes the implicit reward of every completion in it.

    Args:
        feedback: One or several sources of thumbs or pairs.
        policy: The model whose implicit rewards are taken: a Hugging Face folder, a hub id or `embedded:base`.
        reference: The model that it is compared with.
        beta: β.
        kind: What the feedback is; `auto` looks at its first row. As thumbs, the completions of a pair would count as
            one up and one down, which they are not.
        max_length: Most tokens of prompt and completion together; longer ones are cut.
        max_prompt_length: What an overlong prompt is cut to; None is half of `max_length`.
        device: Where to compute.
        annotator: The column that says whose answer a row is; None does not ask.

    Raises:
        ConfigError: Policy and reference are the same, so that all rewards are 0; or the feedback is demonstrations.
        DataError: The feedback cannot be read, or has no such column.
    """
    if policy == reference:
        raise ConfigError(f"policy and reference are both {policy!r}: all implicit rewards are 0")
    sources = [Source.of(source) for source in (feedback if isinstance(feedback, list) else [feedback])]
    if kind == "auto":
        found = kind_of_source(sources[0], BadRows())
        if found == "sft":
            raise ConfigError(f"{sources[0]}: found demonstrations, expected thumbs or pairs")
        kind = "pairs" if found == "paired" else "thumbs"
    cls: type[FeedbackDataModule] = PairedDataModule if kind == "pairs" else UnaryDataModule
    data = cls(
        list(sources),
        validation_fraction=0.0,
        tokenizer=policy,
        max_length=max_length,
        max_prompt_length=max_prompt_length,
    )
    data.setup()
    print(data.summary)
    dataset = data.train_dataset
    names = None if annotator is None else annotators(dataset, sources, annotator)
    logps = [sequence_logps(dataset, model, data.tokenizer, device=device) for model in (policy, reference)]
    rewards = implicit_reward(*logps, beta=beta)
    if kind == "pairs":
        return Observed(Pairs(rewards[::2], rewards[1::2]), names)
    assert dataset.desirable is not None
    return Observed(Thumbs(rewards, torch.from_numpy(np.array(dataset.desirable))), names)


def annotators(dataset: TokenizedDataset, sources: Sequence[Source], column: str) -> list[str | None]:
    """Who gave the answer of each example, as a column of the rows says; None where the row leaves it empty.

    Raises:
        ConfigError: It is not known which rows the examples are from.
        DataError: A row has no such column.
    """
    named = {place(row.file, row.line): _name(row, column) for source in sources for row in read_rows(source)}
    places = [dataset.place(example) for example in range(len(dataset))]
    if not all(one in named for one in places):
        raise ConfigError(f"annotator is {column!r}: this feedback does not say which row an example is from")
    return [named[one] for one in places]


def _name(row: Row, column: str) -> str | None:
    value = require(row, column, "the annotator")
    if isinstance(value, (dict, list, bool)):
        raise problem(row, column, f"found {describe(value)}, expected the annotator: a text or a number")
    return None if value is None or value == "" else str(value)


@torch.no_grad()
def sequence_logps(dataset: TokenizedDataset, model: str, tokenizer: Any, *, device: str = "cpu") -> Tensor:
    """Log π(y|x) of every completion of a data set, in its order, float64 `[sequences]`, in nats."""
    from lightning.fabric.utilities import move_data_to_device

    loaded = load_model(model).to(device).eval()
    check_tokens(loaded, tokenizer, *dataset.largest_token())
    lengths = np.diff(dataset.offsets)
    order = np.argsort(lengths, kind="stable")
    logps = torch.zeros(len(lengths), dtype=torch.float64)
    with Counter(f"log-probabilities under {model}", len(lengths)) as counter:
        for part in np.array_split(order, -(-len(order) // AT_ONCE)):
            sequences = move_data_to_device(dataset.sequences(part), device)
            logps[torch.from_numpy(part)] = completion_logps(loaded, sequences).sum(-1).double().cpu()
            counter.add(len(part))
    return logps
