"""LightningCLI on this package's modules: `fit`, `validate`, `test`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from halo_lightning.arguments import OneScreenErrors, refusals_are_said
from halo_lightning.callbacks import (
    ContinuedCurves,
    HuggingFaceExport,
    RewardPictures,
    RunCheckpoint,
    RunProgressBar,
    RunReport,
    SampleCompletions,
    TensorBoardPage,
    Throughput,
    ValidateEvery,
    WatchNumbers,
)
from halo_lightning.checkpoints import check, newest_good
from halo_lightning.composition import composed, is_composed, read_yaml
from halo_lightning.data import FeedbackDataModule
from halo_lightning.errors import ConfigError
from halo_lightning.model_folders import MANIFEST, read_manifest
from halo_lightning.modules import HaloModule
from halo_lightning.ports import check_port
from halo_lightning.quiet import quieten
from halo_lightning.run_folder import LAST, RunFolder
from halo_lightning.settings import check_settings, differences, flat
from halo_lightning.strategies import register_names
from halo_lightning.strategies.reading import AnyCheckpointIO
from halo_lightning.termination import end_if_told_to, ends_at_once


@dataclass
class SFTStage:
    """A supervised finetuning that comes first, and whose export becomes policy and reference.

    Args:
        config: The configuration of the stage; a relative path is looked for beside the configuration that names it.
        arguments: Further command-line arguments of the stage, such as `--trainer.max_epochs=2`. Those of the run
            that say on what it is computed (`--trainer.devices` and its like) hold for the stage as well.
    """

    config: str
    arguments: list[str] = field(default_factory=list)


class TrainingParser(OneScreenErrors, LightningArgumentParser):
    """LightningCLI's parser with errors that fit one screen, and configurations that include parts."""

    def parse_path(self, path: Any, *arguments: Any, **options: Any) -> Namespace:
        """Reads a configuration, with everything that it includes (see `halo_lightning.composition`)."""
        read_yaml(str(path))  # says what is wrong with a file that is hostile, or none
        if not is_composed(str(path)):
            return super().parse_path(path, *arguments, **options)
        content = yaml.safe_dump(composed(str(path)), sort_keys=False)
        return self.parse_string(content, Path(str(path)).name, *arguments, **options)


