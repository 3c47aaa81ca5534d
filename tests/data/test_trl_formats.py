"""What TRL's page of dataset formats shows goes in as it is, from every kind of file, through the commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from halo_lightning.cli import main
from halo_lightning.data.feedback import Example, Feedback
from halo_lightning.data.reading import read_feedback
from halo_lightning.errors import DataError
from halo_lightning.pretrained import load_model, load_tokenizer
from tests.conftest import REPOSITORY
from tests.data.helpers import write_rows

has_json = pytest.mark.skipif(not hasattr(datasets, "Json"), reason="datasets before 4.7 has no columns of JSON")

Rows = list[dict[str, Any]]
Capture = pytest.CaptureFixture[str]

SKY = {"role": "user", "content": "What color is the sky?"}
BLUE = {"role": "assistant", "content": "It is blue."}
GREEN = {"role": "assistant", "content": "It is green."}
LIGHT = {
    "type": "function",
    "function": {
        "name": "control_light",
        "description": "Controls the lights in a room.",
        "parameters": {
            "type": "object",
            "properties": {
                "room": {"type": "string", "description": "The name of the room."},
                "state": {"type": "string", "description": 'The desired state of the light ("on" or "off").'},
            },
            "required": ["room", "state"],
        },
    },
}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"properties": {"city": {"type": "string"}}}},
}


def with_tools(name: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": "Turn on the living room lights."},
        {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}]},
        {"role": "tool", "name": name, "content": "The lights in the living room are now on."},
        {"role": "assistant", "content": "Done!"},
    ]


CALL, OTHER_CALL = {"room": "living room", "state": "on"}, {"city": "Rome"}
ASKED = "[user]What color is the sky?[assistant]"

FORMATS: dict[str, tuple[str, Rows, list[str]]] = {
    "language modeling": ("sft", [{"text": "The sky is blue."}], ["T«he sky is blue.»"]),
    "language modeling, conversational": ("sft", [{"messages": [SKY, BLUE]}], [f"{ASKED}«It is blue.»"]),
    "prompt-completion": (
        "sft",
        [{"prompt": "The sky is", "completion": " blue."}],
        ["[user]The sky is[assistant]« blue.»"],
    ),
    "prompt-completion, conversational": (
        "sft",
        [{"prompt": [SKY], "completion": [BLUE]}],
        [f"{ASKED}«It is blue.»"],
    ),
    "preference": (
        "dpo",
        [{"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}],
        ["[user]The sky is[assistant]« blue.»", "[user]The sky is[assistant]« green.»"],
    ),
    "preference, implicit": (
        "dpo",
        [{"chosen": "The sky is blue.", "rejected": "The sky is green."}],
        ["[user]The sky is[assistant]« blue.»", "[user]The sky is[assistant]« green.»"],
    ),
    "preference, conversational": (
        "dpo",
        [{"prompt": [SKY], "chosen": [BLUE], "rejected": [GREEN]}],
        [f"{ASKED}«It is blue.»", f"{ASKED}«It is green.»"],
    ),
    "preference, conversational, implicit": (
        "dpo",
        [{"chosen": [SKY, BLUE], "rejected": [SKY, GREEN]}],
        [f"{ASKED}«It is blue.»", f"{ASKED}«It is green.»"],
    ),
    "unpaired preference": (
        "kto",
        [
            {"prompt": "The sky is", "completion": " blue.", "label": True},
            {"prompt": "The sky is", "completion": " green.", "label": False},
        ],
        ["[user]The sky is[assistant]« blue.»", "[user]The sky is[assistant]« green.»"],
    ),
    "unpaired preference, conversational": (
        "kto",
        [
            {"prompt": [SKY], "completion": [BLUE], "label": True},
            {"prompt": [SKY], "completion": [GREEN], "label": False},
        ],
        [f"{ASKED}«It is blue.»", f"{ASKED}«It is green.»"],
    ),
    "tools": (
        "sft",
        [
            {"messages": with_tools("control_light", CALL), "tools": [LIGHT]},
            {"messages": with_tools("weather", OTHER_CALL), "tools": [WEATHER, LIGHT]},
        ],
        [
            json.dumps([LIGHT]) + "[user]Turn on the living room lights.[assistant]control_light" + json.dumps(CALL)
            + "[tool]The lights in the living room are now on.[assistant]«Done!»",
            json.dumps([WEATHER, LIGHT]) + "[user]Turn on the living room lights.[assistant]weather"
            + json.dumps(OTHER_CALL) + "[tool]The lights in the living room are now on.[assistant]«Done!»",
        ],
    ),
    "Harmony": (
        "sft",
        [
            {
                "messages": [
                    {"role": "developer", "content": "Use a friendly tone."},
                    SKY,
                    {"role": "assistant", "thinking": "Deep reflection...", "content": "It is blue."},
                ],
                "chat_template_kwargs": {"reasoning_effort": "low"},
            }
        ],
        [f"low[developer]Use a friendly tone.{ASKED}«(Deep reflection...)It is blue.»"],
    ),
    "parts of text": (
        "sft",
        [{"prompt": [{**SKY, "content": [{"type": "text", "text": SKY["content"]}]}],
          "completion": [{**BLUE, "content": [{"type": "text", "text": BLUE["content"]}]}]}],
        [f"{ASKED}«It is blue.»"],
    ),
}  # fmt: skip
"""Of each format rows, the configuration that learns from them, and what the model sees of them."""

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "prompt-only": ({"prompt": "The sky is"}, "found the keys 'prompt', expected {}; it is a prompt alone"),
    "prompt-only, conversational": ({"prompt": [SKY]}, "found the keys 'prompt', expected {}; it is a prompt alone"),
    "stepwise supervision": (
        {"prompt": "Which is larger?", "completions": ["9.8 has 0.8.", "9.11 has 0.11."], "labels": [True, False]},
        "found the keys 'prompt', 'completions', 'labels', expected {}; it is stepwise supervision",
    ),
    "images": (
        {"prompt": [{**SKY, "content": [{"type": "image"}, {"type": "text", "text": "Which color?"}]}],
         "chosen": [BLUE], "rejected": [GREEN]},
        'found a list ([{{"type": "image"',
    ),
}  # fmt: skip
WANTED: dict[str, Feedback] = {"sft": "sft", "dpo": "paired", "kto": "unary"}
EXPECTED = {
    "sft": "demonstrations (prompt and completion, or messages, or text), or preference pairs (prompt, chosen,"
    " rejected), or unary feedback (prompt, completion, label)",
    "dpo": "preference pairs (prompt, chosen, rejected), or unary feedback (prompt, completion, label)",
    "kto": "unary feedback (prompt, completion, label), or preference pairs (prompt, chosen, rejected)",
}

TEMPLATE = (
    "{{ reasoning_effort or '' }}{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{% if m.thinking %}({{ m.thinking }}){% endif %}{{ m.content or '' }}"
    "{% for call in m.tool_calls or [] %}{{ call.function.name }}{{ call.function.arguments | tojson }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
"""Shows all that a template is given, nulls too."""


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The embedded model with a chat template that shows all."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = load_tokenizer("embedded:base")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    load_model("embedded:base").save_pretrained(folder)
    return str(folder)


def write(folder: Path, kind: str, rows: Rows) -> str:
    """The rows in a file, as TRL's page makes data sets of them."""
    path = folder / f"rows.{kind}"
    if kind == "jsonl":
        return write_rows(path, rows)
    options: dict[str, Any] = {"on_mixed_types": "use_json"} if "json" in kind else {}
    data = datasets.Dataset.from_list(rows, **options)
    if kind.endswith("parquet"):
        data.to_parquet(path)
    else:
        data.save_to_disk(path)
    return str(path)


