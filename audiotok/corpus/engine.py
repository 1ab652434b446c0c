"""The run that turns a source into a prepared corpus, and that goes on where it was stopped.

Knows nothing of where rows come from or of what is later done with codes. The law it keeps is accounting:
every row ends in a shard or in ``dropped.jsonl``, and the files are the same for any number of workers, any engine, any
split into parts and any interruption.
"""

from __future__ import annotations

import copy
import math
import os
import pickle
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..codec.pretrained import load_codec
from .checks import Drop, Limits, write_dropped
from .journal import Journal
from .packing import CODES_DTYPE
from .pipeline import run_sections
from .plan import plan_digest
from .pool import Engine, Pool
from .progress import Clock, Progress
from .ray_pool import RayPool
from .reporting import Tally, describe, write_pages
from .rows import Source, printable
from .sections import IndexedSections, StreamSections
from .server import RowServer, Task
from .shaping import Shaping
from .shards import FORMAT_VERSION, Manifest
from .sources import StreamSource, open_source

if TYPE_CHECKING:
    from ..codec.model import AudioCodec

CODEC_FIELDS = ("name", "n_q", "codebook_size", "hop_length", "sampling_rate")
ENGINES = ("local", "ray")


def prepare(
    source: str | Path | Source | Any,
    out: str | Path,
    codec: AudioCodec | str | Path | None = None,
    *,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    limits: Limits | None = None,
    shaping: Shaping | None = None,
    n_q: int | None = None,
    licence: str = "",
    rows_per_shard: int = 1024,
    batch_s: float = 64.0,
    workers: int = 1,
    device: str | None = None,
    engine: str = "local",
    address: str = "auto",
    part: tuple[int, int] | None = None,
    progress: Callable[[Progress], None] | None = None,
    **opening: Any,
) -> Manifest:
    """Encode a corpus into shards of codes.

    Run again after a stop, it keeps the shards that are finished (their hashes are checked) and makes the
    rest; the files are the same as if it had not been stopped. Several processes may work in one folder, each with its
    ``part``: whoever finds all shards done writes the manifest. Under ``accelerate launch`` that happens by itself.

    Args:
        source: what :func:`~audiotok.corpus.open_source` opens, or its result.
        out: folder to write; new, empty, or a preparation of the same.
        codec: a codec, or what :func:`~audiotok.load_codec` takes; None is the default one.
        split: which splits to take, separated by commas; None takes all.
        columns: the column of a field, where the usual names do not find it.
        limits: which rows are fit; None gives the defaults of :class:`~audiotok.corpus.Limits`.
        shaping: what is done about silent ends and loudness; None does nothing.
        n_q: codebooks to keep, of the codec's; None keeps all.
        licence: of the source; stated in the manifest.
        rows_per_shard: rows of the source that go into one Parquet file.
        batch_s: seconds of padded sound that are encoded at once.
        workers: processes with one thread each; for Ray 0 takes all of the cluster.
        device: where each of them encodes; None is where ``codec`` is.
        engine: "local" for processes of this machine, "ray" for a Ray cluster. Its nodes must see the sound files under
            the same paths; sound that the source holds as bytes is sent to them.
        address: of the Ray cluster, or "local" for one on this machine.
        part: (i, n) makes every n-th shard only, from the i-th on, 1 <= i <= n.
        progress: called as the work goes on.
        opening: further arguments of :func:`~audiotok.corpus.open_source`.

    Returns:
        The manifest, which is also in ``out/manifest.json``; of a part, while others are not done, that of the shards
        which are, and no such file.

    Raises:
        FileNotFoundError: the source or the codec does not exist.
        ValueError: the source cannot be read, an option is out of range, or ``out`` holds something else.
        OSError: ``out`` cannot be written, another process is at work in it, or a worker died again and again.
    """
    _check(rows_per_shard, batch_s, engine, part)
    part, device = _launched(part, device)
    codec = _open_codec(codec, device)
    device = device or str(codec.device)
    limits, shaping = limits or Limits(), shaping or Shaping()
    opening |= {"split": split, "columns": dict(columns or {})}
    _refuse_inside(source, out)
    opened = _open(source, opening)
    bound = _binding(codec, n_q)
    journal = Journal(out)
    # On the CPU, because a worker need not see the device that this process uses.
    pickled = pickle.dumps(copy.deepcopy(codec).cpu())
    task = Task(limits, shaping, pickled, device, bound["n_q"])
    # Held by this process only: workers that were forked before do not keep the lock when it dies.
    with _engine(engine, task, workers, address) as pool, journal.held(alone=part is None):
        sections = _cut(opened, rows_per_shard, journal.folder)
        # Where the files lie is no matter of the result, nor is what was not asked for.
        options = {key: value for key, value in opening.items() if value and key != "audio_root"}
        options |= {**asdict(limits), **asdict(shaping), "rows_per_shard": rows_per_shard, "batch_s": batch_s}
        plan = _plan(bound, options, opened.describe, licence, sections.digest)
        plan.source_rows = sections.rows or 0
        done = journal.begin(plan, rows_per_shard, alone=part is None)
        first, step = (part[0] - 1, part[1]) if part else (0, 1)

        def wanted(number: int) -> bool:
            return number % step == first and number not in done

        clock = Clock("encode", _rows_to_do(sections, rows_per_shard, wanted), progress)
        for number, rows in run_sections(pool, sections.sections(wanted), limits, batch_s, clock):
            journal.write(number, rows, bound)
        assert sections.rows is not None and sections.count is not None
        return journal.complete(replace(plan, source_rows=sections.rows), sections.count)


