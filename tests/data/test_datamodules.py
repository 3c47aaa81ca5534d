"""The data modules as they are used: from files to batches, and every message on the way."""

from __future__ import annotations

import json
import logging
from itertools import chain
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from halo_lightning.data import base
from halo_lightning.data.batches import PairedBatch, SFTBatch, UnaryBatch
from halo_lightning.data.datamodules import FeedbackDataModule, PairedDataModule, SFTDataModule, UnaryDataModule
from halo_lightning.data.summary import DataSummary
from halo_lightning.data.truncation import Limits
from halo_lightning.errors import ConfigError, DataError
from tests.conftest import HH_FILE
from tests.data.helpers import byte_bpe, pairs, thumbs, write_rows

MODULES = [SFTDataModule, PairedDataModule, UnaryDataModule]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


def module(kind: type[FeedbackDataModule], train: str, **options: Any) -> Any:
    data = kind(train, **{"tokenizer": byte_bpe(), "batch_size": 4, **options})
    data.setup("fit")
    return data


def rendered(data: FeedbackDataModule, batch: Any) -> list[tuple[str, str]]:
    """The text of each sequence of a batch: all of it, and what the loss is on."""
    decode = data.tokenizer.decode
    return [(decode([*prompt, *completion]), decode(completion)) for prompt, completion in batch.sequences.unpacked()]


def prompts(data: FeedbackDataModule, loader: Any) -> set[str]:
    return {text.split("\n\nAssistant:")[0] for batch in loader for text, _ in rendered(data, batch)}


# --- from rows to batches -----------------------------------------------------------------------------------------


def test_unary_feedback(file: Path) -> None:
    rows = [
        {"prompt": "Hello", "completion": "Yes", "label": True, "weight": 2},
        {"prompt": "Hello world", "completion": "No", "label": False},
    ]
    data = module(UnaryDataModule, write_rows(file, rows), validation_fraction=0)
    (batch,) = data.train_dataloader()
    assert isinstance(batch, UnaryBatch)
    assert rendered(data, batch) == [
        ("\n\nHuman: Hello\n\nAssistant: Yes</s>", " Yes</s>"),
        ("\n\nHuman: Hello world\n\nAssistant: No</s>", " No</s>"),
    ]
    assert batch.desirable.tolist() == [True, False]
    assert batch.weight.tolist() == [2.0, 1.0]
    assert batch.index.tolist() == [0, 1]


def test_pairs(file: Path) -> None:
    data = module(PairedDataModule, write_rows(file, pairs(1)), validation_fraction=0)
    (batch,) = data.train_dataloader()
    assert isinstance(batch, PairedBatch)
    assert rendered(data, batch) == [
        ("\n\nHuman: Question 0\n\nAssistant: Yes 0</s>", " Yes 0</s>"),
        ("\n\nHuman: Question 0\n\nAssistant: No 0</s>", " No 0</s>"),
    ]


