"""`cli.py inspect` as a user types it."""

from __future__ import annotations

import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from halo_lightning.cli import main
from halo_lightning.world import BASE_MODEL
from tests.conftest import HH_FILE, REPOSITORY
from tests.data.helpers import write_rows

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for a model gets none."""
    import halo_lightning.policy
    import halo_lightning.pretrained

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were asked for")

    monkeypatch.setattr(halo_lightning.pretrained, "load_model", refuse)
    monkeypatch.setattr(halo_lightning.policy, "load_model", refuse)


ROWS = [
    {"prompt": "Name a fruit.", "completion": "An apple.", "label": True},
    {"prompt": "Name a fruit.", "completion": "An apple.", "label": False},  # contradicts the first
    {"prompt": "Name a fruit.", "completion": "A pear.", "label": True},
    {"prompt": "Name a fruit.", "completion": "A pear.", "label": True},  # a duplicate
    {"prompt": "Say hello.", "completion": "Hello!\x1b[31m <b>[bold]", "label": False},
]


def report_of(capsys: Capture, *arguments: str) -> dict[str, Any]:
    assert main(["inspect", *arguments, "--json=-"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def tiny(tmp_path: Path, rows: list[dict[str, Any]] | None = None) -> list[str]:
    path = write_rows(tmp_path / "rows.jsonl", ROWS if rows is None else rows)
    return ["--config=configs/tiny_kto.yaml", f"--data.train={path}", "--data.validation_fraction=0"]


def test_a_configuration_and_overrides(tmp_path: Path, capsys: Capture) -> None:
    report = report_of(capsys, *tiny(tmp_path), "--data.max_length=40", "--data.max_prompt_length=20", "--examples=0,4")
    assert report["counts"]["train"] == 5
    assert (report["counts"]["desirable"], report["counts"]["undesirable"]) == (3, 2)
    assert report["problems"]["contradictions"] == 2
    assert report["splits"]["training"]["findings"]["contradictions"]["groups"] == [[0, 1]]
    assert report["problems"]["duplicates"] == 1
    assert report["places"]["training"] == {"0": "line 1", "1": "line 2", "2": "line 3", "3": "line 4"}
    assert report["settings"]["max_length"].startswith("40,")
    first, last = report["examples"]
    assert (first["label"], last["label"]) == (True, False)
    (sequence,) = first["sequences"]
    assert [span["text"] for span in sequence["spans"]] == [
        "\n\nHuman: Name a fruit.\n\nAssistant:",
        " An apple.",
        "<|endoftext|>",
    ]
    assert len(sequence["token_ids"]) == len(sequence["loss_mask"])
    assert sequence["loss_mask"] == [False] * sequence["prompt_tokens"] + [True] * sum(sequence["loss_mask"])


def test_plain_text_says_all_without_colours(tmp_path: Path, capsys: Capture) -> None:
    assert main(["inspect", *tiny(tmp_path), "--examples=4"]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "5 examples to train on (3 desirable, 2 undesirable)" in text
    assert re.search(
        r"^ +2 examples whose prompt and completion are labelled both ways\n +line 1 = line 2$", text, re.M
    )
    assert re.search(r"^ +1 examples that are there already, word for word\n +line 3 = line 4$", text, re.M)
    assert text.count("learned") >= 4 + 1


def test_an_example_in_plain_text(tmp_path: Path, capsys: Capture) -> None:
    assert main(["inspect", *tiny(tmp_path), "--examples=0,4"]) == 0
    text = capsys.readouterr().out
    shown = text[text.index("example 4 ") :]
    assert shown.splitlines()[2:8] == [
        "  │ ↵",
        "  │ ↵",
        "  │ Human: Say hello.↵",
        "  │ ↵",
        "  │ Assistant:",
        "  ▌  Hello!␛[31m <b>[bold]",
    ]
    assert "[end: <|endoftext|>]" in shown


def test_colours_in_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    assert main(["inspect", *tiny(tmp_path), "--examples=0,4"]) == 0
    text = terminal.getvalue()
    assert "\x1b[32m  ▌  An apple." in text
    assert "\x1b[31m  ▌  Hello!␛[31m <b>[bold]" in text
    assert "\x1b[31m <b>" not in text.replace("▌  Hello!", "")


class Page(HTMLParser):
    """The elements of a page, and what it would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        assert not {name for name, _ in attrs} & {"src", "href", "onclick", "onload"}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_nothing_else_and_runs_nothing(tmp_path: Path, capsys: Capture) -> None:
    page = tmp_path / "pages" / "report.html"
    rows = [*ROWS, {"prompt": "</pre><script>alert(1)</script>", "completion": "<img src=x>", "label": True}]
    assert main(["inspect", *tiny(tmp_path, rows), "--examples=0,4,5", f"--html={page}"]) == 0
    assert f"wrote {page}" in capsys.readouterr().out
    parsed = Page()
    parsed.feed(page.read_text())
    assert not {"script", "img", "link", "b>"} & set(parsed.tags)
    assert "</pre><script>alert(1)</script>" in parsed.text
    assert "<img src=x>" in parsed.text
    assert "Hello!␛[31m <b>[bold]" in parsed.text
    assert "http" not in page.read_text().replace("http-equiv", "")


