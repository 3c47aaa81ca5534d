"""How a source is described in a configuration."""

from __future__ import annotations

import difflib
import json
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from halo_lightning.errors import ConfigError

KEYS = (
    "prompt",
    "completion",
    "chosen",
    "rejected",
    "messages",
    "completions",
    "label",
    "score",
    "score_chosen",
    "score_rejected",
    "weight",
    "text",
    "tools",
    "chat_template_kwargs",
)
"""The keys that a column can be given to."""

Format = Literal["auto", "rows", "shp", "oasst"]
Pairing = Literal["best_worst", "neighbours", "all"]
KeepPrompt = Literal["start", "end"]


def label_key(value: Any) -> str | None:
    """A label's value as a key of `Label.mapping`: a text, a number or a boolean as the text that JSON has for it."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value) if isinstance(value, (bool, int, float)) else None


@dataclass(frozen=True)
class Label:
    """How the values of `label` say which completions are desirable; at most one of these.

    Without any of them a label is `true` or `false`.

    Args:
        numbers: 1 is desirable and 0 undesirable. Not the default: a rating from 0 to 5 would pass for thumbs as long
            as it happens to be 0 or 1.
        mapping: What each value means, for example `{good: true, bad: false, unsure: null}`: true is desirable, null
            leaves the row out (and counts it). In YAML, quote words that it takes for booleans, such as "yes".
        threshold: The label (or, where there is none, the key `score`) is a number, desirable from here on.
        quantile: The same, desirable from this quantile of the source's scores on: 0.7 makes the best 30 % desirable.
    """

    numbers: bool = False
    mapping: dict[str, bool | None] | None = None
    threshold: float | None = None
    quantile: float | None = None

    def check(self) -> None:
        """Refuses settings that cannot work.

        Raises:
            ConfigError: There are such settings.
        """
        given = [name for name in ("mapping", "threshold", "quantile") if getattr(self, name) is not None]
        given += ["numbers"] * self.numbers
        if len(given) > 1:
            raise ConfigError(f"label: found {' and '.join(given)}, expected one of them")
        if self.mapping is not None and len({label_key(key) for key in self.mapping}) < len(self.mapping):
            raise ConfigError(f"label.mapping is {self.mapping}: expected each value once (1 and '1' are the same)")
        if self.mapping is not None and not {True, False} & set(self.mapping.values()):
            raise ConfigError(f"label.mapping is {self.mapping}: expected some value to be true or false")
        if self.quantile is not None and not 0 < self.quantile < 1:
            raise ConfigError(f"label.quantile is {self.quantile}: expected a number between 0 and 1")

    @property
    def is_score(self) -> bool:
        """Whether labels are numbers, compared with a threshold."""
        return self.threshold is not None or self.quantile is not None


@dataclass(frozen=True)
class Rated:
    """How scores become pairs, for rows that hold several rated completions or one scored completion each.

    Args:
        score: Where a completion's score is; a dot leads into an object, as in `annotations.helpfulness.Rating`. None
            takes the first of `overall_score`, `score`, `rating` and `ratings` (a list or an object of numbers gives
            its mean).
        pairs: `best_worst` makes one pair of a prompt, `neighbours` pairs each completion with the next worse one,
            `all` makes every pair. Completions with the same score are never a pair.
        min_margin: A pair's scores differ at least by this. Pairs with `score_chosen` and `score_rejected` are held to
            it as well.
    """

    score: str | None = None
    pairs: Pairing = "best_worst"
    min_margin: float = 0.0


@dataclass(frozen=True)
class SHP:
    """Which pairs of the Stanford Human Preferences are used; the defaults are those of the report's training data.

    Args:
        min_score_ratio: The preferred comment has at least this many times the score of the other one.
        max_pairs_per_prompt: Most pairs of one post, drawn at random by the seed; None takes all.
    """

    min_score_ratio: float = 2.0
    max_pairs_per_prompt: int | None = 5


@dataclass(frozen=True)
class OASST:
    """Which messages of OpenAssistant are used; the default is that of the report.

    Args:
        languages: The languages, as in the column `lang`; an empty list takes all.
    """

    languages: list[str] = field(default_factory=lambda: ["en"])


@dataclass(frozen=True)
class Source:
    """One source of feedback.

    Args:
        path: A file (JSON Lines, JSON, CSV, TSV, Parquet, Arrow or Feather, compressed or not), a pattern such as
            `logs/*.jsonl.gz`, a folder of such files, a folder that `datasets` saved, `hub:owner/name` for a data set
            of the Hugging Face hub, `embedded:NAME`; or several of these.
        split: The split of a folder or hub data set, such as `train`.
        name: The configuration of a hub data set.
        data_dir: A folder inside the folder or hub data set, such as HH's `harmless-base`.
        columns: Which column holds what: `{prompt: question, completion: answer, label: thumb}`.
        label: How labels say which completions are desirable.
        format: `auto` recognises published formats by their columns; `rows` takes them as they are; `shp`, `oasst`.
        rated: How scores become pairs.
        shp: Which pairs of SHP are used.
        oasst: Which messages of OpenAssistant are used.
        keep_desirable: The part of the desirable examples that is kept; for unary feedback.
        keep_undesirable: The part of the undesirable examples that is kept; for unary feedback.
        one_per_prompt: Keeps one example of each prompt, drawn at random.
        weight: The share of this source in the mixture, in examples and relative to the others (1 where it is not
            given). No example is repeated: the mixture is the largest with these shares. If no source has a weight, all
            are read whole.
        keep_prompt: Which part of a prompt stays where it has to be cut; None is `start` for SHP and OpenAssistant, as
            in the report's runs, else `end`.
        seed: Of what is drawn at random; None is the seed of the data module.
    """

    path: str | list[str]
    split: str | None = None
    name: str | None = None
    data_dir: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    label: Label | None = None
    format: Format = "auto"
    rated: Rated = field(default_factory=Rated)
    shp: SHP = field(default_factory=SHP)
    oasst: OASST = field(default_factory=OASST)
    keep_desirable: float = 1.0
    keep_undesirable: float = 1.0
    one_per_prompt: bool = False
    weight: float | None = None
    keep_prompt: KeepPrompt | None = None
    seed: int | None = None

    def check(self) -> None:
        """Refuses settings that cannot work. Whoever reads a source does this first.

        It is not done when the object is made, since the parser of configurations would hide the message.

        Raises:
            ConfigError: There are such settings.
        """
        if not self.path or not all(self.paths):
            raise ConfigError(f"path is {self.path!r}: expected the path of a file or folder, or a list of paths")
        for key in self.columns:
            if key not in KEYS:
                close = difflib.get_close_matches(key, KEYS, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise ConfigError(
                    f"{self}: columns: found the key {key!r}, expected one of {', '.join(KEYS)}, each with the name of"
                    f" the column that holds it{hint}"
                )
        for name in ("keep_desirable", "keep_undesirable"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{self}: {name} is {getattr(self, name)}: expected a number from 0 to 1")
        if self.weight is not None and not 0 < self.weight < float("inf"):
            raise ConfigError(f"{self}: weight is {self.weight}: expected a number above 0")
        for name in ("format", "keep_prompt"):
            choices = get_args(Format) if name == "format" else (*get_args(KeepPrompt), None)
            if getattr(self, name) not in choices:
                raise ConfigError(f"{self}: {name} is {getattr(self, name)!r}: expected one of {choices}")
        most = self.shp.max_pairs_per_prompt
        if most is not None and most < 1:
            raise ConfigError(f"{self}: shp.max_pairs_per_prompt is {most}: expected 1 or more, or null for all")
        if self.rated.pairs not in get_args(Pairing):
            raise ConfigError(f"{self}: rated.pairs is {self.rated.pairs!r}: expected one of {get_args(Pairing)}")
        if self.label is not None:
            self.label.check()

    @property
    def paths(self) -> list[str]:
        """The paths as a list."""
        return [self.path] if isinstance(self.path, str) else list(self.path)

    @classmethod
    def of(cls, source: str | os.PathLike[str] | Source) -> Source:
        """The source itself, checked; a path alone is a source, too."""
        made = source if isinstance(source, Source) else cls(os.fspath(source))
        made.check()
        return made

    def as_plain_data(self) -> str | dict[str, Any]:
        """What a configuration would say: the path alone, or what differs from the defaults."""
        plain = {f.name: _plain(getattr(self, f.name)) for f in fields(self) if _differs(self, f.name)}
        return plain["path"] if plain.keys() == {"path"} and isinstance(self.path, str) else plain

    def __str__(self) -> str:
        inside = "/".join(part for part in (self.name, self.data_dir, self.split) if part)
        return ", ".join(self.paths) + (f" [{inside}]" if inside else "")


Sources = str | Source | list[str | Source] | Path
"""One or several sources.

jsonargparse, which makes arguments of annotations, would read a file whose path is given for a `Source`, as the
configuration of one, all of it. That a `Path` may be given as well tells it to leave files alone.
"""


def sources_of(name: str, value: Any) -> list[Source]:
    """The sources that an argument means.

    Args:
        name: Of the argument, for messages.
        value: As it was given.

    Raises:
        ConfigError: There is none.
    """
    values = [value] if isinstance(value, (str, os.PathLike, Source)) else list(value)
    if not all(values) or not values:
        raise ConfigError(f"{name} is {value!r}: expected the path of a file, or a list of paths")
    return [Source.of(value) for value in values]


def _differs(source: Source, name: str) -> bool:
    return name == "path" or getattr(source, name) != getattr(Source("default"), name)


def _plain(value: Any) -> Any:
    if isinstance(value, (Label, Rated, SHP, OASST)):
        return {f.name: getattr(value, f.name) for f in fields(value)}
    return value
