"""Results kept clip by clip, so that a run that was killed goes on where it stopped.

Knows nothing of what a result is. The law it keeps: results of another run (other clips, codec, metrics or
package versions) are never taken for this one's.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..files import write_aside


class Journal:
    """A file of JSON lines: what the run is, then (clip, result) pairs in any order.

    Args:
        path: the file; None keeps nothing.
        run: what makes results comparable, JSON-plain. A file that names another run is started anew.

    Raises:
        FileExistsError: ``path`` is a file that is no journal.

    Attributes:
        done: clip number -> result, as found in the file.
    """

    def __init__(self, path: str | Path | None, run: dict[str, Any]) -> None:
        self.done: dict[int, Any] = {}
        self._file = None
        if path is None:
            return
        lines = _whole_lines(Path(path))
        header = json.loads(json.dumps({"run": run}))
        if Path(path).is_file() and Path(path).stat().st_size and not (lines and "run" in lines[0]):
            raise FileExistsError(
                f"{path}: expected results of an earlier run, got another file; move it away"
            )
        if lines and lines[0] == header:
            self.done = {line["clip"]: line["result"] for line in lines[1:]}
        # Written anew: what a kill left of its last line must not stand before the next one.
        kept = [header, *({"clip": clip, "result": result} for clip, result in self.done.items())]
        with write_aside(path) as aside:
            aside.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._file = Path(path).open("a", encoding="utf-8")

    def add(self, clip: int, result: Any) -> None:
        """Keep one clip's result, JSON-plain; it is in the file when this returns."""
        if self._file is not None:
            self._file.write(json.dumps({"clip": clip, "result": result}) + "\n")
            self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()


def _whole_lines(path: Path) -> list[Any]:
    """The lines of a journal that can be read; [] if there is none. The last may be cut off."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