@pytest.mark.parametrize(
    ("rows", "feedback"),
    [
        (ROWS, "unary"),
        ([{"prompt": f"Hi {n}", "chosen": "Yes", "rejected": "No"} for n in range(3)], "paired"),
        ([{"prompt": "Hi", "completion": "Yes"}], "sft"),
        (
            [
                {"chosen": f"\n\nHuman: {n}\n\nAssistant: a", "rejected": f"\n\nHuman: {n}\n\nAssistant: b"}
                for n in "xy"
            ],
            "paired",
        ),
    ],
)
def test_a_file_alone(tmp_path: Path, capsys: Capture, rows: list[dict[str, Any]], feedback: str) -> None:
    path = write_rows(tmp_path / "rows.jsonl", rows)
    fraction = "--data.validation_fraction=0"
    report = report_of(capsys, "--data", path, "--tokenizer=embedded:base", fraction)
    assert report["counts"]["train"] == len(rows)
    assert ("desirable" in report["counts"]) == (feedback == "unary")
    assert len(report["examples"][0]["sequences"]) == (2 if feedback == "paired" else 1)


def test_a_file_read_as_something_else(tmp_path: Path, capsys: Capture) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"prompt": "Hi", "chosen": "Yes", "rejected": "No"}])
    fraction = "--data.validation_fraction=0"
    report = report_of(capsys, "--data", path, "--policy=embedded:base", "--feedback", "unary", fraction)
    assert report["counts"]["desirable"] == 1
    report = report_of(capsys, "--config=configs/tiny_sft.yaml", f"--data={path}", fraction)
    assert (report["title"], report["counts"]["train"]) == (path, 1)


def test_a_tokenizer_without_a_model_will_do(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "tokenizer"
    shutil.copytree(BASE_MODEL, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    path = write_rows(tmp_path / "rows.jsonl", ROWS)
    report = report_of(capsys, "--data", path, f"--policy={folder}", "--data.validation_fraction=0")
    assert report["settings"]["tokenizer"] == str(folder)


def test_before_its_sft_stage_has_run(tmp_path: Path, capsys: Capture) -> None:
    path = write_rows(tmp_path / "rows.jsonl", ROWS)
    folder = json.dumps([f"--run_dir={tmp_path / 'sft'}"])
    stage = f"--sft_stage.arguments={folder}"
    report = report_of(capsys, "--config=configs/tiny_sft_kto.yaml", stage, f"--data.train={path}")
    assert report["settings"]["tokenizer"] == "embedded:base"
    assert not (tmp_path / "sft").exists()


def test_pairs_that_contradict_each_other_and_leak(tmp_path: Path, capsys: Capture) -> None:
    pair = {"prompt": "Hi", "chosen": "Yes", "rejected": "No"}
    train = [pair, {**pair, "chosen": "No", "rejected": "Yes"}, {**pair, "rejected": "Yes"}]
    path = write_rows(tmp_path / "train.jsonl", train)
    held_out = write_rows(tmp_path / "held_out.jsonl", [pair, {**pair, "chosen": "Maybe"}, {**pair, "prompt": "Bye"}])
    config = ["--config=configs/tiny_dpo.yaml", f"--data.train={path}", f"--data.validation={held_out}"]
    report = report_of(capsys, *config)
    assert report["problems"] == {
        "contradictions": 2,
        "leakage": 2,
        "duplicates": 0,
        "same_on_both_sides": 1,
        "ends_inside": 0,
        "cut": 0,
        "left_out": 0,
        "unknown": 0,
    }
    assert report["leakage"]["prompts"]["groups"] == [[0], [1]]
    assert main(["inspect", *config, "--fail_on=duplicates,cut"]) == 0
    assert main(["inspect", *config, "--fail_on", "leakage, duplicates"]) == 3
    assert main(["inspect", *config, "--fail_on=leaks"]) == 2
    assert "fail_on: found 'leaks', expected some of contradictions, leakage" in capsys.readouterr().err


def test_what_is_cut_can_be_shown(tmp_path: Path, capsys: Capture) -> None:
    rows = [{**row, "completion": row["completion"] * (20 if n == 2 else 1)} for n, row in enumerate(ROWS)]
    arguments = [*tiny(tmp_path, rows), "--data.max_length=30", "--data.max_prompt_length=5"]
    assert main(["inspect", *arguments, "--examples=1,5"]) == 2
    assert "there is no example 5: expected numbers from 0 to 4" in capsys.readouterr().err
    report = report_of(capsys, *arguments, "--examples=cut")
    (example,) = report["examples"]
    (sequence,) = example["sequences"]
    assert example["number"] == 2
    assert (len(sequence["token_ids"]), sequence["prompt_tokens"]) == (30, 5)
    assert sequence["completion_cut"] > 10
    assert not sequence["spans"][-1]["ends"]
    assert main(["inspect", *arguments, "--examples=cut"]) == 0
    text = capsys.readouterr().out
    assert f"; cut: {sequence['prompt_cut']} of the prompt and {sequence['completion_cut']} of the completion" in text
    assert "[end:" not in text
    assert main(["inspect", *arguments, "--data.too_long=drop"]) == 0
    assert "left out 1 examples that are longer than max_length=30" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "found neither a configuration nor a tokenizer; expected --config FILE, or --data FILE with"),
        (["--config=configs/tiny_kto.yaml", "--examples=all"], "examples is 'all': expected a number, or one of cut,"),
        (["--config=configs/tiny_kto.yaml", "--data.max_lenght=3"], "did you mean"),
        (["--data=rows.jsonl", "--tokenizer=embedded:base", "--feedback=thumbs"], "feedback is 'thumbs'"),
        (["--data=none.jsonl", "--tokenizer=embedded:base"], "none.jsonl: no such file"),
        (
            ["--data=pyproject.toml", "--tokenizer=embedded:base"],
            "pyproject.toml, line 1: element 1 of the array cannot be parsed",
        ),
    ],
)
def test_what_cannot_work_is_said(arguments: list[str], says: str, capsys: Capture) -> None:
    assert main(["inspect", *arguments]) == 2
    message = capsys.readouterr().err
    assert says in message
    assert "Traceback" not in message


