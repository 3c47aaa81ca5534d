"""`cli.py label` with Python functions, rules and classifiers; what is killed goes on, and nothing is scored twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import image

from halo_lightning import UnaryDataModule
from halo_lightning.cli import main
from halo_lightning.data.sources import BadRows, Source
from halo_lightning.evaluation.rewards import RewardScorer
from halo_lightning.export import write_export
from halo_lightning.labelling.calling import answers, load
from halo_lightning.labelling.items import read_items
from halo_lightning.labelling.scorers import scored
from halo_lightning.pretrained import load_tokenizer
from halo_lightning.world import judge, rows
from tests.conftest import REPOSITORY, tiny_llama
from tests.data.chat import tokenizer_of
from tests.data.helpers import write_rows

Capture = pytest.CaptureFixture[str]

SCORERS = """
import math, os, time

def length(prompt, completion):
    return len(completion)

def lists(prompts, completions, **more):
    return [float(len(text)) for text in completions]

def short_lists(prompts, completions):
    return [1.0]

def picky(prompt, completion):
    if "bad" in completion:
        raise ValueError("I do not like it")
    return {"nan": math.nan, "text": "high", "none": None, "true": True}.get(completion, len(completion))

def dies(prompt, completion):
    os._exit(3)

def counted(prompt, completion):
    with open(os.environ["CALLS"], "a") as file:
        file.write(completion + "\\n")
    time.sleep(float(os.environ.get("SLEEP", "0")))
    return len(completion)

