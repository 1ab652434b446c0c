"""Files that are either whole or absent.

Knows nothing of audio. The one law it keeps: a reader never sees a half-written file, whatever stops the writer.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def write_aside(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it onto ``path`` on success, delete it on any error.

    Args:
        path: the final place. Its folder must exist and be writable.

    Yields:
        A path in the same folder (so that the rename is atomic) with the same suffix.

    Raises:
        FileNotFoundError: the folder of ``path`` does not exist.
        IsADirectoryError: ``path`` is a folder.
        PermissionError: the folder cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"expected a file to write, got the folder {path}; name a file in it")
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"cannot write {path}: the folder {path.parent} does not exist; create it first"
        )
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    aside = Path(name)
    umask = os.umask(0)
    os.umask(umask)
    try:
        yield aside
        # mkstemp (and safetensors) make private files, 0600; give ours the mode that open() would.
        aside.chmod(0o666 & ~umask)
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented UTF-8 JSON, aside and then renamed. Raises as :func:`write_aside` does."""
    with write_aside(path) as aside:
        aside.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
