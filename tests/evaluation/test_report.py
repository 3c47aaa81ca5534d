"""The report: its numbers from files, its pictures, its page, and what it refuses."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from halo_lightning.cli import main
from halo_lightning.evaluation.records import open_records
from halo_lightning.evaluation.report import Report, find_verdicts
from halo_lightning.evaluation.report_figures import draw_lengths, draw_win_rates
from halo_lightning.evaluation.win_rates import win_rate


def write_verdicts(
    path: Path,
    outcomes: str,
    *,
    name: str = "KTO",
    group: str = "",
    sampling: dict[str, Any] | None = None,
    lengths: tuple[int, int] = (12, 10),
    **settings: Any,
) -> Path:
    """Verdicts of a model on prompts 0, 1, …: one letter each, w(in), l(oss), t(ie) or u(nparsable)."""
    meanings = {"w": "win", "l": "loss", "t": "tie", "u": "unparsable"}
    generations = {
        "name": name,
        "group": group,
        "prompts": {"count": len(outcomes)},
        "sampling": {"max_new_tokens": 64, "temperature": 1.0, "top_p": 0.95, "seed": 1, **(sampling or {})},
        "dtype": "float32",
        "backend": "transformers",
    }
    made_with = {"judge": {"judge": "RulesJudge"}, "order": "random", "cut": "all", "seed": 1, "against": None}
    with open_records(path, {"generations": generations, **made_with, **settings}) as records:
        for number, letter in enumerate(outcomes):
            said = {"overall": meanings[letter], "concise": meanings[letter]}
            answers = {key: {"win": "first", "loss": "second"}.get(value, value) for key, value in said.items()}
            own = lengths[0] + number % 3
            records.add(
                [
                    {
                        "key": str(number),
                        "id": f"prompt{number}",
                        "number": number,
                        "model_first": True,
                        "outcomes": said,
                        "answers": answers,
                        "tokens": own,
                        "other_tokens": lengths[1],
                        "characters": 5 * own,
                        "other_characters": 5 * lengths[1],
                    }
                ]
            )
    return path


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    write_verdicts(folder / "kto-1" / "verdicts.jsonl", "wwwwwwltuw", group="1B")
    write_verdicts(folder / "kto-2" / "verdicts.jsonl", "wwwwltlwww", group="1B", sampling={"seed": 2})
    write_verdicts(folder / "sft-1" / "verdicts.jsonl", "llllllltlw", group="1B", name="<SFT> & co", lengths=(30, 10))
    write_verdicts(folder / "big" / "verdicts.jsonl", "wwwwwwwwww", group="7B")
    return folder


def test_the_numbers(runs: Path) -> None:
    report = Report.of(find_verdicts([runs]))
    assert [cell.label for cell in report.cells] == ["7B KTO", "1B KTO", "1B <SFT> & co"]
    big, kto, sft = report.cells
    assert kto.win_rate()[3:] == (14, 3, 2)
    assert kto.win_rate() == win_rate(["win"] * 14 + ["loss"] * 3 + ["tie"] * 2)
    assert kto.rates_of_runs() == pytest.approx([7 / 8, 7 / 9])
    assert kto.unparsable() == 1
    assert kto.tokens() == pytest.approx(12.9)
    assert kto.other_tokens() == 10
    scores = kto.scores()
    assert (scores["prompt0"], scores["prompt4"], scores["prompt5"]) == (1.0, 0.5, 0.75)
    assert scores["prompt8"] == 1.0  # the other run's alone
    (difference,) = report.differences  # 7B and 1B are not the same group
    # SFT: all losses but a tie at 7 and a win at 9; KTO is better at all but 6 (both lose) and 9 (both win).
    assert difference.paired[:3] == (8, 0, 2)
    assert difference.paired.p == pytest.approx(2 * 0.5**8)
    assert difference.holm == difference.paired.p
    assert big.win_rate().rate == 1.0
    assert sft.length_controlled().extrapolated
    notes = " ".join(report.notes)
    assert "1B KTO: 1 verdicts could not be read" in notes
    assert "1B <SFT> & co: its completions are all longer, or all shorter" in notes
    assert "not sampled" not in notes  # other seeds are no other way of sampling


def test_the_command(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report"
    folders = [str(path) for path in sorted(runs.iterdir())]
    assert main(["report", *folders, f"--out={out}"]) == 0
    printed = capsys.readouterr().out
    assert "7B KTO" in printed
    assert "0.824" in printed  # 14 of 17
    assert "…" not in printed  # no cell is cut off, however narrow the terminal is
    page = (out / "report.html").read_text()
    assert "&lt;SFT&gt; &amp; co" in page
    assert "<SFT>" not in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    pictures = [base64.b64decode(part) for part in re.findall(r"data:image/png;base64,([^\"]+)", page)]
    names = ["win_rate_overall.png", "win_rate_concise.png", "lengths.png", "values.png"]
    assert pictures == [(out / name).read_bytes() for name in names]
    for name in names:
        with Image.open(out / name) as image:
            assert image.width > 400
            assert len(set(image.convert("L").resize((64, 64)).tobytes())) > 10
    numbers = json.loads((out / "report.json").read_text())
    assert numbers["models"][1]["win_rates"]["overall"]["wins"] in (10, 14)
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["images"]) == {Path(name).stem for name in names}
    assert events.Scalars("win_rate_overall/1B/KTO")[0].value == pytest.approx(14 / 17)
    assert events.Scalars("tokens/7B/KTO")[0].value == pytest.approx(12.9)
    assert main(["report", str(runs), f"--out={out}"]) == 0  # again, into the same folder


def test_nothing_decided_is_no_number(tmp_path: Path) -> None:
    path = write_verdicts(tmp_path / "verdicts.jsonl", "ttt")
    out = tmp_path / "out"
    assert main(["report", str(path), f"--out={out}"]) == 0
    rate = json.loads((out / "report.json").read_text())["models"][0]["win_rates"]["overall"]["rate"]
    assert rate is None
    assert "<td>–</td>" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"judge": {"judge": "Another"}}, "judge.judge: RulesJudge → Another"), ({"cut": "none"}, "cut: all → none")],
)
def test_different_judges_do_not_stand_in_one_table(
    tmp_path: Path, change: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write_verdicts(tmp_path / "a" / "verdicts.jsonl", "wl")
    other = write_verdicts(tmp_path / "b" / "verdicts.jsonl", "wl", name="other", **change)
    assert main(["report", str(one), str(other), f"--out={tmp_path / 'out'}"]) == 2
    assert message in capsys.readouterr().err


def test_other_sampling_is_said(tmp_path: Path) -> None:
    one = write_verdicts(tmp_path / "a" / "verdicts.jsonl", "wl")
    other = write_verdicts(tmp_path / "b" / "verdicts.jsonl", "wl", name="other", sampling={"top_p": 0.5})
    assert any("top_p: 0.95 → 0.5" in note for note in Report.of([one, other]).notes)


def test_no_verdicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "no verdicts in this folder" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "nothing.jsonl")]) == 2
    assert "nothing.settings.json" in capsys.readouterr().err


def test_a_model_has_one_colour_in_all_figures_of_a_report(tmp_path: Path) -> None:
    paths = [write_verdicts(tmp_path / name / "verdicts.jsonl", "wwl", name=name) for name in ("SFT", "DPO", "KTO")]
    report = Report.of(find_verdicts([str(path) for path in paths]))
    part = replace(report, cells=report.cells[1:])

    def colours(figure: Figure) -> list[Any]:
        return [patch.get_facecolor() for patch in figure.axes[0].patches]

    whole = colours(draw_win_rates(report))
    assert len(set(whole)) == 3
    assert colours(draw_win_rates(part, whole=report)) == whole[1:]
    assert colours(draw_lengths(part, whole=report)) == whole[1:]
    assert colours(draw_win_rates(part)) == whole[:2]


BOTH = {"SFT": "wwl", "PPO": "uuu"}


def test_a_model_without_a_verdict_that_could_be_read_is_in_the_picture(tmp_path: Path) -> None:
    paths = [write_verdicts(tmp_path / name / "verdicts.jsonl", said, name=name) for name, said in BOTH.items()]
    (axis,) = draw_win_rates(Report.of(find_verdicts([str(path) for path in paths]))).axes
    places = dict(zip([label.get_text() for label in axis.get_xticklabels()], axis.get_xticks(), strict=True))
    assert list(places) == ["SFT", "PPO"]
    (dash,) = axis.texts
    assert (dash.get_text(), dash.xy[0]) == ("–", places["PPO"])
    assert axis.get_xlim()[1] > places["PPO"]
