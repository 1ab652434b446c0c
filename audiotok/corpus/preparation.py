"""Prepares a corpus: plans and makes its shards, and writes manifest, index, report and card."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import pickle
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ..codec.pretrained import load_codec
from ..files import write_aside
from .checks import DROPPED, Drop, Limits, Shaping, write_dropped
from .executors import ENGINES, run_tasks
from .reports import CARD, REPORT_FILES, Tally, describe, write_card, write_report
from .rows import Source, printable
from .shards import (
    CODES_DTYPE,
    FORMAT_VERSION,
    INDEX,
    MANIFEST,
    Manifest,
    sha256,
    shard_facts,
    shard_name,
    write_index,
)
from .sources import StreamSource, open_source
from .tasks import Job, Row, ShardMaker, Survey, Task, listed_tasks, streamed_tasks, survey

if TYPE_CHECKING:
    from ..codec.model import AudioCodec

PLAN = ".plan.json"
"""The manifest of a preparation that is under way; nothing is counted in it."""

CODEC_FIELDS = ("name", "n_q", "codebook_size", "hop_length", "sampling_rate")
_FOLDERS = ("shards", "dry-run", ".spool")
# Left by a kill in the middle of a write: the names that write_aside gives to our files.
_HALF_WRITTEN = (
    ".manifest.*.json",
    ".dropped.*.jsonl",
    ".index.*.arrow",
    ".report.*",
    ".README.*.md",
    "..plan.*.json",
)


@dataclass(frozen=True)
class Progress:
    """Progress of a run. ``stage`` is "encode" or "check"; seconds are of sound, ``elapsed_s`` is time.

    ``rows`` of ``rows_total`` are done; a stream's total is None.
    """

    stage: str
    rows: int
    rows_total: int | None
    seconds: float
    elapsed_s: float

    @property
    def remaining_s(self) -> float:
        """Estimated seconds until the stage is done; NaN where that is not known."""
        if not self.rows or self.rows_total is None:
            return math.nan
        return self.elapsed_s * (self.rows_total - self.rows) / self.rows


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
    rows_per_shard: int | None = None,
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

    Run again after a stop, it skips the shards that are there and makes the rest; the files are the same as if it
    had not been stopped. Several processes may work in one folder, each with its ``part``: the process that finds all
    shards done writes the manifest. Under ``torchrun`` or ``accelerate launch`` each process takes its own part.

    Args:
        source: an argument of :func:`~audiotok.corpus.open_source`, or its result.
        out: folder to write; new, empty, or a preparation of the same.
        codec: a codec, or an argument of :func:`~audiotok.load_codec`; None is the default one.
        split: which splits to take, separated by commas; None takes all.
        columns: the column of a field, where the usual names do not find it.
        limits: which rows are kept; None gives the defaults of :class:`~audiotok.corpus.Limits`.
        shaping: trimming and level; None changes nothing.
        n_q: codebooks to keep, of the codec's; None keeps all.
        licence: of the source; stated in the manifest.
        rows_per_shard: rows of the source per Parquet file; None is 64 to 1024, by the number of rows.
        batch_s: seconds of padded sound that are encoded at once.
        workers: processes with one thread each; for Ray 0 takes all of the cluster.
        device: where each of them encodes; None is where ``codec`` is.
        engine: "local" for processes of this machine, "ray" for a Ray cluster. Its nodes must see the source and
            ``out`` under the same paths.
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
        OSError: ``out`` cannot be written, or a worker died again and again.
    """
    _check(rows_per_shard, batch_s, engine, part)
    part, device = _launched(part, device)
    model = codec if isinstance(codec, torch.nn.Module) else load_codec(codec, device=device or "cpu")
    device = device or str(model.device)
    limits, shaping = limits or Limits(), shaping or Shaping()
    opening |= {"split": split, "columns": dict(columns or {})}
    _refuse_inside(source, out)
    opened = _opened(source, opening)
    bound = _binding(model, n_q)
    folder = _output_folder(out)
    stream = isinstance(opened, StreamSource)
    found = None if stream else survey(opened)
    size = rows_per_shard or _rows_per_shard(0 if stream else len(opened))
    # The location of the files and options that were not given do not change the result.
    options = {key: value for key, value in opening.items() if value and key != "audio_root"}
    options |= {**asdict(limits), **asdict(shaping), "rows_per_shard": size, "batch_s": batch_s}
    plan = _plan(bound, options, opened.describe, licence, found)
    if (whole := _begin(folder, plan)) is not None:
        return whole
    first, step = (part[0] - 1, part[1]) if part else (0, 1)

    def wanted(number: int, name: str) -> bool:
        return number % step == first and shard_facts(folder / "shards" / name, plan.plan) is None

    counts: Counter[str] = Counter()
    spool = folder / ".spool"
    if found is None:
        tasks, total = streamed_tasks(opened, size, wanted, spool, counts), None
    else:
        listed = [task for number, task in enumerate(listed_tasks(found, size)) if wanted(number, task.name)]
        tasks, total = iter(listed), sum(len(task.indices) for task in listed)
    # The codec goes to the CPU, because a worker need not see the device that this process uses.
    pickled = pickle.dumps(copy.deepcopy(model).cpu())
    bound |= {"plan": plan.plan}
    job = Job(None if stream else opened, limits, shaping, batch_s, pickled, device, bound, folder / "shards")
    for _ in _run(job, tasks, workers, engine, address, "encode", total, progress):
        pass
    if stream:
        plan = replace(plan, splits=dict(counts), source_rows=sum(counts.values()))
        plan.save(folder, PLAN)
    return finish(folder, plan)


