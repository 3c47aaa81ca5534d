"""Rows of feedback in the formats that the data modules read."""

from __future__ import annotations

from typing import Any, NamedTuple

from halo_lightning.world.annotator import Annotator
from halo_lightning.world.chance import stream
from halo_lightning.world.language import Flaws, complete, distinct_held_out_prompts, training_prompt

KINDS = ("sft", "pairs", "thumbs")

CANDIDATES = Flaws()
"""How often the completions that people gave feedback on have each flaw."""


class Annotated(NamedTuple):
    """Two completions of one prompt, with an annotator's feedback of both kinds.

    Attributes:
        prompt: The question.
        chosen: The completion that the annotator preferred: better than the other one, not perfect.
        rejected: The other one.
        chosen_liked: Whether the chosen completion got a thumb up.
        rejected_liked: Whether the rejected completion got a thumb up.
    """

    prompt: str
    chosen: str
    rejected: str
    chosen_liked: bool
    rejected_liked: bool


def annotate(prompt: str, *name: object) -> Annotated:
    """Makes two different completions of a prompt and asks a simulated annotator about them.

    Args:
        prompt: The question.
        name: Names the stream of random numbers: the same name, the same completions and feedback.
    """
    rng = stream(*name)
    first = complete(prompt, rng, CANDIDATES)
    second = complete(prompt, rng, CANDIDATES)
    while second == first:
        second = complete(prompt, rng, CANDIDATES)
    annotator = Annotator(rng)
    if not annotator.prefers_first(prompt, first, second):
        first, second = second, first
    return Annotated(prompt, first, second, annotator.likes(prompt, first), annotator.likes(prompt, second))


def rows(kind: str, *, examples: int, seed: int) -> list[dict[str, Any]]:
    """Feedback on training prompts.

    The three kinds are views of the same annotated pairs of completions. For one seed: row i of `"pairs"` is
    pair i; row i of `"sft"` is its chosen completion; rows 2i and 2i + 1 of `"thumbs"` are its two completions.
    Fewer examples are the beginning of more.

    Args:
        kind: `"sft"` for rows of `prompt` and `completion`; `"pairs"` for `prompt`, `chosen`, `rejected`;
            `"thumbs"` for `prompt`, `completion`, `label` (true: thumb up).
        examples: How many rows.
        seed: Which rows; the same for the same seed on every machine.

    Raises:
        ValueError: If there is no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind of feedback: found {kind!r}, expected one of {', '.join(map(repr, KINDS))}")
    pairs = (examples + 1) // 2 if kind == "thumbs" else examples
    made: list[dict[str, Any]] = []
    for number in range(pairs):
        prompt = training_prompt(stream("prompt", seed, number))
        pair = annotate(prompt, "feedback", seed, number)
        if kind == "sft":
            made.append({"prompt": prompt, "completion": pair.chosen})
        elif kind == "pairs":
            made.append({"prompt": prompt, "chosen": pair.chosen, "rejected": pair.rejected})
        else:
            both = [(pair.chosen, pair.chosen_liked), (pair.rejected, pair.rejected_liked)]
            if stream("order", seed, number).random() < 0.5:
                both.reverse()
            made += [{"prompt": prompt, "completion": text, "label": liked} for text, liked in both]
    return made[:examples]


def held_out_prompts(n: int, seed: int) -> list[dict[str, str]]:
    """Different prompts for evaluation, none of them a training prompt, each with the human-chosen completion.

    Args:
        n: How many.
        seed: Which ones, in which order, and how they were completed.

    Returns:
        Rows of `prompt` and `chosen`: the completion that the annotator preferred out of two.
    """
    return [
        {"prompt": prompt, "chosen": annotate(prompt, "held out", seed, number).chosen}
        for number, prompt in enumerate(distinct_held_out_prompts(n, stream("held-out prompts", seed)))
    ]
