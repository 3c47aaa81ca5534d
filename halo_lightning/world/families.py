"""The kinds of question that are asked in the embedded world.

A family knows how its questions are phrased, how they are answered rightly and wrongly, and the rule by
which an answer counts as right. The rule reads the answer's words alone; it knows nothing of how an answer
was made. Most questions have one word for an answer, whatever the question (`OneWord`); the others have a
class of their own.
"""

from __future__ import annotations

import random
import re
import string
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import product

from halo_lightning.world import facts
from halo_lightning.world.chance import chance, pick, shuffled

Values = dict[str, str]
"""What the blanks of a question are filled with, such as `{"country": "France"}`."""


class Family(ABC):
    """One kind of question.

    Args:
        name: A short name, unique among the families.
        phrasings: The ways to ask, with a `{blank}` for each value.
        blanks: What each blank may be filled with.
    """

    def __init__(self, name: str, phrasings: Sequence[str], blanks: dict[str, Sequence[str]]) -> None:
        self.name = name
        self.phrasings = tuple(phrasings)
        self.blanks = blanks

    def questions(self) -> list[Values]:
        """Every way to fill the blanks that makes a sensible question."""
        filled = (dict(zip(self.blanks, values, strict=True)) for values in product(*self.blanks.values()))
        return [values for values in filled if self.sensible(values)]

    def prompts(self) -> list[str]:
        """Every question in every phrasing."""
        return [phrasing.format_map(values) for values in self.questions() for phrasing in self.phrasings]

    def parse(self, prompt: str) -> Values | None:
        """The values of a prompt of this family; `None` if the prompt is not of this family."""
        for pattern in self._patterns:
            if match := pattern.fullmatch(prompt.strip()):
                values = match.groupdict()
                return values if self.sensible(values) else None
        return None

    @cached_property
    def _patterns(self) -> list[re.Pattern[str]]:
        patterns = []
        for phrasing in self.phrasings:
            pattern = re.escape(phrasing)
            for blank, options in self.blanks.items():
                choice = "|".join(re.escape(option) for option in options)
                pattern = pattern.replace(re.escape(f"{{{blank}}}"), f"(?P<{blank}>{choice})")
            patterns.append(re.compile(pattern))
        return patterns

    def sensible(self, values: Values) -> bool:
        """Whether these values make a question."""
        return True

    @abstractmethod
    def right(self, values: Values, rng: random.Random) -> str:
        """A right answer: one sentence."""

    @abstractmethod
    def wrong(self, values: Values, rng: random.Random) -> str:
        """A wrong answer: one sentence that sounds like a right one."""

    @abstractmethod
    def accepts(self, values: Values, words: Sequence[str]) -> bool:
        """The rule: whether an answer of these words (lower case, in order) is right."""


class OneWord(Family):
    """Questions with one word for an answer: right is that word, and none of the other words it might be.

    Args:
        name: A short name, unique among the families.
        phrasings: The ways to ask, with a `{blank}` for each value.
        blanks: What each blank may be filled with.
        told: The answer as a sentence, with blanks for the values and for the `{answer}`.
        answer: The right word for some values.
        words: All words that are answers to some question; those in the question itself do not count.
    """

    def __init__(
        self,
        name: str,
        phrasings: Sequence[str],
        blanks: dict[str, Sequence[str]],
        *,
        told: str,
        answer: Callable[[Values], str],
        words: Iterable[str],
    ) -> None:
        super().__init__(name, phrasings, blanks)
        self.told = told
        self.answer = answer
        self.words = tuple(words)

    def right(self, values: Values, rng: random.Random) -> str:
        """The word, alone or in a sentence."""
        return self._told(values, self.answer(values), rng)

    def wrong(self, values: Values, rng: random.Random) -> str:
        """Another of the words."""
        taken = (self.answer(values), *values.values())
        return self._told(values, pick(rng, [word for word in self.words if word not in taken]), rng)

    def _told(self, values: Values, answer: str, rng: random.Random) -> str:
        return _sentence(pick(rng, ("{answer}", self.told)).format(**values, answer=answer))

    def accepts(self, values: Values, words: Sequence[str]) -> bool:
        """The word is there, and no other of the words."""
        asked = {value.lower() for value in values.values()}
        named = _among(words, {word.lower() for word in self.words} - asked)
        return set(named) == {self.answer(values).lower()}


