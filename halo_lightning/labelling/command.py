"""`cli.py label`: generations with a score of their own, as unary feedback."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halo_lightning.data.sources import BadRows, Source
from halo_lightning.data.sources.bad_rows import OnBadRow
from halo_lightning.errors import ConfigError, DataError
from halo_lightning.evaluation.judges.http import Retries
from halo_lightning.evaluation.progress import Counter
from halo_lightning.evaluation.records import RECORD_CHECKSUM, Records, open_records
from halo_lightning.figures import draw_scores
from halo_lightning.files import replaced_file
from halo_lightning.labelling.items import Item, read_items
from halo_lightning.labelling.scorers import Scored, Scorer, scorer_of


def label(
    data: str | Source,
    scorer: str,
    out: str,
    *,
    threshold: float | None = None,
    quantile: float | None = None,
    workers: int | None = None,
    batch_size: int = 32,
    on_bad_row: OnBadRow = "error",
    positive: str | None = None,
    score_key: str = "score",
    key_variable: str = "SCORER_KEY",
    timeout: float = 60.0,
    attempts: int = 6,
    backoff: float = 1.0,
) -> None:
    """Scores completions, and writes them as unary feedback with the score beside the label.

    Scores are kept in a file beside `out` as they come. The same command goes on where it was killed, and with another
    threshold it scores nothing again.

    Args:
        data: Rows with `prompt` and `completion` (or `messages`): a file, pattern, folder or hub id.
        scorer: `module:function`, a Python function of prompt and completion; the address of an HTTP endpoint; the
            folder or hub id of a sequence classifier; or `embedded:rules`.
        out: The JSON Lines file to write. Beside it: the scores (`.scores.jsonl`), their histogram (`.png`), and the
            rows that were skipped (`.bad_rows.jsonl`).
        threshold: Completions with this score or a higher one are desirable.
        quantile: Instead: those from this quantile of the scores on; 0.7 makes the best 30 % desirable.
        workers: Processes of a function (default: one for each core), or most requests to an endpoint at one time
            (default: 8).
        batch_size: Completions that a function's process, or a classifier, is given at one time.
        on_bad_row: What happens to a row that cannot be read or scored: `error` stops, `skip` counts it and lists it.
        positive: The class of a classifier whose probability is the score, by its name or number.
        score_key: Where an endpoint's answer has the score, such as `result.0.score`.
        key_variable: The environment variable with the key of an endpoint, which is written nowhere.
        timeout: Seconds after which a request to an endpoint is given up.
        attempts: How often a request is tried.
        backoff: Seconds before the second attempt; doubled with every further one.

    Raises:
        ConfigError: A setting cannot work.
        DataError: A row cannot be read or scored.
    """
    target = _checked(out, threshold, quantile, workers, batch_size)
    source = Source.of(data)
    bad = BadRows(on_bad_row, target.with_suffix(".bad_rows.jsonl"))
    made = scorer_of(
        scorer,
        workers=workers,
        batch_size=batch_size,
        positive=positive,
        score_key=score_key,
        key_variable=key_variable,
        retries=Retries(timeout, attempts, backoff),
    )
    scores = target.with_suffix(".scores.jsonl")
    with open_records(scores, made.settings, needs={"key": str, "score": (int, float)}) as records:
        job = Labelling(source, made, records, bad)
        job.score()
        values = job.scores()
        bound = threshold if threshold is not None else float(np.quantile(values, quantile or 0.0, method="higher"))
        desirable = job.write(target, bound)
    draw_scores(values, bound, str(target.with_suffix(".png")))
    print(
        f"{len(values):,} completions are in {target}: {desirable:,} desirable (score {bound:g} or more),"
        f" {len(values) - desirable:,} undesirable"
    )
    print(f"  scores from {values.min():g} to {values.max():g}, mean {values.mean():g}: {target.with_suffix('.png')}")
    print(f"  {job.new:,} scored now, {job.found:,} before; {job.repeated:,} are repetitions of others")
    if job.relabelled:
        print(f"  {job.relabelled:,} had a label or a score already, which is replaced")
    if bad.count:
        print(f"  {bad}")


def _checked(out: str, threshold: float | None, quantile: float | None, workers: int | None, batch_size: int) -> Path:
    if (threshold is None) == (quantile is None):
        found = "neither threshold nor quantile" if threshold is None else "threshold and quantile"
        raise ConfigError(f"found {found}, expected one of them")
    if threshold is not None and not math.isfinite(threshold):
        raise ConfigError(f"threshold is {threshold}: expected a finite number")
    if quantile is not None and not 0 < quantile < 1:
        raise ConfigError(f"quantile is {quantile}: expected a number between 0 and 1")
    for name, value in (("workers", workers), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}: expected 1 or more")
    if Path(out).suffix != ".jsonl":
        raise ConfigError(f"out is {out!r}: expected a name that ends in .jsonl")
    return Path(out)


class Labelling:
    """Scores of the completions of one source, those on disk and those to come.

    Args:
        source: The completions.
        scorer: What scores them.
        records: Where scores are kept.
        bad: What happens to rows that cannot be read or scored.

    Attributes:
        new: How many completions were scored now.
        found: How many of those that are needed had been scored before.
        repeated: How many rows have prompt and completion of an earlier row.
        relabelled: How many rows had a label or a score already.
    """

    def __init__(self, source: Source, scorer: Scorer, records: Records, bad: BadRows) -> None:
        self.source, self.scorer, self.records, self.bad = source, scorer, records, bad
        self.known: dict[str, float] = {record["key"]: record["score"] for record in records.found}
        records.found = []
        self.new = self.found = self.repeated = self.relabelled = 0

    def score(self) -> None:
        """Scores what is not scored yet.

        Raises:
            DataError: A row cannot be read, or cannot be scored, unless such rows are skipped.
        """
        # All rows are read first: one that is malformed is found before anything is computed or paid for.
        missing: set[str] = set()
        seen: set[str] = set()
        for item in read_items(self.source, self.bad):
            self.repeated += item.key in seen
            seen.add(item.key)
            if item.key not in self.known:
                missing.add(item.key)
        self.found = len(seen) - len(missing)
        if not seen:
            raise DataError(f"there is no completion to score; {self.bad}", file=str(self.source))
        self._failed: dict[str, str] = {}
        self._error: DataError | None = None
        with Counter("scored", len(seen), self.found) as counter:
            self._counter = counter
            self.scorer.score(self._items(missing), self._keep)
        if self._error is not None:
            raise self._error

    def _items(self, missing: set[str]) -> Iterator[Item]:
        """The completions that are to be scored, each once."""
        for item in read_items(self.source, self.bad.quiet()):
            if self._error is not None:
                return  # what is on its way is still kept
            if item.key in missing:
                missing.discard(item.key)
                yield item

    def _keep(self, results: list[Scored]) -> None:
        good = [(one.item.key, one.score) for one in results if one.score is not None]
        self.records.add({"key": key, "score": score} for key, score in good)
        self.known.update(good)
        self.new += len(good)
        self._counter.add(len(results))
        for one in results:
            if one.score is None:
                self._failed[one.item.key] = one.problem
                try:
                    self._refuse(one.item)
                except DataError as error:
                    self._error = self._error or error

    def _refuse(self, item: Item) -> None:
        row = item.row
        error = DataError(self._failed[item.key], file=row.file, line=row.line, key="completion")
        self.bad.refuse(error, row)

    def scores(self) -> NDArray[np.float64]:
        """The score of every row, in the order of the rows."""
        values = np.fromiter((self.known[item.key] for item in self._scored_items()), np.float64)
        if not len(values):
            raise DataError(f"no completion could be scored; {self.bad}", file=str(self.source))
        return values

    def _scored_items(self) -> Iterator[Item]:
        for item in read_items(self.source, self.bad.quiet()):
            if item.key in self.known:
                yield item
            elif item.key in self._failed:
                self._refuse(item)  # a repetition of a row that is counted already, which counts as well
            else:
                raise DataError("this row was not there before: the file changed while it was read", file=item.row.file)

    def write(self, target: Path, bound: float) -> int:
        """Writes the rows with label and score, in their order, and gives how many are desirable."""
        desirable = 0
        with replaced_file(target) as stream:
            for item in self._scored_items():
                score = self.known[item.key]
                self.relabelled += "label" in item.row.values or "score" in item.row.values
                desirable += score >= bound
                values = {**item.row.values, "label": score >= bound, "score": score}
                values.pop(RECORD_CHECKSUM, None)  # of generations, which these are not any more
                stream.write((json.dumps(values, ensure_ascii=False, default=str) + "\n").encode())
        return desirable