def dry_run(
    source: str | Path | Source | Any,
    out: str | Path | None = None,
    *,
    limits: Limits | None = None,
    shaping: Shaping | None = None,
    rows_per_shard: int | None = None,
    batch_s: float = 64.0,
    workers: int = 1,
    engine: str = "local",
    address: str = "auto",
    progress: Callable[[Progress], None] | None = None,
    **opening: Any,
) -> dict[str, Any]:
    """Count the rows that :func:`prepare` would keep and drop. Every clip is decoded and checked, without a codec.

    Takes the arguments of :func:`prepare` and raises the same errors. The report and ``dropped.jsonl`` go into
    ``out/dry-run``; ``out=None`` writes nothing.

    Returns:
        the counts, as :func:`~audiotok.corpus.report` gives them.
    """
    _check(rows_per_shard, batch_s, engine, None)
    if out is not None:
        _refuse_inside(source, out)
    opened = _opened(source, opening)
    tally, drops, counts = Tally(), list[Drop](), Counter[str]()
    with ExitStack() as stack:
        folder = None if out is None else _output_folder(out) / "dry-run"
        if folder is not None:
            folder.mkdir(exist_ok=True)
        spool = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
        if isinstance(opened, StreamSource):
            size = rows_per_shard or _rows_per_shard(0)
            listed, total = None, None
            tasks = streamed_tasks(opened, size, lambda *_: True, spool, counts)
        else:
            listed, total = opened, len(opened)
            tasks = listed_tasks(survey(opened), rows_per_shard or _rows_per_shard(total))
        job = Job(listed, limits or Limits(), shaping or Shaping(), batch_s)
        for rows in _run(job, tasks, workers, engine, address, "check", total, progress):
            kept = [row for row in rows if not isinstance(row, Drop)]
            drops += [row for row in rows if isinstance(row, Drop)]
            names = ("text", "speaker", "language", "split", "seconds", "level_db")
            tally.add({name: [row[name] for row in kept] for name in names} | {"frames": [0] * len(kept)})
    source_rows = sum(counts.values()) if total is None else total
    counted = describe(tally.result(), opened.describe, source_rows, Counter(drop.reason for drop in drops))
    if folder is not None:
        write_report(folder, counted)
        write_dropped(folder, sorted(drops, key=lambda drop: drop.row))
    return counted


def _run(
    job: Job,
    tasks: Iterable[Task],
    workers: int,
    engine: str,
    address: str,
    stage: str,
    total: int | None,
    progress: Callable[[Progress], None] | None,
) -> Iterator[list[Row]]:
    """Run tasks, report the progress of each, and yield the rows that it returned."""
    rows, seconds, began = 0, 0.0, time.monotonic()
    settings: dict[str, Any] = {
        "workers": workers,
        "engine": engine,
        "address": address,
        "device": job.device,
    }
    for task, (task_s, made) in run_tasks(ShardMaker, job, tasks, **settings):
        rows, seconds = rows + len(task.indices), seconds + task_s
        if task.spool is not None:
            task.spool.path.unlink(missing_ok=True)
        if progress is not None:
            progress(Progress(stage, rows, total, seconds, time.monotonic() - began))
        yield made


