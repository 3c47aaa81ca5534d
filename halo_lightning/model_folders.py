"""Folders of models, looked at before anything is loaded from them: files, sizes, and the manifest of an export."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from halo_lightning.caches import cache_folder, content_hash
from halo_lightning.checkpoints import difference, files_of_json
from halo_lightning.errors import ConfigError
from halo_lightning.files import read_text, why_no_file

MANIFEST = "halo_lightning.json"
"""The file of an export that says where it comes from; written last, so its presence means that all is there."""
WEIGHTS = ".safetensors"

LARGEST_TEXT = 2**26
"""Bytes of a file of a model at most that is no file of weights; tokenizers of large vocabularies have some 30 MB."""
LARGEST_ID = 2**24
"""Of a token; vocabularies have up to some 300,000."""
LONGEST_REPLACEMENT = 2**8
"""Characters that a tokenizer puts in the place of one at most."""
_TEXTS = (".json", ".jinja", ".model", ".tiktoken", ".txt")

LARGEST_SIZE = 2**31
"""Of whatever a `config.json` has the size of."""
_SIZES = re.compile(
    r"(vocab|hidden|intermediate|embedding)_size|d_(model|ff|kv)|(ffn|head)_dim|n_(embd|head|inner|positions)"
    r"|max_position_embeddings|num_labels|sliding_window|(\w*_)?(layers?|heads|experts)"
)
_COUNTS = re.compile(r"(\w*_)?(layers?|experts)")
HARMLESS_COUNT = 1000
"""So many layers or experts take no time to build without memory; more than that there have to be tensors for."""

MOST_LABELS = 2**16
"""Of a classifier; transformers makes a name for each as soon as it reads a configuration."""

QUANTIZED = "quantization_config"
"""The key of a `config.json` that says that weights are not stored as the numbers that they are."""
WEIGHT_TYPES = ("F64", "F32", "BF16", "F16")
"""What safetensors calls the types that weights have; a mask or a list of positions may be of another one."""


# --- files -----------------------------------------------------------------------------------------------------------


def check_files(folder: Path) -> None:
    """Refuses a folder whose files name others outside of it, are no files, or are larger than any model's.

    The hub's own cache is made of links from one of its folders to another, which are not looked at.

    Raises:
        ConfigError: It is such a folder.
    """
    in_hub_cache = "snapshots" in Path(os.path.realpath(folder)).parts
    for file in [*sorted(folder.iterdir()), *sorted(folder.glob("additional_chat_templates/*"))]:
        where = os.path.realpath(file)
        if file.is_symlink() and not in_hub_cache and not Path(where).is_relative_to(os.path.realpath(folder)):
            raise ConfigError(f"{file}: found a link out of the folder, to {where}; expected a file")
        if not file.is_dir() and (why := why_no_file(file)) is not None:
            raise ConfigError(f"{file}: {why}")
        if file.suffix in _TEXTS and file.is_file() and file.stat().st_size > LARGEST_TEXT:
            raise ConfigError(f"{file}: found {file.stat().st_size:,} bytes, which no model has in such a file")
    for file in folder.glob(f"*{WEIGHTS}.index.json"):
        outside = sorted(name for name in _named_by(file) if Path(name).name != name)
        if outside:
            raise ConfigError(f"{file}: found {outside[0]!r}, expected names of files in the same folder")
    check_config_file(folder, len(stored_shapes(folder)))
    if (folder / "adapter_config.json").exists():
        raise ConfigError(
            f"{folder}: this is an adapter of peft, which names another model; expected a model. Merge it into its"
            " model first (merge_and_unload), and save that"
        )


def _named_by(index: Path) -> set[str]:
    try:
        return {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{index}: found no index of weights in it ({type(error).__name__})") from error


def check_normalizer(settings: Any, name: str) -> None:
    """Refuses a tokenizer that would make texts many times longer before it cuts them.

    Args:
        settings: Its normalizer, as `tokenizer.json` has it.
        name: Of the tokenizer, for messages.

    Raises:
        ConfigError: It is such a tokenizer.
    """
    longest = 1
    for key, value in _values(settings):
        if key in ("content", "prepend") and isinstance(value, str):
            longest *= max(1, len(value))
    if longest > LONGEST_REPLACEMENT:
        raise ConfigError(
            f"the tokenizer of {name!r} puts up to {longest:,} characters in the place of one, which no tokenizer needs"
        )


def check_vocabulary(vocabulary: dict[str, int], name: str) -> None:
    """Refuses a tokenizer whose ids are so large that a table of them would fill the memory.

    Args:
        vocabulary: The id of each token.
        name: Of the tokenizer, for messages.

    Raises:
        ConfigError: It is such a tokenizer.
    """
    token, largest = max(vocabulary.items(), key=lambda pair: pair[1], default=("", -1))
    if largest >= LARGEST_ID:
        raise ConfigError(
            f"the tokenizer of {name!r} gives {token[:40]!r} the id {largest:,}, expected one below {LARGEST_ID:,}"
        )


def check_vocabulary_file(folder: Path, name: str) -> None:
    """The same, of the tokenizer in a folder before it is loaded: some libraries make such a table while they load it.

    Args:
        folder: Of the tokenizer.
        name: Of the tokenizer, for messages.

    Raises:
        ConfigError: It is such a tokenizer.
    """
    try:
        content = json.loads((folder / "tokenizer.json").read_bytes())
        known = content["model"]["vocab"]
        added = {str(token["content"]): int(token["id"]) for token in content["added_tokens"]}
        vocabulary = {**added, **{token: int(number) for token, number in known.items()}}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return  # it is of another form, or damaged, which is said where it is loaded
    check_vocabulary(vocabulary, name)


# --- exports of ours -------------------------------------------------------------------------------------------------


def read_manifest(folder: str | Path, *, weights: bool = True) -> dict[str, Any] | None:
    """The manifest of a finished export, or None where there is no finished export.

    The files of the export are compared with it. It takes no time where this machine compared them before and nothing
    has touched them since. A manifest of an earlier version names no files, and nothing is compared.

    Args:
        folder: The folder of the export.
        weights: Whether the content of files of weights is compared, too, and not their size alone.

    Raises:
        ConfigError: The manifest or one of the files is damaged, or has been changed.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest: dict[str, Any] = json.loads(read_text(path))
        files = files_of_json(manifest.get("files", {}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path}: this is not the manifest of an export ({type(error).__name__})") from error

    def digest_of(file: Path) -> str:
        if file.suffix == WEIGHTS and not weights:
            return files[file.relative_to(folder).as_posix()][1]
        return content_hash(file, cache_folder("hashes"))

    damage = difference(Path(folder), files, digest_of)
    if damage is not None:
        raise ConfigError(
            f"{folder}: this export is damaged: {damage}. Delete it and export again; if you changed the file yourself,"
            f" take 'files' out of its {MANIFEST}"
        )
    return manifest


# --- sizes -----------------------------------------------------------------------------------------------------------


def check_model(path: str, kind: Any, *, on_cpu: bool = True) -> None:
    """Refuses a model that is not what its export wrote, or whose `config.json` does not go with its weights.

    That is before any memory is taken for it. Models of the hub are not looked at.

    Args:
        path: The folder of the model, or a hub id.
        kind: The transformers class that would load it.
        on_cpu: Whether the weights go to the memory of the CPU, and have to fit into it.

    Raises:
        ConfigError: It is such a model.
    """
    if (folder := Path(path)).is_dir():
        read_manifest(folder)
        check_sizes(folder, kind, on_cpu=on_cpu)


def check_sizes(folder: Path, kind: Any, *, on_cpu: bool = True) -> None:
    """Refuses a model whose `config.json` does not go with its weights, before any memory is taken for it.

    Args:
        folder: The folder of the model, whose weights are in safetensors.
        kind: The transformers class that would load it.
        on_cpu: Whether the weights go to the memory of the CPU, and have to fit into it.

    Raises:
        ConfigError: A size is none, the model would be much larger than its weights, or larger than the memory; or the
            weights are no floating-point numbers.
    """
    stored = stored_shapes(folder)
    check_config_file(folder, len(stored))
    if not stored:
        return
    try:
        model = _without_memory(folder, kind)
    except Exception:  # transformers says why when it loads the model, which it begins with the same
        return
    for name, parameter in model.named_parameters():
        found = stored.get(name)
        if found is not None and found != tuple(parameter.shape):
            raise ConfigError(
                f"{folder / 'config.json'} does not go with the weights: {name} would be {list(parameter.shape)}, and"
                f" is {list(found)}"
            )
    needed = sum(parameter.numel() for parameter in model.parameters())
    there = sum(math.prod(shape) for shape in stored.values())
    if needed > 2 * there + 2**20:
        raise ConfigError(
            f"{folder / 'config.json'} does not go with the weights: it makes a model of {needed:,} numbers, and there"
            f" are {there:,}"
        )
    taken = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if on_cpu and taken > memory:
        raise ConfigError(f"{folder}: this model takes {taken / 2**30:,.0f} GiB, and there are {memory / 2**30:,.0f}")


def check_config_file(path: Path, tensors: int = 0) -> None:
    """Refuses the `config.json` of a folder, or a file of this kind, as `check_config` does its content.

    One that cannot be read is left to transformers, which says what is wrong with it.

    Raises:
        ConfigError: There is a size that cannot be, or the weights are quantised.
    """
    file = path / "config.json" if path.is_dir() else path
    if (why := why_no_file(file)) is not None:
        raise ConfigError(f"{file}: {why}")
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return
    check_config(settings, str(file), tensors)


def check_config(settings: Any, name: str, tensors: int) -> None:
    """Refuses a configuration of a model with a size that cannot be.

    Args:
        settings: The configuration.
        name: What messages call it.
        tensors: How many tensors its weights have, as far as that is known.

    Raises:
        ConfigError: There is such a size, or the weights are quantised.
    """
    if isinstance(settings, dict):
        check_not_quantized(settings.get(QUANTIZED), name)
    for key, value in _values(settings):
        if (expected := _expected(key, value, tensors)) is not None:
            raise ConfigError(f"{name}, key {key!r}: found {value}, expected {expected}")


def check_not_quantized(settings: Any, name: str) -> None:
    """Refuses weights that are stored quantised: they cannot be trained, and their values are not those of a file.

    Args:
        settings: Those of the quantisation; None where there is none.
        name: What messages call the configuration of the model.

    Raises:
        ConfigError: There is one.
    """
    if settings is not None:
        how = settings.get("quant_method") if isinstance(settings, dict) else getattr(settings, "quant_method", None)
        raise ConfigError(
            f"{name}, key {QUANTIZED!r}: found weights that are quantised ({str(getattr(how, 'value', how))[:40]}),"
            " expected the model as it was before that; for QLoRA, which quantises it itself, see lora.quantize"
        )


def stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in the safetensors files of a model, by name; empty where there are no such files.

    Raises:
        ConfigError: A file is cut off or damaged, or has weights that are no floating-point numbers.
    """
    from safetensors import SafetensorError, safe_open

    index = folder / f"model{WEIGHTS}.index.json"
    names = sorted(_named_by(index)) if index.is_file() else [f"model{WEIGHTS}"]
    shapes: dict[str, tuple[int, ...]] = {}
    for file in (folder / name for name in names):
        if not file.is_file():
            continue  # transformers says that it is missing
        try:
            with safe_open(file, framework="pt") as tensors:
                slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
                shapes |= {name: tuple(part.get_shape()) for name, part in slices.items()}
                types = {name: part.get_dtype() for name, part in slices.items()}
        except (SafetensorError, OSError, ValueError) as error:
            raise ConfigError(f"{file}: this file of weights is cut off or damaged ({error})") from error
        for name, found in types.items():
            if name.endswith("weight") and found not in WEIGHT_TYPES:
                raise ConfigError(f"{file}: found {name} of type {found}, expected one of {', '.join(WEIGHT_TYPES)}")
    return shapes


def _without_memory(folder: Path, kind: Any) -> torch.nn.Module:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        model: torch.nn.Module = kind.from_config(config, trust_remote_code=False)
    return model


def _values(settings: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """All values of nested settings that are no groups of others, each with its name."""
    waiting = [(key, settings)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(key, inner) for inner in value]
        else:
            yield key, value


def _expected(key: str, value: Any, tensors: int) -> str | None:
    """What a value of a configuration should be where it cannot be what it is."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    if math.isnan(value):
        return "a number"
    if not _SIZES.fullmatch(key):
        return None
    most = max(tensors, HARMLESS_COUNT) if _COUNTS.fullmatch(key) else LARGEST_SIZE
    most = MOST_LABELS if key == "num_labels" else most
    fine = 0 <= value <= most and value == int(value)
    return None if fine else f"a whole number from 0 to {most:,}"
