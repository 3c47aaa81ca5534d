"""`configs/data/archangel.yaml` on published files: the report's mixture, the same row for row."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
from jsonargparse import ArgumentParser

from halo_lightning.data import FeedbackDataModule
from halo_lightning.data.feedback import Demonstration, Example, Feedback, Paired, Unary
from halo_lightning.data.selection import Mixture
from halo_lightning.data.sources import BadRows
from tests.conftest import REPOSITORY
from tests.data.sources.published import TREE, shp_row

CONFIG = REPOSITORY / "configs" / "data" / "archangel.yaml"


def dialogue(number: int, completion: str) -> str:
    return f"\n\nHuman: hh {number}\n\nAssistant: {completion}"


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The three data sets of the hub, a few rows of each."""
    hh = [{"chosen": dialogue(i, f"hh good {i}"), "rejected": dialogue(i, f"hh bad {i}")} for i in range(20)]
    shp = [shp_row(f"shp {i % 4}", f"shp a {i}", f"shp b {i}", ratio=1.5 + i % 3) for i in range(60)]
    rows = {"Anthropic/hh-rlhf": hh, "stanfordnlp/SHP": shp, "OpenAssistant/oasst1": TREE}
    held_out = {"Anthropic/hh-rlhf": "test", "stanfordnlp/SHP": "test", "OpenAssistant/oasst1": "validation"}

    def load_dataset(identifier: str, **_: Any) -> Any:
        some = datasets.Dataset.from_list(rows[identifier])
        return datasets.DatasetDict({"train": some, held_out[identifier]: some.select(range(10))})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


def configured(*arguments: str) -> Any:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(FeedbackDataModule, "data")
    return parser.instantiate(parser.parse_args([f"--data={CONFIG}", *arguments])).data


def examples(feedback: Feedback, seed: int = 1, *, validation: bool = False) -> list[Example]:
    data = configured()
    sources = data.validation_sources if validation else data.train_sources
    return list(Mixture(sources, feedback, seed).examples(BadRows()))


def digest(found: list[Example]) -> str:
    rows = [f"{e.file} {e.line} {e.chosen}" for e in found if isinstance(e, Paired)]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]


def test_the_three_are_mixed_as_in_the_report() -> None:
    found = [example for example in examples("paired") if isinstance(example, Paired)]
    sources = Counter(example.file for example in found)
    # All of HH; of each of SHP's four posts five of the ten pairs with a ratio of 2 or more; neighbours of the tree.
    assert sources == {"hub:Anthropic/hh-rlhf": 20, "hub:stanfordnlp/SHP": 20, "hub:OpenAssistant/oasst1": 3}
    assert list(sources) == ["hub:Anthropic/hh-rlhf", "hub:stanfordnlp/SHP", "hub:OpenAssistant/oasst1"]
    assert {example.file: example.keep_prompt for example in found} == {
        "hub:Anthropic/hh-rlhf": "end",
        "hub:stanfordnlp/SHP": "start",
        "hub:OpenAssistant/oasst1": "start",
    }
    assert all(int(e.chosen.split()[-1]) % 3 for e in found if e.file == "hub:stanfordnlp/SHP")


def test_the_mixture_is_the_same_row_for_row() -> None:
    found = examples("paired")
    assert found == examples("paired")
    assert digest(found) == "1c52d7bf2ca61e0f"  # whoever changes the draw changes everybody's experiments
    other = examples("paired", seed=2)
    assert [e for e in other if "SHP" not in e.file] == [e for e in found if "SHP" not in e.file]
    assert other != found


def test_kto_has_both_halves_and_sft_the_reports_targets() -> None:
    unary = [example for example in examples("unary") if isinstance(example, Unary)]
    assert Counter(example.desirable for example in unary) == {True: 43, False: 43}
    targets = [example.completion for example in examples("sft") if isinstance(example, Demonstration)]
    assert targets[:20] == [f"hh good {i}" for i in range(20)]
    # The first response to each post among the pairs that are used (those with a ratio of 2 or more).
    assert targets[20:24] == ["shp a 1", "shp a 2", "shp a 4", "shp a 7"]
    assert targets[24:] == ["good", "first"]


def test_validation_uses_every_pair_of_shp() -> None:
    sources = Counter(example.file for example in examples("paired", validation=True))
    assert sources["hub:Anthropic/hh-rlhf"] == sources["hub:stanfordnlp/SHP"] == 10


def test_another_kind_of_feedback_is_one_argument_away() -> None:
    data = configured("--data.class_path=halo_lightning.UnaryDataModule")
    assert type(data).__name__ == "UnaryDataModule"
    assert [source.path for source in data.train_sources] == [
        "hub:Anthropic/hh-rlhf",
        "hub:stanfordnlp/SHP",
        "hub:OpenAssistant/oasst1",
    ]
    assert (data.limits.max_length, data.limits.max_prompt_length, data.seed) == (2048, 1024, 1)


def test_a_folder_of_published_files_does_as_well(tmp_path: Path) -> None:
    datasets.Dataset.from_list([{"chosen": dialogue(1, "a"), "rejected": dialogue(1, "b")}]).to_json(
        tmp_path / "train.jsonl"
    )
    text = CONFIG.read_text().replace("hub:Anthropic/hh-rlhf", str(tmp_path), 1)
    (tmp_path / "archangel.yaml").write_text(text)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(FeedbackDataModule, "data")
    data = parser.instantiate(parser.parse_args([f"--data={tmp_path / 'archangel.yaml'}"])).data
    found = list(Mixture(data.train_sources, "paired", 1).examples(BadRows()))
    assert [example.file for example in found[:2]] == [f"{tmp_path}/train.jsonl", "hub:stanfordnlp/SHP"]