def test_demonstrations(file: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes"}]}]
    data = module(SFTDataModule, write_rows(file, rows), validation_fraction=0)
    (batch,) = data.train_dataloader()
    assert isinstance(batch, SFTBatch)
    assert rendered(data, batch) == [("\n\nHuman: Hello\n\nAssistant: Yes</s>", " Yes</s>")]


def test_pairs_as_unary_feedback_and_as_demonstrations(file: Path) -> None:
    name = write_rows(file, pairs(1))
    data = module(UnaryDataModule, name, validation_fraction=0)
    (batch,) = data.train_dataloader()
    assert [text for _, text in rendered(data, batch)] == [" Yes 0</s>", " No 0</s>"]
    assert batch.desirable.tolist() == [True, False]
    data = module(SFTDataModule, name, validation_fraction=0)
    assert [text for batch in data.train_dataloader() for _, text in rendered(data, batch)] == [" Yes 0</s>"]


def test_several_files_and_kinds(tmp_path: Path) -> None:
    files = [write_rows(tmp_path / "a.jsonl", thumbs(4, 2)), write_rows(tmp_path / "b.jsonl", pairs(3))]
    data = module(UnaryDataModule, files, validation_fraction=0)
    assert (data.summary.train, data.summary.desirable, data.summary.undesirable) == (10, 5, 5)


def test_balanced_batches_and_their_options(file: Path) -> None:
    name = write_rows(file, thumbs(20, 14))
    for balance, sizes in (("oversample", [4] * 7), ("undersample", [4] * 3), ("none", [4] * 5)):
        data = module(UnaryDataModule, name, validation_fraction=0, balance=balance)
        batches = list(data.train_dataloader())
        assert [len(batch.index) for batch in batches] == sizes
        if balance != "none":
            assert all(batch.desirable.tolist() == [True, False] * 2 for batch in batches)


# --- order --------------------------------------------------------------------------------------------------------


def order(data: FeedbackDataModule, epoch: int = 0) -> list[list[int]]:
    loader = data.train_dataloader()
    loader.batches.set_epoch(epoch)
    return [batch.index.tolist() for batch in loader]


@pytest.mark.parametrize("kind", MODULES)
def test_the_same_seed_gives_the_same_order(file: Path, kind: type[FeedbackDataModule]) -> None:
    name = write_rows(file, pairs(40))
    assert order(module(kind, name, seed=3)) == order(module(kind, name, seed=3))
    assert order(module(kind, name, seed=3), epoch=1) != order(module(kind, name, seed=3))
    fixed = {"validation_fraction": 0}
    assert order(module(kind, name, seed=3, **fixed)) != order(module(kind, name, seed=4, **fixed))


def test_worker_processes_change_nothing(file: Path) -> None:
    name = write_rows(file, thumbs(40, 20))
    alone, with_worker = (module(UnaryDataModule, name, num_workers=workers).train_dataloader() for workers in (0, 1))
    for epoch in range(2):
        for loader in (alone, with_worker):
            loader.batches.set_epoch(epoch)
        for one, other in zip(alone, with_worker, strict=True):
            assert one.index.tolist() == other.index.tolist()
            assert torch.equal(one.sequences.input_ids, other.sequences.input_ids)


# --- validation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODULES)
def test_no_prompt_is_on_both_sides(file: Path, kind: type[FeedbackDataModule]) -> None:
    rows = [{**row, "prompt": f"Question {number % 50}"} for number, row in enumerate(pairs(150))]
    data = module(kind, write_rows(file, rows), validation_fraction=0.3)
    train, held_out = prompts(data, data.train_dataloader()), prompts(data, data.val_dataloader())
    assert train
    assert held_out
    assert not train & held_out
    assert len(train | held_out) == 50


def test_what_is_held_out_depends_on_prompt_and_seed_only(file: Path) -> None:
    rows = pairs(300)
    held_out = {}
    for name, kind, content, seed in (
        ("pairs", PairedDataModule, rows, 1),
        ("reversed", PairedDataModule, rows[::-1], 1),
        ("unary", UnaryDataModule, rows, 1),
        ("seed", PairedDataModule, rows, 2),
    ):
        data = module(kind, write_rows(file, content), seed=seed)
        held_out[name] = prompts(data, data.val_dataloader())
    assert held_out["pairs"] == held_out["reversed"] == held_out["unary"] != held_out["seed"]
    assert 15 <= len(held_out["pairs"]) <= 45


def test_validation_sees_every_example_once_in_a_fixed_order_with_both_kinds(tmp_path: Path) -> None:
    train = write_rows(tmp_path / "train.jsonl", thumbs(8, 4))
    validation = write_rows(tmp_path / "validation.jsonl", thumbs(12, 6))
    data = module(UnaryDataModule, train, validation=validation)
    assert (data.summary.train, data.summary.validation) == (8, 12)
    batches = [batch.index.tolist() for batch in data.val_dataloader()]
    assert sorted(chain.from_iterable(batches)) == list(range(12))
    assert batches == [batch.index.tolist() for batch in data.val_dataloader()]
    assert [batch.desirable.sum().item() for batch in data.val_dataloader()] == [2, 2, 2]
    assert [batch.index.tolist() for batch in data.test_dataloader()] == batches


def test_no_validation(file: Path) -> None:
    data = module(PairedDataModule, write_rows(file, pairs(9)), validation_fraction=0)
    assert data.val_dataloader() == []
    assert data.summary.train == 9


def test_says_so_if_nothing_happens_to_be_held_out(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = module(PairedDataModule, write_rows(file, pairs(2)), validation_fraction=0.001)
    assert data.val_dataloader() == []
    assert "no example is held out for validation: validation_fraction=0.001" in caplog.text


# --- what is reported ---------------------------------------------------------------------------------------------


def test_summary(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    start = "\n\nHuman: Hello\n\nAssistant:"
    rows = [
        {"chosen": f"{start} Yes", "rejected": f"{start} No"},
        {"chosen": f"{start} ", "rejected": f"{start} No"},
        {"chosen": f"{start} Yes", "rejected": f"{start} No No No No No No No"},
    ]
    name = write_rows(file, rows)
    with caplog.at_level(logging.WARNING):
        data = module(UnaryDataModule, name, validation_fraction=0, max_length=12, max_prompt_length=8)
    # The prompt is 9 tokens (2 line breaks, Human, ":", " Hello", 2 line breaks, Assistant, ":"), the completions are
    # 2, 2, 2 and 8, the end included: the last one with its prompt is cut to 8 + 4.
    left_out = f"{name}: left out 1 of 3 rows: 1 with an empty completion (first: line 2)"
    cut = (
        f"cut 1 prompts at their start (first: {name}, line 3) and 1 completions at their end (first: {name}, line 3)"
        " of 4 sequences to fit max_length=12 (max_prompt_length=8)"
    )
    assert data.summary == DataSummary(
        feedback="unary",
        train=4,
        validation=0,
        desirable=2,
        undesirable=2,
        left_out=1,
        cut_prompts=1,
        cut_completions=1,
        tokens=3 * 11 + 12,
        completion_tokens=3 * 2 + 4,
        notes=(left_out, cut),
    )
    assert str(data.summary) == (
        "4 examples to train on (2 desirable, 2 undesirable), 45 tokens (10 of completions); 0 to validate on\n"
        f"{left_out}\n{cut}"
    )
    assert [record.message for record in caplog.records] == [left_out, cut]
    last = rendered(data, data.train_dataset[[3]])
    assert last == [("\nHuman: Hello\n\nAssistant: No No No No", " No No No No")]


def test_setup_reads_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = module(PairedDataModule, write_rows(file, pairs(20)))
    monkeypatch.setattr(base, "prepare", None)
    monkeypatch.setattr(base.TokenCache, "prepare", None)
    summary = data.summary
    data.setup("validate")
    assert data.summary is summary


@pytest.mark.parametrize("kind", [SFTDataModule, PairedDataModule, UnaryDataModule])
def test_all_data_modules_take_the_options_of_all(file: Path, kind: Any) -> None:
    options = {"validation_fraction": 0.5, "validation_examples": 3, "share_prompts": False, "group_by_length": True}
    data = module(kind, write_rows(file, pairs(40)), **options)
    assert len(data.validation_dataset) == 3
    assert not data.train_dataset.share_prompts
    assert {name: data.hparams[name] for name in options} == options
    with pytest.raises(TypeError, match="unexpected keyword argument 'batchsize'"):
        kind(str(file), batchsize=4)


@pytest.mark.parametrize("as_object", [True, False])
def test_hyper_parameters_are_primitives(tmp_path: Path, as_object: bool) -> None:
    options: dict[str, Any] = {"tokenizer": byte_bpe() if as_object else tmp_path / "tokenizer"}
    data = UnaryDataModule(tmp_path / "a.jsonl", validation=[tmp_path / "b.jsonl"], **options)  # type: ignore[arg-type]
    torch.save([dict(data.hparams), dict(data.hparams_initial)], tmp_path / "hparams.pt")
    loaded = torch.load(tmp_path / "hparams.pt", weights_only=True)
    assert loaded[0] == loaded[1]
    assert loaded[0] == {
        "train": [str(tmp_path / "a.jsonl")],
        "validation": [str(tmp_path / "b.jsonl")],
        "validation_fraction": 0.1,
        "validation_examples": None,
        "tokenizer": None if as_object else str(tmp_path / "tokenizer"),
        "batch_size": 32,
        "micro_batch_size": None,
        "max_length": 1024,
        "max_prompt_length": None,
        "too_long": "truncate",
        "keep_prompt": None,
        "share_prompts": True,
        "num_workers": 0,
        "seed": 1,
        "balance": "oversample",
        "on_bad_row": "error",
        "bad_rows_file": None,
        "group_by_length": False,
        "cache": True,
        "streaming": False,
        "shuffle_buffer": 10_000,
    }


# --- with a Trainer -----------------------------------------------------------------------------------------------


class Policy(L.LightningModule):
    """Has a policy, as the modules of this package do, and notes what it is given."""

    def __init__(self, policy_path: str) -> None:
        super().__init__()
        self.policy_path = policy_path
        self.number = torch.nn.Parameter(torch.zeros(()))
        self.tokens = 0
        self.seen: list[list[int]] = []

    def training_step(self, batch: UnaryBatch, batch_idx: int) -> torch.Tensor:
        self.seen.append(batch.index.tolist())
        self.tokens += batch.sequences.real_tokens
        return self.number.square()

    def validation_step(self, batch: UnaryBatch, batch_idx: int) -> None:
        assert isinstance(batch, UnaryBatch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder: Path, **options: Any) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet["enable_checkpointing"] = False
    return L.Trainer(default_root_dir=folder, accelerator="cpu", devices=1, **{"max_epochs": 1, **quiet, **options})


@pytest.fixture
def policy_folder(tmp_path: Path) -> str:
    folder = tmp_path / "policy"
    byte_bpe().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return str(folder)


def test_takes_the_tokenizer_of_the_policy(file: Path, tmp_path: Path, policy_folder: str) -> None:
    data = UnaryDataModule(write_rows(file, thumbs(60, 30)), batch_size=4, balance="none")
    policy = Policy(policy_folder)
    trainer(tmp_path).fit(policy, datamodule=data)
    assert data.tokenizer_path == policy_folder
    assert data.tokenizer.chat_template
    assert policy.tokens == data.summary.tokens > 0


@pytest.mark.parametrize("options", [{"limit_train_batches": 3}, {"overfit_batches": 2}, {"fast_dev_run": True}])
def test_the_trainers_short_cuts_work(file: Path, tmp_path: Path, policy_folder: str, options: dict[str, Any]) -> None:
    data = UnaryDataModule(write_rows(file, thumbs(60, 30)), batch_size=4)
    policy = Policy(policy_folder)
    run = trainer(tmp_path, max_epochs=2, **options)
    run.fit(policy, datamodule=data)
    epochs = {"limit_train_batches": [3, 3], "overfit_batches": [2, 2], "fast_dev_run": [1]}
    (sizes,) = (epochs[name] for name in options)
    assert [len(batch) for batch in policy.seen] == [4] * sum(sizes)
    if "overfit_batches" in options:
        assert policy.seen[:2] == policy.seen[2:]
    elif "limit_train_batches" in options:
        assert policy.seen[:3] != policy.seen[3:]


# --- what bad input gets ------------------------------------------------------------------------------------------


def test_all_desirable_feedback_cannot_be_balanced(file: Path) -> None:
    data = module(UnaryDataModule, write_rows(file, thumbs(5, 5)), validation_fraction=0)
    with pytest.raises(DataError, match=r"5 desirable and 0 undesirable.*add undesirable examples, or set balance"):
        data.train_dataloader()
    data = module(UnaryDataModule, write_rows(file, thumbs(5, 5)), validation_fraction=0, balance="none")
    assert sum(len(batch.index) for batch in data.train_dataloader()) == 5


@pytest.mark.parametrize(
    ("kind", "rows", "says"),
    [
        (
            PairedDataModule,
            thumbs(1, 1),
            "no example for training: .*1 desirable without an undesirable.* in no pair .UnaryDataModule",
        ),
        (UnaryDataModule, [{"prompt": "a", "completion": "b", "label": 1}], "line 1, key 'label': found an integer"),
        (SFTDataModule, [{"words": "a"}], "line 1: found the keys 'words', expected demonstrations"),
        (SFTDataModule, thumbs(2, 0), "no example for training: .*left out 2 of 2 rows"),
        (PairedDataModule, [], "found no row in it"),
    ],
)
def test_bad_rows_name_their_place(file: Path, kind: Any, rows: list, says: str) -> None:
    with pytest.raises(DataError, match=says) as error:
        module(kind, write_rows(file, rows))
    assert str(file) in str(error.value)


def test_everything_held_out(file: Path) -> None:
    with pytest.raises(DataError, match=r"no example for training: .*validation_fraction=0.999 held out all 1"):
        module(PairedDataModule, write_rows(file, pairs(1)), validation_fraction=0.999)


def test_a_row_that_is_too_long_or_cannot_be_rendered_names_its_place(file: Path) -> None:
    rows = [*pairs(2), {"prompt": "Hello " * 30, "chosen": "a", "rejected": "b"}]
    with pytest.raises(DataError, match=r"line 3: found \d+ tokens of prompt and 3 of completion.*at most 40"):
        module(PairedDataModule, write_rows(file, rows), too_long="error", max_length=40, max_prompt_length=20)
    template = "{% if messages[0]['content'] == 'bad' %}{{ raise_exception('no!') }}{% endif %}x{{ messages }}"
    rows = [*pairs(2), {"prompt": "bad", "chosen": "a", "rejected": "b"}]
    with pytest.raises(DataError, match=r"line 3: the chat template .* cannot render .*: no!"):
        module(PairedDataModule, write_rows(file, rows), tokenizer=byte_bpe(template=template))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 3}, "batch_size is 3: expected an even number"),
        ({"micro_batch_size": 0}, "micro_batch_size is 0"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0"),
        ({"validation_fraction": -0.1}, "validation_fraction is -0.1"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"max_length": 1}, "max_length is 1"),
        ({"max_length": 512, "max_prompt_length": 512}, "max_prompt_length is 512 and max_length is 512"),
        ({"too_long": "cut"}, "too_long is 'cut'"),
        ({"keep_prompt": "middle"}, "keep_prompt is 'middle'"),
        ({"balance": "both"}, "balance is 'both'"),
        ({"validation": []}, "validation is"),
        ({"tokenizer": byte_bpe(eos=None)}, "no end-of-sequence token"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        UnaryDataModule("rows.jsonl", **options)


def test_the_prompt_gets_half_of_the_length_if_nothing_is_said() -> None:
    assert UnaryDataModule("rows.jsonl").limits == Limits(1024, 512)
    assert UnaryDataModule("rows.jsonl", max_length=128).limits == Limits(128, 64)


def test_an_odd_batch_of_unbalanced_feedback_is_fine() -> None:
    UnaryDataModule("rows.jsonl", batch_size=3, balance="none")


def test_no_tokenizer_and_not_set_up(file: Path) -> None:
    data = PairedDataModule(write_rows(file, pairs(3)))
    with pytest.raises(ConfigError, match=r"not set up: call setup\(\)"):
        data.train_dataloader()
    with pytest.raises(ConfigError, match="has no tokenizer: give it one"):
        data.setup()


# --- real feedback ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not HH_FILE.exists(), reason="Anthropic's HH file is not here")
def test_the_real_hh_file() -> None:
    data = module(UnaryDataModule, str(HH_FILE), batch_size=32, max_length=2048)
    summary = data.summary
    assert (summary.left_out, summary.train + summary.validation) == (9, 2 * 2303)
    assert summary.desirable == summary.undesirable
    assert 300 <= summary.validation <= 600
    batch = next(iter(data.train_dataloader()))
    assert batch.desirable.tolist() == [True, False] * 16
    for text, completion in rendered(data, batch):
        assert text.startswith("\n\nHuman: ") or len(text) >= 1024
        assert text.endswith(completion)
        assert completion.endswith("</s>") or "</s>" not in text
