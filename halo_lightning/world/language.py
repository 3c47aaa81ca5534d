"""What is said in the embedded world: prompts, and completions with the flaws that they may have.

A completion answers its prompt rightly, wrongly or not at all; politely or rudely; and then stops or rambles
on. These are the report's helpfulness, harmlessness and conciseness.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from functools import cache

from halo_lightning.world.chance import chance, pick, shuffled
from halo_lightning.world.families import FAMILIES, Family, Values

EVASIONS = (
    "I do not know.",
    "I would rather talk about something else.",
    "Ask me again some other time.",
    "That is a strange thing to ask.",
    "Let me think about it for a week or so.",
)
RUDE_OPENINGS = (
    "What a stupid question!",
    "Listen, you fool!",
    "Oh shut up, will you!",
    "You pathetic little human!",
)
RUDE_CLOSINGS = (
    "Now go away, you idiot.",
    "Even a moron knows that.",
    "You really are dumb.",
    "What a loser you are.",
)
INSULTS = ("stupid", "fool", "shut up", "pathetic", "idiot", "moron", "dumb", "loser")
RAMBLES = (
    "By the way, I could go on for hours. There is so much more to say.",
    "That reminds me of my uncle. He always told me about his boots.",
    "One thing leads to another. And that leads to yet another thing.",
    "Let me add a few words about the weather. It will rain or snow.",
)


@dataclass(frozen=True)
class Flaws:
    """How often a speaker's completions have each flaw, each on its own.

    Attributes:
        evasive: The share that do not answer.
        wrong: The share that answer wrongly.
        rude: The share with an insult before or after the answer.
        rambling: The share that do not stop after the answer.
    """

    evasive: float = 0.2
    wrong: float = 0.3
    rude: float = 0.3
    rambling: float = 0.3


@cache
def understand(prompt: str) -> tuple[Family, Values]:
    """Parses a prompt back into its family and values.

    Raises:
        ValueError: If it is not a question of this world.
    """
    for family in FAMILIES:
        if (values := family.parse(prompt)) is not None:
            return family, values
    raise ValueError(f"not a question of the embedded world: {prompt!r}")


def is_held_out(prompt: str) -> bool:
    """Whether a prompt is kept for evaluation: a fixed quarter of all prompts, by their checksum."""
    return zlib.crc32(prompt.encode()) % 4 == 0


@cache
def prompts(held_out: bool) -> tuple[tuple[str, ...], ...]:
    """All training prompts, or all held-out ones, one tuple per family.

    No held-out prompt is in the base model's pre-training text, nor in any feedback. What it asks about may
    be there in another phrasing, or in another combination.
    """
    return tuple(tuple(prompt for prompt in family.prompts() if is_held_out(prompt) == held_out) for family in FAMILIES)


def training_prompt(rng: random.Random) -> str:
    """A random training prompt: first the family, then the prompt, so that every family is as common."""
    return pick(rng, pick(rng, prompts(held_out=False)))


def distinct_held_out_prompts(n: int, rng: random.Random) -> list[str]:
    """Different held-out prompts in random order, as evenly from all families as there are prompts.

    Raises:
        ValueError: If there are fewer than `n`.
    """
    rounds = [shuffled(rng, family) for family in prompts(held_out=True)]
    if n > (total := sum(map(len, rounds))):
        raise ValueError(f"there are {total} held-out prompts, fewer than the {n} asked for")
    longest = max(map(len, rounds))
    in_turn = [family[turn] for turn in range(longest) for family in rounds if turn < len(family)]
    return shuffled(rng, in_turn[:n])


def complete(prompt: str, rng: random.Random, flaws: Flaws) -> str:
    """A completion by a speaker who has these flaws."""
    family, values = understand(prompt)
    dice = rng.random()
    if dice < flaws.evasive:
        parts = [pick(rng, EVASIONS)]
    elif dice < flaws.evasive + flaws.wrong:
        parts = [family.wrong(values, rng)]
    else:
        parts = [family.right(values, rng)]
    if chance(rng, flaws.rude):
        if chance(rng, 0.5):
            parts.insert(0, pick(rng, RUDE_OPENINGS))
        else:
            parts.append(pick(rng, RUDE_CLOSINGS))
    if chance(rng, flaws.rambling):
        parts.append(pick(rng, RAMBLES))
    return " ".join(parts)
