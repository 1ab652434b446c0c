"""Prepares a corpus: plans and makes its shards, and writes manifest, report and card."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import pickle
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ..codec.pretrained import load_codec
from .checks import DROPPED, Drop, Limits, Shaping, write_dropped
from .executors import run_tasks
from .reports import CARD, REPORT_FILES, Tally, write_card, write_report
from .rows import Source, printable
from .shards import (
    CODEC_KINDS,
    CODES_DTYPE,
    FORMAT_VERSION,
    MANIFEST,
    Manifest,
    sha256,
    shard_facts,
    shard_name,
)
from .sources import open_source
from .tasks import Job, Row, ShardMaker, Survey, Task, survey

if TYPE_CHECKING:
    from ..codec.model import AudioCodec

PLAN = ".plan.json"
"""The manifest of a preparation that is under way; nothing is counted in it."""

_FOLDERS = ("shards", "dry-run")
# Left by a kill in the middle of a write: the names that write_aside gives to our files.
_HALF_WRITTEN = (".manifest.*.json", ".dropped.*.jsonl", ".report.*", ".README.*.md", "..plan.*.json")


@dataclass(frozen=True)
class Progress:
    """Progress of a run."""

    stage: str  # "encode" or "check"
    rows: int  # done
    rows_total: int
    seconds: float  # of sound
    elapsed_s: float


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
    shards done writes the manifest.

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
    if part is not None and not 1 <= part[0] <= part[1]:
        raise ValueError(f"expected a part i of n with 1 <= i <= n, got {part[0]} of {part[1]}")
    model = codec if isinstance(codec, torch.nn.Module) else load_codec(codec, device=device or "cpu")
    limits, shaping = limits or Limits(), shaping or Shaping()
    opening |= {"split": split, "columns": dict(columns or {})}
    opened, size = _open(source, out, opening, rows_per_shard, batch_s)
    bound = _binding(model, n_q)
    folder = _output_folder(out)
    found = survey(opened)
    # The location of the files and options that were not given do not change the result.
    options = {key: value for key, value in opening.items() if value and key != "audio_root"}
    options |= {**asdict(limits), **asdict(shaping), "rows_per_shard": size, "batch_s": batch_s}
    plan = _plan(bound, options, opened.describe, licence, found)
    if (whole := _begin(folder, plan)) is not None:
        return whole
    first, step = (part[0] - 1, part[1]) if part else (0, 1)
    shards = folder / "shards"
    tasks = [
        t for t in list(found.tasks(size))[first::step] if shard_facts(shards / t.name, plan.plan) is None
    ]
    # The codec goes to the CPU, because a worker need not see the device that this process uses.
    pickled = pickle.dumps(copy.deepcopy(model).cpu())
    bound |= {"plan": plan.plan}
    job = Job(opened, limits, shaping, batch_s, pickled, device or str(model.device), bound, shards)
    for _ in _run(job, tasks, "encode", progress, workers=workers, engine=engine, address=address):
        pass
    return _finish(folder, plan)


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
    opened, size = _open(source, out, opening, rows_per_shard, batch_s)
    folder = None if out is None else _output_folder(out) / "dry-run"
    tally, drops = Tally(), list[Drop]()
    job = Job(opened, limits or Limits(), shaping or Shaping(), batch_s)
    tasks = list(survey(opened).tasks(size))
    for rows in _run(job, tasks, "check", progress, workers=workers, engine=engine, address=address):
        kept = [row for row in rows if not isinstance(row, Drop)]
        drops += [row for row in rows if isinstance(row, Drop)]
        names = ("text", "speaker", "language", "split", "seconds", "level_db")
        tally.add({name: [row[name] for row in kept] for name in names} | {"frames": [0] * len(kept)})
    counted = tally.result(opened.describe, len(opened), Counter(drop.reason for drop in drops), None)
    if folder is not None:
        folder.mkdir(exist_ok=True)
        write_report(folder, counted)
        write_dropped(folder, sorted(drops, key=lambda drop: drop.row))
    return counted


def _open(
    source: Any,
    out: str | Path | None,
    opening: Mapping[str, Any],
    rows_per_shard: int | None,
    batch_s: float,
) -> tuple[Source, int]:
    """The rows of a source, and how many of them make a shard."""
    if (rows_per_shard is not None and rows_per_shard < 1) or not 0 < batch_s < math.inf:
        raise ValueError(
            f"expected rows_per_shard >= 1 and a finite batch_s > 0, got {rows_per_shard} and {batch_s}"
        )
    if isinstance(source, str | Path) and Path(source).is_dir() and out:
        # In the next run the output would be read as part of the source. Links that lead to themselves are refused
        # further on.
        if Path(os.path.realpath(out)).is_relative_to(os.path.realpath(source)):
            raise ValueError(f"{out}: expected a folder outside of the source {source}; choose another")
    opened: Any = source if hasattr(source, "listing") else open_source(source, **opening)
    # Small corpora are cut into about 32 shards, so that several workers can share them.
    return opened, rows_per_shard or min(1024, max(64, -(-len(opened) // 32)))


def _run(
    job: Job, tasks: Iterable[Task], stage: str, progress: Callable[[Progress], None] | None, **engine: Any
) -> Iterator[list[Row]]:
    """Run tasks, report the progress of each, and yield the rows that it returned."""
    tasks = list(tasks)
    rows, seconds, total, began = 0, 0.0, sum(len(task.indices) for task in tasks), time.monotonic()
    for task, (task_s, made) in run_tasks(ShardMaker, job, tasks, device=job.device, **engine):
        rows, seconds = rows + len(task.indices), seconds + task_s
        if progress is not None:
            progress(Progress(stage, rows, total, seconds, time.monotonic() - began))
        yield made


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
        if (folder / name).is_dir() != (name in _FOLDERS):
            raise ValueError(f"{folder / name}: not of a preparation; choose another folder")
    # Other files, such as alignments, may be in the folder of a preparation.
    ours = {path.name for pattern in _HALF_WRITTEN for path in folder.glob(pattern)}
    if not names & {MANIFEST, PLAN} and (strange := sorted(names - ours - {"dry-run"})):
        raise ValueError(
            f"{folder}: expected an empty folder or a preparation, it holds {strange[0]}; choose another"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _begin(folder: Path, plan: Manifest) -> Manifest | None:
    """Begin or resume a plan. Returns its manifest if it is finished. ValueError if the folder holds another plan."""
    for name in (MANIFEST, PLAN):
        if not (folder / name).is_file():
            continue
        held = Manifest.load(folder, name)
        if held.plan != plan.plan:
            raise ValueError(
                f"{folder}: holds a preparation with another source, codec or options "
                f"({held.differences(plan)}); choose another folder, or delete this one"
            )
        if name == MANIFEST and all((folder / other).is_file() for other in (DROPPED, CARD, *REPORT_FILES)):
            shards = (shard_facts(folder / "shards" / shard, plan.plan) for shard in _expected(plan))
            if all(facts is not None for facts in shards):
                if plan.licence in ("", held.licence):
                    return held
                return _finish(folder, replace(held, licence=plan.licence))
    plan.save(folder, PLAN)
    (folder / "shards").mkdir(exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    return None


def _expected(plan: Manifest) -> list[str]:
    """The names of all shards, in order."""
    size = plan.options["rows_per_shard"]
    return [shard_name(group, n) for group, rows in plan.splits.items() for n in range(-(-rows // size))]


def _finish(folder: Path, plan: Manifest) -> Manifest:
    """Write ``dropped.jsonl``, report, card and manifest if all shards are there. ValueError if one is damaged.

    Returns the manifest. If shards are missing, nothing is written, and the manifest counts the rows that are there.
    """
    facts = {name: shard_facts(folder / "shards" / name, plan.plan) for name in _expected(plan)}
    if None in facts.values():
        return replace(plan, rows=sum(fact[0] for fact in facts.values() if fact))
    tally, drops, shards = Tally(), list[Drop](), list[dict[str, Any]]()
    for name, fact in facts.items():
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
    write_dropped(folder, sorted(drops, key=lambda drop: drop.row))
    write_report(folder, tally.result(plan.source, plan.source_rows, reasons, manifest))
    write_card(folder, manifest)
    manifest.save(folder)
    left = [path for pattern in _HALF_WRITTEN for path in folder.glob(pattern)]
    for path in [folder / PLAN, *left, *(folder / "shards").glob(".*-[0-9]*.parquet")]:
        path.unlink(missing_ok=True)
    return manifest


# ---- the plan


def _plan(
    bound: Mapping[str, Any], options: dict[str, Any], source: str, licence: str, found: Survey
) -> Manifest:
    """A manifest in which nothing is counted yet."""
    settings = {"bound": dict(bound), "options": options, "source": source, "listed": found.digest}
    groups = {name: len(indices) for name, indices in found.groups.items()}
    return Manifest(
        codes_fingerprint=bound["codes_fingerprint"],
        codec={key: bound[key] for key in CODEC_KINDS},
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
    bound = {name: getattr(config, name) for name in ("codebook_size", "hop_length", "sampling_rate")}
    bound |= {
        "format_version": FORMAT_VERSION,
        "codes_dtype": CODES_DTYPE,
        "name": config.codec_name,
        "n_q": kept,
    }
    return bound | {"codes_fingerprint": codec.codes_fingerprint}