def dry_run(
    source: str | Path | Source | Any,
    out: str | Path | None = None,
    *,
    limits: Limits | None = None,
    shaping: Shaping | None = None,
    rows_per_shard: int = 1024,
    batch_s: float = 64.0,
    workers: int = 1,
    engine: str = "local",
    address: str = "auto",
    progress: Callable[[Progress], None] | None = None,
    **opening: Any,
) -> dict[str, Any]:
    """Say what :func:`prepare` would keep and drop, without a codec: every clip is decoded and checked.

    Args:
        source, limits, shaping, rows_per_shard, batch_s, workers, engine, address, progress, opening: as there.
        out: the folder of the preparation; the report and ``dropped.jsonl`` go into ``out/dry-run``. None writes
            nothing.

    Returns:
        the counts, as :func:`~audiotok.corpus.report` gives them.

    Raises:
        FileNotFoundError: the source does not exist.
        ValueError: the source cannot be read, an option is out of range, or ``out`` holds something else.
        OSError: ``out`` cannot be written, or a worker died again and again.
    """
    _check(rows_per_shard, batch_s, engine, None)
    limits, shaping = limits or Limits(), shaping or Shaping()
    if out is not None:
        _refuse_inside(source, out)
    opened = _open(source, opening)
    folder = Path(out) / "dry-run" if out is not None else None
    if out is not None:
        Journal(out)  # refuses a folder that holds something else
    tally, drops = Tally(), list[Drop]()
    with _engine(engine, Task(limits, shaping, None, "cpu", 0), workers, address) as pool:
        sections = _cut(opened, rows_per_shard, (folder or Path.cwd()) / ".spool")
        clock = Clock("check", sections.rows, progress)
        for _, rows in run_sections(pool, sections.sections(lambda _: True), limits, batch_s, clock):
            kept = [row for row in rows if not isinstance(row, Drop)]
            drops += [row for row in rows if isinstance(row, Drop)]
            names = ("text", "speaker", "language", "split", "seconds", "level_db")
            tally.add({name: [row[name] for row in kept] for name in names} | {"frames": [0] * len(kept)})
    counts = describe(
        tally.result(), opened.describe, sections.rows or 0, Counter(drop.reason for drop in drops)
    )
    if folder is not None:
        folder.mkdir(exist_ok=True)
        write_pages(folder, counts)
        write_dropped(folder, drops)
    return counts


