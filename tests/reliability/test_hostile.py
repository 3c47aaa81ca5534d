"""Files of strangers: each gives one clear error, or is read as what it is, and nothing in it is executed.

Half of the inputs are made by hand, the others are made of these and of good ones by chance. A subset runs by
default; all of them, more than a thousand, in the slow test.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from halo_lightning.checkpoints import SealedCheckpointIO
from halo_lightning.checkpoints import load as load_checkpoint
from halo_lightning.data.rendering import encode_prompts
from halo_lightning.data.sources import read_rows
from halo_lightning.errors import HaloError
from halo_lightning.evaluation.judges.wording import parse
from halo_lightning.pretrained import load_model, load_tokenizer, resolve_path
from halo_lightning.training_cli import training_parser
from tests.conftest import REPOSITORY

SECONDS, MEGABYTES = 60, 1500
"""What no single input may take, on any machine that tests run on: bombs would take hours, and all memory."""

Input = tuple[str, bytes]


def canary(folder: Path) -> str:
    return f"open({str(folder / 'executed')!r}, 'w').write('x')"


class Attack:
    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return exec, (self.code,)


# --- inputs --------------------------------------------------------------------------------------------------------


def configs(code: str) -> Iterator[bytes]:
    laughs = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "\n".join(
        f"{name}: &{name} [{','.join(['*' + before] * 9)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    for kind in ("apply:builtins.exec", "apply:os.system", "new:builtins.exec", "name:os.system", "module:os"):
        yield f'run_dir: !!python/object/{kind} ["{code}"]'.encode()
        yield f'include: []\ntrainer: {{callbacks: !!python/{kind} ["{code}"]}}'.encode()
    yield from (
        laughs.encode(),
        f"include: []\n{laughs}".encode(),
        b"run_dir: &a [*a]",
        b"include: []\ntrainer: &a [*a]",
    )
    yield from (b"run_dir: " + b"[" * 3000, b"trainer: " + b"{a: " * 2000 + b"1" + b"}" * 2000, b"x" * 2**20)
    yield from (b"\0", b"\xff\xfe", b"include: [/dev/zero]", b"trainer: /dev/zero", b"include: [../../../etc/passwd]")
    yield from (b"seed_everything: " + b"9" * 6000, b"trainer: {max_steps: .nan}", b"[1]", b"", b"- ", b"%YAML 9")
    yield from (b"include: self.yaml", b"include: [1]", b"model: {class_path: os.system}", b"data: {class_path: 1}")


def rows(code: str) -> Iterator[bytes]:
    yield from (b'{"prompt": ' + b"[" * 200_000, b'{"a":' * 50_000 + b"1" + b"}" * 50_000, b"9" * 5000, b'{"a": 1e999}')
    yield from (
        b'{"prompt": "' + b"x" * 70_000_000 + b'"}',
        b"[" * 500_000,
        b"\0" * 1000,
        b"\xff\xfe" * 9,
        b'{"prompt": NaN}',
    )
    yield from (
        b'{"prompt": "\\ud800", "completion": "b", "label": true}',
        pickle.dumps(Attack(code)),
        b"PAR1" + b"x" * 99,
    )
    yield from (
        b"ARROW1\0\0" + b"\xff" * 99,
        b"\x1f\x8b" + b"x" * 99,
        b"PK\x03\x04" + b"x" * 99,
        b"version https://git-lfs",
    )


def answers(code: str) -> Iterator[bytes]:
    yield from (
        b"{" * 2**20,
        b'{"a":' * 2**18,
        b'{"a":"' + b"{" * 2**20,
        b'{"a":[0,' * 2**17,
        b'{"helpful":' + b"9" * 2**20,
    )
    yield from (
        b'{"helpful": "A", "helpful": "B"}',
        b'{"helpful": {"helpful": "A"}}',
        b"__import__('os')",
        code.encode(),
        b"",
    )


def checkpoints(code: str, folder: Path) -> Iterator[bytes]:
    for content in ({"state_dict": {"a": Attack(code)}}, Attack(code), {"state_dict": {}, "callbacks": Attack(code)}):
        for new in (True, False):
            torch.save(content, folder / "made.ckpt", _use_new_zipfile_serialization=new)
            yield (folder / "made.ckpt").read_bytes()
        yield pickle.dumps(content)
    SealedCheckpointIO().save_checkpoint({"state_dict": {"a": torch.ones(100)}, "global_step": 1}, folder / "good.ckpt")
    yield (folder / "good.ckpt").read_bytes()[:-50]


def mutated(random: random.Random, inputs: list[bytes]) -> bytes:
    """An input that is cut, joined with another, or has some bytes changed, repeated or left out."""
    content = bytearray(random.choice(inputs)[:20_000])
    for _ in range(random.randint(1, 4)):
        place = random.randrange(len(content) + 1)
        change = random.choice(("byte", "cut", "repeat", "other", "insert"))
        if change == "byte" and place < len(content):
            content[place] = random.randrange(256)
        elif change == "cut":
            del content[place : place + random.randint(1, 50)]
        elif change == "repeat":
            content[place:place] = content[place : place + 40] * random.randint(1, 20)
        elif change == "other":
            content[place:place] = random.choice(inputs)[:200]
        else:
            content[place:place] = random.choice(
                (b"!!python/object/apply:os.system", b"\0", b"{{", b"[[", b"../../", b"&a *a")
            )
    return bytes(content)


# --- what reads them -----------------------------------------------------------------------------------------------


def read(kind: str, content: bytes, folder: Path, parser: Any) -> None:
    path = folder / {"config": "self.yaml", "rows": "rows.jsonl", "checkpoint": "bad.ckpt"}.get(kind, "answer")
    if kind == "answer":
        parse(content.decode(errors="replace"))
        return
    path.write_bytes(content)
    if kind == "config":
        parser.parse_args([f"--config={REPOSITORY / 'configs' / 'tiny_kto.yaml'}", f"--config={path}"])
    elif kind == "rows":
        for _ in read_rows(str(path)):
            pass
    else:
        load_checkpoint(path)


def harmless(kind: str, content: bytes, folder: Path, parser: Any) -> None:
    """Reads an input, which may be refused with an error of the user's, and do nothing else."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    shown = f"{kind}: {content[:100]!r}"
    said = "read"
    try:
        read(kind, content, folder, parser)
    except HaloError as error:
        said = str(error)
    except BaseException as error:
        raise AssertionError(f"{shown}: {type(error).__name__}: {error}") from error
    assert 0 < len(said) < 3000, shown
    assert not (folder / "executed").exists(), shown
    assert time.monotonic() - began < SECONDS, shown
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MEGABYTES, shown


