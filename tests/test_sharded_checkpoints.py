"""The list of tensors of a sharded checkpoint is a pickle: what in it is no description of a tensor is refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from halo_lightning.errors import ConfigError
from halo_lightning.sharded_checkpoints import SafeReader, read_tensors


def calls(module: str, name: str, argument: str) -> bytes:
    """A pickle that calls a function, by whatever name."""
    texts = [b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name, argument)]
    return b"\x80\x04" + texts[0] + texts[1] + b"\x93" + texts[2] + b"\x85R."


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("torch.distributed.checkpoint.metadata", "os.system"),  # that module imports os
        ("torch", "os.system"),
        ("torch.distributed.checkpoint.filesystem", "os.system"),
        ("collections", "OrderedDict.__init__.__globals__"),
    ],
)
def test_code_in_the_list_of_tensors_is_not_executed(module: str, name: str, tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(calls(module, name, f"touch {tmp_path / 'executed'}"))
    with pytest.raises(ConfigError, match="no description of a tensor"):
        SafeReader(tmp_path).read_metadata()
    assert not (tmp_path / "executed").exists()


def test_the_attack_works_where_nothing_prevents_it(tmp_path: Path) -> None:
    pickle.loads(calls("torch.distributed.checkpoint.metadata", "os.system", f"touch {tmp_path / 'executed'}"))
    assert (tmp_path / "executed").exists()


class Attack:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return exec, (f"open({str(self.target)!r}, 'w').write('executed')",)


def test_code_in_a_value_that_is_no_tensor_is_not_executed(tmp_path: Path) -> None:
    dcp.save({"weight": torch.ones(3), "extra": Attack(tmp_path / "executed")}, checkpoint_id=str(tmp_path / "whole"))
    tensors = read_tensors(tmp_path / "whole", lambda name: True)
    assert torch.equal(tensors["weight"], torch.ones(3))
    assert not (tmp_path / "executed").exists()
