"""The command line: Lightning's commands on configurations of this package, and commands of its own.

`fit`, `validate`, `test` and `predict` are LightningCLI's (see `halo_lightning.training_cli`); the others are plain
functions whose parameters become options. What a command needs is imported when that command runs.
"""

from __future__ import annotations

import inspect
import itertools
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module

from halo_lightning.errors import HaloError, is_panic, no_space, users_error, without_passwords
from halo_lightning.program import program_name
from halo_lightning.termination import ToldToEnd, can_be_told_to_end
from halo_lightning.trust import take_option, trust_known_classes_only

TRAINING = {
    "fit": "train a policy as a configuration says, and export it",
    "validate": "compute the metrics of a policy or a checkpoint on held-out feedback",
    "test": "the same on the test split",
    "inspect": "show what the model will see of the data of a run, and what is odd about them",
}
FUNCTIONS = {
    "demo": ("halo_lightning.demo:demo", "align the embedded model and show what that achieved"),
    "export": (
        "halo_lightning.export:export_checkpoint",
        "make a Hugging Face folder from a Lightning checkpoint",
    ),
    "init": (
        "halo_lightning.initialize:initialize_model",
        "make a small random model, and a tokenizer, for given data",
    ),
    "generate": (
        "halo_lightning.evaluation.generate_command:generate_completions",
        "sample completions of held-out prompts from a model",
    ),
    "judge": (
        "halo_lightning.evaluation.judge_command:judge_completions",
        "ask a judge which completions are better, the model's or the human-chosen ones",
    ),
    "report": (
        "halo_lightning.evaluation.report_command:report",
        "make the report's figures and tables from verdicts",
    ),
    "label": (
        "halo_lightning.labelling.command:label",
        "make unary feedback of generations, by any scorer and a threshold",
    ),
    "plan": (
        "halo_lightning.planning.command:plan_run",
        "say what a run takes: memory, GPUs that it fits on, hours",
    ),
    "values": ("halo_lightning.figures:draw_values", "draw the human value functions (figure 4)"),
    "fit-value": (
        "halo_lightning.evaluation.human_values.fit_command:fit_value_command",
        "estimate a human value function from feedback and a model's implicit rewards",
    ),
    "recover-value": (
        "halo_lightning.evaluation.human_values.recovery:recover_values",
        "fit simulated annotators whose value function is known, and count how often intervals cover it",
    ),
    "methods": ("halo_lightning.methods:print_methods", "print the table of methods"),
    "compare": (
        "halo_lightning.evaluation.comparison:compare",
        "train every method's tiny configuration and show who wins",
    ),
    "archangel-tiny": (
        "halo_lightning.evaluation.archangel_tiny.command:archangel_tiny",
        "train the report's grid in miniature, and say which of its findings show",
    ),
    "value-lab": (
        "halo_lightning.evaluation.value_lab.command:value_lab",
        "train with true, fitted and logistic value functions, and KTO beside DPO",
    ),
    "configs": ("halo_lightning.configurations:copy_configurations", "copy the configurations, to begin your own with"),
    "completion": ("halo_lightning.completion:completion", "print a script for tab completion in the shell"),
    "schema": ("halo_lightning.config_schema:print_schema", "print a JSON schema of configurations, for editors"),
    "curves": ("halo_lightning.figures:draw_run", "draw the curves of runs as a picture"),
}

LONGEST_MESSAGE = 2500

_PEER_ENDED = re.compile("(closed|reset) by (remote )?peer|remote process exited")
"""What gloo and NCCL say to a process that waits for one that has ended."""