def arguments(model: str, method: str, path: str) -> list[str]:
    return [f"--config=configs/tiny_{method}.yaml", f"--model.policy={model}", f"--data.train={path}"]


def seen(capsys: Capture, model: str, method: str, path: str) -> list[str]:
    """What the model sees of the first examples, with what it learns marked, but for the end-of-sequence token."""
    options = ["--data.max_length=900", "--data.validation_fraction=0", "--examples=0,1", "--json=-"]
    assert main(["inspect", *arguments(model, method, path), *options]) == 0
    report = json.loads(capsys.readouterr().out)
    return [
        "".join(f"«{span['text']}»" if span["learned"] else span["text"] for span in sequence["spans"][:-1])
        for example in report["examples"]
        for sequence in example["sequences"]
    ]


@pytest.mark.parametrize("name", FORMATS)
def test_the_model_sees_what_the_row_says(name: str, model: str, tmp_path: Path, capsys: Capture) -> None:
    method, rows, expected = FORMATS[name]
    found = seen(capsys, model, method, write(tmp_path, "jsonl", rows * 2))
    assert found == (expected * 2)[: len(found)]
    assert len(found) >= len(expected)


def read(path: str, wanted: Feedback) -> list[Example]:
    """The examples without their places."""
    return [replace(example, file="", line=0) for example in read_feedback(path, wanted)]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "kind",
    ["parquet", "saved", pytest.param("json.parquet", marks=has_json), pytest.param("json.saved", marks=has_json)],
)
def test_it_is_the_same_in_every_file(name: str, kind: str, tmp_path: Path) -> None:
    method, rows, _ = FORMATS[name]
    examples = read(write(tmp_path, "jsonl", rows * 2), WANTED[method])
    assert examples
    assert read(write(tmp_path, kind, rows * 2), WANTED[method]) == examples


