"""Folders of models are looked at before anything is loaded: sizes that are absurd, files that are none, damage."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from packaging import version
from safetensors.torch import load_file, save_file

from halo_lightning.errors import ConfigError
from halo_lightning.export import write_export
from halo_lightning.model_folders import MANIFEST, check_files
from halo_lightning.pretrained import Task, load_model, load_tokenizer, resolve_path
from tests.conftest import tiny_llama


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(resolve_path("embedded:small"), tmp_path / "model"))


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vocab_size": 10**15}, "key 'vocab_size': found 1000000000000000, expected a whole number from 0"),
        ({"vocab_size": 10**9}, r"embed_tokens.weight would be \[1000000000, \d+\], and is \[1024"),
        ({"hidden_size": -4}, "key 'hidden_size': found -4"),
        ({"hidden_size": 2**20}, "could not be loaded|does not go with the weights"),
        ({"intermediate_size": 10**9}, "does not go with the weights: .* would be"),
        ({"intermediate_size": 1.5}, "key 'intermediate_size': found 1.5"),
        ({"num_hidden_layers": 10**9}, "key 'num_hidden_layers': found 1000000000, expected .* to 1,000"),
        ({"num_hidden_layers": 200}, "it makes a model of .* numbers, and there are"),
        ({"num_hidden_layers": float("nan")}, "key 'num_hidden_layers': found nan"),
        ({"rms_norm_eps": float("nan")}, "key 'rms_norm_eps': found nan, expected a number"),
        ({"num_labels": 10**9}, "key 'num_labels': found 1000000000, expected .* to 65,536"),
        ({"sliding_window": -1}, "key 'sliding_window': found -1"),
        ({"num_hidden_layers": "two"}, "could not be loaded"),
        ({"vocab_size": [1, 2]}, "could not be loaded"),
        ({"num_attention_heads": 0}, "could not be loaded"),
    ],
    ids=str,
)
def test_sizes_that_do_not_go_with_the_weights_take_no_memory(
    values: dict[str, Any], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(folder / "config.json", **values)
    with pytest.raises(ConfigError, match=message):
        load_model(str(folder))


def test_a_model_that_is_larger_than_the_memory_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = os.sysconf
    monkeypatch.setattr(os, "sysconf", lambda name: 1 if name == "SC_PHYS_PAGES" else pages(name))
    with pytest.raises(ConfigError, match=r"this model takes .* GiB"):
        load_model(str(folder))
    with torch.device("meta"):
        load_model(str(folder))  # whose shapes alone take none


def test_looking_at_sizes_changes_no_random_numbers(folder: Path) -> None:
    torch.manual_seed(1)
    load_model(str(folder))
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))


def lie(file: Path) -> None:
    """Offsets that reach beyond the end of the file."""
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    last = max((name for name in header if name != "__metadata__"), key=lambda name: header[name]["data_offsets"][1])
    header[last]["data_offsets"][1] += 2**40
    written = json.dumps(header).encode()
    file.write_bytes(len(written).to_bytes(8, "little") + written + content[8 + size :])


@pytest.mark.parametrize(
    "damage",
    [
        lie,
        lambda file: file.write_bytes((2**60).to_bytes(8, "little") + b"{}"),
        lambda file: file.write_bytes(file.read_bytes()[:-100]),
        lambda file: file.write_bytes(b""),
    ],
    ids=["offsets", "a header of an exabyte", "cut off", "empty"],
)
def test_weights_that_are_damaged_are_named(damage: Callable[[Path], None], folder: Path) -> None:
    damage(folder / "model.safetensors")
    with pytest.raises(ConfigError, match=r"model\.safetensors: this file of weights is cut off or damaged"):
        load_model(str(folder))


def test_weights_that_are_missing_are_not_made_up(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "layers.0.mlp" not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    tasks: tuple[Task, ...] = ("causal", "reward")
    for task in tasks:
        with pytest.raises(ConfigError, match=r"no model\.layers\.0\.mlp\.down_proj\.weight and 2 more"):
            load_model(str(folder), task)


# --- weights ---------------------------------------------------------------------------------------------------------


def change_weights(folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    tensors = {name: change(tensor.clone()) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(torch.int8, "I8"), (torch.float8_e4m3fn, "F8_E4M3"), (torch.bool, "BOOL"), (torch.complex64, "C64")],
)
def test_weights_of_another_type_are_refused(dtype: torch.dtype, name: str, folder: Path) -> None:
    if name == "C64" and version.parse(safetensors.__version__) < version.parse("0.6"):
        pytest.skip("this version of safetensors writes no complex numbers")
    change_weights(folder, lambda tensor: tensor.to(dtype))
    with pytest.raises(ConfigError, match=rf"model\.safetensors: found .*weight of type {name}, expected one of F64"):
        load_model(str(folder))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_the_usual_types_are_read(dtype: torch.dtype, folder: Path) -> None:
    change_weights(folder, lambda tensor: tensor.to(dtype))
    assert load_model(str(folder)).dtype == torch.float32


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named(value: float, folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.down_proj.weight"][3, 2] = value
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ConfigError, match=r"its weights model\.layers\.0\.mlp\.down_proj\.weight have values that are NaN"
    ):
        load_model(str(folder))


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "fp8", None])
def test_weights_that_are_quantised_are_refused(method: str | None, folder: Path) -> None:
    change(folder / "config.json", quantization_config={"quant_method": method, "load_in_4bit": True})
    with pytest.raises(ConfigError, match=rf"config\.json, key 'quantization_config': found .* quantised \({method}\)"):
        load_model(str(folder))


def test_ids_of_tokens_that_no_table_has_room_for(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"][sorted(tokenizer["model"]["vocab"])[-1]] = 2**31
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ConfigError, match="the id 2,147,483,648, expected one below"):
        load_tokenizer(str(folder))


# --- files -----------------------------------------------------------------------------------------------------------


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_loop(path: Path) -> None:
    path.symlink_to(path.name)


def a_link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("make", "message"),
    [(a_pipe, "found a named pipe"), (a_loop, "this file cannot be read"), (a_link_to_a_device, "found a link out of")],
)
def test_what_is_no_file_is_not_opened(make: Callable[[Path], None], message: str, folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    make(folder / "tokenizer.json")
    for load in (load_model, load_tokenizer):
        with pytest.raises(ConfigError, match=f"tokenizer.json: ({message})"):
            load(str(folder))


def test_a_socket_is_not_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)  # paths of sockets are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("vocab.json")
        with pytest.raises(ConfigError, match="found a socket"):
            check_files(folder)


def test_a_folder_that_is_an_adapter_loads_no_other_model(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "../other", "peft_type": "LORA"}')
    with pytest.raises(ConfigError, match="this is an adapter of peft, which names another model"):
        load_model(str(folder))


def test_a_file_larger_than_any_of_a_model_is_not_read(folder: Path) -> None:
    with (folder / "merges.txt").open("wb") as file:
        file.truncate(2**40)  # takes no room
    with pytest.raises(ConfigError, match=r"merges\.txt: found 1,099,511,627,776 bytes"):
        load_tokenizer(str(folder))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}, "could not be loaded"),
        ("model", {"type": "BPE", "vocab": [1], "merges": []}, "could not be loaded"),
        (
            "normalizer",
            {
                "type": "Sequence",
                "normalizers": [{"type": "Replace", "pattern": {"Regex": "."}, "content": "x" * 99}] * 3,
            },
            "up to 970,299 characters in the place of one",
        ),
    ],
)
def test_tokenizers_that_cannot_be_used(key: str, value: Any, message: str, folder: Path) -> None:
    change(folder / "tokenizer.json", **{key: value})
    with pytest.raises(ConfigError, match=message):
        load_tokenizer(str(folder))


# --- exports of ours -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_an_export_that_is_damaged_is_not_loaded(name: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer("embedded:small")
    export = write_export(tmp_path / "export", tiny_llama(vocab_size=len(tokenizer)), tokenizer)
    load_model(str(export))
    content = bytearray((export / name).read_bytes())
    content[-5] ^= 1
    (export / name).write_bytes(content)
    with pytest.raises(ConfigError, match=f"this export is damaged: the content of {name} is not what was written"):
        load_model(str(export))
    if name != "model.safetensors":  # which takes long to read where a model is large
        with pytest.raises(ConfigError, match="this export is damaged"):
            load_tokenizer(str(export))
    (export / MANIFEST).unlink()
    if name == "model.safetensors":
        load_model(str(export))


def test_what_was_just_exported_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load_tokenizer("embedded:small")
    export = write_export(tmp_path / "export", tiny_llama(vocab_size=len(tokenizer)), tokenizer)
    monkeypatch.setattr("halo_lightning.caches._sha256", lambda path: pytest.fail(f"{path} was read"))
    load_model(str(export))


def test_a_model_of_two_dtypes_and_of_several_files_is_looked_at(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, inside in parts.items():
        save_file({name: tensors[name].to(torch.bfloat16) for name in inside}, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, inside in parts.items() for name in inside}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    load_model(str(folder))
    change(folder / "config.json", vocab_size=2**20)
    with pytest.raises(ConfigError, match="does not go with the weights"):
        load_model(str(folder))


def test_tensors_that_a_model_has_not_are_said_in_a_line(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    more = {f"extra.{number}": torch.zeros(1) for number in range(2000)}
    save_file({**load_file(folder / "model.safetensors"), **more}, folder / "model.safetensors", {"format": "pt"})
    with pytest.warns(UserWarning, match=r"its files have extra\.0 and 1,999 more, which a LlamaForCausalLM has not"):
        load_model(str(folder))
    assert len(capfd.readouterr().err) < 1000