def merge(parts: Sequence[str | Path], out: str | Path) -> Manifest:
    """Join parts of a preparation that were made in separate folders (``--shard 1/4`` and so on).

    Args:
        parts: their folders.
        out: the folder of the whole; new, empty, or an earlier merge that was stopped.

    Returns:
        The manifest of the whole: the same files as if it had not been split.

    Raises:
        FileNotFoundError: a folder holds no part.
        ValueError: there is no part, they are not of one plan, some are missing or damaged, or ``out`` is among them.
        OSError: ``out`` cannot be written.
    """
    if not parts:
        raise ValueError("expected at least one part to merge, got none")
    folders, plans = [Path(part) for part in parts], list[Manifest]()
    for part in folders:
        whole, piece = Path(os.path.realpath(out)), Path(os.path.realpath(part))
        if str(out) and (whole.is_relative_to(piece) or piece.is_relative_to(whole)):
            raise ValueError(f"{out}: expected a folder apart from the part {part}; choose another")
        name = next((name for name in (PLAN, MANIFEST) if (part / name).is_file()), None)
        if name is None:
            raise FileNotFoundError(f"{part}: expected a part made with --shard I/N, found none in it")
        plans.append(Manifest.load(part, name))
        if plans[-1].plan != plans[0].plan:
            raise ValueError(
                f"{part}: expected a part of the same source, codec and options as {parts[0]}; "
                f"{plans[0].differences(plans[-1])}"
            )
    plan = max(plans, key=lambda plan: plan.source_rows)
    plan = replace(plan, rows=0, hours=0.0, dropped={}, shards=[])
    target = _output_folder(out)
    if (done := _begin(target, plan)) is not None:
        return done
    for name in _expected(plan):
        if shard_facts(target / "shards" / name, plan.plan) is not None:
            continue
        having = (part / "shards" / name for part in folders)
        path = next((path for path in having if shard_facts(path, plan.plan) is not None), None)
        if path is None:
            raise ValueError(
                f"{out}: the shard {name} is in none of the parts; finish them, then merge again"
            )
        with write_aside(target / "shards" / name) as aside:
            aside.unlink()
            try:
                os.link(path, aside)
            except OSError:
                shutil.copyfile(path, aside)
    return finish(target, plan)


# ---- the folder