def by_hand(folder: Path) -> dict[str, list[bytes]]:
    code = canary(folder)
    return {
        "config": list(configs(code)),
        "rows": list(rows(code)),
        "answer": list(answers(code)),
        "checkpoint": list(checkpoints(code, folder)),
    }


def good(folder: Path) -> dict[str, list[bytes]]:
    return {
        "config": [(REPOSITORY / "configs" / name).read_bytes() for name in ("tiny_kto.yaml", "tiny_sft_kto.yaml")],
        "rows": [
            b'{"prompt": "a", "completion": "b", "label": true}\n' * 3,
            b'{"prompt": "a", "chosen": "b", "rejected": "c"}',
        ],
        "answer": [b'{"helpful": "A", "harmless": "tie", "concise": "B", "overall": "A"}'],
        "checkpoint": [(folder / "good.ckpt").read_bytes()],
    }


def run(folder: Path, chance: int) -> int:
    """Reads everything that is made by hand, and so many inputs of each kind that are made by chance."""
    parser, dice, count = training_parser("fit"), random.Random(1), 0
    for kind, inputs in by_hand(folder).items():
        every = [*inputs, *(mutated(dice, [*inputs, *good(folder)[kind]]) for _ in range(chance))]
        for content in every:
            harmless(kind, content, folder, parser)
        count += len(every)
    return count


def test_files_of_strangers_do_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, 15) > 100


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_files_of_strangers_do_nothing(tmp_path: Path) -> None:
    count = run(tmp_path, 300)
    print(f"\n{count} bad inputs")
    assert count >= 1000


# --- folders of models -----------------------------------------------------------------------------------------------


def changed(name: str, **values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, **values}))

    return change


def template(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "chat_template.jinja").write_text(text) and None


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"a": Attack(canary(folder.parent))}, folder / "pytorch_model.bin")


def remote_code(folder: Path) -> None:
    (folder / "evil.py").write_text(canary(folder.parent))
    changed("config.json", auto_map={"AutoConfig": "evil.A", "AutoModelForCausalLM": "evil.A"}, model_type="evil")(
        folder
    )


def remote_tokenizer(folder: Path) -> None:
    (folder / "evil.py").write_text(canary(folder.parent))
    changed("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.A", None]}, tokenizer_class="A")(folder)


def weights_outside(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def link_outside(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    (folder / "model.safetensors").symlink_to(folder.parent / "outside.safetensors")


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


MODELS: dict[str, tuple[Callable[[Path], None], str]] = {
    "weights in a pickle": (pickled, "no file named model.safetensors"),
    "code for the model": (remote_code, "custom code"),
    "code for the tokenizer": (remote_tokenizer, "custom code"),
    "weights elsewhere": (weights_outside, "names of files in the same folder"),
    "a link elsewhere": (link_outside, "a link out of the folder"),
    "weights cut off": (write("model.safetensors", b"\xff" * 7 + b"?{}"), "cut off or damaged"),
    "a nested configuration": (write("config.json", b'{"a":' * 100_000), "could not be loaded"),
    "a nested tokenizer": (write("tokenizer.json", b"[" * 200_000), "could not be loaded"),
    "sizes that are none": (changed("config.json", hidden_size=-4), "expected a whole number"),
    "sizes that are text": (changed("config.json", hidden_size="a"), "could not be loaded"),
    "a type that is none": (changed("config.json", model_type=["x"]), "could not be loaded"),
    "a template with attributes": (template("{{ messages.__class__.__mro__ }}"), "unsafe"),
    "a template with a shell": (template("{{ cycler.__init__.__globals__.os.popen('touch executed') }}"), "unsafe"),
    "a template with a file": (template("{% include '/etc/passwd' %}"), "cannot render"),
    "a template without end": (template("{% for i in range(10**9) %}x{% endfor %}"), "Range too big"),
    "a template that multiplies": (template("{{ messages[0].content * 10**10 }}"), "more than any template needs"),
}


@pytest.mark.parametrize("what", MODELS)
def test_folders_of_models_execute_nothing(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "model"
    shutil.copytree(resolve_path("embedded:small"), folder)
    MODELS[what][0](folder)
    with pytest.raises(HaloError, match=MODELS[what][1]):
        encode_prompts((load_model(str(folder)), load_tokenizer(str(folder)))[1], [({"role": "user", "content": "a"},)])
    assert not os.path.exists("executed")
