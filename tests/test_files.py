"""Atomic writes: complete or absent files, only regular files replaced, errors that name the requested path."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from audiotok import write_aside, write_json
from audiotok.files import parse_json, writable_target

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links and pipes of POSIX systems")


def test_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "old.json").write_text("old")
    (tmp_path / "link.json").symlink_to("data/old.json")
    (tmp_path / "chain.json").symlink_to("link.json")
    write_json(tmp_path / "chain.json", [1])
    assert (tmp_path / "chain.json").is_symlink() and (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "data" / "old.json").read_text()) == [1]
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["old.json"]


def test_link_to_nothing_makes_the_file_it_names(tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to("new.json")
    write_json(tmp_path / "link.json", [])
    assert (tmp_path / "link.json").is_symlink() and (tmp_path / "new.json").is_file()


def test_link_to_itself_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="leads to itself"):
        writable_target(tmp_path / "a")


@pytest.mark.parametrize("name", ["/dev/null", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "pipe", "link"])
def test_devices_and_pipes_are_refused_and_stay(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    before = os.stat("/dev/null")
    with pytest.raises(OSError, match="got a device or a pipe; name a file"), write_aside(tmp_path / name):
        raise AssertionError("the work began")
    assert os.stat("/dev/null") == before and (tmp_path / "link").is_symlink()
    assert (tmp_path / "pipe").is_fifo()


def test_errors_name_the_file_that_was_asked_for(tmp_path: Path) -> None:
    target = tmp_path / "out.bin"
    with pytest.raises(OSError) as full, write_aside(target) as aside:
        aside.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert full.value.filename == str(target)
    with pytest.raises(FileNotFoundError) as gone, write_aside(target) as aside:
        aside.unlink()
    assert gone.value.filename == str(target)
    with pytest.raises(OSError) as other, write_aside(target):
        raise OSError(errno.EIO, "of a file that is read meanwhile")
    assert other.value.filename is None
    assert list(tmp_path.iterdir()) == []


def test_a_name_as_long_as_the_system_takes_is_written(tmp_path: Path) -> None:
    name = "x" * 250 + ".json"
    write_json(tmp_path / name, [])
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_json_nested_without_end_is_an_ordinary_error() -> None:
    assert parse_json('{"a": [1]}') == {"a": [1]}
    with pytest.raises(ValueError, match="nesting"):
        parse_json("[" * 100_000)