def _check(rows_per_shard: int, batch_s: float, engine: str, part: tuple[int, int] | None) -> None:
    if rows_per_shard < 1 or not 0 < batch_s < math.inf:
        raise ValueError(
            f"expected rows_per_shard >= 1 and a finite batch_s > 0, got {rows_per_shard} and {batch_s}"
        )
    if engine not in ENGINES:
        raise ValueError(f"expected an engine of {', '.join(ENGINES)}, got {engine!r}")
    if part is not None and not 1 <= part[0] <= part[1]:
        raise ValueError(f"expected a part i of n with 1 <= i <= n, got {part[0]} of {part[1]}")


def _refuse_inside(source: Any, out: str | Path) -> None:
    """Refuse to write into the source: what is written there would be read as part of it the next time."""
    if not isinstance(source, str | Path) or not Path(source).is_dir() or not str(out):
        return
    # realpath takes links that lead to themselves: they are refused further on.
    whole, written = Path(os.path.realpath(source)), Path(os.path.realpath(out))
    if written.is_relative_to(whole):
        raise ValueError(f"{out}: expected a folder outside of the source {source}; choose another")


def _launched(part: tuple[int, int] | None, device: str | None) -> tuple[tuple[int, int] | None, str | None]:
    """The part and the device of this process if ``accelerate launch`` (or torchrun) started it among others."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if part is not None or processes == 1:
        return part, device
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return (int(os.environ["RANK"]) + 1, processes), device


def _open_codec(codec: AudioCodec | str | Path | None, device: str | None) -> AudioCodec:
    if isinstance(codec, torch.nn.Module):
        return codec
    return load_codec(codec, device=device or "cpu")


def _open(source: Any, opening: Mapping[str, Any]) -> Any:
    """The source, opened unless it is."""
    opened = hasattr(source, "describe") and hasattr(source, "__iter__")
    return source if opened else open_source(source, **opening)


def _cut(opened: Any, rows_per_shard: int, spool: Path) -> IndexedSections | StreamSections:
    if isinstance(opened, StreamSource):
        return StreamSections(opened, rows_per_shard, spool)
    return IndexedSections(opened, rows_per_shard)


def _engine(name: str, task: Task, workers: int, address: str) -> Engine:
    if name == "ray":
        return RayPool(RowServer, (task,), workers, address, task.device)
    return Pool(RowServer, (task,), workers)


def _rows_to_do(
    sections: IndexedSections | StreamSections, size: int, wanted: Callable[[int], bool]
) -> int | None:
    if sections.rows is None or sections.count is None:
        return None
    return sum(min(size, sections.rows - n * size) for n in range(sections.count) if wanted(n))


def _plan(
    bound: Mapping[str, Any], options: dict[str, Any], describe: str, licence: str, listed: str
) -> Manifest:
    """A manifest in which nothing is counted yet."""
    settings = {"bound": dict(bound), "options": options, "source": describe}
    return Manifest(
        codes_fingerprint=bound["codes_fingerprint"],
        codec={key: bound[key] for key in CODEC_FIELDS},
        source=describe,
        options=options,
        plan=plan_digest(settings, listed),
        licence=printable(licence),
        versions={name: _version(name) for name in ("audiotok", "torch", "soundfile", "soxr", "datasets")},
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # run from a checkout
        return "unknown"


def _binding(codec: AudioCodec, n_q: int | None) -> dict[str, Any]:
    """What the codes of a shard mean: it goes into every shard and into the plan."""
    config = codec.config
    kept = config.n_q if n_q is None else n_q
    if not 1 <= kept <= config.n_q:
        raise ValueError(f"expected n_q from 1 to {config.n_q}, got {n_q}")
    if config.codebook_size > 1 << 15:
        raise ValueError(f"expected a codebook_size that fits int16, got {config.codebook_size}")
    return {
        "format_version": FORMAT_VERSION,
        "codes_fingerprint": codec.codes_fingerprint,
        "codes_dtype": CODES_DTYPE,
        "name": config.codec_name,
        "n_q": kept,
        "codebook_size": config.codebook_size,
        "hop_length": config.hop_length,
        "sampling_rate": config.sampling_rate,
    }