@has_json
def test_columns_whose_types_are_written_out(tmp_path: Path) -> None:
    """As TRL's page does it for tools."""
    _, rows, _ = FORMATS["tools"]
    examples = read(write(tmp_path, "jsonl", rows), "sft")
    text, objects = datasets.Value("string"), datasets.List(datasets.Json())
    message = {"role": text, "name": text, "content": text, "tool_calls": objects}
    features = datasets.Features({"messages": datasets.List(message), "tools": objects})
    whole = [{**row, "messages": [{key: one.get(key) for key in message} for one in row["messages"]]} for row in rows]
    datasets.Dataset.from_list(whole, features=features).to_parquet(tmp_path / "rows.parquet")
    assert read(str(tmp_path / "rows.parquet"), "sft") == examples
    as_text = [{**row, "tools": json.dumps(row["tools"])} for row in rows]
    assert read(write(tmp_path, "jsonl", as_text), "sft") == examples


@pytest.mark.parametrize("method", EXPECTED)
@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize(("kind", "line"), [("jsonl", "line 1"), ("parquet", "row 1")])
def test_what_is_no_feedback_says_what_is_missing(name: str, method: str, kind: str, line: str, tmp_path: Path) -> None:
    row, says = REFUSED[name]
    path = write(tmp_path, kind, [row])
    with pytest.raises(DataError) as error:
        read(path, WANTED[method])
    assert str(error.value).startswith(f"{path}, {line}")
    assert says.format(EXPECTED[method]) in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_it_trains(name: str, model: str, tmp_path: Path) -> None:
    method, rows, _ = FORMATS[name]
    path = write(tmp_path, "jsonl", rows * 4)
    options = ["--data.batch_size=2", "--trainer.max_steps=1", "--trainer.limit_val_batches=1"]
    paths = [f"--data.validation={path}", f"--run_dir={tmp_path / 'run'}"]
    assert main(["fit", *arguments(model, method, path), *options, *paths]) == 0
    assert (tmp_path / "run" / "export" / "model.safetensors").is_file()
