"""Sources in data modules: bad rows, truncation sides and mixtures."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from halo_lightning.data.datamodules import PairedDataModule, UnaryDataModule
from halo_lightning.data.sources import SHP, Label, Source
from halo_lightning.errors import ConfigError, DataError
from tests.data.helpers import byte_bpe, pairs, thumbs, write_rows
from tests.data.sources.published import shp_row

TEMPLATE = (
    "{% if 'bad' in messages[0].content %}{{ raise_exception('no!') }}{% endif %}"
    "{% for message in messages %}[{{ message.role }}]{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% else %}</s>{% endif %}"
)


def module(kind: Any, train: Any, **options: Any) -> Any:
    data = kind(train, **{"tokenizer": byte_bpe(), "batch_size": 4, "validation_fraction": 0, **options})
    data.setup("fit")
    return data


def prompts(data: Any) -> list[str]:
    batch = data.train_dataset[list(range(len(data.train_dataset)))]
    return [data.tokenizer.decode(prompt) for prompt, _ in batch.sequences.unpacked()]


def test_bad_rows_are_skipped_counted_and_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [*pairs(3), {"prompt": "bad", "chosen": "a", "rejected": "b"}, {"prompt": "x", "chosen": "a"}])
    path.write_text(path.read_text() + "not json\n" + json.dumps({"prompt": "a " * 40, "chosen": "a", "rejected": "b"}))
    options: dict[str, Any] = {"tokenizer": byte_bpe(template=TEMPLATE), "max_length": 60, "max_prompt_length": 30}
    listed = tmp_path / "run" / "bad.jsonl"
    with caplog.at_level(logging.WARNING, logger="halo_lightning.data"):
        data = module(
            UnaryDataModule,
            str(path),
            **options,
            too_long="error",
            on_bad_row="skip",
            bad_rows_file=str(listed),
        )
    assert (data.summary.train, data.summary.bad_rows) == (6, 4)
    found = [json.loads(line) for line in listed.read_text().splitlines()]
    assert {(entry["file"], entry["line"]) for entry in found} == {(str(path), line) for line in (4, 5, 6, 7)}
    assert {entry["line"]: entry["key"] for entry in found}[5] is None
    reasons = {entry["line"]: entry["error"] for entry in found}
    assert "cannot render the roles user: no!" in reasons[4]
    assert "found the keys 'prompt', 'chosen'" in reasons[5]
    assert "not JSON" in reasons[6]
    assert "tokens of prompt" in reasons[7]
    (note,) = [record.message for record in caplog.records]
    assert note == data.summary.notes[0]
    assert note.startswith(f"skipped 4 bad rows, listed in {listed} (first: {path}, line ")
    with pytest.raises(DataError, match="line 5: found the keys"):
        module(UnaryDataModule, str(path), **options)


def test_validation_is_counted_with_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("train.jsonl", "validation.jsonl"):
        write_rows(tmp_path / name, [*pairs(2), {"prompt": "x"}])
    data = module(PairedDataModule, "train.jsonl", validation="validation.jsonl", on_bad_row="skip")
    assert data.summary.bad_rows == 2
    assert [note[:22] for note in data.summary.notes] == ["skipped 2 bad rows, li"]
    listed = [json.loads(line)["file"] for line in (tmp_path / "bad_rows.jsonl").read_text().splitlines()]
    assert listed == ["train.jsonl", "validation.jsonl"]


def test_nothing_but_bad_rows(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"x": 1}] * 3)
    with pytest.raises(DataError, match=r"no example for training: skipped 3 bad rows, listed in .* \(first: .*line 1"):
        module(PairedDataModule, path, on_bad_row="skip", bad_rows_file=str(tmp_path / "bad.jsonl"))


def test_on_bad_row_is_checked() -> None:
    with pytest.raises(ConfigError, match="on_bad_row is 'ignore': expected 'error' or 'skip'"):
        UnaryDataModule("a.jsonl", on_bad_row="ignore")  # type: ignore[arg-type]


def test_the_side_that_is_cut(tmp_path: Path) -> None:
    words = "one two three four five six seven eight nine ten"
    shp = write_rows(tmp_path / "shp.jsonl", [shp_row(words, "yes", "no")])
    own = write_rows(tmp_path / "own.jsonl", [{"prompt": words, "chosen": "yes", "rejected": "no"}])
    options = {"max_length": 40, "max_prompt_length": 30}
    data = module(PairedDataModule, [shp, own, Source(own, keep_prompt="start")], **options)
    start, end, asked, *_ = prompts(data)
    assert asked == start
    assert start.startswith("\n\nHuman: one two")
    assert start.endswith("\n\nAssistant:")
    assert "ten" not in start
    assert end.endswith("nine ten\n\nAssistant:")
    assert "6 prompts at their start or end (4)" in str(data.summary)


def test_the_side_that_is_cut_for_all_sources(tmp_path: Path) -> None:
    words = "one two three four five six seven eight nine ten"
    shp = write_rows(tmp_path / "shp.jsonl", [shp_row(words, "yes", "no")])
    own = write_rows(tmp_path / "own.jsonl", [{"prompt": words, "chosen": "yes", "rejected": "no"}])
    options = {"max_length": 40, "max_prompt_length": 30}
    for keep, word in (("start", "one"), ("end", "ten")):
        data = module(PairedDataModule, [shp, own], keep_prompt=keep, **options)
        assert all(word in prompt for prompt in prompts(data))
    asked, other, *_ = prompts(
        module(PairedDataModule, [Source(own, keep_prompt="end"), own], keep_prompt="start", **options)
    )
    assert "ten" in asked
    assert "one" in other


def test_what_is_too_long_is_left_out_if_asked_to(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Hi", "chosen": "yes", "rejected": "no"},
        {"prompt": "Hi", "chosen": "yes", "rejected": "no" * 40},
    ]
    path = write_rows(tmp_path / "rows.jsonl", [rows[0], rows[1], rows[0]])
    data = module(PairedDataModule, path, too_long="drop", max_length=40, max_prompt_length=30)
    assert (data.summary.train, data.summary.too_long, data.summary.cut_completions) == (2, 1, 0)
    assert data.summary.notes == (f"left out 1 examples that are longer than max_length=40 (first: {path}, line 2)",)
    assert [data.train_dataset.place(number) for number in range(2)] == [f"{path}, line 1", f"{path}, line 3"]
    path = write_rows(tmp_path / "long.jsonl", rows[1:])
    with pytest.raises(
        DataError, match="no example for training: left out 1 examples that are longer than max_length=40"
    ):
        module(PairedDataModule, path, too_long="drop", max_length=40, max_prompt_length=30)


def test_the_selection_is_in_the_summary(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", thumbs(20, 10))
    data = module(UnaryDataModule, Source(path, keep_undesirable=0.2))
    assert (data.summary.desirable, data.summary.undesirable) == (10, 2)
    assert data.summary.notes == (f"{path}: 12 of 20 examples are kept (keep_undesirable=0.2 left out 8)",)


def test_hyper_parameters_with_sources_are_primitives(tmp_path: Path) -> None:
    source = Source("a.csv", columns={"label": "thumb"}, label=Label(mapping={"up": True, "down": False}), shp=SHP(3))
    torch.save(dict(UnaryDataModule([source, "b.jsonl"]).hparams), tmp_path / "hparams.pt")
    loaded = torch.load(tmp_path / "hparams.pt", weights_only=True)
    assert loaded["train"][1] == "b.jsonl"
    assert loaded["train"][0]["columns"] == {"label": "thumb"}
    assert loaded["train"][0]["label"]["mapping"] == {"up": True, "down": False}
    assert loaded["train"][0]["shp"] == {"min_score_ratio": 3, "max_pairs_per_prompt": 5}
