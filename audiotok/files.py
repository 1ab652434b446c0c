"""Atomic file writing: a temporary file in the same folder is renamed when it is complete."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Open files of a process on Linux: pipes, terminals, or files that are being written.
_OPEN_FILES = ("/proc/", "/dev/fd/")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Length of the name's prefix in the temporary name, which the file system limits.
_STEM_CHARACTERS = 40


def writable_target(path: str | Path) -> Path:
    """Check in advance that a file can be written.

    Returns:
        the path of the file itself, to which symbolic links lead; its folder exists and can be written.

    Raises:
        OSError: there is no such folder, it cannot be written, or the path is a folder, a device, a pipe, or a link
            that leads to itself.
    """
    target = _followed(Path(path))
    if target.is_dir():
        raise IsADirectoryError(f"expected a file to write, got the folder {path}; name a file in it")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {target.parent}; create it first")
    if _is_open_file(target) or (target.exists() and not target.is_file()):
        raise OSError(f"cannot write {path}: expected a file, got a device or a pipe; name a file")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"cannot write {path}: no permission to write in the folder {target.parent}")
    return target


@contextmanager
def write_aside(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it onto ``path`` on success, delete it on any error.

    It has the suffix of ``path`` and lies in the same folder, so that the rename is atomic.

    Raises:
        OSError: as :func:`writable_target`, or writing failed; it names ``path``.
    """
    target = writable_target(path)
    aside: Path | None = None
    try:
        handle, name = tempfile.mkstemp(
            prefix=f".{target.stem[:_STEM_CHARACTERS]}.", suffix=target.suffix, dir=target.parent
        )
        aside = Path(name)
        os.close(handle)
        yield aside
        # mkstemp and safetensors make files of mode 0600; use the mode that open() would give.
        umask = os.umask(0)
        os.umask(umask)
        aside.chmod(0o666 & ~umask)
        os.replace(aside, target)
    except BaseException as error:
        if aside is not None:
            aside.unlink(missing_ok=True)
        # Name the file that was asked for. The error of a full disk has no file name.
        if isinstance(error, OSError) and (
            error.errno in _FULL if error.filename is None else aside is None or error.filename == str(aside)
        ):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented UTF-8 JSON. Raises as :func:`write_aside`."""
    with write_aside(path) as aside:
        aside.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def parse_json(text: str | bytes) -> Any:
    """A JSON value. ValueError: it is not JSON, not UTF-8, or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("expected JSON, got too deep nesting") from None


def _followed(path: Path) -> Path:
    """The file that symbolic links lead to; it may be missing."""
    seen = {path}
    while path.is_symlink() and not _is_open_file(path):
        path = path.parent / os.readlink(path)
        if path in seen:
            raise OSError(f"cannot write {path}: it is a link that leads to itself; remove it")
        seen.add(path)
    return path


def _is_open_file(path: Path) -> bool:
    return str(path.absolute()).startswith(_OPEN_FILES)