USAGE = """\
usage: {program} COMMAND [options]

{commands}

{program} COMMAND --help    shows the options of a command
{program} fit --config configs/tiny_sft_kto.yaml --print_config    shows all settings of a run
--debug, with any command, shows the whole traceback of an error
--trusted_classes_only, with any command, imports no class that a configuration names, unless it is of this package,
  Lightning or torch.optim"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The arguments; None takes those of the process.

    Returns:
        The exit status: 0 for success, 2 for an error in what the user gave, 1 for any other error; 3 where `inspect`
        found what it was asked to fail on; 130 after Ctrl-C (SIGINT), 143 after SIGTERM, except that a training which
        was told to end by SIGTERM has saved, and ends with 0; 141 where nobody reads what it prints.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    if debug:
        arguments = [argument for argument in arguments if argument != "--debug"]
        os.environ["JSONARGPARSE_DEBUG"] = "true"
    try:
        with can_be_told_to_end():
            arguments, trusted_only = take_option(arguments)
            if trusted_only:
                trust_known_classes_only()
            return run(arguments)
    except KeyboardInterrupt:
        return _interrupted()
    except ToldToEnd:
        return _told_to_end()
    except SystemExit as stop:
        # Lightning's Trainer ends the process itself after Ctrl-C. After SIGTERM, a training that is all of a command
        # has saved; one that is a part of it has not made what the command was to make.
        if isinstance(stop.__context__, KeyboardInterrupt):
            return _interrupted()
        if type(stop).__name__ == "SIGTERMException" and arguments[0] not in TRAINING:
            return _told_to_end()
        raise
    except BrokenPipeError:  # who read the output has read enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except BaseException as error:
        if debug or not (isinstance(error, Exception) or is_panic(error)):
            raise
        users = _users_error(error)
        said = _one_screen(error) if users is None else f"error: {users[:LONGEST_MESSAGE]}"
        print(without_passwords(said), file=sys.stderr)
        return 1 if users is None else 2


def _interrupted() -> int:
    print("interrupted", file=sys.stderr)
    return 130


def _told_to_end() -> int:
    print("told to end (SIGTERM): what was finished is kept, and nothing half written", file=sys.stderr)
    return 143


def run(arguments: list[str]) -> int:
    """Finds the command and hands it its arguments."""
    program = program_name()
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        descriptions = {**TRAINING, **{name: text for name, (_, text) in FUNCTIONS.items()}}
        lines = [f"  {name:<10} {text}" for name, text in descriptions.items()]
        print(USAGE.format(program=program, commands="\n".join(lines)))
        return 0
    command, *rest = arguments
    if command in {**TRAINING, **FUNCTIONS} and {"-h", "--help"} & set(rest):
        from halo_lightning.quick_help import help_of_function, help_of_training

        if command in TRAINING:
            print(help_of_training(program, command, TRAINING[command]))
        else:
            print(help_of_function(program, command, *FUNCTIONS[command]))
        return 0
    look_here()
    if "--help_all" in rest:
        arguments, rest = [command, "--help"], ["--help"]
    if command == "inspect":
        from halo_lightning.inspection.command import run as run_inspection

        return run_inspection(rest)
    if command in TRAINING:
        from halo_lightning.training_cli import HaloCLI

        HaloCLI(args=arguments)
        return 0
    if command in FUNCTIONS:
        from halo_lightning.arguments import HaloArgumentParser, refusals_are_said
        from halo_lightning.quiet import quieten

        parser = HaloArgumentParser(prog=f"{program} {command}", description=FUNCTIONS[command][1])
        function = _load(FUNCTIONS[command][0])
        parser.add_function_arguments(function)
        if command == "plan":
            from halo_lightning.arguments import with_settings

            rest = with_settings(rest, parser)
        with refusals_are_said():
            values = parser.instantiate_classes(parser.parse_args(named(rest, function)))
        quieten()
        function(**values.as_dict())
        return 0
    from halo_lightning.arguments import nearest

    known = [*TRAINING, *FUNCTIONS]
    raise HaloError(f"unknown command {command!r}{nearest(command, known)} (commands: {', '.join(known)})")


def look_here() -> None:
    """Lets classes of the working directory be named in a configuration, also where the installed `halo` runs."""
    try:
        here = os.getcwd()
    except FileNotFoundError as error:
        raise HaloError("the working directory is not there any more: change to one that is") from error
    if "" not in sys.path and here not in sys.path:
        sys.path.append(here)


def named(arguments: list[str], function: Callable[..., None]) -> list[str]:
    """Arguments in which those before the first option are the values of the function's first parameter.

    So `report runs/a runs/b --out page` is `report --runs=["runs/a", "runs/b"] --out page`.
    """
    bare = list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments))
    if not bare:
        return arguments
    first = next(iter(inspect.signature(function).parameters))
    return [f"--{first}={bare[0] if len(bare) == 1 else json.dumps(bare)}", *arguments[len(bare) :]]


def _load(path: str) -> Callable[..., None]:
    module, name = path.split(":")
    function: Callable[..., None] = getattr(import_module(module), name)
    return function


def _users_error(error: BaseException) -> str | None:
    """What the error of the user's says that an exception is, or was raised because of (jsonargparse wraps them).

    A file or folder that cannot be read or written is the user's to mend, and so is what Lightning finds wrong with
    the settings of its Trainer.
    """
    if (cause := users_error(error)) is not None:
        return str(cause)
    if (said := no_space(error)) is not None:
        return f"the disk is full ({said}): make room, and run the same command again"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    frames = traceback.extract_tb(error.__traceback__)
    lightnings = isinstance(error, ValueError) and frames and "/lightning/pytorch/" in frames[-1].filename
    if lightnings or type(error).__name__ == "MisconfigurationException":  # which is not imported for this
        return str(error).strip()
    return None


def _one_screen(error: BaseException) -> str:
    """An error that is not the user's: what it says, and where it was raised."""
    message = str(error)
    if isinstance(error, RuntimeError) and _PEER_ENDED.search(message):
        return "error: another process of this run has ended; what it says is the reason"
    if len(message) > 2000:
        message = message[:2000] + " …"
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}, line {frames[-1].lineno}; " if frames else ""
    return f"error: {type(error).__name__}: {message}\n({where}--debug shows the whole traceback)"
