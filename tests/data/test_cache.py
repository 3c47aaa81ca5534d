"""Tokens are made once, by one process, and what a later start maps is what an uncached one makes."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from halo_lightning import caches
from halo_lightning.caches import content_hash
from halo_lightning.data import Label, Source, cache
from halo_lightning.data.batching import TokenizedDataset
from halo_lightning.data.cache import TokenCache
from halo_lightning.data.datamodules import FeedbackDataModule, PairedDataModule, SFTDataModule, UnaryDataModule
from halo_lightning.data.fingerprint import tokenizer_fingerprint
from halo_lightning.data.preparation import Preparation
from halo_lightning.data.sources.bad_rows import BadRows
from halo_lightning.data.truncation import Limits
from halo_lightning.errors import DataError
from halo_lightning.quiet import quieten
from tests.data.helpers import CHATML, byte_bpe, pairs, thumbs, write_rows

ARRAYS = ("tokens", "offsets", "prompt_lengths", "weights", "desirable", "learned", "origins", "completion_offsets")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


def module(kind: type[FeedbackDataModule], train: Any, **options: Any) -> Any:
    data = kind(train, **{"tokenizer": byte_bpe(), "batch_size": 4, **options})
    data.setup("fit")
    return data


def caches_in(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "data").iterdir() if path.is_dir())


def assert_same(one: TokenizedDataset, other: TokenizedDataset) -> None:
    assert one.files == other.files
    for name in ARRAYS:
        mine, yours = getattr(one, name), getattr(other, name)
        assert (mine is None) == (yours is None), name
        if mine is not None:
            assert mine.dtype == yours.dtype
            assert np.array_equal(mine, yours), name


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("prepared again")


# --- the same as without ------------------------------------------------------------------------------------------

MESSY = [
    {"prompt": "Hello", "completion": "Yes", "label": True, "weight": 2},
    {"prompt": "Hello", "completion": "", "label": False},
    {"prompt": "Hello " * 20, "completion": "No " * 20, "label": False},
    {"prompt": "Hello", "chosen": "\n\nHuman: a", "rejected": "x"},
    *thumbs(40, 20),
]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (UnaryDataModule, {}),
        (UnaryDataModule, {"validation_fraction": 0.3, "seed": 4}),
        (PairedDataModule, {}),
        (SFTDataModule, {"loss_on": "all_turns"}),
        (SFTDataModule, {"too_long": "drop"}),
    ],
)
def test_a_cached_start_is_an_uncached_one(
    tmp_path: Path, kind: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = {UnaryDataModule: MESSY, PairedDataModule: [*pairs(20), {"prompt": 3}], SFTDataModule: MESSY}[kind]
    write_rows(tmp_path / "rows.jsonl", rows)
    train: Any = ["rows.jsonl", Source("rows.jsonl", keep_prompt="start")]
    settings = {"on_bad_row": "skip", "max_length": 24, "max_prompt_length": 12, **options}
    seen = {}
    for name, where in (("uncached", False), ("first", "kept"), ("second", "kept")):
        if name == "second":
            monkeypatch.setattr(Preparation, "run", never)
        caplog.clear()
        (tmp_path / "bad_rows.jsonl").unlink(missing_ok=True)
        with caplog.at_level(logging.WARNING):
            data = module(kind, train, cache=where, **settings)
        listed = (tmp_path / "bad_rows.jsonl").read_text()
        seen[name] = (data, data.summary, [record.message for record in caplog.records], listed)
    plain, *cached = seen.values()
    assert plain[1].bad_rows
    for data, *reported in cached:
        assert isinstance(data.train_dataset.tokens, np.memmap)
        assert reported == list(plain[1:])
        assert_same(data.train_dataset, plain[0].train_dataset)
        assert_same(data.validation_dataset, plain[0].validation_dataset)


def test_training_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    import lightning as L

    from halo_lightning import KTO
    from halo_lightning.world import rows

    name = write_rows(tmp_path / "rows.jsonl", rows("thumbs", examples=40, seed=1))
    weights = []
    for where in (False, str(tmp_path / "kept"), str(tmp_path / "kept")):
        torch.manual_seed(1)
        data = UnaryDataModule(name, batch_size=8, max_length=64, max_prompt_length=32, cache=where)
        policy = KTO("embedded:base", reference_cache=str(tmp_path / f"reference_{where is False}"))
        trainer = L.Trainer(
            accelerator="cpu",
            max_steps=3,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(policy, datamodule=data)
        weights.append([parameter.detach().clone() for parameter in policy.pair.policy.parameters()])
    assert isinstance(data.train_dataset.tokens, np.memmap)
    for plain, first, second in zip(*weights, strict=True):
        assert torch.equal(plain, first)
        assert torch.equal(plain, second)
    assert ", of 40 found" in policy.reference_note  # and the reference's cache knows the tokens either way


# --- what makes another cache -------------------------------------------------------------------------------------


def test_what_was_left_out_is_told_in_the_same_order(tmp_path: Path) -> None:
    start = "\n\nHuman: Hi\n\nAssistant:"
    different = {"chosen": f"{start} Yes", "rejected": "\n\nHuman: Bye\n\nAssistant: No"}
    empty, good = {"chosen": f"{start} Yes", "rejected": start}, {"chosen": f"{start} Yes", "rejected": f"{start} No"}
    files = [write_rows(tmp_path / name, rows) for name, rows in (("b", [different, empty, good]), ("a", [empty] * 2))]
    options = {"validation_fraction": 0, "cache": str(tmp_path / "cache")}
    first, second = (str(module(PairedDataModule, files, **options).summary) for _ in range(2))
    assert first == second
    assert first.index("different prompts") < first.index("empty completion") < first.index(f"{files[1]}: left out")


def test_whatever_tokens_depend_on_makes_another_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one, other = write_rows(Path("one.jsonl"), thumbs(6, 3)), write_rows(Path("other.jsonl"), thumbs(6, 4))
    plain = Preparation((Source(one),), "unary", Limits(32, 16))
    bad, kept = BadRows(), TokenCache("kept")
    numbers = {True: True}
    keys = {
        json.dumps(kept.key(Preparation(**{**vars(plain), **changes}), tokenizer, bad), sort_keys=True)
        for changes, tokenizer in (
            ({}, byte_bpe()),
            ({"sources": (Source(other),)}, byte_bpe()),
            ({"sources": (Source(one), Source(other))}, byte_bpe()),
            ({"sources": (Source(other), Source(one))}, byte_bpe()),
            ({"sources": (Source(one, label=Label(mapping=numbers)),)}, byte_bpe()),  # type: ignore[dict-item]
            ({"sources": (Source(one, keep_prompt="start"),)}, byte_bpe()),
            ({"feedback": "sft"}, byte_bpe()),
            ({"limits": Limits(31, 16)}, byte_bpe()),
            ({"limits": Limits(32, 16, "drop")}, byte_bpe()),
            ({"held_out": 0.1}, byte_bpe()),
            ({"seed": 2}, byte_bpe()),
            ({"all_turns": True}, byte_bpe()),
            ({"keep_prompt": "end"}, byte_bpe()),
            ({}, byte_bpe(template=CHATML)),
            ({}, byte_bpe(eos="<end>")),
            ({}, byte_bpe(regex=False)),
            ({}, byte_bpe(merges=[("Ġ", "H")])),
        )
    }
    assert len(keys) == 17
    keys.add(json.dumps(kept.key(plain, byte_bpe(), BadRows("skip")), sort_keys=True))
    monkeypatch.setattr(cache, "code_fingerprint", lambda: {"halo_lightning.data": "another version"})
    keys.add(json.dumps(kept.key(plain, byte_bpe(), bad), sort_keys=True))
    assert len(keys) == 19
    assert "null" not in keys


def test_a_tokenizer_is_the_same_whatever_it_was_last_used_for() -> None:
    tokenizer = byte_bpe()
    before = tokenizer_fingerprint(tokenizer)
    tokenizer.pad_token = "</s>"
    before_padding = tokenizer_fingerprint(tokenizer)
    tokenizer("Hello world", padding="max_length", truncation=True, max_length=3)
    assert tokenizer_fingerprint(tokenizer) == before_padding != before
    dated = byte_bpe(template="{{ strftime_now('%d %b %Y') }}" + CHATML)
    assert "date" in (tokenizer_fingerprint(dated) or {})


def test_a_file_that_changes_gets_another_cache_even_with_the_same_size_and_date(tmp_path: Path, file: Path) -> None:
    kept = str(tmp_path / "kept")
    write_rows(file, thumbs(6, 3))
    long_ago = time.time_ns() - 10**12
    os.utime(file, ns=(long_ago, long_ago))
    assert module(UnaryDataModule, str(file), validation_fraction=0, cache=kept).summary.desirable == 3
    file.write_text(file.read_text().replace("true", "null", 1).replace("null", "true", 1).replace("answer", "ANSWER"))
    os.utime(file, ns=(long_ago, long_ago))
    data = module(UnaryDataModule, str(file), validation_fraction=0, cache=kept)
    assert "ANSWER" in data.tokenizer.decode(data.train_dataset.tokens)
    assert len(caches_in(tmp_path / "kept")) == 2


def test_a_hash_is_remembered_until_the_file_is_touched(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("one")
    first = content_hash(file, tmp_path / "hashes")
    assert not (tmp_path / "hashes").exists()  # changed a moment ago
    monkeypatch.setattr(caches, "SETTLED_SECONDS", 0.0)
    assert content_hash(file, tmp_path / "hashes") == first
    monkeypatch.setattr(caches, "_sha256", lambda path: "read again")
    assert content_hash(file, tmp_path / "hashes") == first
    file.write_text("two")
    assert content_hash(file, tmp_path / "hashes") == "read again"
    (note,) = (tmp_path / "hashes").glob("*.json")
    note.write_text("{damaged")
    assert content_hash(file, tmp_path / "hashes") == "read again"


# --- where no cache is kept ---------------------------------------------------------------------------------------


def test_small_files_the_embedded_world_and_unknown_tokenizers_are_not_cached(tmp_path: Path, file: Path) -> None:
    class Own(type(byte_bpe())):  # type: ignore[misc]
        """A class that may do anything."""

    own = Own(tokenizer_object=byte_bpe().backend_tokenizer, eos_token="</s>")
    small = write_rows(file, thumbs(6, 3))
    user = Path(os.environ["HALO_LIGHTNING_CACHE"])
    module(UnaryDataModule, small)
    assert not (user / "data").exists()
    for source, tokenizer in (("embedded:thumbs?examples=20", "embedded:base"), (small, own)):
        data = module(UnaryDataModule, source, tokenizer=tokenizer, cache=str(tmp_path / "kept"))
        assert not isinstance(data.train_dataset.tokens, np.memmap)
    assert not (tmp_path / "kept" / "data").exists()
    assert tokenizer_fingerprint(object()) is None


def test_large_files_are_cached_by_default(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "WORTH_IT", 100)
    name = write_rows(file, thumbs(10, 5))
    assert isinstance(module(UnaryDataModule, name).train_dataset.tokens, np.memmap)
    assert not isinstance(module(UnaryDataModule, name, cache=False).train_dataset.tokens, np.memmap)
    (kept,) = caches_in(Path(os.environ["HALO_LIGHTNING_CACHE"]))
    assert (kept / "manifest.json").is_file()


# --- damage -------------------------------------------------------------------------------------------------------


def damage(folder: Path, how: str) -> None:
    tokens = folder / "used" / "tokens.bin"
    raw = tokens.read_bytes()
    if how == "cut off":
        tokens.write_bytes(raw[:-4])
    elif how == "a changed byte":
        tokens.write_bytes(raw[:5] + bytes([raw[5] ^ 1]) + raw[6:])
    elif how == "a missing file":
        tokens.unlink()
    elif how == "no manifest":
        (folder / "manifest.json").unlink()
    elif how == "half a manifest":
        (folder / "manifest.json").write_text((folder / "manifest.json").read_text()[:200])
    elif how == "another manifest":
        (folder / "manifest.json").write_text('{"key": {}}')
    else:
        (folder / "bad_rows.jsonl").write_text("{}\n")


@pytest.mark.parametrize(
    "how",
    [
        "cut off",
        "a changed byte",
        "a missing file",
        "no manifest",
        "half a manifest",
        "another manifest",
        "other bad rows",
    ],
)
def test_a_damaged_cache_is_made_again(tmp_path: Path, file: Path, how: str, caplog: Any) -> None:
    name, kept = write_rows(file, thumbs(20, 10)), str(tmp_path / "kept")
    expected = module(UnaryDataModule, name, cache=False)
    module(UnaryDataModule, name, cache=kept)
    (folder,) = caches_in(tmp_path / "kept")
    damage(folder, how)
    caplog.clear()
    quieten()  # as every command does, which says this nevertheless
    assert_same(module(UnaryDataModule, name, cache=kept).train_dataset, expected.train_dataset)
    (message,) = [record.message for record in caplog.records if "damaged" in record.message]
    assert str(folder) in message
    caplog.clear()
    module(UnaryDataModule, name, cache=kept)
    assert not [record for record in caplog.records if "damaged" in record.message]


def test_a_cache_that_was_copied_is_read(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = write_rows(file, thumbs(20, 10))
    module(UnaryDataModule, name, cache=str(tmp_path / "kept"))
    shutil.copytree(tmp_path / "kept" / "data", tmp_path / "elsewhere" / "data")
    monkeypatch.setattr(Preparation, "run", never)
    module(UnaryDataModule, name, cache=str(tmp_path / "elsewhere"))


def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, run = write_rows(file, thumbs(20, 10)), Preparation.run

    def run_and_append(*arguments: Any) -> Any:
        prepared = run(*arguments)
        write_rows(file, thumbs(21, 10))
        return prepared

    monkeypatch.setattr(Preparation, "run", run_and_append)
    with pytest.raises(DataError, match="changed while it was read"):
        module(UnaryDataModule, name, cache=str(tmp_path / "kept"))
    assert caches_in(tmp_path / "kept") == []


def test_an_error_in_the_data_leaves_nothing(tmp_path: Path, file: Path) -> None:
    name = write_rows(file, [*thumbs(600, 10), {"prompt": "Hello"}])
    for _ in range(2):
        with pytest.raises(DataError, match="line 601"):
            module(UnaryDataModule, name, cache=str(tmp_path / "kept"))
        assert [path.suffix for path in (tmp_path / "kept" / "data").iterdir()] == [".lock"]


# --- several processes --------------------------------------------------------------------------------------------


def prepare_in_a_process(file: Path, kept: Path, notes: Path, *, stuck: bool) -> None:
    """Prepares a file, and says so; stuck, it never ends: everything is written then, and nothing has its name yet."""
    run = Preparation.run

    def noted(*arguments: Any) -> Any:
        (notes / str(os.getpid())).touch()
        result = run(*arguments)
        while stuck:
            (notes / "ready").touch()
            time.sleep(0.01)
        return result

    Preparation.run = noted  # type: ignore[method-assign]
    tokens = module(UnaryDataModule, str(file), cache=str(kept), validation_fraction=0).train_dataset.tokens
    (notes / f"{os.getpid()}.result").write_text(f"{len(tokens)} {int(tokens.sum())}")


def start(*arguments: Any, stuck: bool = False) -> Any:
    process = multiprocessing.get_context("fork").Process(
        target=prepare_in_a_process, args=arguments, kwargs={"stuck": stuck}
    )
    process.start()
    return process


def test_two_processes_prepare_once_and_a_killed_one_leaves_nothing(tmp_path: Path, file: Path) -> None:
    notes, kept = tmp_path / "notes", tmp_path / "kept"
    notes.mkdir()
    expected = module(UnaryDataModule, write_rows(file, thumbs(3000, 1500)), cache=False, validation_fraction=0)
    tokens = expected.train_dataset.tokens
    victim = start(file, kept, notes, stuck=True)
    while not (notes / "ready").exists():
        assert victim.is_alive()
        time.sleep(0.01)
    victim.kill()
    victim.join()
    assert caches_in(kept)  # what it was writing, under another name
    for path in notes.iterdir():
        path.unlink()
    processes = [start(file, kept, notes) for _ in range(3)]
    for process in processes:
        process.join(120)
    results = [path.read_text() for path in notes.glob("*.result")]
    assert results == [f"{len(tokens)} {int(tokens.sum())}"] * 3
    assert len(list(notes.iterdir())) == 1 + len(results)  # one of them prepared
    assert len(caches_in(kept)) == 1  # and what the killed one left is gone


def test_a_worker_that_is_not_forked_gets_no_copy_of_the_files(tmp_path: Path, file: Path) -> None:
    data = module(UnaryDataModule, write_rows(file, thumbs(3000, 1500)), cache=str(tmp_path / "kept")).train_dataset
    data.reference_logps = np.zeros(3, np.float32)
    assert len(pickle.dumps(data)) < 5000 + data.completion_offsets.nbytes
    copy = pickle.loads(pickle.dumps(data))
    assert_same(copy, data)
    assert isinstance(copy.tokens, np.memmap)
