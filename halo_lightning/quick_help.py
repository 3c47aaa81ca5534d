"""What `--help` shows, read from the source: nothing that takes seconds to import is imported for it.

Signatures and docstrings are parsed, not copied, so they are those of the code. `--help_all` shows everything that
the parser accepts, Lightning's own options included, after the imports.
"""

from __future__ import annotations

import ast
import re
import shutil
import textwrap
from pathlib import Path
from typing import NamedTuple

RUN = {
    "--config FILE": "A configuration in YAML; of several ones the later wins, and an option wins over all of them.",
    "--run_dir DIR": "The folder of the run: everything that it writes is in it (default: runs/latest).",
    "--sft_stage.config FILE": "A supervised finetuning to run first, if its finished export is not there.",
    "--seed_everything N": "Of data, training and sampling (default: 1).",
    "--ckpt_path FILE": "Goes on from a checkpoint; `last` is the newest one of the run.",
    "--print_config": "Prints all settings of the run as YAML, and stops.",
}
TRAINER = {
    "--trainer.max_epochs N, --trainer.max_steps N": "How long to train.",
    "--trainer.accelerator NAME, --trainer.devices N": "What to compute on, such as `gpu` and 8 (default: auto).",
    "--trainer.strategy NAME": "How several devices share the work: `ddp`, `fsdp`, … (default: auto).",
    "--trainer.precision NAME": "`bf16-mixed`, `bf16-true`, `32-true`, …",
    "--trainer.gradient_clip_val X": "Largest norm of the gradient.",
    "--trainer.log_every_n_steps N, --trainer.val_check_interval N": "How often to log, and to validate.",
    "--trainer.logger NAME": "TensorBoardLogger (the default), WandbLogger, MLFlowLogger, CSVLogger, …",
    "--checkpoint.every_n_train_steps N, --checkpoint.save_top_k N": "When to save a checkpoint, and how many stay.",
    "--pictures.every_n_steps N": "How often to draw pictures of the rewards; 0: never (default: ten times a run).",
    "--watch.not_finite stop|skip": "What happens at a loss or gradient that is not finite (default: stop).",
    "--export.folder DIR": "Where the aligned model goes (default: export in the folder of the run).",
}


INSPECT = {
    "--data FILE": "A file of feedback, where there is no configuration.",
    "--policy MODEL, --tokenizer MODEL": "What gives the tokenizer, where there is no configuration.",
    "--feedback unary|paired|sft": "What the file is read as (default: what its first row says).",
}


class Parameter(NamedTuple):
    """A parameter of a function or class.

    Attributes:
        name: As it is called.
        type: Its annotation, as it is written; empty where there is none.
        default: As it is written; None where the parameter has to be given.
        text: What the docstring says of it.
    """

    name: str
    type: str
    default: str | None
    text: str


def parameters(module: str, name: str) -> list[Parameter]:
    """The parameters of a function or class of this package, from its source.

    Args:
        module: The module that it is in, such as `halo_lightning.demo`.
        name: Its name there.
    """
    root = Path(__file__).resolve().parent.parent
    return parameters_in(root / (module.replace(".", "/") + ".py"), name)