class Listing(Family):
    """Name three animals: right are as many different ones as were asked for, all of that kind."""

    def __init__(self) -> None:
        super().__init__(
            "listing",
            (
                "Name {number} {kind}.",
                "List {number} {kind}.",
                "Tell me {number} {kind}.",
                "Can you name {number} {kind}?",
            ),
            {"number": tuple(facts.NUMBERS), "kind": tuple(facts.KINDS)},
        )

    def right(self, values: Values, rng: random.Random) -> str:
        """Different members of the kind."""
        members = shuffled(rng, facts.KINDS[values["kind"]])
        return self._told(values, members[: facts.NUMBERS[values["number"]]], rng)

    def wrong(self, values: Values, rng: random.Random) -> str:
        """Members of another kind, or too few or too many."""
        number, kind = facts.NUMBERS[values["number"]], values["kind"]
        if chance(rng, 0.5):
            kind = pick(rng, [other for other in facts.KINDS if other != kind])
        else:
            number = pick(rng, [other for other in (1, 2, 3, 4) if other != number])
        return self._told(values, shuffled(rng, facts.KINDS[kind])[:number], rng)

    @staticmethod
    def _told(values: Values, named: Sequence[str], rng: random.Random) -> str:
        text = " and ".join(filter(None, (", ".join(named[:-1]), named[-1])))
        return _sentence(pick(rng, ("", f"{values['number']} {values['kind']} are ")) + text)

    def accepts(self, values: Values, words: Sequence[str]) -> bool:
        """All members of any kind that are named are of this kind, different, and as many as asked for."""
        named = _among(words, (member for members in facts.KINDS.values() for member in members))
        number, kind = facts.NUMBERS[values["number"]], facts.KINDS[values["kind"]]
        return len(named) == number and len(set(named)) == number and set(named) <= set(kind)


class Size(Family):
    """Which of two things is bigger: right names it first, names no third thing and does not say "smaller"."""

    def __init__(self) -> None:
        super().__init__(
            "size",
            (
                "Which is bigger, {first} or {second}?",
                "What is bigger: {first} or {second}?",
                "Tell me which is bigger, {first} or {second}.",
                "Is {first} or {second} bigger?",
            ),
            {"first": facts.BY_SIZE, "second": facts.BY_SIZE},
        )

    def sensible(self, values: Values) -> bool:
        """The things are two."""
        return values["first"] != values["second"]

    @staticmethod
    def _ordered(values: Values) -> list[str]:
        """The bigger thing, then the smaller one."""
        return sorted(values.values(), key=facts.BY_SIZE.index, reverse=True)

    def right(self, values: Values, rng: random.Random) -> str:
        """The bigger thing."""
        bigger, smaller = self._ordered(values)
        return _sentence(pick(rng, (bigger, f"{bigger} is bigger than {smaller}")))

    def wrong(self, values: Values, rng: random.Random) -> str:
        """The smaller thing."""
        bigger, smaller = self._ordered(values)
        return _sentence(pick(rng, (smaller, f"{smaller} is bigger than {bigger}")))

    def accepts(self, values: Values, words: Sequence[str]) -> bool:
        """The bigger thing comes first."""
        bigger, smaller = (thing.split()[1] for thing in self._ordered(values))
        named = _among(words, (thing.split()[1] for thing in facts.BY_SIZE))
        return named[:1] == [bigger] and set(named) <= {bigger, smaller} and "smaller" not in words