def _output_folder(out: str | Path) -> Path:
    """The folder to write, made if it is not there; refused if it holds anything but a preparation."""
    if not str(out):  # an unset shell variable; as a path it would be the current folder
        raise ValueError("expected a folder to write, got an empty name")
    folder = Path(out)
    if os.path.lexists(folder) and not folder.is_dir():
        raise NotADirectoryError(
            f"{folder}: expected a folder to write, got a file or a link to nothing; choose another name"
        )
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    for name in names & {*_FOLDERS, MANIFEST, PLAN}:
        path = folder / name
        if not (path.is_dir() if name in _FOLDERS else path.is_file()):
            kind = "folder" if name in _FOLDERS else "file"
            raise ValueError(
                f"{path}: expected a {kind} of a preparation, got something else; choose another folder"
            )
    # Other files, such as alignments, may be in the folder of a preparation.
    ours = {path.name for pattern in _HALF_WRITTEN for path in folder.glob(pattern)}
    if not names & {MANIFEST, PLAN} and (strange := sorted(names - ours - {"dry-run"})):
        raise ValueError(
            f"{folder}: expected an empty folder or a preparation, it holds {strange[0]}; choose another"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _begin(folder: Path, plan: Manifest) -> Manifest | None:
    """Begin or resume a plan. Returns its manifest if it is finished.

    Raises:
        ValueError: the folder holds the result of another plan.
    """
    for name in (MANIFEST, PLAN):
        if not (folder / name).is_file():
            continue
        held = Manifest.load(folder, name)
        if held.plan != plan.plan:
            raise ValueError(
                f"{folder}: holds a preparation with another source, codec or options "
                f"({held.differences(plan)}); choose another folder, or delete this one"
            )
        if name == MANIFEST:
            beside = all((folder / other).is_file() for other in (INDEX, DROPPED, CARD, *REPORT_FILES))
            names = _expected(held)
            if beside and all(
                shard_facts(folder / "shards" / shard, plan.plan) is not None for shard in names
            ):
                if plan.licence in ("", held.licence):
                    return held
                return finish(folder, replace(held, licence=plan.licence))
    plan.save(folder, PLAN)
    (folder / "shards").mkdir(exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    return None


def _expected(plan: Manifest) -> Iterator[str]:
    """The names of all shards, in order."""
    size = plan.options.get("rows_per_shard")
    if (
        not isinstance(size, int)
        or size < 1
        or not all(isinstance(rows, int) for rows in plan.splits.values())
    ):
        raise ValueError("the plan does not state the rows of a shard; prepare again into another folder")
    return (shard_name(group, n) for group, rows in plan.splits.items() for n in range(-(-rows // size)))


def finish(folder: Path, plan: Manifest) -> Manifest:
    """Write index, ``dropped.jsonl``, report, card and manifest if all shards are there.

    Args:
        folder: of the preparation.
        plan: its manifest, with the number of the source's rows.

    Returns:
        The manifest; of a preparation that is not whole, with the rows that are there, and nothing is written.

    Raises:
        ValueError: a shard is damaged.
        OSError: a file cannot be written.
    """
    names = list(_expected(plan))
    facts = [shard_facts(folder / "shards" / name, plan.plan) for name in names]
    if any(fact is None for fact in facts):
        return replace(plan, rows=sum(fact[0] for fact in facts if fact))
    tally, drops = Tally(), list[Drop]()
    frames, splits, shards = list[np.ndarray](), list[str | None](), []
    for name, fact in zip(names, facts, strict=True):
        path = folder / "shards" / name
        try:
            # All columns, because their checksums show whether the shard is as it was written.
            table = pq.read_table(path, page_checksum_verification=True).drop_columns(["codes"])
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"{path}: damaged ({error}); delete it and run `audiotok prepare` again"
            ) from None
        columns = table.to_pydict()
        tally.add(columns)
        frames.append(np.array(columns["frames"], np.int32))
        splits += columns["split"]
        drops += fact[1] if fact else []
        seconds = float(sum(columns["seconds"]))
        shards.append({"file": name, "rows": table.num_rows, "seconds": seconds, "sha256": sha256(path)})
    reasons = Counter(drop.reason for drop in drops)
    manifest = replace(
        plan,
        rows=sum(shard["rows"] for shard in shards),
        hours=sum(shard["seconds"] for shard in shards) / 3600,
        dropped=dict(sorted(reasons.items())),
        shards=shards,
    )
    write_index(folder, frames, splits)
    write_dropped(folder, sorted(drops, key=lambda drop: drop.row))
    write_report(folder, describe(tally.result(), plan.source, plan.source_rows, reasons, manifest))
    write_card(folder, manifest)
    manifest.save(folder)
    (folder / PLAN).unlink(missing_ok=True)
    shutil.rmtree(folder / ".spool", ignore_errors=True)
    left = [path for pattern in _HALF_WRITTEN for path in folder.glob(pattern)]
    for path in [*left, *(folder / "shards").glob(".*-[0-9]*.parquet")]:
        path.unlink(missing_ok=True)
    return manifest


# ---- inputs of a run


def _check(rows_per_shard: int | None, batch_s: float, engine: str, part: tuple[int, int] | None) -> None:
    if (rows_per_shard is not None and rows_per_shard < 1) or not 0 < batch_s < math.inf:
        raise ValueError(
            f"expected rows_per_shard >= 1 and a finite batch_s > 0, got {rows_per_shard} and {batch_s}"
        )
    if engine not in ENGINES:
        raise ValueError(f"expected an engine of {', '.join(ENGINES)}, got {engine!r}")
    if part is not None and not 1 <= part[0] <= part[1]:
        raise ValueError(f"expected a part i of n with 1 <= i <= n, got {part[0]} of {part[1]}")


def _rows_per_shard(rows: int) -> int:
    """Small corpora are cut into about 32 shards, so that several workers can share them."""
    return min(1024, max(64, -(-rows // 32))) if rows else 1024


def _refuse_inside(source: Any, out: str | Path) -> None:
    """Refuse an output inside the source, which would be read as part of the source in the next run."""
    if not isinstance(source, str | Path) or not Path(source).is_dir() or not str(out):
        return
    # realpath takes links that lead to themselves: they are refused further on.
    whole, written = Path(os.path.realpath(source)), Path(os.path.realpath(out))
    if written.is_relative_to(whole):
        raise ValueError(f"{out}: expected a folder outside of the source {source}; choose another")


def _launched(part: tuple[int, int] | None, device: str | None) -> tuple[tuple[int, int] | None, str | None]:
    """The part and the device of this process if ``torchrun`` or ``accelerate launch`` started it among others.

    They set all three variables. ``WORLD_SIZE`` alone is left over from something else.
    """
    if part is not None or not {"WORLD_SIZE", "RANK", "LOCAL_RANK"} <= set(os.environ):
        return part, device
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if processes == 1 or not 0 <= rank < processes:
        return part, device
    return (rank + 1, processes), f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" else device


def _opened(source: Any, opening: Mapping[str, Any]) -> Any:
    is_open = hasattr(source, "describe") and hasattr(source, "__iter__")
    return source if is_open else open_source(source, **opening)


def _plan(
    bound: Mapping[str, Any], options: dict[str, Any], source: str, licence: str, found: Survey | None
) -> Manifest:
    """A manifest in which nothing is counted yet."""
    settings = {
        "bound": dict(bound),
        "options": options,
        "source": source,
        "listed": found.digest if found else "",
    }
    groups = {name: len(indices) for name, indices in found.groups.items()} if found else {}
    return Manifest(
        codes_fingerprint=bound["codes_fingerprint"],
        codec={key: bound[key] for key in CODEC_FIELDS},
        source=source,
        options=options,
        plan=hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
        licence=printable(licence),
        versions={name: _version(name) for name in ("audiotok", "torch", "soundfile", "soxr", "datasets")},
        source_rows=sum(groups.values()),
        splits=groups,
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # run from a checkout
        return "unknown"


def _binding(codec: AudioCodec, n_q: int | None) -> dict[str, Any]:
    """Codec identity and format of the codes, stored in every shard and in the plan."""
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