def test_rows_that_cannot_be_used_stop_or_are_counted(tmp_path: Path, capsys: Capture) -> None:
    arguments = tiny(tmp_path, [*ROWS, {"prompt": "x"}])
    assert main(["inspect", *arguments]) == 2
    assert "rows.jsonl, line 6: found the keys 'prompt'" in capsys.readouterr().err
    skipping = [*arguments, "--data.on_bad_row=skip", f"--run_dir={tmp_path / 'run'}"]
    assert report_of(capsys, *skipping)["problems"]["left_out"] == 1
    assert (tmp_path / "run" / "bad_rows.jsonl").is_file()


@pytest.mark.skipif(not HH_FILE.exists(), reason="Anthropic's HH file is not here")
def test_the_real_hh_file(capsys: Capture) -> None:
    report = report_of(capsys, "--data", str(HH_FILE), "--tokenizer=embedded:base", "--data.max_length=2048")
    counts = report["counts"]
    assert counts["train"] + counts["validation"] == 2303
    assert report["problems"]["left_out"] == 9
    assert report["problems"]["leakage"] == 0


def test_a_stream_is_looked_at_as_far_as_is_asked(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*tiny(tmp_path, ROWS * 3), "--data.streaming=true"]
    report = report_of(capsys, *arguments, "--first=7")
    assert report["counts"]["train"] == 7
    assert report["settings"]["read"] == "the first 7 examples to train on, and no more"
    monkeypatch.setattr("halo_lightning.inspection.command.OF_A_STREAM", 12)
    assert report_of(capsys, *arguments)["counts"]["train"] == 12
    assert report_of(capsys, *tiny(tmp_path, ROWS * 3))["counts"]["train"] == 15
    assert report_of(capsys, *tiny(tmp_path, ROWS * 3), "--first=2")["counts"]["train"] == 2
    assert main(["inspect", *arguments, "--first=3"]) == 0
    assert "the first 3 examples to train on, and no more" in re.sub(r"\s+", " ", capsys.readouterr().out)
    assert main(["inspect", *arguments, "--first=0"]) == 2
    assert "first is 0: expected 1 or more examples" in capsys.readouterr().err


def test_what_is_read_first_says_nothing_of_the_rest(tmp_path: Path, capsys: Capture) -> None:
    rows = [*ROWS, {"prompt": "Hi", "completion": "", "label": True}]
    assert report_of(capsys, *tiny(tmp_path, rows), "--first=5")["counts"]["train"] == 5
    assert main(["inspect", *tiny(tmp_path, rows), "--first=6"]) == 2
