"""A damaged, cut off or foreign checkpoint is found and named, and the newest whole one is offered."""

from __future__ import annotations

import os
import pickle
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.exceptions import SIGTERMException

from halo_lightning import KTO, UnaryDataModule
from halo_lightning.callbacks import RunCheckpoint
from halo_lightning.checkpoints import (
    RUN,
    SealedCheckpointIO,
    check,
    damage,
    load,
    manifest_path,
    newest_good,
    read_seal,
    seal_folder,
)
from halo_lightning.errors import ConfigError, HaloError


def save(path: Path, step: int, run: str = "one") -> Path:
    content = {"global_step": step, "state_dict": {"weight": torch.arange(1000.0) + step}, RUN: {"id": run}}
    SealedCheckpointIO().save_checkpoint(content, path)
    return path


def change(path: Path, place: int = 2000) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    path = save(tmp_path / "new" / "a.ckpt", 3)
    assert damage(path) is None
    assert (load(path)["state_dict"]["weight"] == torch.arange(1000.0) + 3).all()
    seal = read_seal(path)
    assert seal is not None
    assert (seal.step, seal.run, list(seal.files)) == (3, "one", ["a.ckpt"])
    assert seal.files["a.ckpt"][0] == path.stat().st_size
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["a.ckpt", "a.ckpt.json"]


def drop_manifest(path: Path) -> None:
    manifest_path(path).unlink()


def garble_manifest(path: Path) -> None:
    manifest_path(path).write_text('{"files": [')


def lead_manifest_astray(path: Path) -> None:
    manifest_path(path).write_text(
        '{"global_step": 1, "run": "", "files": {"../../etc/passwd": {"bytes": 1, "sha256": ""}}}'
    )


def swap_for_another(path: Path) -> None:
    path.write_bytes(save(path.with_name("other.ckpt"), 9).read_bytes())


DAMAGES: dict[str, tuple[list[Callable[[Path], None]], str]] = {
    "a changed bit": ([change], "SHA-256 differs"),
    "cut off": ([cut], "bytes"),
    "another one's content": ([swap_for_another], "SHA-256 differs"),
    "a changed bit, no manifest": ([change, drop_manifest], "checksum differs"),
    "cut off, no manifest": ([cut, drop_manifest], "cut off"),
    "a damaged manifest": ([garble_manifest], "not the manifest"),
    "a manifest that points elsewhere": ([lead_manifest_astray], "outside of the folder"),
    "removed": ([Path.unlink], "no such checkpoint"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damage_is_found_and_the_newest_whole_one_offered(case: str, tmp_path: Path) -> None:
    good, bad = save(tmp_path / "good.ckpt", 1), save(tmp_path / "bad.ckpt", 2)
    for action in DAMAGES[case][0]:
        action(bad)
    with pytest.raises(ConfigError) as error:
        check(bad)
    assert "bad.ckpt" in str(error.value)
    assert DAMAGES[case][1] in str(error.value)
    if case != "another one's content":  # which is itself a newer one
        assert f"newest whole checkpoint beside it is {good}" in str(error.value)
        found = newest_good(tmp_path)
        assert found.path == good
        assert list(found.damaged) == ([bad] if case != "removed" else [])


def test_one_without_manifest_is_taken_as_it_is_if_its_checksums_agree(tmp_path: Path) -> None:
    """The process was killed after the checkpoint had got its name, and before the manifest was there."""
    save(tmp_path / "old.ckpt", 1)
    drop_manifest(save(tmp_path / "new.ckpt", 2))
    assert newest_good(tmp_path, "one").path == tmp_path / "new.ckpt"
    assert newest_good(tmp_path, "two") == (None, {}, 2)


def test_what_a_run_writes_anew_is_its_own_also_without_a_manifest(tmp_path: Path) -> None:
    """Else it would get another name, `-v1`, beside one that nobody removes."""
    path = save(tmp_path / "new.ckpt", 2)
    drop_manifest(path)
    trainer, callback = L.Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path), RunCheckpoint()
    callback.run = "one"
    assert not callback.file_exists(path, trainer)
    callback.run = "two"
    assert callback.file_exists(path, trainer)


def test_the_newest_is_the_one_of_the_most_steps_of_this_run(tmp_path: Path) -> None:
    for name, step, run in (("b", 5, "one"), ("a", 7, "one"), ("c", 9, "two")):
        save(tmp_path / f"{name}.ckpt", step, run)
    (tmp_path / "last.ckpt").symlink_to("gone.ckpt")
    assert newest_good(tmp_path, "one") == (tmp_path / "a.ckpt", {}, 1)
    assert newest_good(tmp_path).path == tmp_path / "c.ckpt"
    assert newest_good(tmp_path / "nowhere").path is None
    assert "link to nothing" in str(damage(tmp_path / "last.ckpt"))


class Attack:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return exec, (f"open({str(self.target)!r}, 'w').write('executed')",)


def test_code_in_a_checkpoint_is_not_executed(tmp_path: Path) -> None:
    content = {"global_step": 1, "state_dict": {}, "evil": Attack(tmp_path / "executed")}
    torch.save(content, tmp_path / "zip.ckpt")
    torch.save(content, tmp_path / "legacy.ckpt", _use_new_zipfile_serialization=False)
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps(content))
    for name in ("zip", "legacy", "pickle"):
        with pytest.raises(ConfigError, match=r"could execute code|no checkpoint"):
            SealedCheckpointIO().load_checkpoint(tmp_path / f"{name}.ckpt", weights_only=False)
        newest_good(tmp_path)
    assert not (tmp_path / "executed").exists()
    torch.load(tmp_path / "zip.ckpt", weights_only=False)  # that it would have been, is no fault of the test
    assert (tmp_path / "executed").exists()


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 2**24)
    assert "compressed" in str(damage(path))