class Counting(Family):
    """Count from 3 to 6: right are these numbers, in order, and no others."""

    def __init__(self) -> None:
        super().__init__(
            "counting",
            (
                "Count from {start} to {end}.",
                "Please count from {start} up to {end}.",
                "Count up from {start} to {end}.",
            ),
            {"start": [str(n) for n in range(1, 9)], "end": [str(n) for n in range(3, 14)]},
        )

    def sensible(self, values: Values) -> bool:
        """There are three to six numbers."""
        return 2 <= int(values["end"]) - int(values["start"]) <= 5

    def right(self, values: Values, rng: random.Random) -> str:
        """The numbers."""
        return self._told(range(int(values["start"]), int(values["end"]) + 1))

    def wrong(self, values: Values, rng: random.Random) -> str:
        """Stops too early or too late, or leaves one out."""
        start, end = int(values["start"]), int(values["end"])
        if chance(rng, 0.5):
            return self._told(range(start, pick(rng, (end, end + 2, end + 3))))
        left_out = pick(rng, range(start + 1, end))
        return self._told(number for number in range(start, end + 1) if number != left_out)

    @staticmethod
    def _told(numbers: Iterable[int]) -> str:
        return _sentence(", ".join(str(number) for number in numbers))

    def accepts(self, values: Values, words: Sequence[str]) -> bool:
        """All numbers in the answer are those asked for."""
        return _numbers(words) == list(range(int(values["start"]), int(values["end"]) + 1))


class Saying(Family):
    """Say the word river twice: right is the word as often as was asked, and no other word of the list."""

    def __init__(self) -> None:
        super().__init__(
            "saying",
            (
                "Say the word {word} {times}.",
                "Repeat the word {word} {times}.",
                "Write the word {word} {times}.",
            ),
            {"word": facts.SAYABLE, "times": tuple(facts.TIMES)},
        )

    def right(self, values: Values, rng: random.Random) -> str:
        """The word, as often as asked."""
        return self._told(values["word"], facts.TIMES[values["times"]])

    def wrong(self, values: Values, rng: random.Random) -> str:
        """Another word, or too often or not often enough."""
        word, times = values["word"], facts.TIMES[values["times"]]
        if chance(rng, 0.5):
            return self._told(pick(rng, [other for other in facts.SAYABLE if other != word]), times)
        return self._told(word, pick(rng, [other for other in (1, 2, 3, 4, 5) if other != times]))

    @staticmethod
    def _told(word: str, times: int) -> str:
        return _sentence(", ".join([word] * times))

    def accepts(self, values: Values, words: Sequence[str]) -> bool:
        """All words of the list in the answer are this one, as many as asked for."""
        return _among(words, facts.SAYABLE) == [values["word"]] * facts.TIMES[values["times"]]


class Sum(Family):
    """What is 3 plus 4: right ends in the sum; before it come only the numbers that were asked about."""

    def __init__(self) -> None:
        summands = [str(n) for n in range(1, 7)]
        super().__init__(
            "sum",
            (
                "What is {first} plus {second}?",
                "Add {first} and {second}.",
                "How much is {first} plus {second}?",
                "Tell me what {first} plus {second} is.",
            ),
            {"first": summands, "second": summands},
        )

    def right(self, values: Values, rng: random.Random) -> str:
        """The sum."""
        return self._told(values, int(values["first"]) + int(values["second"]), rng)

    def wrong(self, values: Values, rng: random.Random) -> str:
        """A number close to the sum."""
        total = int(values["first"]) + int(values["second"])
        return self._told(values, total + pick(rng, (-1, 1, 2, 3)), rng)

    @staticmethod
    def _told(values: Values, total: int, rng: random.Random) -> str:
        return _sentence(pick(rng, ("", f"{values['first']} plus {values['second']} is ")) + str(total))

    def accepts(self, values: Values, words: Sequence[str]) -> bool:
        """The last number is the sum."""
        first, second = int(values["first"]), int(values["second"])
        numbers = _numbers(words)
        return numbers[-1:] == [first + second] and set(numbers[:-1]) <= {first, second}


