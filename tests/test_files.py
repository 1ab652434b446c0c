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


@pytest.mark.parametrize("old", ["old", None])
def test_links_stay_and_their_target_is_written(tmp_path: Path, old: str | None) -> None:
    target, link, chain = tmp_path / "data" / "target.json", tmp_path / "link.json", tmp_path / "chain.json"
    target.parent.mkdir()
    if old:
        target.write_text(old)
    link.symlink_to("data/target.json")
    chain.symlink_to("link.json")
    write_json(chain, [1])
    assert chain.is_symlink() and link.is_symlink() and list(target.parent.iterdir()) == [target]
    assert json.loads(target.read_text()) == [1]
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="itself"):
        writable_target(tmp_path / "a")


@pytest.mark.parametrize("name", ["/dev/null", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "pipe", "link"])
def test_devices_and_pipes_are_refused_and_stay(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    before = os.stat("/dev/null")
    with pytest.raises(OSError, match="device"), write_aside(tmp_path / name):
        raise AssertionError("the work began")
    assert os.stat("/dev/null") == before and (tmp_path / "link").is_symlink()
    assert (tmp_path / "pipe").is_fifo()


def test_errors_name_the_file_that_was_asked_for(tmp_path: Path) -> None:
    target = tmp_path / "out.bin"
    with pytest.raises(OSError) as full, write_aside(target) as aside:
        aside.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(FileNotFoundError) as gone, write_aside(target) as aside:
        aside.unlink()
    assert full.value.filename == gone.value.filename == str(target)
    with pytest.raises(OSError) as other, write_aside(target):
        raise OSError(errno.EIO, "of a file that is read meanwhile")
    assert other.value.filename is None and list(tmp_path.iterdir()) == []
    name = "x" * 250 + ".json"  # as long as the system takes
    write_json(tmp_path / name, [])
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_json_nested_without_end_is_an_ordinary_error() -> None:
    assert parse_json('{"a": [1]}') == {"a": [1]}
    with pytest.raises(ValueError, match="nesting"):
        parse_json("[" * 100_000)
