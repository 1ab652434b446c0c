"""A folder of ONNX files with a card: what they are, whose codes they make, under which terms.

Knows no model and no torch. The laws it keeps: a bundle is whole or absent; nothing but a bundle is ever replaced; a
file that is not the one that was written is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import parse_json

if TYPE_CHECKING:
    from .graph import Graph

CARD = "onnx.json"
FORMAT_VERSION = 1
NOT_STATED = "not stated"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    Attributes:
        facts: what its card says.
        sessions: onnxruntime's, by the name of the graph.
    """

    facts: dict[str, Any]
    sessions: dict[str, Any]


def check_target(folder: str | Path, overwrite: bool) -> Path:
    """Find out before the work whether a bundle can be written.

    Args:
        folder: where it shall lie.
        overwrite: whether a bundle that is there is replaced.

    Returns:
        The folder's path.

    Raises:
        FileExistsError: something is there that may not be replaced.
        FileNotFoundError: the folder around it does not exist.
    """
    target = Path(os.path.abspath(folder))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {folder}: the folder {target.parent} does not exist")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        if not (target / CARD).is_file():
            raise FileExistsError(f"{folder}: exists already and is no bundle; choose another name")
        if not overwrite:
            raise FileExistsError(f"{folder}: exists already; pass --overwrite to replace it")
    return target


def save_bundle(
    folder: str | Path,
    graphs: Mapping[str, Graph],
    facts: Mapping[str, Any],
    card: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Write a bundle aside, then rename it.

    Args:
        folder: new, empty, or with ``overwrite`` a bundle.
        graphs: by name; ``encoder`` becomes ``encoder.onnx``.
        facts: JSON values, ``codes_fingerprint`` and ``license`` among them; those that are text are in every file too.
        card: a README.md to copy beside the graphs.
        overwrite: replace the bundle that is there.

    Raises:
        FileExistsError: something is there that may not be replaced.
        FileNotFoundError: the folder around it does not exist.
        OSError: it cannot be written.
    """
    target = check_target(folder, overwrite)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}.", dir=target.parent))
    try:
        digests = {}
        words = {key: value for key, value in facts.items() if isinstance(value, str)}
        for name, graph in graphs.items():
            path = aside / f"{name}.onnx"
            graph.save(path, words)
            digests[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        written = {"format_version": FORMAT_VERSION, **facts, "sha256": digests}
        (aside / CARD).write_text(json.dumps(written, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if card is not None and card.is_file():
            shutil.copyfile(card, aside / "README.md")
        umask = os.umask(0)
        os.umask(umask)
        aside.chmod(0o777 & ~umask)  # mkdtemp makes private folders
        if target.is_dir() and any(target.iterdir()):
            old = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}.old.", dir=target.parent))
            os.replace(target, old)
            os.replace(aside, target)
            shutil.rmtree(old)
        else:
            os.replace(aside, target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def open_bundle(folder: str | Path, kind: str, threads: int | None = None) -> Bundle:
    """Open a bundle for use, on the CPU.

    Args:
        folder: of :func:`save_bundle`.
        kind: what its card must say it is.
        threads: of onnxruntime; None takes as many as there are cores.

    Raises:
        FileNotFoundError: there is no bundle, or it is not whole.
        ModuleNotFoundError: the package ``onnxruntime`` is missing.
        ValueError: it is of another kind or format, or damaged.
    """
    runtime = _import_runtime()
    folder = Path(folder)
    if not (folder / CARD).is_file():
        raise FileNotFoundError(
            f"expected a bundle with {CARD} at {folder}, found none; make one with 'export'"
        )
    facts = parse_json((folder / CARD).read_bytes())
    if (
        not isinstance(facts, dict)
        or facts.get("format_version") != FORMAT_VERSION
        or facts.get("kind") != kind
    ):
        raise ValueError(
            f"{folder / CARD}: expected a bundle of kind {kind!r} and format {FORMAT_VERSION}, got "
            f"{facts.get('kind') if isinstance(facts, dict) else facts!r}; export it again"
        )
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    sessions = {}
    for name, digest in facts["sha256"].items():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"expected {folder / name} beside its card, found none; export it again")
        content = (folder / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError(f"{folder / name}: it is not the file that was exported; export it again")
        sessions[Path(name).stem] = runtime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )
    return Bundle(facts, sessions)


def _import_runtime() -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"expected the package 'onnxruntime' to run ONNX files, {error.name!r} is missing; "
            "pip install onnxruntime, or 'audiotok[onnx]'",
            name=error.name,
        ) from error
    return onnxruntime