number = 3
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with functions that score."""
    (tmp_path / "my_scorers.py").write_text(SCORERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_scorers", raising=False)
    load.cache_clear()
    return tmp_path


def generations(number: int) -> list[dict[str, Any]]:
    return [{"prompt": f"Question {n}", "completion": "x" * (n % 7 + 1), "id": n} for n in range(number)]


def label(*arguments: str, status: int = 0) -> None:
    assert main(["label", *arguments]) == status


def written(path: str = "out.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


# --- what is written ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["1", "2"])
def test_rows_keep_their_order_and_everything_in_them(workers: str, capsys: Capture) -> None:
    given = generations(50)
    write_rows(Path("in.jsonl"), given)
    label(
        *("--data=in.jsonl", "--scorer=my_scorers:length", "--threshold=4", "--out=out.jsonl"),
        *("--batch_size=3", f"--workers={workers}"),
    )
    expected = [{**row, "label": len(row["completion"]) >= 4, "score": float(len(row["completion"]))} for row in given]
    assert written() == expected
    desirable = sum(row["label"] for row in expected)
    assert f"50 completions are in out.jsonl: {desirable} desirable (score 4 or more)" in capsys.readouterr().out
    picture = image.imread("out.png")
    assert picture.shape[0] > 300
    assert picture[..., :3].std() > 0.05


def test_the_output_is_read_by_fit_as_it_is() -> None:
    write_rows(Path("in.jsonl"), generations(20))
    label("--data=in.jsonl", "--scorer=my_scorers:length", "--quantile=0.5", "--out=out.jsonl", "--workers=1")
    data = UnaryDataModule("out.jsonl", tokenizer="embedded:base", validation_fraction=0)
    data.setup()
    assert data.summary.train == 20
    scores = [row["score"] for row in written()]
    bound = sorted(scores)[10]  # of 20
    assert data.summary.desirable == sum(score >= bound for score in scores) == sum(row["label"] for row in written())


def test_messages_csv_and_named_columns(capsys: Capture) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "four"}]
    write_rows(Path("in.jsonl"), [{"messages": messages}, {"prompt": messages[:1], "completion": messages[1:]}])
    arguments = ("--scorer=my_scorers:lists", "--threshold=4", "--workers=1")
    label("--data=in.jsonl", "--out=a.jsonl", *arguments)
    assert written("a.jsonl") == [
        {"messages": messages, "label": True, "score": 4.0},
        {"prompt": messages[:1], "completion": messages[1:], "label": True, "score": 4.0},
    ]
    assert "1 are repetitions of others" in capsys.readouterr().out  # the same conversation, written in another way
    Path("in.csv").write_text("question,answer,label\nHi,no,good\nHi,longer,bad\n")
    source = {"path": "in.csv", "columns": {"prompt": "question", "completion": "answer"}}
    label(f"--data={json.dumps(source)}", "--out=b.jsonl", *arguments)
    assert [(row["prompt"], row["completion"], row["label"]) for row in written("b.jsonl")] == [
        ("Hi", "no", False),
        ("Hi", "longer", True),
    ]
    assert "2 had a label or a score already, which is replaced" in capsys.readouterr().out


def test_the_embedded_rules(capsys: Capture) -> None:
    given = [{key: row[key] for key in ("prompt", "completion")} for row in rows("thumbs", examples=40, seed=3)]
    write_rows(Path("in.jsonl"), [{**row, "record_checksum": "of generations"} for row in given])
    label("--data=in.jsonl", "--scorer=embedded:rules", "--threshold=3", "--out=out.jsonl", "--workers=1")
    assert [row["score"] for row in written()] == [judge(row["prompt"], row["completion"]).score for row in given]
    assert "record_checksum" not in written()[0]
    write_rows(Path("in.jsonl"), [*given, {"prompt": "Who is who?", "completion": "x"}])
    label("--data=in.jsonl", "--scorer=embedded:rules", "--threshold=3", "--out=out.jsonl", "--workers=1", status=2)
    assert "in.jsonl, line 41, key 'completion': the scorer failed (ValueError" in capsys.readouterr().err


# --- rows that cannot be scored -----------------------------------------------------------------------------------


PICKY = ["good", "bad one", "nan", "text", "none", "true", "bad one"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_rows_that_cannot_be_scored_are_counted_and_listed(workers: str, capsys: Capture) -> None:
    write_rows(Path("in.jsonl"), [{"prompt": "Hi", "completion": text} for text in PICKY] + [{"x": 1}])
    arguments = ["--data=in.jsonl", "--scorer=my_scorers:picky", "--threshold=2", "--out=out.jsonl"]
    arguments += ["--batch_size=2", f"--workers={workers}", "--on_bad_row=skip"]
    label(*arguments)
    assert [(row["completion"], row["score"]) for row in written()] == [("good", 4.0), ("true", 1.0)]
    listed = sorted(written("out.bad_rows.jsonl"), key=lambda entry: entry["line"])
    assert [entry["line"] for entry in listed] == [2, 3, 4, 5, 7, 8]
    assert "the scorer failed (ValueError: I do not like it)" in listed[0]["error"]
    assert "the scorer gave 'nan', expected a finite number" in listed[1]["error"]
    assert "skipped 6 bad rows" in capsys.readouterr().out


def test_the_first_one_stops_and_what_is_scored_stays(capsys: Capture) -> None:
    write_rows(Path("in.jsonl"), [{"prompt": "Hi", "completion": text} for text in PICKY])
    arguments = ["--data=in.jsonl", "--scorer=my_scorers:picky", "--threshold=2", "--out=out.jsonl", "--workers=1"]
    label(*arguments, "--batch_size=1", status=2)
    message = capsys.readouterr().err
    assert "in.jsonl, line 2, key 'completion': the scorer failed (ValueError: I do not like it)" in message
    assert not Path("out.jsonl").exists()
    assert len(written("out.scores.jsonl")) == 1


def test_a_malformed_row_stops_before_anything_is_scored(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("CALLS", "calls")
    write_rows(Path("in.jsonl"), [*generations(3), {"prompt": "x", "completion": ""}])
    label("--data=in.jsonl", "--scorer=my_scorers:counted", "--threshold=2", "--out=out.jsonl", "--workers=1", status=2)
    assert "in.jsonl, line 4, key 'completion': found an empty completion" in capsys.readouterr().err
    assert not Path("calls").exists()


def test_lists_of_the_wrong_length() -> None:
    assert [value for value, _ in answers("my_scorers:short_lists", [("a", "b")])] == [1.0]
    given = answers("my_scorers:short_lists", [("a", "b"), ("c", "d")])
    assert given == [(1.0, ""), (1.0, "")]  # one by one


@pytest.mark.parametrize(
    ("value", "number"),
    [(1, 1.0), (True, 1.0), (np.float32(2.5), 2.5), (torch.tensor(3.0), 3.0), (10**400, None), ("3", None), ([], None)],
)
def test_what_a_score_can_be(value: Any, number: float | None) -> None:
    assert scored(None, value).score == number  # type: ignore[arg-type]


# --- mistakes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--scorer=my_scorers:length"], "found neither threshold nor quantile, expected one of them"),
        (["--scorer=my_scorers:length", "--threshold=1", "--quantile=0.5"], "found threshold and quantile"),
        (["--scorer=my_scorers:length", "--quantile=1.5"], "quantile is 1.5"),
        (["--scorer=my_scorers:length", "--threshold=1", "--workers=0"], "workers is 0"),
        (["--scorer=my_scorers:lenght", "--threshold=1"], "my_scorers:lenght: cannot be imported (AttributeError"),
        (["--scorer=no_such_module:f", "--threshold=1"], "cannot be imported (ModuleNotFoundError"),
        (["--scorer=my_scorers:number", "--threshold=1"], "found int, expected a function"),
        (["--scorer=embedded:judge", "--threshold=1"], "there is no embedded scorer 'embedded:judge'"),
        (["--scorer=./nothing", "--threshold=1"], "./nothing: no such folder"),
        (["--scorer=http://user:secret@localhost/x", "--threshold=1"], "found a user, a password or a query"),
        (["--scorer=http:///x", "--threshold=1"], "found an address without a host"),
        (["--scorer=my_scorers:length", "--threshold=1", "--out=out.csv"], "expected a name that ends in .jsonl"),
        (["--scorer=my_scorers:length", "--threshold=1", "--data=none.jsonl"], "none.jsonl: no such file"),
        (["--scorer=my_scorers:dies", "--threshold=1", "--workers=2"], "a process that ran my_scorers:dies died"),
    ],
)
def test_what_cannot_work_is_said(arguments: list[str], says: str, capsys: Capture) -> None:
    write_rows(Path("in.jsonl"), generations(3))
    label("--data=in.jsonl", "--out=out.jsonl", *arguments, status=2)
    message = capsys.readouterr().err
    assert says in message
    assert "Traceback" not in message
    assert "secret" not in message


def test_pairs_are_no_generations(capsys: Capture) -> None:
    write_rows(Path("in.jsonl"), [{"prompt": "a", "completion": "b", "chosen": "c", "rejected": "d"}])
    label("--data=in.jsonl", "--scorer=my_scorers:length", "--threshold=1", "--out=out.jsonl", status=2)
    assert "in.jsonl, line 1: found chosen and rejected beside the completion" in capsys.readouterr().err


# --- going on -----------------------------------------------------------------------------------------------------


def test_another_threshold_scores_nothing_again(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("CALLS", "calls")
    given = generations(10)
    write_rows(Path("in.jsonl"), given[:6])
    arguments = ["--data=in.jsonl", "--scorer=my_scorers:counted", "--out=out.jsonl", "--workers=1"]
    label(*arguments, "--threshold=2")
    label(*arguments, "--threshold=5")
    assert len(Path("calls").read_text().splitlines()) == 6
    assert [row["label"] for row in written()] == [n >= 4 for n in range(6)]
    write_rows(Path("in.jsonl"), given)  # more of them, the old ones among them
    label(*arguments, "--quantile=0.5")
    assert len(Path("calls").read_text().splitlines()) == 10
    assert "4 scored now, 6 before" in capsys.readouterr().out
    label("--data=in.jsonl", "--scorer=my_scorers:length", "--out=out.jsonl", "--threshold=5", status=2)
    assert "this file was made with other settings (function: my_scorers:counted → " in capsys.readouterr().err
    Path("my_scorers.py").write_text(SCORERS + "\n# another version\n")
    label(*arguments, "--threshold=2", status=2)
    assert "this file was made with other settings (source: " in capsys.readouterr().err


def test_killed_it_goes_on_and_scores_nothing_twice(folder: Path) -> None:
    given = [{"prompt": "Hi", "completion": f"answer {n}"} for n in range(60)]
    write_rows(Path("in.jsonl"), given)
    command = [sys.executable, str(REPOSITORY / "cli.py"), "label", "--data=in.jsonl", "--scorer=my_scorers:counted"]
    command += ["--threshold=9", "--out=out.jsonl", "--batch_size=2", "--workers=2"]
    environment = {**os.environ, "CALLS": str(folder / "calls"), "SLEEP": "0.05"}
    process = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    scores = folder / "out.scores.jsonl"
    while not scores.exists() or scores.read_text().count("\n") < 10:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = {json.loads(line)["key"] for line in scores.read_text().splitlines(keepends=True) if line.endswith("\n")}
    with scores.open("a") as file:
        file.write('{"key": "half a li')  # as a kill in the middle of a write leaves it
    assert not (folder / "out.jsonl").exists()
    done = subprocess.run(command, env={**environment, "SLEEP": "0"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [row["completion"] for row in written()] == [row["completion"] for row in given]
    calls = Counter(Path("calls").read_text().splitlines())
    keys = {item.completion: item.key for item in read_items(Source("in.jsonl"), BadRows())}
    assert all(calls[text] == 1 for text, key in keys.items() if key in kept)
    assert set(calls) == set(keys)
    assert f"{60 - len(kept)} scored now, {len(kept)} before" in done.stdout


# --- classifiers --------------------------------------------------------------------------------------------------


def classifier(folder: Path, labels: int, **changes: Any) -> Path:
    """A tiny BERT with a WordPiece tokenizer that has no chat template and no end-of-sequence token."""
    from tokenizers import processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    backend = tokenizer_of("WordPiece", "default").backend_tokenizer
    backend.add_special_tokens(["[CLS]", "[SEP]", "[PAD]"])
    special = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=special
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", model_max_length=40
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(
        vocab_size=len(tokenizer),
        num_labels=labels,
        pad_token_id=tokenizer.pad_token_id,
        max_position_embeddings=48,
        initializer_range=0.5,
        **size,
        **changes,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def by_hand(folder: Path, rows: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return np.stack(
            [
                model(**tokenizer(row["prompt"], row["completion"], return_tensors="pt")).logits[0].double().numpy()
                for row in rows
            ]
        )


TEXTS = [
    {"prompt": "Name a fruit.", "completion": "An apple."},
    {"prompt": "What is the capital of France?", "completion": "Paris is."},
    {"prompt": "Hello there!", "completion": "Why would I?"},
]


def test_a_classifier_of_two_and_of_three_classes(folder: Path, capsys: Capture) -> None:
    write_rows(Path("in.jsonl"), TEXTS)
    classifier(folder / "two", 2)
    label("--data=in.jsonl", f"--scorer={folder / 'two'}", "--quantile=0.5", "--out=two.jsonl")
    logits = by_hand(folder / "two", TEXTS)
    probability = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    np.testing.assert_allclose([row["score"] for row in written("two.jsonl")], probability, rtol=1e-5)
    classifier(folder / "three", 3, id2label={0: "bad", 1: "fair", 2: "good"})
    arguments = ["--data=in.jsonl", f"--scorer={folder / 'three'}", "--quantile=0.5", "--out=three.jsonl"]
    label(*arguments, status=2)
    assert "has the classes bad, fair, good: expected positive to name one of them" in capsys.readouterr().err
    label(*arguments, "--positive=best", status=2)
    assert "positive is 'best': expected one of bad, fair, good" in capsys.readouterr().err
    label(*arguments, "--positive=fair")
    logits = by_hand(folder / "three", TEXTS)
    softmax = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose([row["score"] for row in written("three.jsonl")], softmax[:, 1], rtol=1e-5)


def test_what_is_too_long_for_a_classifier(folder: Path, capsys: Capture) -> None:
    classifier(folder / "one", 1)
    write_rows(Path("in.jsonl"), [*TEXTS, {"prompt": "Name a fruit.", "completion": "An apple. " * 30}])
    arguments = ["--data=in.jsonl", f"--scorer={folder / 'one'}", "--threshold=0", "--out=out.jsonl"]
    label(*arguments, status=2)
    assert "line 4, key 'completion': found " in capsys.readouterr().err
    label(*arguments, "--on_bad_row=skip")
    np.testing.assert_allclose([row["score"] for row in written()], by_hand(folder / "one", TEXTS)[:, 0], rtol=1e-5)
    assert "skipped 1 bad rows" in capsys.readouterr().out


def test_our_own_reward_model(folder: Path) -> None:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    tokenizer = load_tokenizer("embedded:base")
    base = tiny_llama(vocab_size=len(tokenizer), max_position_embeddings=256).config.to_dict()
    torch.manual_seed(0)
    config = LlamaConfig(**{**base, "num_labels": 1, "pad_token_id": tokenizer.pad_token_id})
    write_export(folder / "reward", LlamaForSequenceClassification(config), tokenizer)
    write_rows(Path("in.jsonl"), TEXTS)
    label("--data=in.jsonl", f"--scorer={folder / 'reward'}", "--quantile=0.5", "--out=out.jsonl", "--batch_size=2")
    prompts = [[{"role": "user", "content": row["prompt"]}] for row in TEXTS]
    expected = RewardScorer(str(folder / "reward")).score(prompts, [row["completion"] for row in TEXTS])
    np.testing.assert_allclose([row["score"] for row in written()], expected.numpy(), rtol=1e-5)


def test_a_language_model_is_no_classifier(folder: Path, capsys: Capture) -> None:
    write_rows(Path("in.jsonl"), TEXTS)
    label("--data=in.jsonl", "--scorer=embedded:base", "--threshold=0", "--out=out.jsonl", status=2)
    assert "there is no embedded scorer" in capsys.readouterr().err
    tokenizer = load_tokenizer("embedded:base")
    tiny_llama(vocab_size=len(tokenizer)).save_pretrained(folder / "lm")
    tokenizer.save_pretrained(folder / "lm")
    label("--data=in.jsonl", f"--scorer={folder / 'lm'}", "--threshold=0", "--out=out.jsonl", status=2)
    assert "this is no sequence classifier (score.weight is not among its weights)" in capsys.readouterr().err
