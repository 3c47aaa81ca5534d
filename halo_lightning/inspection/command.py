"""`cli.py inspect`: what a run would see of its data, with nothing of the model but its tokenizer."""

from __future__ import annotations

import json as json_format
from collections.abc import Sequence
from inspect import signature
from itertools import islice
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from halo_lightning.data.base import FeedbackDataModule
from halo_lightning.data.kinds import sniff
from halo_lightning.data.sources import Source, read_rows
from halo_lightning.data.sources.oasst import is_oasst
from halo_lightning.data.sources.rows import found_keys
from halo_lightning.data.sources.shp import COLUMNS
from halo_lightning.errors import ConfigError
from halo_lightning.files import replaced_file
from halo_lightning.inspection.report import PROBLEMS, Report, inspect_data
from halo_lightning.program import program_name

OF_A_STREAM = 10_000
"""Examples of a stream that are looked at, where nobody says how many."""

FOUND = 3
"""The exit status where something was found that `fail_on` names."""

MODULES = {"sft": ("SFTDataModule", "SFT"), "paired": ("PairedDataModule", "DPO"), "unary": ("UnaryDataModule", "KTO")}
"""The data module of each kind of feedback, and a method that learns from it."""


def run(arguments: Sequence[str]) -> int:
    """Runs the command.

    Args:
        arguments: Those of `fit`, and those of `inspect`.

    Returns:
        The exit status.
    """
    from halo_lightning.arguments import HaloArgumentParser
    from halo_lightning.quiet import quieten
    from halo_lightning.training_cli import training_parser

    given = _Given(list(arguments))
    names = signature(inspect).parameters.keys() - {"data"}
    own = [f"--{name}={value}" for name in names if (value := given.take(name)) is not None]
    parser = HaloArgumentParser(prog=f"{program_name()} inspect")
    parser.add_function_arguments(inspect, skip={"data"})
    options = parser.parse_args(own)
    quieten()
    training = training_parser("fit")
    return inspect(data_module(training, training.parse_args(run_arguments(given.rest))), **options.as_dict())


def inspect(
    data: FeedbackDataModule,
    *,
    examples: str = "4",
    tokens: bool = False,
    html: str | None = None,
    json: str | None = None,
    fail_on: str | None = None,
    first: int | None = None,
) -> int:
    """Prepares the data of a run as `fit` does, and shows what the model will see of them.

    Args:
        data: The data module of the run.
        examples: How many examples to show, drawn at random; or the numbers of some, as `3,17`; or those of a finding:
            `cut`, `duplicates`, `contradictions`, `ends_inside`, `same_on_both_sides`.
        tokens: Shows the tokens of the examples one by one.
        html: Writes the report to this file, as a page that needs nothing else.
        json: Writes the report to this file as JSON, with the tokens and the loss mask of the examples; `-` prints it
            instead of the text.
        fail_on: Ends with status 3 if there is any of these, as `contradictions,leakage`: contradictions, leakage,
            duplicates, same_on_both_sides, ends_inside, cut, left_out, unknown.
        first: Reads no more than so many examples to train on, the first ones; by default 10,000 where the
            configuration streams them, else all.

    Returns:
        The exit status.

    Raises:
        ConfigError: An option cannot work.
        DataError: The data cannot be used.
    """
    names = [name.strip() for name in (fail_on or "").split(",") if name.strip()]
    unknown = [name for name in names if name not in PROBLEMS]
    if unknown:
        raise ConfigError(f"fail_on: found {unknown[0]!r}, expected some of {', '.join(PROBLEMS)}")
    if first is not None and first < 1:
        raise ConfigError(f"first is {first}: expected 1 or more examples")
    data.most = OF_A_STREAM if first is None and data.streaming else first
    if data.most is not None:
        data.streaming, data.cache = False, None  # a part, of which nothing is to be kept
    data.setup()
    title = ", ".join(str(source) for source in data.train_sources)
    report = inspect_data(data, title=title, examples=_asked(examples), seed=data.seed)
    _write(report, data, tokens, html, json)
    return FOUND if any(report.problems()[name] for name in names) else 0


def data_module(parser: ArgumentParser, settings: Namespace) -> FeedbackDataModule:
    """The data module of a run, with the tokenizer that the run would give it.

    Args:
        parser: The parser of the run.
        settings: What it made of the run's arguments.
    """
    data: FeedbackDataModule = parser.instantiate_classes(Namespace(data=settings.data)).data
    if data.tokenizer is None and data.tokenizer_path is None:
        data.tokenizer_path = policy_of(parser, settings)
    data.bad_rows_file = data.bad_rows_file or str(Path(settings.run_dir) / "bad_rows.jsonl")
    return data


def policy_of(parser: ArgumentParser, settings: Namespace) -> str:
    """The policy of a run; before its SFT stage has run, the policy of that, which has the same tokenizer."""
    from halo_lightning.model_folders import read_manifest
    from halo_lightning.training_cli import stage_config

    stage = settings.get("sft_stage")
    if stage is None:
        return str(settings.model.init_args.policy)
    arguments = ["--config", str(stage_config(settings, stage.config)), *stage.arguments]
    of_stage = parser.parse_args(arguments)
    export = of_stage.export.folder or str(Path(of_stage.run_dir) / "export")
    return export if read_manifest(Path(export)) is not None else policy_of(parser, of_stage)


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
    text = json_format.dumps(plain, ensure_ascii=False, indent=2) + "\n"
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
        several = len(datasets[name].files) > 1
        places[name] = {number: datasets[name].place(number, with_file=several) for number in sorted(numbers)}
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
