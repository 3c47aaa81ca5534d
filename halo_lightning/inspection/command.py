"""`cli.py inspect`: what a run would see of its data, with nothing of the model but its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from halo_lightning.data.base import FeedbackDataModule
from halo_lightning.data.kinds import sniff
from halo_lightning.data.sources import Source, read_rows
from halo_lightning.data.sources.oasst import is_oasst
from halo_lightning.data.sources.rows import found_keys
from halo_lightning.data.sources.shp import COLUMNS
from halo_lightning.errors import ConfigError
from halo_lightning.files import replaced_file
from halo_lightning.inspection.report import PROBLEMS, Report, inspect_data

FOUND = 3
"""The exit status where something was found that `fail_on` names."""

MODULES = {"sft": ("SFTDataModule", "SFT"), "paired": ("PairedDataModule", "DPO"), "unary": ("UnaryDataModule", "KTO")}
"""The data module of each kind of feedback, and a method that learns from it."""


def inspect(
    settings: Any,
    *,
    examples: str = "4",
    tokens: bool = False,
    html: str | None = None,
    json: str | None = None,
    fail_on: str = "",
) -> int:
    """Prepares the data of a run as `fit` does, and shows what the model will see of them.

    Args:
        settings: The parsed settings of the run, see `RunSettings`.
        examples: How many examples to show, drawn at random; or the numbers of some, as `3,17`; or those of a finding:
            `cut`, `duplicates`, `contradictions`, `ends_inside`, `same_on_both_sides`.
        tokens: Shows the tokens of the examples one by one.
        html: Writes the report to this file, as a page that needs nothing else.
        json: Writes the report to this file as JSON, with the tokens and the loss mask of the examples; `-` prints it
            instead of the text.
        fail_on: Ends with status 3 if there is any of these, as `contradictions,leakage`: contradictions, leakage,
            duplicates, same_on_both_sides, ends_inside, cut, left_out, unknown.

    Returns:
        The exit status.
    """
    names = [name.strip() for name in fail_on.split(",") if name.strip()]
    unknown = [name for name in names if name not in PROBLEMS]
    if unknown:
        raise ConfigError(f"fail_on: found {unknown[0]!r}, expected some of {', '.join(PROBLEMS)}")
    asked = _asked(examples)
    data = settings.data_module()
    data.setup()
    title = ", ".join(map(str, chain(settings.configs, data.train_sources)))
    report = inspect_data(data, title=title, examples=asked, seed=data.seed)
    _write(report, data, tokens, html, json)
    return FOUND if any(report.problems()[name] for name in names) else 0


def _asked(examples: str) -> int | list[int] | str:
    parts = [part.strip() for part in examples.split(",")]
    if all(part.isdecimal() for part in parts):
        return int(parts[0]) if len(parts) == 1 else [int(part) for part in parts]
    return examples


def _write(report: Report, data: FeedbackDataModule, tokens: bool, html: str | None, to_json: str | None) -> None:
    from halo_lightning.inspection.page import page
    from halo_lightning.inspection.terminal import print_report

    place_of = _places(report, data)
    plain = report.as_plain_data() | {
        "places": {name: {str(number): place for number, place in known.items()} for name, known in place_of.items()}
    }
    text = json.dumps(plain, ensure_ascii=False, indent=2) + "\n"
    if to_json == "-":
        print(text, end="")
    else:
        print_report(report, place_of, tokens=tokens)
    for file, content in ((html, page(report, place_of) if html else ""), (to_json, text)):
        if file is not None and file != "-":
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            with replaced_file(file) as stream:
                stream.write(content.encode("utf-8", errors="replace"))
            if to_json != "-":
                print(f"wrote {file}")


def _places(report: Report, data: FeedbackDataModule) -> dict[str, dict[int, str]]:
    """File and line of every example that the report lists."""
    datasets = {"training": data.train_dataset, "validation": data.validation_dataset}
    places = {}
    for name, split in report.splits.items():
        findings = [*split.findings.values()]
        if name == "validation":
            findings += [report.leakage, report.leakage_whole]
        numbers = {number for finding in findings for group in finding.groups for number in group}
        places[name] = {number: datasets[name].place(number) for number in sorted(numbers)}
    return places


def run_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments of a run, from those that `inspect` takes in addition: `--data FILE`, `--tokenizer`, `--policy`.

    Raises:
        ConfigError: Something is missing that cannot be guessed.
    """
    given = _Given(list(arguments))
    file = given.take("data", lambda value: not _is_config(value))
    policy, tokenizer, feedback = given.take("policy"), given.take("tokenizer"), given.take("feedback")
    rest = given.rest
    if tokenizer is not None:
        rest.append(f"--data.tokenizer={tokenizer}")
    if not given.has("config") and not given.has("model"):
        if policy is None and tokenizer is None:
            raise ConfigError(
                "found neither a configuration nor a tokenizer; expected --config FILE, or --data FILE with --policy or"
                " --tokenizer (a folder, a hub id, or embedded:base)"
            )
        kind = feedback or (_kind_of(file) if file is not None else "unary")
        if kind not in MODULES:
            raise ConfigError(f"feedback is {kind!r}: expected one of {', '.join(MODULES)}")
        module, method = MODULES[kind]
        if file is not None:
            rest.insert(0, f"--data=halo_lightning.{module}")
        rest[:0] = [f"--model=halo_lightning.{method}", f"--model.policy={policy or tokenizer}"]
    elif policy is not None:
        rest.append(f"--model.policy={policy}")
    if file is not None:
        rest.append(f"--data.train={file}")
    return rest


class _Given:
    """Arguments, and what is taken out of them."""

    def __init__(self, arguments: list[str]) -> None:
        self.rest = arguments

    def take(self, name: str, wanted: Any = lambda value: True) -> str | None:
        """Removes an option, and gives its value; None where it is not there, or its value is not wanted."""
        for place, argument in enumerate(self.rest):
            if argument == f"--{name}" and place + 1 < len(self.rest) and wanted(self.rest[place + 1]):
                value = self.rest[place + 1]
                self.rest = self.rest[:place] + self.rest[place + 2 :]
                return value
            if argument.startswith(f"--{name}=") and wanted(argument.split("=", 1)[1]):
                self.rest = self.rest[:place] + self.rest[place + 1 :]
                return argument.split("=", 1)[1]
        return None

    def has(self, name: str) -> bool:
        """Whether an option is there."""
        return any(argument == f"--{name}" or argument.startswith(f"--{name}=") for argument in self.rest)


def _is_config(value: str) -> bool:
    """Whether the value of `--data` is what `fit` takes there: a configuration, or the name of a data module."""
    return value.endswith((".yaml", ".yml", "DataModule")) or value.startswith("{")


def _kind_of(path: str) -> str:
    """The kind of feedback that the first row of a file says it is."""
    row = next(islice(read_rows(Source.of(path)), 1))
    keys = row.values.keys()
    kind = "paired" if keys >= COLUMNS or is_oasst(keys) else sniff(row.values)
    if kind is None:
        raise ConfigError(
            f"{path}: found the keys {found_keys(row)}, which say of no kind of feedback that it is this; expected a"
            " configuration that names the columns (--config), or --feedback unary, paired or sft"
        )
    return "paired" if kind == "rated" else kind
