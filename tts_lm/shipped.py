"""Names -> folders of language models: shipped ones by name, others by path.

Knows nothing of what is inside. The law it keeps: a name never reaches for the network; a path is a path.
"""

from __future__ import annotations

from pathlib import Path

CHECKPOINTS = Path(__file__).parent / "checkpoints"
DEFAULT_NAME = "default"


def find_checkpoint(name_or_path: str | Path | None = None) -> Path:
    """The folder of a language model.

    Args:
        name_or_path: None for the shipped default, a shipped name, or a folder.

    Returns:
        A folder that exists.

    Raises:
        FileNotFoundError: there is no such shipped model or folder.
    """
    name = DEFAULT_NAME if name_or_path is None else str(name_or_path)
    shipped = CHECKPOINTS / name
    if "/" not in name and not name.startswith((".", "~")) and shipped.is_dir():
        return shipped
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    names = ", ".join(sorted(p.name for p in CHECKPOINTS.glob("*") if p.is_dir())) or "none"
    raise FileNotFoundError(f"no language model {name!r}: expected a folder or a shipped name ({names})")


def find_part(name_or_path: str | Path, part: str) -> Path:
    """The folder of one part of a language model.

    Args:
        name_or_path: the part's own folder, or a whole model, by shipped name or folder.
        part: ``ar``, ``nar`` or ``reranker``.

    Raises:
        FileNotFoundError: there is no such folder, or neither it nor its part holds a ``config.json``.
    """
    folder = find_checkpoint(name_or_path)
    for place in (folder / part, folder):
        if (place / "config.json").is_file():
            return place
    raise FileNotFoundError(f"expected a trained half with config.json in {folder}, found none")