class HaloCLI(LightningCLI):
    """LightningCLI with a folder per run, an SFT stage that runs first where one is asked for, and an export.

    Args:
        args: Command-line arguments.
        stage: Whether this is a stage of another run, after which nobody asks what to do next.
    """

    def __init__(self, args: ArgsType = None, *, stage: bool = False) -> None:
        quieten()
        self.stage = stage
        with ExitStack() as self.held, ends_at_once(self):
            super().__init__(
                model_class=HaloModule,
                datamodule_class=FeedbackDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                seed_everything_default=1,
                save_config_kwargs={"overwrite": True},
                trainer_defaults={
                    "callbacks": [
                        ContinuedCurves(),
                        Throughput(),
                        RunReport(next_commands=not stage),
                        TensorBoardPage(),
                    ]
                },
                auto_configure_optimizers=False,
                parser_class=TrainingParser,
                args=args,
            )

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs it, and notes that it has come to its end."""
        super()._run_subcommand(subcommand)
        if subcommand == "fit":
            self.run.end()

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's commands; `predict` has no meaning for feedback."""
        commands = LightningCLI.subcommands()
        return {name: commands[name] for name in ("fit", "validate", "test")}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the folder of the run, the SFT stage, and the callbacks that can be configured."""
        parser.add_argument(
            "--run_dir",
            type=str,
            default="runs/latest",
            help="The folder of the run: everything it writes is in it.",
        )
        parser.add_argument(
            "--sft_stage",
            type=SFTStage | None,
            default=None,
            help="A supervised finetuning to run first, if its finished export is not there.",
        )
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.set_defaults({"checkpoint.save_last": "link", "checkpoint.filename": "{epoch}-{step}"})
        parser.add_lightning_class_args(HuggingFaceExport, "export")
        parser.add_lightning_class_args(SampleCompletions, "samples")
        parser.add_lightning_class_args(RewardPictures, "pictures")
        parser.add_lightning_class_args(ValidateEvery, "validate_every")
        parser.add_lightning_class_args(WatchNumbers, "watch")
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses, without the warning about arguments that come from Python."""
        self.arguments = list(args) if isinstance(args, list) else sys.argv[1:]
        with refusals_are_said():
            self.config = parser.parse_args(self.arguments)
        check_settings(self.settings)

    def _parse_ckpt_path(self) -> None:
        """Nothing: Lightning would let the settings that a checkpoint brings win over those that the user gave."""

    @property
    def settings(self) -> Namespace:
        """The parsed settings of the command."""
        return self.config[self.config.subcommand]

    def before_instantiate_classes(self) -> None:
        """Takes hold of the run's folder, finds where it goes on, and runs the SFT stage first where one is due."""
        self.fill_in_paths()
        settings = self.settings
        self.run = RunFolder(settings.run_dir)
        if self.config.subcommand != "fit":
            self.find_checkpoint_to_evaluate()
            return
        if not self.stage:  # whoever runs a stage holds its folder
            self.held.enter_context(self.run.locked())
        goes_on = settings.ckpt_path == LAST
        with refusals_are_said():  # before anything is begun, and before a stage takes its hours
            self._parser("fit").instantiate_classes(Namespace(model=settings.model, data=settings.data))
        self.find_checkpoint_to_go_on_from()
        if settings.sft_stage is not None:
            settings.model.init_args.policy = self.finished_stage(settings.sft_stage, goes_on=goes_on)
            seed_everything(settings.seed_everything, workers=True, verbose=False)

    def fill_in_paths(self) -> None:
        """Puts everything that the run writes into its folder."""
        settings, run_dir = self.settings, Path(self.settings.run_dir)
        settings.trainer.default_root_dir = settings.trainer.default_root_dir or str(run_dir)
        settings.checkpoint.dirpath = settings.checkpoint.dirpath or str(run_dir / "checkpoints")
        settings.export.folder = settings.export.folder or str(run_dir / "export")

    def find_checkpoint_to_go_on_from(self) -> None:
        """Looks for the checkpoint that was asked for, before anything is read or trained."""
        settings, folder = self.settings, Path(self.settings.checkpoint.dirpath)
        asked = settings.ckpt_path
        plain = comparable(self.as_plain_data(settings))
        settings.ckpt_path, notes = self.run.checkpoint(asked, folder)
        if settings.ckpt_path is None:
            anew = asked is None
        else:
            anew = asked != LAST and not self.run.is_where_it_ended(settings.ckpt_path)
            settings.ckpt_path = str(settings.ckpt_path)
            if changed := differences(self.run.settings, plain) if self.run.settings and not anew else []:
                notes.append(f"the run was started with other settings ({'; '.join(changed)}), and goes on with these")
        self.run.begin(plain, anew=anew)
        for note in notes:
            announce(note)

    def find_checkpoint_to_evaluate(self) -> None:
        """Looks for the checkpoint of a `validate` or `test` command."""
        settings = self.settings
        if settings.ckpt_path == LAST:
            folder = Path(settings.checkpoint.dirpath)
            found = newest_good(folder, self.run.id or None)
            if found.path is None:
                raise ConfigError(f"{folder}: there is no whole checkpoint {list(found.damaged.values()) or ''}")
            settings.ckpt_path = str(found.path)
        elif settings.ckpt_path is not None:
            settings.ckpt_path = str(check(settings.ckpt_path))

    def instantiate_classes(self) -> None:
        """Lightning's; what is wrong with settings is the user's to mend."""
        with refusals_are_said():
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Builds the Trainer: TensorBoard in the run's folder, a progress bar only where somebody can see it."""
        trainer = self.settings.trainer
        if trainer.logger in (None, True):
            kwargs["logger"] = TensorBoardLogger(
                self.settings.run_dir,
                name="tensorboard",
                version=self.run.curves if self.config.subcommand == "fit" else None,
                default_hp_metric=False,
            )
        if trainer.enable_progress_bar is None:
            kwargs["enable_progress_bar"] = sys.stdout.isatty()
        own = self._get(self.config_init, "trainer.callbacks", default=None) or []
        if kwargs.get("enable_progress_bar", trainer.enable_progress_bar) and not any(
            isinstance(callback, ProgressBar) for callback in (own if isinstance(own, list) else [own])
        ):
            self.trainer_defaults["callbacks"].insert(0, RunProgressBar())
        if trainer.enable_model_summary is None:
            kwargs["enable_model_summary"] = False
        if self.settings.get("ckpt_path"):
            kwargs["num_sanity_val_steps"] = 0  # it is not before the first step
        register_names()
        built = super().instantiate_trainer(**kwargs)
        if type(built.strategy.checkpoint_io) is TorchCheckpointIO:
            built.strategy.checkpoint_io = AnyCheckpointIO()
        check_port(built)
        return built

    def after_instantiate_classes(self) -> None:
        """Lets the export remember the settings that it was made with."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, HuggingFaceExport):
                callback.origin = {"settings": comparable(self.as_plain_data(self.settings))}
            if isinstance(callback, RunCheckpoint):
                callback.run = self.run.id

    def as_plain_data(self, settings: Namespace) -> dict[str, Any]:
        """Settings as they would be written to YAML."""
        dumped: dict[str, Any] = yaml.safe_load(
            self._parser(self.config.subcommand).dump(settings, skip_none=True, skip_validation=True)
        )
        return dumped

    def finished_stage(self, stage: SFTStage, *, goes_on: bool) -> str:
        """The export of an SFT stage, which is run first if no finished export of it is there.

        Args:
            stage: The configuration of the stage and its further arguments.
            goes_on: Whether a stage that was interrupted goes on where it was.

        Returns:
            The folder of the export.
        """
        config = self.find_config(stage.config)
        arguments = ["--config", str(config), *of_the_machine(self.arguments), *stage.arguments]
        settings = self._parser("fit").parse_args(arguments)
        export = Path(settings.export.folder or Path(settings.run_dir) / "export")
        with RunFolder(settings.run_dir).locked(wait=True):
            manifest = read_manifest(export)
            plain = comparable(self.as_plain_data(settings))
            changed = [] if manifest is None else differences(manifest.get("settings", {}), plain)
            # A stage that was killed after its export has curves that lack their end.
            if manifest is None or (goes_on and not changed and not RunFolder(settings.run_dir).ended):
                found = "no finished export" if manifest is None else "the export of a run that was killed"
                announce(f"SFT stage: {found} in {export}, so {config} runs first")
                cli = HaloCLI(args=["fit", *arguments, *[f"--ckpt_path={LAST}"] * goes_on], stage=True)
                end_if_told_to(cli.trainer)
                if read_manifest(export) is None:
                    raise ConfigError(f"{config}: this SFT stage ended without an export (no {export / MANIFEST})")
            else:
                note = f", which was made with other settings ({'; '.join(changed)}): delete it to train it again"
                announce(f"SFT stage: the finished export in {export} is reused{note if changed else ''}")
        return str(export)

    def find_config(self, name: str) -> Path:
        """The configuration file of a stage: as named, or beside a configuration that this run was given."""
        return stage_config(self.settings, name)


def of_the_machine(arguments: Sequence[str]) -> list[str]:
    """Those command-line arguments that say on what a run is computed, as they hold for its SFT stage, too."""
    kept, takes_value = [], False
    for argument in arguments:
        name, _, value = argument.partition("=")
        is_option = argument.startswith("--")
        if is_option:
            takes_value = name.startswith(_MACHINE) and not value
        if (is_option and name.startswith(_MACHINE)) or (not is_option and takes_value):
            kept.append(argument)
    return kept


_MACHINE = tuple(f"--trainer.{name}" for name in ("accelerator", "devices", "num_nodes", "plugins", "strategy"))


def stage_config(settings: Namespace, name: str) -> Path:
    """The configuration file of a stage: as named, or beside a configuration that a run was given.

    Args:
        settings: Those of the run.
        name: The file, as the run names it.
    """
    given = [Path(str(path)).parent for path in settings.get("config") or []]
    for candidate in [folder / name for folder in given] + [Path(name)]:
        if candidate.is_file():
            return candidate
    raise ConfigError(f"sft_stage.config: there is no file {name!r} (looked beside {[str(path) for path in given]})")


def training_parser(command: str) -> LightningArgumentParser:
    """The parser of a training command, which parses nothing and runs nothing here.

    Args:
        command: `fit`, `validate` or `test`.
    """

    class Built(Exception):  # noqa: N818  # not an error, but the way out of a constructor that would go on
        pass

    class ParserAlone(HaloCLI):
        def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
            raise Built(self._subcommand_parsers[command])

    try:
        ParserAlone(args=[command])
    except Built as built:
        parser: LightningArgumentParser = built.args[0]
        return parser
    raise AssertionError("LightningCLI did not parse its arguments")


class ReadRun(HaloCLI):
    """What the configuration of a run says, without running it: where things are, and the data module.

    Args:
        args: Command-line arguments of `fit`, such as `["--config", "configs/tiny_kto.yaml"]`.
    """

    def __init__(self, args: list[str]) -> None:
        super().__init__(args=["fit", *args])

    def _set_seed(self) -> None:
        """Nothing is trained, so the random state stays as it is."""

    def before_instantiate_classes(self) -> None:
        """Fills in where things are."""
        self.fill_in_paths()

    def instantiate_classes(self) -> None:
        """Makes the data module alone; it has read nothing yet."""
        settings = self._parser("fit").instantiate_classes(Namespace(data=self.settings.data))
        self.datamodule = settings.data

    def after_instantiate_classes(self) -> None:
        """There is nothing to do."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs nothing."""

    @property
    def export_folder(self) -> Path:
        """Where the run leaves its model."""
        return Path(self.settings.export.folder)


def comparable(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that an export depends on, by dotted key.

    That is not where things are written, how they are shown, or on what they are computed.
    """
    elsewhere = (
        "config",
        "run_dir",
        "export",
        "checkpoint",
        "watch",
        "samples",
        "pictures",
        "ckpt_path",
        "trainer.default_root_dir",
        "trainer.logger",
        "trainer.callbacks",
        "trainer.enable",
        "trainer.log_every",
        *(name.removeprefix("--") for name in _MACHINE),
    )
    return json.loads(
        json.dumps({key: value for key, value in flat(settings).items() if not key.startswith(elsewhere)})
    )


@rank_zero_only
def announce(line: str) -> None:
    """Prints a line, once however many processes run."""
    print(line, flush=True)
