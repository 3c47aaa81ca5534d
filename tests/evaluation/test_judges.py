"""What judges say, how a language model's answer is read, and what verdicts come to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from halo_lightning.cli import main
from halo_lightning.errors import ConfigError, DataError
from halo_lightning.evaluation.judge_command import judge_file
from halo_lightning.evaluation.judges import (
    CRITERIA,
    ChatModelJudge,
    Comparison,
    Judge,
    RewardModelJudge,
    RulesJudge,
    Verdict,
)
from halo_lightning.evaluation.judges.wording import parse, question
from halo_lightning.evaluation.records import open_records, read_records
from halo_lightning.evaluation.rewards import RewardScorer
from halo_lightning.evaluation.verdicts import Judged, cut_at_full_stop, matches
from halo_lightning.pretrained import load_model, load_tokenizer

PROMPT = [{"role": "user", "content": "Name two animals."}]
GOOD, RUDE, NOTHING = "A dog and a cat.", "A dog and a cat, you fool.", "I do not know."


def judged(judge: Judge, comparisons: list[Comparison]) -> dict[str, Verdict]:
    kept: dict[str, Verdict] = {}
    assert judge.judge(comparisons, lambda comparison, verdict: kept.update({comparison.key: verdict})) is None
    return kept


def test_the_rules() -> None:
    kept = judged(RulesJudge(), [Comparison("a", PROMPT, GOOD, RUDE), Comparison("b", PROMPT, RUDE, NOTHING)])
    assert kept["a"].answers == {"helpful": "tie", "harmless": "first", "concise": "tie", "overall": "first"}
    assert kept["b"].answers == {"helpful": "first", "harmless": "second", "concise": "tie", "overall": "tie"}
    assert kept["a"].details["second_meets"] == {"helpful": True, "harmless": False, "concise": True}
    with pytest.raises(ConfigError, match=r"not a question of the embedded world.*Choose another judge"):
        judged(RulesJudge(), [Comparison("a", [{"role": "user", "content": "Hi"}], "x", "y")])


@pytest.mark.parametrize(
    ("reply", "overall"),
    [
        ('{"helpful": "A", "harmless": "B", "concise": "tie", "overall": "A"}', "first"),
        ('Sure.\n```json\n{"overall": " b "}\n```', "second"),
        ('{"overall": "TIE"} and again {"overall": "TIE"}', "tie"),
        ('I think {A} wins: {"overall": "A"}', "first"),
        ('{"thoughts": {"overall": "A"}, "overall": "B"}', "second"),
        ('{"overall": "A"} no, {"overall": "B"}', "unparsable"),
        ('{"overall": "A", "overall": "B"}', "unparsable"),
        ('{"overall": "A or B"}', "unparsable"),
        ('{"overall": 1}', "unparsable"),
        ('{"overall": "A"', "unparsable"),
        ('{"verdict": {"overall": "A"}}', "unparsable"),
        ("A is better overall", "unparsable"),
        ("[" * 50_000 + "{" * 100, "unparsable"),
        ("", "unparsable"),
        (None, "unparsable"),
    ],
)
def test_answers_are_read_and_never_guessed(reply: str | None, overall: str) -> None:
    answers = parse(reply)
    assert set(answers) == set(CRITERIA)
    assert answers["overall"] == overall


def test_each_criterion_is_read_for_itself() -> None:
    assert parse('{"helpful": "A", "harmless": "maybe", "overall": "B"}') == {
        "helpful": "first",
        "harmless": "unparsable",
        "concise": "unparsable",
        "overall": "second",
    }


def test_the_question_has_everything() -> None:
    asked = question(Comparison("k", [*PROMPT, {"role": "assistant", "content": "{x}"}], GOOD, RUDE))
    assert (
        asked.index("user: Name two animals.") < asked.index("assistant: {x}") < asked.index(GOOD) < asked.index(RUDE)
    )


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("reward")
    model = load_model("embedded:base", "reward")
    model.config.pad_token_id = load_tokenizer("embedded:base").pad_token_id
    model.save_pretrained(folder)
    load_tokenizer("embedded:base").save_pretrained(folder)
    return str(folder)


def test_a_reward_model(reward_model: str) -> None:
    judge = RewardModelJudge(reward_model, batch_size=2)
    texts = [GOOD, RUDE, NOTHING]
    kept = judged(judge, [Comparison(f"{a}{b}", PROMPT, texts[a], texts[b]) for a in range(3) for b in range(3)])
    rewards = RewardScorer(reward_model).score([PROMPT] * 3, texts).tolist()
    for a in range(3):
        for b in range(3):
            verdict = kept[f"{a}{b}"]
            assert verdict.details["first_reward"] == pytest.approx(rewards[a], abs=1e-5)
            assert verdict.answers == {"overall": "tie" if a == b else "first" if rewards[a] > rewards[b] else "second"}
    assert judge.settings["weights"]


def test_a_chat_model_is_asked_and_may_not_understand() -> None:
    judge = ChatModelJudge("embedded:base", max_new_tokens=4)
    # The embedded model has a context of 512 tokens and has never seen JSON.
    (verdict,) = judged(judge, [Comparison("a", PROMPT, GOOD, RUDE)]).values()
    assert set(verdict.answers.values()) == {"unparsable"}
    assert isinstance(verdict.details["reply"], str)


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("One. Two. Thr", "One. Two."),
        ("One. Two.", "One. Two."),
        ("Pi is 3.14 and", "Pi is 3.14 and"),
        ("It costs 3.50. And", "It costs 3.50."),
        ("No stop", "No stop"),
        ("", ""),
        ("A.\nB", "A."),
    ],
)
def test_the_last_full_stop(text: str, cut: str) -> None:
    assert cut_at_full_stop(text) == cut


def rows(number: int, **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "id": f"id{n}",
            "number": n,
            "prompt": PROMPT,
            "completion": f"yes {n}. And",
            "finished": n % 2 == 0,
            "tokens": 5,
            "chosen": f"no {n}. But",
            "chosen_tokens": 4,
            **more,
        }
        for n in range(number)
    ]


def test_the_order_is_drawn_by_seed_and_prompt() -> None:
    first = matches(rows(400), None, order="random", cut="all", seed=1)
    again = matches(rows(400, completion="other"), None, order="random", cut="all", seed=1)
    assert [match.model_first for match in first] == [match.model_first for match in again]
    assert 150 < sum(match.model_first for match in first) < 250
    other = matches(rows(400), None, order="random", cut="all", seed=2)
    assert [match.model_first for match in first] != [match.model_first for match in other]
    both = matches(rows(400), None, order="both", cut="all", seed=1)
    assert len({match.comparison.key for match in both}) == 800
    for match in [*first, *both]:
        texts = (match.comparison.first, match.comparison.second)
        expected = (f"yes {match.row['number']}.", f"no {match.row['number']}. But")
        assert texts == (expected if match.model_first else expected[::-1])


def test_what_is_cut() -> None:
    def texts(cut: Any, others: Any = None) -> list[tuple[str, str]]:
        return [match.texts for match in matches(rows(2), others, order="random", cut=cut, seed=1)]

    assert texts("none") == [("yes 0. And", "no 0. But"), ("yes 1. And", "no 1. But")]
    assert texts("unfinished") == [("yes 0. And", "no 0. But"), ("yes 1.", "no 1. But")]
    assert texts("all", rows(3, completion="so. Or")) == [("yes 0.", "so."), ("yes 1.", "so.")]
    with pytest.raises(DataError, match="no completion of prompt 1"):
        texts("all", rows(1))


GENERATED = {
    "name": "M",
    "group": "g",
    "prompts": {"count": 3},
    "dtype": "float32",
    "backend": "transformers",
    "sampling": {"seed": 1},
}
SETTINGS = {"generations": GENERATED, "order": "both", "cut": "all"}


def both_orders(tmp_path: Path, verdicts: list[tuple[int, bool, str]]) -> Judged:
    """Verdicts about prompts: number, whether the model was first, who was better."""
    made = {(match.row["number"], match.model_first): match for match in matches(
        rows(9), None, order="both", cut="all", seed=1)}  # fmt: skip
    path = tmp_path / "verdicts.jsonl"
    with open_records(path, SETTINGS) as records:
        records.add(made[n, first].record(Verdict({"overall": answer})) for n, first, answer in verdicts)  # type: ignore[dict-item]
    return Judged.read(path)


def test_both_orders(tmp_path: Path) -> None:
    result = both_orders(
        tmp_path,
        [
            (0, True, "first"), (0, False, "second"),  # wins twice
            (1, True, "first"), (1, False, "first"),  # the place wins
            (2, True, "second"), (2, False, "tie"),  # loses once
            (3, True, "tie"), (3, False, "tie"),
            (4, True, "unparsable"), (4, False, "first"),
            (5, True, "first"),  # the other verdict is not there yet
        ],
    )  # fmt: skip
    assert result.outcomes() == {"id0": "win", "id1": "tie", "id2": "loss", "id3": "tie"}
    assert result.unparsable() == 1
    assert result.position() == (5, 7)
    assert result.contradictions() == (1, 5)
    assert result.criteria == ["overall"]


@pytest.fixture(scope="module")
def generations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    arguments = ["--policy=embedded:base", "--prompts=embedded:held_out?examples=20", "--max_new_tokens=8"]
    assert main(["generate", f"--out={folder / 'generations.jsonl'}", *arguments]) == 0
    return folder


def test_the_command(generations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judge", f"--generations={generations}", "--order=both"]) == 0
    printed = capsys.readouterr().out
    assert "base: 40 comparisons, 0 of them done" in printed
    for text in ("helpful   win rate", "overall   win rate", "position: ", "0 of 20 prompts have opposite verdicts"):
        assert text in printed
    assert main(["judge", f"--generations={generations}", "--order=both"]) == 0
    assert "40 of them done" in capsys.readouterr().out
    records = read_records(generations / "verdicts.jsonl")
    for record in records:
        better = sum(record["model_meets"].values()) - sum(record["other_meets"].values())
        assert record["outcomes"]["overall"] == ("win" if better > 0 else "loss" if better < 0 else "tie")
    assert main(["judge", f"--generations={generations}", "--seed=2"]) == 2
    assert "order: both → random" in capsys.readouterr().err
    assert main(["judge", f"--generations={generations}", f"--against={generations}"]) == 0
    against = list(generations.glob("verdicts-against-*.jsonl"))
    assert {record["outcomes"]["overall"] for record in read_records(against[0])} == {"tie"}


def test_generations_that_come_later_are_judged_later(generations: Path, tmp_path: Path) -> None:
    content = (generations / "generations.jsonl").read_text()
    settings = (generations / "generations.settings.json").read_text()
    (tmp_path / "generations.settings.json").write_text(settings)
    for lines in (12, 20):
        (tmp_path / "generations.jsonl").write_text("".join(content.splitlines(keepends=True)[:lines]))
        assert judge_file(tmp_path / "generations.jsonl", tmp_path / "v.jsonl", RulesJudge()) is None
        assert len(read_records(tmp_path / "v.jsonl")) == lines


def test_a_judge_of_ones_own(generations: Path, tmp_path: Path) -> None:
    class Short(Judge):
        settings = {"judge": "Short"}  # noqa: RUF012

        def judge(self, comparisons: Any, keep: Any) -> str | None:
            for comparison in comparisons[:15]:
                shorter = len(comparison.first) < len(comparison.second)
                keep(comparison, Verdict({"concise": "first" if shorter else "second"}))
            return "15 are enough" if len(comparisons) > 15 else None

    out = tmp_path / "v.jsonl"
    assert judge_file(generations / "generations.jsonl", out, Short()) == "15 are enough"
    assert judge_file(generations / "generations.jsonl", out, Short()) is None
    result = Judged.read(out)
    assert result.criteria == ["concise"]
    assert len(result.outcomes("concise")) == 20


def test_files_that_are_not_what_they_should_be(generations: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file of verdicts"):
        Judged.read(generations / "generations.jsonl")
    (tmp_path / "v.jsonl").write_text("")
    (tmp_path / "v.settings.json").write_text(json.dumps({"settings": SETTINGS}))
    with pytest.raises(DataError, match="no verdict in this file"):
        Judged.read(tmp_path / "v.jsonl")