class Spelling(Family):
    """Spell the word sun: right is s-u-n, its letters with hyphens, and nothing else that has hyphens."""

    def __init__(self) -> None:
        super().__init__(
            "spelling",
            (
                "Spell the word {word}.",
                "How do you spell {word}?",
                "Spell {word} for me.",
                "Tell me how to spell {word}.",
            ),
            {"word": facts.SPELLABLE},
        )

    def right(self, values: Values, rng: random.Random) -> str:
        """The letters of the word."""
        return self._told(values, values["word"], rng)

    def wrong(self, values: Values, rng: random.Random) -> str:
        """The letters of another word, or one letter missing."""
        word = values["word"]
        if chance(rng, 0.5):
            return self._told(values, pick(rng, [other for other in facts.SPELLABLE if other != word]), rng)
        missing = pick(rng, range(len(word)))
        return self._told(values, word[:missing] + word[missing + 1 :], rng)

    @staticmethod
    def _told(values: Values, word: str, rng: random.Random) -> str:
        return pick(rng, ("", f"The word {values['word']} is spelled ")) + "-".join(word) + "."

    def accepts(self, values: Values, words: Sequence[str]) -> bool:
        """What is spelled is the word."""
        return [word for word in words if "-" in word] == ["-".join(values["word"])]


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _among(words: Sequence[str], group: Iterable[str]) -> list[str]:
    """The words that belong to a group, in order."""
    members = set(group)
    return [word for word in words if word in members]


def _numbers(words: Sequence[str]) -> list[int]:
    return [int(word) for word in words if word.isdecimal()]


def _next_in_calendar(values: Values) -> str:
    cycle = facts.DAYS if values["name"] in facts.DAYS else facts.MONTHS
    return cycle[(cycle.index(values["name"]) + 1) % len(cycle)]


FAMILIES: tuple[Family, ...] = (
    Listing(),
    Size(),
    Counting(),
    Saying(),
    Sum(),
    Spelling(),
    OneWord(
        "opposite",
        (
            "What is the opposite of {word}?",
            "Tell me the opposite of {word}.",
            "Give me the opposite of {word}.",
            "Which word is the opposite of {word}?",
        ),
        {"word": tuple(facts.OPPOSITE_OF)},
        told="the opposite of {word} is {answer}",
        answer=lambda values: facts.OPPOSITE_OF[values["word"]],
        words=facts.OPPOSITE_OF,
    ),
    OneWord(
        "translating",
        (
            "What is {colour} in {language}?",
            "How do you say {colour} in {language}?",
            "Translate {colour} into {language}.",
            "What is the {language} word for {colour}?",
        ),
        {"colour": tuple(facts.TRANSLATIONS["French"]), "language": tuple(facts.TRANSLATIONS)},
        told="in {language}, {colour} is {answer}",
        answer=lambda values: facts.TRANSLATIONS[values["language"]][values["colour"]],
        words=(word for words in facts.TRANSLATIONS.values() for word in words.values()),
    ),
    OneWord(
        "capital",
        (
            "What is the capital of {country}?",
            "Tell me the capital of {country}.",
            "Which city is the capital of {country}?",
            "Name the capital of {country}.",
        ),
        {"country": tuple(facts.CAPITALS)},
        told="the capital of {country} is {answer}",
        answer=lambda values: facts.CAPITALS[values["country"]],
        words=facts.CAPITALS.values(),
    ),
    OneWord(
        "calendar",
        (
            "What comes after {name}?",
            "What comes right after {name}?",
            "Tell me what comes after {name}.",
            "What follows {name}?",
        ),
        {"name": facts.DAYS + facts.MONTHS},
        told="{answer} comes after {name}",
        answer=_next_in_calendar,
        words=facts.DAYS + facts.MONTHS,
    ),
    OneWord(
        "first letter",
        (
            "What is the first letter of {word}?",
            "Which letter does {word} begin with?",
            "Tell me the first letter of {word}.",
            "Name the first letter of {word}.",
        ),
        {"word": facts.SPELLABLE},
        told="the first letter of {word} is {answer}",
        answer=lambda values: values["word"][0],
        words=sorted(set(string.ascii_lowercase) - {"a", "i"}),  # which are words, too
    ),
)
