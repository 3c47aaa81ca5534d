"""Files of records: nothing is lost or half there, whatever happens while they are written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from halo_lightning.errors import ConfigError, DataError
from halo_lightning.evaluation.records import open_records, read_records, read_settings

SETTINGS: dict[str, Any] = {"seed": 1, "sampling": {"top_p": 0.95}, "names": ["a"]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "folder" / "lines.jsonl"
    with open_records(file, SETTINGS) as records:
        records.add([{"number": 0, "text": "eins\n\u2028zwei"}, {"number": 1, "text": "\ud800 ü"}])
    return file


def found(path: Path, settings: dict[str, Any] = SETTINGS) -> list[dict[str, Any]]:
    with open_records(path, settings) as records:
        return records.found


def test_records_come_back(path: Path) -> None:
    expected = [{"number": 0, "text": "eins\n\u2028zwei"}, {"number": 1, "text": "\ud800 ü"}]
    assert found(path) == read_records(path) == expected
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [{**line, "record_checksum": 0} for line in lines] == [{**line, "record_checksum": 0} for line in expected]
    assert read_settings(path) == SETTINGS


def test_it_goes_on_wherever_it_was_cut_off(path: Path) -> None:
    content = path.read_bytes()
    first = content.index(b"\n") + 1
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        # A record counts as soon as all of it is there, with or without the end of its line.
        whole = (length >= first - 1) + (length >= len(content) - 1)
        assert len(read_records(path)) == whole
        with open_records(path, SETTINGS) as records:
            assert len(records.found) == whole
            records.add([{"number": 7}])
        assert [record["number"] for record in read_records(path)] == [*range(whole), 7]
        assert path.read_bytes().count(b"\n") == whole + 1


def test_other_settings_are_an_error_that_says_which(path: Path) -> None:
    for settings, message in (
        ({**SETTINGS, "seed": 2}, "seed: 1 → 2"),
        ({**SETTINGS, "sampling": {"top_p": 0.9}}, "sampling.top_p: 0.95 → 0.9"),
        ({"seed": 1, "sampling": {"top_p": 0.95}}, r"names: \['a'\] → None"),
    ):
        with pytest.raises(ConfigError, match=message):
            found(path, settings)
    assert len(found(path)) == 2


def test_an_empty_file_takes_new_settings(path: Path) -> None:
    path.write_bytes(b"")
    assert found(path, {"seed": 9}) == []
    assert read_settings(path) == {"seed": 9}


def test_two_writers_are_one_too_many(path: Path) -> None:
    with open_records(path, SETTINGS), pytest.raises(ConfigError, match="another process is writing"):
        found(path)
    assert len(found(path)) == 2


def test_a_damaged_line_is_an_error_with_its_place(path: Path) -> None:
    path.write_bytes(b'{"number": 0}\nnothing\n{"number": 2}\n')
    for read in (read_records, found):
        with pytest.raises(DataError, match=r"lines.jsonl, line 2: found 'nothing', expected a JSON object"):
            read(path)


def known(found: Any) -> Any:
    """Settings as they are, and of records what this test has put into them."""
    if isinstance(found, dict):
        return found
    return [{key: record[key] for key in ("number", "text")} for record in found]


def test_no_byte_can_be_another_one_unseen(path: Path) -> None:
    content, settings = path.read_bytes(), read_settings(path)
    records, messages = read_records(path), []
    for file, read, right in ((path, found, records), (path.with_suffix(".settings.json"), read_settings, settings)):
        written = file.read_bytes()
        for place in range(len(written)):
            file.write_bytes(written[:place] + bytes([written[place] ^ 1]) + written[place + 1 :])
            try:
                now = read(path)
            except (ConfigError, DataError) as error:
                messages.append(str(error))
            else:
                # What is read nevertheless is right: the name of the checksum, or the version of the package, is
                # damaged, or the end of the last line, which then is one that was half written.
                assert known(now) in (right, records[:1])
            file.write_bytes(written)
    assert len(messages) > 100
    assert all("lines." in message for message in messages)
    path.write_bytes(content.replace(b"eins", b"zwei"))
    with pytest.raises(DataError, match=r"lines.jsonl, line 1: found another record than was written"):
        read_records(path)


def test_settings_that_are_needed(path: Path) -> None:
    assert read_settings(path, ["seed", "sampling.top_p"]) == SETTINGS
    with pytest.raises(ConfigError, match=r"lines.settings.json: found no setting cut, expected what"):
        read_settings(path, ["cut"])


def test_missing_files(path: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_records(tmp_path / "nothing.jsonl")
    path.with_suffix(".settings.json").unlink()
    with pytest.raises(ConfigError, match=r"not beside it, in lines.settings.json"):
        found(path)
    path.with_suffix(".settings.json").write_text("{")
    with pytest.raises(ConfigError, match="found no settings in it"):
        read_settings(path)


def test_what_is_no_file_of_records(path: Path, tmp_path: Path) -> None:
    path.write_bytes(b'{"a":' * 100_000)
    assert found(path) == []  # a line that is half written
    path.write_bytes(b'{"a":' * 100_000 + b"\n")
    with pytest.raises(DataError, match="expected a JSON object"):
        found(path)
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(DataError, match="found a named pipe, expected a file"):
        read_records(tmp_path / "pipe.jsonl")


def test_a_record_without_what_it_needs_is_named(path: Path) -> None:
    path.write_text('{"number": 1}\n{"number": "x"}\n')
    with pytest.raises(DataError, match=r"lines.jsonl, line 2, key 'number': found 'x', expected what this package"):
        read_records(path, {"number": int})
    path.write_text("{}\n")
    with pytest.raises(DataError, match="line 1, key 'number': found no such key"):
        read_records(path, {"number": int})


def test_a_file_that_fills_the_memory_is_not_read(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)  # takes no room
    with pytest.raises(DataError, match="found 1,099,511,627,776 bytes"):
        read_records(path)
