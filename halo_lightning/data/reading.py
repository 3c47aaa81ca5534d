"""Reading: from a source to examples of the kind of feedback that is wanted, and counts of what is left out of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import TypeVar

import numpy as np

from halo_lightning.data.conversion import Pairer, convert, keeping
from halo_lightning.data.feedback import (
    Example,
    Feedback,
    Paired,
    Unary,
    UnusableRowError,
    has_implicit_prompt,
    parse_demonstration,
    parse_paired,
    parse_unary,
    with_prompt,
)
from halo_lightning.data.kinds import READABLE, check_kind, sniff
from halo_lightning.data.sources import oasst, rated, shp
from halo_lightning.data.sources.bad_rows import BadRows
from halo_lightning.data.sources.columns import as_number, labelled, named, score_of
from halo_lightning.data.sources.config import KeepPrompt, Label, Source
from halo_lightning.data.sources.left_out import LeftOut as LeftOut
from halo_lightning.data.sources.opening import read_rows
from halo_lightning.data.sources.rows import Row, problem
from halo_lightning.errors import DataError

T = TypeVar("T")


def read_feedback(
    source: str | Source,
    feedback: Feedback,
    left_out: LeftOut | None = None,
    *,
    bad: BadRows | None = None,
    seed: int = 1,
) -> Iterator[Example]:
    """Reads a source as one kind of feedback, converting rows of another kind where that is possible.

    Args:
        source: See `Source`; a path alone is one, too.
        feedback: The kind of feedback that is wanted.
        left_out: Counts the rows that give no example.
        bad: What happens to a row that cannot be used; None raises its error.
        seed: Of what is drawn at random, where the source has no seed of its own.

    Yields:
        `Unary`, `Paired` or `Demonstration`, in the order of the source.

    Raises:
        DataError: A row is malformed, or of a kind that cannot be converted into the one that is wanted.
    """
    reader = SourceReader(Source.of(source), feedback, seed)
    return reader.examples(LeftOut() if left_out is None else left_out, BadRows() if bad is None else bad)


class SourceReader:
    """Reads one source as one kind of feedback, as often as it is asked to.

    Args:
        source: The source.
        feedback: The kind of feedback that is wanted.
        seed: Of what is drawn at random, where the source has no seed of its own.
        keep_prompt: Which part of a prompt stays where it has to be cut, where the source does not say; None is what
            the report's runs did: the start in SHP and OpenAssistant, else the end.
    """

    def __init__(self, source: Source, feedback: Feedback, seed: int, keep_prompt: KeepPrompt | None = None) -> None:
        self.source, self.feedback, self.keep_prompt = source, feedback, source.keep_prompt or keep_prompt
        self.seed = seed if source.seed is None else source.seed
        self._action: BadRows = BadRows()

    def examples(self, left_out: LeftOut, bad: BadRows) -> Iterator[Example]:
        """The examples of the source, before any selection."""
        self._action = bad
        rows = self._named_rows(left_out, bad)
        form, implicit, rows = self._form(rows)
        keep: KeepPrompt = self.keep_prompt or ("end" if form == "rows" else "start")
        pairer = Pairer()
        for example in self._parsed(self._unified(rows, form, implicit, left_out, bad), left_out, bad):
            kept = keeping(example, keep)
            if isinstance(kept, Unary) and self.feedback == "paired":
                yield from pairer.add(kept)
            else:
                yield kept
        pairer.count_unpaired(left_out)

    def _named_rows(self, left_out: LeftOut, bad: BadRows) -> Iterator[Row]:
        def counted() -> Iterator[Row]:
            for row in read_rows(self.source, bad):
                left_out.read(row)
                yield row

        return _each(counted(), lambda row: [named(row, self.source.columns)], left_out, bad)

    def _form(self, rows: Iterator[Row]) -> tuple[str, bool, Iterator[Row]]:
        """Whether the rows are of a published format, whether pairs have no prompt of their own, and the rows again.

        The first row decides for the source. So where prompts are the rule, one that is missing stays an error.
        """
        first = list(itertools.islice(rows, 1))
        form: str = self.source.format
        if form == "auto":
            keys = first[0].values.keys() if first else set()
            form = "shp" if keys >= shp.COLUMNS else "oasst" if oasst.is_oasst(keys) else "rows"
        implicit = bool(first) and has_implicit_prompt(first[0])
        return form, implicit, itertools.chain(first, rows)

    # --- published formats, and rated completions, as rows of a prompt and its completions -------------------------

    def _unified(
        self, rows: Iterator[Row], form: str, implicit: bool, left_out: LeftOut, bad: BadRows
    ) -> Iterator[Row]:
        if form == "oasst":
            demonstrations = self.feedback == "sft"
            return oasst.oasst_rows(rows, self.source.oasst, demonstrations=demonstrations, bad=bad, left_out=left_out)
        if form == "shp":
            return _each(rows, self._shp_rule(), left_out, bad)
        return self._rated(rows, implicit, left_out, bad)

    def _shp_rule(self) -> Callable[[Row], list[Row]]:
        settings, posts = self.source.shp, set[bytes]()
        drawn = None if settings.max_pairs_per_prompt is None or self.feedback == "sft" else self._drawn_pairs

        def rule(row: Row) -> list[Row]:
            pair = shp.shp_pair(row, settings)
            if self.feedback == "sft":
                return [shp.first_response(pair, posts)]
            if drawn is not None and (pair.file, int(pair.line)) not in drawn:
                raise UnusableRowError(f"beyond {settings.max_pairs_per_prompt} pairs of a post", row)
            return [pair]

        return rule

    @cached_property
    def _drawn_pairs(self) -> set[tuple[str, int]]:
        """Which pairs of SHP are used: seen before they are read, since each post has its pairs anywhere."""
        settings, bad, nowhere = self.source.shp, self._action.quiet(), LeftOut()
        pairs = _each(self._named_rows(nowhere, bad), lambda row: [shp.shp_pair(row, settings)], nowhere, bad)
        return shp.drawn_pairs(pairs, settings.max_pairs_per_prompt or 0, self.seed)

    def _rated(self, rows: Iterator[Row], implicit: bool, left_out: LeftOut, bad: BadRows) -> Iterator[Row]:
        """Rows without rated completions (they become pairs, or one row each) and without implicit prompts."""
        label = self.source.label
        by_score = self.feedback == "paired" and (label is None or label.is_score)
        scored: list[Row] = []

        def unify(row: Row) -> list[Row]:
            kind = sniff(row.values)
            if kind == "rated":
                return self._rated_row(row)
            if kind == "paired":
                self._check_margin(row)
                if implicit and has_implicit_prompt(row):
                    row = with_prompt(row)
                    left_out.implicit_prompts += 1
            elif by_score and kind and "completion" in row.values and ("score" in row.values or label is not None):
                parse_demonstration(row)  # what is wrong with it is said of this row, not of the pair that it is in
                scored.append(row._replace(values={**row.values, "score": score_of(row)}))
                return []
            return [row]

        yield from _each(rows, unify, left_out, bad)
        if scored:
            yield from rated.pairs_of_scored_rows(scored, self.source.rated, left_out)

    def _rated_row(self, row: Row) -> list[Row]:
        label, settings = self._label, self.source.rated
        if self.feedback == "paired":
            return rated.pairs_of(row, settings)
        if label is not None:
            rows = rated.one_by_one(row, settings)
            if self.feedback == "sft":
                rows = [one for one in rows if labelled(one, label).values["label"]]
            if not rows:
                raise UnusableRowError("whose completions are undesirable, so not imitated", row)
            return rows
        if self.feedback == "sft":
            return [rated.best(row, settings)]
        raise problem(
            row,
            "completions",
            "found rated completions, expected to be told which of them are desirable: give the source a label with a"
            " threshold or a quantile of the scores",
        )

    def _check_margin(self, row: Row) -> None:
        least = self.source.rated.min_margin
        if least > 0:
            better, worse = (as_number(row, key, row.values.get(key)) for key in ("score_chosen", "score_rejected"))
            if better - worse < least:
                raise UnusableRowError(f"whose scores differ by less than {least:g}", row)

    # --- rows to examples ------------------------------------------------------------------------------------------

    def _parsed(self, rows: Iterator[Row], left_out: LeftOut, bad: BadRows) -> Iterator[Example]:
        label = self._label

        def parse(row: Row) -> list[Example]:
            kind = sniff(row.values, scores_are_labels=label is not None and label.is_score)
            if kind not in READABLE[self.feedback]:
                check_kind(row, kind, self.feedback)
            if kind == "paired":
                example = parse_paired(row)
                if label is not None and label.is_score and self.feedback != "paired":
                    return self._by_score(row, example, label)
                return convert(example, self.feedback)
            if kind == "sft":
                return [parse_demonstration(row)]
            unary = parse_unary(row if label is None else labelled(row, label))
            if self.feedback == "sft" and not unary.desirable:
                raise UnusableRowError("whose completion is undesirable, so not imitated", row)
            return convert(unary, self.feedback)

        return _each(rows, parse, left_out, bad)

    def _by_score(self, row: Row, pair: Paired, label: Label) -> list[Example]:
        """The halves of a pair, each desirable or not by its own score."""
        halves = convert(pair, "unary")
        examples: list[Example] = []
        for half, key in zip(halves, ("score_chosen", "score_rejected"), strict=True):
            assert isinstance(half, Unary)
            score = as_number(row, key, row.values.get(key))
            assert label.threshold is not None
            examples += convert(replace(half, desirable=score >= label.threshold), self.feedback)
        if not examples:
            raise UnusableRowError("whose completions are undesirable, so not imitated", row)
        return examples

    @cached_property
    def _label(self) -> Label | None:
        """How labels are read, a quantile turned into the threshold that it is in this source."""
        label = self.source.label
        if label is None or label.quantile is None:
            return label
        bad, nowhere = self._action.quiet(), LeftOut()
        scores = np.fromiter(_each(self._named_rows(nowhere, bad), self._scores, nowhere, bad), dtype=np.float64)
        if not len(scores):
            raise DataError("found no score to take a quantile of, expected some", file=str(self.source))
        return Label(threshold=float(np.quantile(scores, label.quantile, method="higher")))

    def _scores(self, row: Row) -> list[float]:
        kind = sniff(row.values, scores_are_labels=True)
        if kind == "rated":
            return [scored.score for scored in rated.rated_completions(row, self.source.rated)]
        if kind == "paired":
            return [as_number(row, key, row.values.get(key)) for key in ("score_chosen", "score_rejected")]
        return [score_of(row)]


def _each(rows: Iterable[Row], function: Callable[[Row], Iterable[T]], left_out: LeftOut, bad: BadRows) -> Iterator[T]:
    """What a function makes of each row; a row that it refuses is counted, or stops, or is skipped."""
    for row in rows:
        try:
            results = list(function(row))
        except UnusableRowError as error:
            left_out.add(error.reason, row)
        except DataError as error:
            bad.refuse(error, row)
        else:
            yield from results
