"""`judge`: which completions are better, the model's or the human-chosen ones, or another model's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from halo_lightning.errors import ConfigError, DataError, HaloError
from halo_lightning.evaluation.judges import ApiJudge, ChatModelJudge, RewardModelJudge, RulesJudge
from halo_lightning.evaluation.judges.base import Comparison, Judge, Verdict

if TYPE_CHECKING:
    from halo_lightning.evaluation.verdicts import Judged

__all__ = ["ApiJudge", "ChatModelJudge", "RewardModelJudge", "RulesJudge", "judge_completions"]


def judge_completions(
    generations: list[str] | str,
    judge: Judge | None = None,
    against: str | None = None,
    out: str | None = None,
    order: Literal["random", "both"] = "random",
    cut: Literal["all", "unfinished", "none"] = "all",
    seed: int = 1,
) -> None:
    """Asks a judge which of two completions is more helpful, harmless, concise, and better overall.

    Each verdict is on disk as soon as it is there. Killed in the middle, or after errors of an endpoint, the same
    command asks for what is missing and for nothing else.

    Args:
        generations: One or several files that `generate` wrote, or the folders of them.
        judge: `RulesJudge` (the default: the rules of the embedded world), `RewardModelJudge`, `ChatModelJudge`,
            `ApiJudge`, or a class path of your own; its settings are `--judge.model` and so on.
        against: The generations of another model over the same prompts, to compare with instead of the human-chosen
            completions.
        out: The file to write (JSON Lines), for one file of generations; None is `verdicts.jsonl` beside it.
        order: Whether the two completions are shown in a `random` order, or in `both`: then a win is one that does not
            depend on it.
        cut: Completions of models are cut at their last full stop: `all` of them, as in the report, those that are
            `unfinished` because they ran into the limit, or `none`.
        seed: Of the order.
    """
    files = [_file(name) for name in ([generations] if isinstance(generations, str) else generations)]
    if out is not None and len(files) > 1:
        raise ConfigError("found several files of generations and one file to write: expected one of each, or no out")
    problems = []
    for file in files:
        place = Path(out) if out is not None else _verdicts_of(file, against)
        problem = judge_file(file, place, judge or RulesJudge(), against, order=order, cut=cut, seed=seed)
        if problem:
            problems.append(f"{place}: {problem}")
    if problems:
        raise HaloError("\n".join(problems))


def _file(name: str) -> Path:
    path = Path(name)
    return path / "generations.jsonl" if path.is_dir() else path


def _verdicts_of(file: Path, against: str | None) -> Path:
    """The file of the verdicts, beside that of the generations."""
    stem = "verdicts" if file.stem == "generations" else f"{file.stem}-verdicts"
    if against is not None:
        other = _file(against)
        stem += f"-against-{other.parent.name if other.stem == 'generations' else other.stem}"
    return file.with_name(f"{stem}.jsonl")


def judge_file(
    file: Path,
    out: Path,
    judge: Judge,
    against: str | None = None,
    *,
    order: Literal["random", "both"] = "random",
    cut: Literal["all", "unfinished", "none"] = "all",
    seed: int = 1,
) -> str | None:
    """Judges one file of generations.

    Returns:
        Why some comparisons have no verdict; None where all of them have one.
    """
    from halo_lightning.evaluation.progress import Counter
    from halo_lightning.evaluation.records import GENERATED_WITH, GENERATION, open_records, read_records, read_settings
    from halo_lightning.evaluation.verdicts import Judged, matches

    if order not in ("random", "both") or cut not in ("all", "unfinished", "none"):
        raise ConfigError(
            f"order is {order!r} and cut is {cut!r}: expected random or both, and all, unfinished or none"
        )
    judge.check()
    rows, other = read_records(file, GENERATION), None if against is None else _file(against)
    if not rows:
        raise DataError("there is no completion in this file", file=str(file))
    asked = matches(rows, None if other is None else read_records(other, GENERATION), order=order, cut=cut, seed=seed)
    made_with = read_settings(file, GENERATED_WITH)
    settings: dict[str, Any] = {
        "generations": made_with,
        "against": None if other is None else read_settings(other),
        "judge": judge.settings,
        "order": order,
        "cut": cut,
        "seed": seed,
    }
    missing_rows = made_with["prompts"]["count"] - len(rows)
    if missing_rows > 0:
        print(f"{file}: {missing_rows} completions are still to be sampled; those that are there are judged")
    with open_records(out, settings, needs={"key": str}) as records:
        done = {record["key"] for record in records.found}
        by_key = {match.comparison.key: match for match in asked}
        todo = [match.comparison for key, match in by_key.items() if key not in done]
        print(f"{made_with['name']}: {len(by_key)} comparisons, {len(by_key) - len(todo)} of them done")
        with Counter(f"{made_with['name']}, verdicts", len(by_key), len(by_key) - len(todo)) as counter:

            def keep(comparison: Comparison, verdict: Verdict) -> None:
                records.add([by_key[comparison.key].record(verdict)])
                counter.add(1)

            problem = judge.judge(todo, keep) if todo else None
    if not read_records(out):
        return problem
    judged = Judged.read(out)
    show(judged, judge)
    print(f"the verdicts are in {out}")
    return problem or nothing_read(judged)


def nothing_read(judged: Judged) -> str | None:
    """What is wrong where no verdict of a judge could be read; None where some could."""
    count = len(judged.records)
    if judged.unparsable() < count:
        return None
    last = str(judged.records[-1].get("reply"))[-100:]
    return (
        f"none of {count} answers could be read (the last one ends with {last!r}); expected what the judge was asked"
        " for, JSON with A, B or tie for each criterion. To ask again, delete the file, or choose another judge"
    )


def show(judged: Judged, judge: Judge) -> None:
    """Prints what a judge said of one model."""
    from scipy.stats import binomtest

    from halo_lightning.evaluation.win_rates import win_rate

    for criterion in judged.criteria:
        rate = win_rate(judged.outcomes(criterion).values())
        text = f"  {criterion:<9} win rate {rate.rate:.3f} (75 % interval {rate.low:.3f}–{rate.high:.3f}),"
        if not rate.wins + rate.losses:
            text = f"  {criterion:<9} nothing was decided:"
        text += f" {rate.wins} wins, {rate.losses} losses, {rate.ties} ties"
        unparsable = judged.unparsable(criterion)
        share = f" ({unparsable / len(judged.records):.0%} of the answers)"
        print(text + f", {unparsable} unparsable{share}" * bool(unparsable))
    first, decided = judged.position()
    if decided:
        by_chance = f"p = {binomtest(first, decided).pvalue:.2g} if it does not matter"
        print(f"  position: the completion shown first wins {first} of {decided} verdicts ({by_chance})")
    contradictions, pairs = judged.contradictions()
    if pairs:
        print(
            f"  order: {contradictions} of {pairs} prompts have opposite verdicts in the two orders, and count as ties"
        )
    asked, answered = judged.spent()
    if isinstance(judge, ApiJudge) and asked + answered:
        cost = judge.cost(asked, answered)
        price = "" if cost is None else f", ${cost:.2f}"
        print(
            f"  spent: {asked:,} tokens asked, {answered:,} answered{price} for these verdicts;"
            f" {judge.spent.requests} requests this time"
        )