def test_one_of_another_kind_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.ckpt")
    torch.save({"model": {}}, tmp_path / "plain.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    (tmp_path / "empty.ckpt").write_text("")
    (tmp_path / "folder.ckpt").mkdir()
    for name in ("list", "plain", "text", "empty", "folder"):
        with pytest.raises(ConfigError, match=f"{name}.ckpt"):
            load(tmp_path / f"{name}.ckpt")


def test_a_sharded_one_is_whole_when_its_manifest_is_there(tmp_path: Path) -> None:
    save(tmp_path / "old.ckpt", 1)
    folder = tmp_path / "new.ckpt"
    folder.mkdir()
    for name in (".metadata", "meta.pt", "__0_0.distcp"):
        (folder / name).write_text(name)
    assert newest_good(tmp_path).path == tmp_path / "old.ckpt"  # it was not finished
    assert damage(folder) is None  # somebody else's, asked for by name
    seal_folder(folder, step=2, run="one")
    assert newest_good(tmp_path, "one").path == folder
    (folder / "__0_0.distcp").write_text("__0_0.distcq")
    assert "__0_0.distcp" in str(damage(folder))
    (folder / "meta.pt").unlink()
    assert "meta.pt is missing" in str(damage(folder))


def test_a_full_disk_leaves_the_last_one_and_is_said(tmp_path: Path) -> None:
    import resource

    good = save(tmp_path / "good.ckpt", 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    try:
        for name in ("bad.ckpt", "good.ckpt"):
            with pytest.raises(HaloError, match="the disk is full") as error:
                save(tmp_path / name, 2)
            assert str(good) in str(error.value)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert damage(good) is None
    assert load(good)["global_step"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good.ckpt", "good.ckpt.json"]


def test_removed_with_its_manifest(tmp_path: Path) -> None:
    SealedCheckpointIO().remove_checkpoint(save(tmp_path / "a.ckpt", 1))
    assert not list(tmp_path.iterdir())


def test_a_job_of_slurm_that_is_told_to_end_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning would pass over SIGTERM there, and leave nothing to go on from."""
    for name, value in {"NTASKS": "1", "JOB_NAME": "run", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)

    class Told(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.global_step == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=9,
        logger=False,
        callbacks=[RunCheckpoint(dirpath=tmp_path, filename="{step}", save_last="link"), Told()],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    assert isinstance(trainer._accelerator_connector.cluster_environment, SLURMEnvironment)
    data = UnaryDataModule("embedded:thumbs?examples=40", batch_size=4, validation_fraction=0.0)
    with pytest.raises(SIGTERMException):
        trainer.fit(KTO("embedded:base"), datamodule=data)
    assert newest_good(tmp_path).path == tmp_path / "step=2.ckpt"
