"""A JSON schema of configurations, with which an editor completes keys, shows what they are, and marks mistakes."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

import halo_lightning
from halo_lightning.files import replaced_file
from halo_lightning.quick_help import RUN, arguments_section

JSONSchema = dict[str, Any]
SIMPLE: dict[Any, str] = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}


def print_schema(out: str | None = None) -> None:
    """Prints a JSON schema of the configurations of `fit`, for editors.

    Args:
        out: The file to write it to; None prints it.
    """
    text = json.dumps(config_schema(), indent=2, ensure_ascii=False)
    if out is None:
        print(text)
        return
    with replaced_file(out) as partial:
        partial.write(f"{text}\n".encode())
    print(f"wrote {out}: begin a configuration with the line\n# yaml-language-server: $schema={out}")


def config_schema() -> JSONSchema:
    """The schema of a whole configuration. Those of its groups are its `$defs`: files can hold a group alone."""
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint

    from halo_lightning.callbacks import (
        HuggingFaceExport,
        RewardPictures,
        SampleCompletions,
        ValidateEvery,
        WatchNumbers,
    )
    from halo_lightning.composition import INCLUDE
    from halo_lightning.training_cli import SFTStage, training_parser

    groups: dict[str, JSONSchema] = {
        "trainer": settings_of(Trainer),
        "checkpoint": settings_of(ModelCheckpoint),
        "export": settings_of(HuggingFaceExport),
        "pictures": settings_of(RewardPictures),
        "samples": settings_of(SampleCompletions),
        "validate_every": settings_of(ValidateEvery),
        "watch": settings_of(WatchNumbers),
        "model": one_of_classes(_public("modules")),
        "data": one_of_classes(_public("data")),
    }
    # Of lists, an entry can be added instead of all of them given.
    groups["trainer"]["properties"] |= {
        f"{name}+": groups["trainer"]["properties"][name] for name in ("callbacks", "logger", "plugins")
    }
    described = {option.split()[0].removeprefix("--"): text for option, text in RUN.items()}
    properties: JSONSchema = {}
    for key, default in training_parser("fit").get_defaults(skip_validation=True).as_dict().items():
        if key in ("config", "print_config"):
            continue
        if key in groups:
            # A group can be the path of a file that holds it.
            properties[key] = {"anyOf": [{"$ref": f"#/$defs/{key}"}, {"type": "string"}]}
        elif isinstance(default, dict):
            properties[key] = {"type": ["object", "string"], "properties": {name: {} for name in default}}
        else:
            properties[key] = {"description": described.get(key, ""), **({"default": default} if default else {})}
    properties[INCLUDE] = {
        "type": "array",
        "items": {"type": "string"},
        "description": "Other configurations that come before this one, relative to it: `halo_lightning.composition`.",
    }
    properties["sft_stage"] = {"anyOf": [of_type(SFTStage), {"type": ["string", "null"]}]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Configuration of halo_lightning {halo_lightning.__version__}",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": groups,
    }


def one_of_classes(classes: Iterable[type]) -> JSONSchema:
    """A `class_path` with `init_args`, those of a known class by name; other people's classes pass as they are."""
    paths = {f"{home.__module__.split('.')[0]}.{home.__name__}": home for home in classes}
    return {
        "type": "object",
        "properties": {
            "class_path": {
                "anyOf": [{"enum": list(paths)}, {"type": "string"}],
                "description": "; ".join(f"{path.split('.')[-1]}: {_summary(home)}" for path, home in paths.items()),
            },
            "init_args": {"type": "object"},
        },
        "additionalProperties": False,
        "allOf": [
            {
                "if": {"properties": {"class_path": {"const": path}}, "required": ["class_path"]},
                "then": {"properties": {"init_args": settings_of(home)}},
            }
            for path, home in paths.items()
        ],
    }


def settings_of(home: type) -> JSONSchema:
    """The parameters of a class's constructor, and of its bases' where it hands them on."""
    properties: JSONSchema = {}
    for base in home.__mro__:
        init = vars(base).get("__init__")
        if init is None or base is object:
            continue
        function = inspect.unwrap(init)
        hints = _hints(function)
        texts = arguments_section(inspect.getdoc(base) or "") | arguments_section(inspect.getdoc(init) or "")
        parameters = inspect.signature(function).parameters.values()
        for parameter in list(parameters)[1:]:
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL) or parameter.name in properties:
                continue
            properties[parameter.name] = _property(
                hints.get(parameter.name, Any), parameter.default, texts, parameter.name
            )
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return {"type": "object", "properties": properties, "additionalProperties": False}


def of_type(hint: Any) -> JSONSchema:
    """The schema of what a type annotation allows in YAML."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in SIMPLE:
        return {"type": SIMPLE[hint]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return any_of([of_type(argument) for argument in arguments])
    if origin in (list, set, Iterable, Sequence) or hint is list:
        return {"type": "array", **({"items": of_type(arguments[0])} if arguments else {})}
    if origin is tuple:
        fixed = [of_type(argument) for argument in arguments if argument is not Ellipsis]
        return {"type": "array", "items": any_of(fixed)} | ({} if Ellipsis in arguments else {"minItems": len(fixed)})
    if origin in (dict, Mapping) or hint is dict:
        return {"type": "object"}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return of_dataclass(hint)
    if hint is os.PathLike or (isinstance(hint, type) and issubclass(hint, os.PathLike)):
        return {"type": "string"}
    if isinstance(hint, type) or origin is not None or hint is Callable:  # an object, or what makes one
        return {
            "anyOf": [
                {"type": ["string", "number"]},  # a class path alone, or, for a time, a number
                {"type": "object", "properties": {"class_path": {"type": "string"}, "init_args": {"type": "object"}}},
            ]
        }
    return {}


def of_dataclass(home: type) -> JSONSchema:
    """The fields of a dataclass."""
    hints, texts = _hints(home), arguments_section(inspect.getdoc(home) or "")
    fields = dataclasses.fields(home)
    return {
        "type": "object",
        "properties": {
            field.name: _property(hints.get(field.name, Any), field.default, texts, field.name) for field in fields
        },
        "additionalProperties": False,
    }


def any_of(schemas: list[JSONSchema]) -> JSONSchema:
    """Any of some schemas, without repetition; any value, where one of them allows that."""
    if {} in schemas:
        return {}
    values = [value for schema in schemas if schema.keys() == {"enum"} for value in schema["enum"]]
    others = [schema for schema in schemas if schema.keys() != {"enum"}]
    different = [schema for place, schema in enumerate(others) if schema not in others[:place]]
    different += [{"enum": values}] if values else []
    return different[0] if len(different) == 1 else {"anyOf": different}


def _property(hint: Any, default: Any, texts: dict[str, str], name: str) -> JSONSchema:
    schema = dict(of_type(hint))
    if text := texts.get(name):
        schema["description"] = text
    if isinstance(default, (bool, int, float, str)):
        schema["default"] = default
    return schema


def _hints(home: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(home)
    except (NameError, TypeError):  # of a library, with names that are there for type checkers alone
        return {}


def _summary(home: type) -> str:
    return (inspect.getdoc(home) or "").split("\n\n")[0].replace("\n", " ").rstrip(".")


def _public(home: str) -> list[type]:
    names = [name for name, place in halo_lightning._HOMES.items() if place == home and name != "HaloModule"]
    return [getattr(halo_lightning, name) for name in names]