def parameters_in(path: Path, name: str) -> list[Parameter]:
    """The parameters of a function or class in a file; none of a class that takes those of its base class."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = next(node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name)
    described = arguments_section(ast.get_docstring(found) or "")
    function: ast.FunctionDef | ast.ClassDef | None = found
    if isinstance(found, ast.ClassDef):
        methods = {node.name: node for node in found.body if isinstance(node, ast.FunctionDef)}
        function = methods.get("__init__")
        described |= arguments_section(ast.get_docstring(function) or "") if function else {}
    if not isinstance(function, ast.FunctionDef):
        return []
    given = function.args
    positional: list[ast.expr | None] = [None] * (len(given.args) - len(given.defaults))
    pairs = [*zip(given.args, [*positional, *given.defaults], strict=True)]
    pairs += [*zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    return [
        Parameter(
            argument.arg,
            ast.unparse(argument.annotation) if argument.annotation else "",
            None if default is None else ast.unparse(default),
            described.get(argument.arg, ""),
        )
        for argument, default in pairs
        if argument.arg != "self"
    ]


def arguments_section(docstring: str) -> dict[str, str]:
    """What a Google-style docstring says of each argument, in one line each."""
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)*)", docstring, flags=re.MULTILINE)
    if section is None:
        return {}
    entries = re.findall(r"^(\w+): (.*(?:\n[ ]+.*)*)", textwrap.dedent(section.group(1)), flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def help_of_function(program: str, command: str, path: str, description: str) -> str:
    """The help of a command that is a plain function.

    Args:
        program: What the user types before a command.
        command: Its name.
        path: `module:function`.
        description: What it does.
    """
    module, name = path.split(":")
    known = parameters(module, name)
    needed = "".join(f" --{parameter.name} {_value(parameter)}" for parameter in known if parameter.default is None)
    if not known:
        return f"usage: {program} {command}\n\n{sentence(description)}"
    lines = [f"usage: {program} {command}{needed} [options]", "", sentence(description), ""]
    lines += table({f"--{parameter.name} {_value(parameter)}": _described(parameter) for parameter in known})
    lines += ["", f"{program} {command} --help_all    shows every option, those of nested settings included"]
    return "\n".join(lines)


def help_of_training(program: str, command: str, description: str) -> str:
    """The help of `fit`, `validate`, `test` and `inspect`: what people set, and where the rest is.

    Args:
        program: What the user types before a command.
        command: Its name.
        description: What it does.
    """
    own = {"inspect": INSPECT | table_rows("halo_lightning.inspection.command", "inspect")}.get(command)
    groups = {"What is shown:": table(own)} if own else {}
    groups |= {
        "The run:": table(RUN),
        f"The method: --model KTO ({program} methods lists all), its settings, such as --model.beta 0.1, and those of"
        " all methods:": _shared("model", "halo_lightning.modules.base", "HaloModule"),
        "The feedback: --data UnaryDataModule, PairedDataModule or SFTDataModule:": _shared(
            "data", "halo_lightning.data.base", "FeedbackDataModule"
        ),
        "Training: Lightning's Trainer, and what people mostly set of it:": table(TRAINER),
    }
    example = "configs/tiny_sft_kto.yaml"
    lines = [f"usage: {program} {command} --config FILE [options]", "", sentence(description)]
    for title, rows in groups.items():
        lines += ["", *textwrap.wrap(title, _width()), *rows]
    more = {
        f"{program} {command} --model.help KTO": "every setting of a method; --data.help UnaryDataModule: of data",
        f"{program} {command} --config {example} --print_config": "every setting of a run",
        f"{program} {command} --help_all": "every option, Lightning's included",
    }
    return "\n".join([*lines, "", "More:", *(f"  {line}\n      {text}" for line, text in more.items())])


def table_rows(module: str, name: str) -> dict[str, str]:
    """The options of a function, and what they do."""
    known = [parameter for parameter in parameters(module, name) if parameter.default is not None]
    return {f"--{parameter.name} {_value(parameter)}": _described(parameter) for parameter in known}


def _shared(group: str, module: str, name: str) -> list[str]:
    rows = {
        f"--{group}.{parameter.name} {_value(parameter)}": _described(parameter, short=True)
        for parameter in parameters(module, name)
    }
    return table(rows)


def _value(parameter: Parameter) -> str:
    kinds = {"int": "N", "float": "X", "bool": "true|false", "str": "TEXT"}
    kind = parameter.type.removesuffix(" | None")
    if kind.startswith("Literal["):
        return "|".join(map(str, ast.literal_eval(kind.removeprefix("Literal"))))
    return kinds.get(kind, "VALUE")


def _described(parameter: Parameter, *, short: bool = False) -> str:
    """What the docstring says, or its first clause, and the default where it is a plain value."""
    text = first_clause(parameter.text) if short else parameter.text.rstrip(".")
    try:
        default = ast.literal_eval(parameter.default or "None")
    except ValueError:
        default = None
    if isinstance(default, bool):
        default = str(default).lower()
    return text + (f" (default: {default})" if isinstance(default, (str, int, float)) else "")


def first_clause(text: str) -> str:
    """A text up to its first full stop, colon or semicolon that is not in a code span."""
    clause = re.match(r"(?:`[^`]*`|[^`.:;]|[.:;](?=\S))*", text)
    return clause.group() if clause else text


def _width() -> int:
    return min(shutil.get_terminal_size((100, 24)).columns, 120)


def sentence(text: str) -> str:
    """A text that begins with a capital letter and ends with a full stop."""
    return f"{text[0].upper()}{text[1:].rstrip('.')}."


def table(rows: dict[str, str]) -> list[str]:
    """Options and what they do in two columns, as wide as the terminal, at most 120."""
    left = min(max((len(option) for option in rows), default=0), 34) + 4
    lines = []
    for option, text in rows.items():
        wrapped = textwrap.wrap(text, max(_width() - left, 30)) or [""]
        first = f"  {option}".ljust(left)
        if len(option) > left - 4:
            lines.append(first.rstrip())
            first = " " * left
        lines.append(f"{first}{wrapped[0]}".rstrip())
        lines += [f"{'':<{left}}{line}" for line in wrapped[1:]]
    return lines
