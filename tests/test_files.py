"""A folder or a file appears whole or not at all, also where the process is killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from halo_lightning import files
from halo_lightning.errors import ConfigError
from halo_lightning.files import (
    read_checked_json,
    read_text,
    replaced_file,
    replaced_folder,
    write_checked_json,
    write_json,
)


def test_appears_with_its_content(tmp_path: Path) -> None:
    with replaced_folder(tmp_path / "a" / "export") as partial:
        (partial / "x").write_text("1")
        assert not (tmp_path / "a" / "export").exists()
    assert (tmp_path / "a" / "export" / "x").read_text() == "1"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["export"]


def test_replaces_an_older_one(tmp_path: Path) -> None:
    for text in ("1", "2"):
        with replaced_folder(tmp_path / "export") as partial:
            (partial / text).write_text(text)
    assert [path.name for path in (tmp_path / "export").iterdir()] == ["2"]
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_a_failure_leaves_the_older_one_and_no_rubbish(tmp_path: Path) -> None:
    with replaced_folder(tmp_path / "export") as partial:
        (partial / "x").write_text("1")

    def fail() -> None:
        with replaced_folder(tmp_path / "export") as partial:
            (partial / "x").write_text("half")
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        fail()
    assert (tmp_path / "export" / "x").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_a_file_is_replaced_whole_or_stays(tmp_path: Path) -> None:
    write_json(tmp_path / "a" / "x.json", {"ü": 1})
    assert json.loads((tmp_path / "a" / "x.json").read_text(encoding="utf-8")) == {"ü": 1}

    def fail() -> None:
        with replaced_file(tmp_path / "a" / "x.json") as stream:
            stream.write(b"half")
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        fail()
    assert json.loads((tmp_path / "a" / "x.json").read_text(encoding="utf-8")) == {"ü": 1}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x.json"]


def test_a_checked_file_is_read_as_it_was_written_or_not_at_all(tmp_path: Path) -> None:
    file, content = tmp_path / "x.json", {"b": [1, 2.5, None], "a": {"10": "ü", "9": True}}
    write_checked_json(file, content)
    assert read_checked_json(file) == content
    file.write_text(file.read_text().replace("2.5", "2.4"))
    with pytest.raises(ValueError, match="found another content than was written"):
        read_checked_json(file)
    file.write_text('{"a": 1}')  # somebody else's
    assert read_checked_json(file) == {"a": 1}
    file.write_text("[]")
    with pytest.raises(ValueError, match="found no JSON object"):
        read_checked_json(file)


def killed(function: Callable[[], None]) -> None:
    """Runs a function in a child process, which it kills."""
    if (child := os.fork()) == 0:
        function()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("moment", range(1, 4))
def test_a_kill_while_a_folder_is_replaced(moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before the first rename, between the two, and after them: the next writer clears up."""

    def write(text: str) -> None:
        with replaced_folder(tmp_path / "export") as partial:
            (partial / "x").write_text(text)

    def write_and_die() -> None:
        rename, renames = os.rename, [0]

        def counted(*arguments: Path) -> None:
            renames[0] += 1
            if renames[0] == moment:
                die()
            rename(*arguments)

        monkeypatch.setattr(files.os, "rename", counted)
        monkeypatch.setattr(files.shutil, "rmtree", die)
        write("2")

    write("1")
    killed(write_and_die)
    present = (tmp_path / "export").exists()
    assert present == (moment != 2)
    if present:
        assert (tmp_path / "export" / "x").read_text() == ("1" if moment == 1 else "2")
    assert len(list(tmp_path.iterdir())) == 2

    def fail() -> None:
        with replaced_folder(tmp_path / "export"):
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        fail()
    assert (tmp_path / "export" / "x").read_text() == ("2" if moment == 3 else "1")  # the newest that was ever whole
    write("3")
    assert (tmp_path / "export" / "x").read_text() == "3"
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_what_another_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    with replaced_file(tmp_path / "x") as stream:
        if (child := os.fork()) == 0:
            write_json(tmp_path / "x", 1)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        stream.write(b"2")
    assert (tmp_path / "x").read_text() == "2"


def test_a_file_in_the_place_of_a_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "export").write_text("mine")
    refused = pytest.raises(ConfigError, match="found a file where a folder is to be written")
    with refused, replaced_folder(tmp_path / "export"):
        pass
    assert (tmp_path / "export").read_text() == "mine"


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="found a named pipe, expected a file"):
        read_text(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "nothing")


def write_folder(path: Path) -> None:
    with replaced_folder(path) as partial:
        (partial / "x").write_text("1")


def write(path: Path) -> None:
    write_json(path, {})


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to a device"])
def test_a_file_takes_the_place_of_nothing_but_a_file(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    if kind == "pipe":
        os.mkfifo(target)
    elif kind == "folder":
        target.mkdir()
    else:
        target.symlink_to("/dev/null")
    before = os.lstat(target)
    with pytest.raises(ConfigError, match=r"x\.json: found a .*, expected a file, where one is to be written"):
        write(target)
    assert os.lstat(target).st_ino == before.st_ino
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("writes", [write, write_folder])
def test_what_cannot_be_written_is_named(writes: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/deep: cannot be a folder, since .*/file is none"):
        writes(tmp_path / "file" / "deep" / "x")
    with pytest.raises(ConfigError, match=r"^(\.: found a folder|found '\.' as the name of a folder)"):
        writes(Path(""))
    with pytest.raises(OSError, match="File name too long") as error:
        writes(tmp_path / ("n" * 250))  # the name that it has until it is whole is longer
    assert error.value.filename == str(tmp_path / ("n" * 250))
