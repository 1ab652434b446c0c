"""What of a preparation is already done, on disk, so that a killed run goes on where it was, and parts of it are one.

Knows nothing of sound or codecs. The law it keeps: a shard counts as done only if its file has the hash that was
written down after it was whole; a folder that holds anything else is refused, not overwritten; and the manifest is
written last, by whoever finds all shards done.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from ..files import parse_json, write_aside, write_json
from .checks import DROPPED, Drop, parse_drop, read_dropped, write_dropped
from .reporting import REPORT_FILES, write_report
from .shards import INDEX, Manifest, read_index, sha256, write_index, write_shard

PLAN = "plan.json"
# What else may lie in the folder: what a dry run wrote there.
_FOLDERS = {"shards", ".journal", "dry-run"}
_OURS = _FOLDERS | {"manifest.json"}
# What bears the names of our shards; a point stands before one that was being written (see write_aside).
_SHARDS = ("[0-9][0-9][0-9][0-9][0-9]*parquet", ".[0-9][0-9][0-9][0-9][0-9]*parquet")
# What a kill in the middle of a write leaves in the folder.
_HALF_WRITTEN = (".manifest.*", ".dropped.*", ".index.*", ".report.*")


@dataclass(frozen=True)
class Done:
    """A finished shard: its rows, seconds of sound and hash (empty if no row was fit), and the rows left out."""

    rows: int
    seconds: float
    sha256: str
    dropped: list[Drop]


class Journal:
    """The output folder of one preparation.

    Args:
        out: the folder; made if it is not there.

    Raises:
        ValueError: the folder holds files that are not a preparation's.
        OSError: it cannot be made, or is a file (NotADirectoryError).
    """

    def __init__(self, out: str | Path) -> None:
        if not str(out):  # as the variable of a shell script may be; a path of it would be this folder
            raise ValueError("expected a folder to write, got an empty name")
        self.out = Path(out)
        if os.path.lexists(self.out) and not self.out.is_dir():
            raise NotADirectoryError(
                f"{self.out}: expected a folder to write, got a file or a link to nothing; choose another name"
            )
        self.shards = self.out / "shards"
        self.folder = self.out / ".journal"
        if self.out.is_dir():
            found = {path.name for path in self.out.iterdir()}
            for name in sorted(found & _OURS):
                path, is_folder = self.out / name, name in _FOLDERS
                if not (path.is_dir() if is_folder else path.is_file()):
                    raise ValueError(
                        f"{path}: expected a {'folder' if is_folder else 'file'} of a preparation, got something else; "
                        "choose another folder"
                    )
            strange = sorted(found - _OURS)
            if "shards" in found and not strange:
                strange = sorted(f"shards/{path.name}" for path in self.shards.iterdir())
            # Beside a preparation other files may lie, such as alignments.
            if strange and not found & {"manifest.json", ".journal"}:
                raise ValueError(
                    f"{self.out}: expected an empty folder or a preparation, it holds {strange[0]}; "
                    "choose another"
                )
        self.shards.mkdir(parents=True, exist_ok=True)

    def begin(self, plan: Manifest, rows_per_shard: int, alone: bool) -> set[int]:
        """Go on with ``plan``, or begin it.

        Args:
            plan: a manifest in which nothing is counted yet.
            rows_per_shard: rows of the source that make a shard.
            alone: whether no other process may be working in this folder; then what a killed run left half-written
                is removed.

        Returns:
            the numbers of the shards that are done.

        Raises:
            ValueError: the folder holds the result of another plan.
        """
        if (self.out / "manifest.json").exists():
            manifest = Manifest.load(self.out)
            self._refuse_other(manifest, plan)
            if self._is_intact(manifest) and plan.licence in ("", manifest.licence):
                shutil.rmtree(self.folder, ignore_errors=True)
                return set(range(-(-manifest.source_rows // rows_per_shard)))
            self._reopen(manifest, rows_per_shard)
        elif (self.folder / PLAN).exists():
            self._refuse_other(Manifest.load(self.folder, PLAN), plan)
        self.folder.mkdir(exist_ok=True)
        plan.save(self.folder, PLAN)
        done = {n for n, shard in self.entries().items() if self._is_whole(n, shard)}
        if alone:
            keep = {self._file(number).name for number in done}
            # Only what bears our names: the rest was put there by somebody else.
            shards = [path for pattern in _SHARDS for path in self.shards.glob(pattern)]
            for path in [*shards, *self._half_written(), *self.folder.glob("spool-*")]:
                if path.name not in keep:
                    path.unlink()
        return done

    @contextmanager
    def held(self, alone: bool) -> Iterator[None]:
        """Keep other preparations out of the folder for as long as the context lasts.

        Args:
            alone: whether parts of the same preparation are kept out too.

        Raises:
            BlockingIOError: another process is at work in the folder; the text names it.
        """
        handle = _lock(self.out, alone)
        try:
            yield
        finally:
            if handle is not None:
                os.close(handle)

    def write(self, number: int, rows: Sequence[dict[str, Any] | Drop], bound: Mapping[str, Any]) -> Done:
        """Write a shard, then write down that it is done."""
        kept = [row for row in rows if not isinstance(row, Drop)]
        digest = write_shard(self._file(number), kept, bound) if kept else ""
        dropped = [row for row in rows if isinstance(row, Drop)]
        done = Done(len(kept), sum(row["seconds"] for row in kept), digest, dropped)
        self._note(number, done)
        return done

    def entries(self) -> dict[int, Done]:
        """The shards that were written down as done, by number."""
        found = {}
        for path in sorted(self.folder.glob("[0-9]*.json")):
            with suppress(ValueError):  # what is damaged is not done: it is made again
                found[int(path.stem)] = _parse_done(parse_json(path.read_bytes()))
        return found

    def complete(self, plan: Manifest, shards: int) -> Manifest:
        """Write index, ``dropped.jsonl``, report and manifest, if all shards are done, and drop the journal.

        Args:
            plan: with the number of the source's rows.
            shards: how many there are.

        Returns:
            the manifest of all shards, or of those that are done; ``is_complete`` tells which.
        """
        with self._alone():
            if not self.folder.is_dir() or not (self.folder / PLAN).exists():
                return Manifest.load(self.out)  # another part saw the last shard done
            entries = self.entries()
            done = {number: entries[number] for number in range(shards) if number in entries}
            manifest = self._counted(plan, done)
            if len(done) < shards:
                plan.save(self.folder, PLAN)
                return manifest
            for left in self._half_written():
                left.unlink()
            write_index(self.out, [self.shards / shard["file"] for shard in manifest.shards])
            in_order = (sorted(done[number].dropped, key=lambda drop: drop.row) for number in range(shards))
            write_dropped(self.out, chain.from_iterable(in_order))
            write_report(self.out, manifest)
            manifest.save(self.out)
            (self.folder / PLAN).unlink()
        shutil.rmtree(self.folder, ignore_errors=True)
        return manifest

    def is_complete(self) -> bool:
        """Whether the manifest of all shards is there."""
        return (self.out / "manifest.json").is_file()

    def _counted(self, plan: Manifest, done: Mapping[int, Done]) -> Manifest:
        reasons = Counter(drop.reason for shard in done.values() for drop in shard.dropped)
        return replace(
            plan,
            rows=sum(shard.rows for shard in done.values()),
            hours=sum(shard.seconds for shard in done.values()) / 3600,
            dropped=dict(sorted(reasons.items())),
            shards=[
                {
                    "file": self._file(n).name,
                    "rows": shard.rows,
                    "seconds": shard.seconds,
                    "sha256": shard.sha256,
                }
                for n, shard in sorted(done.items())
                if shard.rows
            ],
        )

    def _half_written(self) -> list[Path]:
        return [path for pattern in _HALF_WRITTEN for path in self.out.glob(pattern)]

    def _is_intact(self, manifest: Manifest) -> bool:
        """Whether nothing of a finished preparation is missing or damaged."""
        beside = all((self.out / name).is_file() for name in (INDEX, DROPPED, *REPORT_FILES))
        try:
            read_index(self.out, manifest.rows)
            beside &= dict(Counter(drop.reason for drop in read_dropped(self.out))) == manifest.dropped
        except (OSError, ValueError):
            return False
        shards = ((self.shards / shard["file"], shard["sha256"]) for shard in manifest.shards)
        return beside and all(file.is_file() and sha256(file) == digest for file, digest in shards)

    def _reopen(self, manifest: Manifest, rows_per_shard: int) -> None:
        """Turn a finished preparation back into a journal, so that what is lost or damaged is made again."""
        self.folder.mkdir(exist_ok=True)
        for number, done in self._finished(manifest, rows_per_shard).items():
            self._note(number, done)
        (self.out / "manifest.json").unlink()

    def _finished(self, manifest: Manifest, rows_per_shard: int) -> dict[int, Done]:
        """What :meth:`entries` were before the journal was dropped; without those that cannot be told any more."""
        dropped: dict[int, list[Drop]] = {}
        with suppress(OSError, ValueError):  # lost, or damaged: the shards that it speaks of are made again
            for drop in read_dropped(self.out):
                dropped.setdefault(drop.row // rows_per_shard, []).append(drop)
        found = {}
        shards = {int(Path(shard["file"]).stem): shard for shard in manifest.shards}
        for number in range(-(-manifest.source_rows // rows_per_shard)):
            shard = shards.get(number, {"rows": 0, "seconds": 0.0, "sha256": ""})
            drops = dropped.get(number, [])
            size = min(rows_per_shard, manifest.source_rows - number * rows_per_shard)
            if (
                shard["rows"] + len({drop.row for drop in drops}) == size
                and len(drops) == size - shard["rows"]
            ):
                found[number] = Done(shard["rows"], shard["seconds"], shard["sha256"], drops)
        return found

    def _file(self, number: int) -> Path:
        return self.shards / f"{number:05d}.parquet"

    def _note(self, number: int, done: Done) -> None:
        write_json(self.folder / f"{number:05d}.json", asdict(done))

    def _is_whole(self, number: int, done: Done) -> bool:
        file = self._file(number)
        return not done.rows or (file.is_file() and sha256(file) == done.sha256)

    def _refuse_other(self, theirs: Manifest, ours: Manifest) -> None:
        if theirs.plan != ours.plan:
            raise ValueError(
                f"{self.out}: holds a preparation with another source, codec or options "
                f"({theirs.differences(ours)}); choose another folder, or delete this one"
            )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold a lock that other processes at the end of their part wait for, and that dies with its holder."""
        try:
            import fcntl
        except ImportError:  # Windows: parts are then to be merged, not run in one folder
            yield
            return
        handle = os.open(self.out / "shards", os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def merge(parts: Sequence[str | Path], out: str | Path) -> Manifest:
    """Make one preparation of parts that were made in folders of their own (``--shard 1/4`` and so on).

    Args:
        parts: their folders.
        out: the folder of the whole; new, empty, or an earlier merge that was stopped.

    Returns:
        The manifest of the whole: the same files as if it had not been split.

    Raises:
        FileNotFoundError: a folder holds no part.
        ValueError: there is no part, they are not of one plan, some are missing or damaged, or ``out`` is among them.
        OSError: ``out`` cannot be written, or another process is at work in it.
    """
    if not parts:
        raise ValueError("expected at least one part to merge, got none")
    plans = []
    for part in map(Path, parts):
        whole, piece = Path(os.path.realpath(out)), Path(os.path.realpath(part))
        if str(out) and (whole.is_relative_to(piece) or piece.is_relative_to(whole)):
            raise ValueError(f"{out}: expected a folder apart from the part {part}; choose another")
        begun = (part / ".journal" / PLAN).is_file()
        if not begun and not (part / "manifest.json").is_file():
            raise FileNotFoundError(f"{part}: expected a part made with --shard I/N, found none in it")
        # Without a journal it is the whole, as the first part of a corpus of one shard is.
        plans.append(Manifest.load(part / ".journal", PLAN) if begun else Manifest.load(part))
    for part, plan in zip(parts, plans, strict=True):
        if plan.plan != plans[0].plan:
            raise ValueError(
                f"{part}: expected a part of the same source, codec and options as {parts[0]}; "
                f"{plans[0].differences(plan)}"
            )
    plan = max(plans, key=lambda plan: plan.source_rows)
    if not isinstance(size := plan.options.get("rows_per_shard"), int) or size < 1:
        raise ValueError(f"{parts[0]}: its plan does not say how many rows a shard has; prepare them again")
    target, shards = Journal(out), -(-plan.source_rows // size)
    with target.held(alone=True):
        target.begin(plan, size, alone=True)
        if target.is_complete():  # merged before, and nothing is missing or damaged
            return Manifest.load(out)
        for part in parts:
            _bring_part(Journal(part), target, size)
        have = target.entries().keys()
        if len(have) < shards:
            first = next(number for number in range(shards) if number not in have)
            raise ValueError(
                f"{out}: expected all {shards} shards among the parts, {shards - len(have)} are missing "
                f"(the first is {first}); finish the parts, then merge again"
            )
        return target.complete(plan, shards)


def _bring_part(source: Journal, target: Journal, size: int) -> None:
    """Take over what is done in a part; ValueError if it was damaged since."""
    whole = source.is_complete()
    found = source._finished(Manifest.load(source.out), size) if whole else source.entries()
    for number, done in found.items():
        if not source._is_whole(number, done):
            raise ValueError(
                f"{source._file(number)}: missing or damaged; run `audiotok prepare` with this part again, then merge"
            )
        if done.rows:
            _bring(source._file(number), target._file(number))
        target._note(number, done)


def _lock(folder: Path, alone: bool) -> int | None:
    """Lock a folder, alone or with others that are not; it ends with the handle. None where there are no such locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        inode = os.fstat(handle).st_ino
        os.close(handle)
        raise BlockingIOError(
            f"{folder}: {_holder(inode)} is at work in this folder; wait until it has ended, or choose another folder"
        ) from None
    except OSError:  # a file system without them
        os.close(handle)
        return None
    return handle


def _holder(inode: int) -> str:
    """Who holds a lock, in words."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode):
                return f"process {fields[4]}"
    return "another process"


def _parse_done(values: Any) -> Done:
    """A finished shard from its JSON object; ValueError if it is none."""
    kinds: dict[str, Any] = {"rows": int, "seconds": int | float, "sha256": str, "dropped": list}
    if not isinstance(values, dict) or set(values) != set(kinds):
        raise ValueError(f"expected a finished shard, got {str(values)[:80]}")
    for name, kind in kinds.items():
        if not isinstance(values[name], kind):
            raise ValueError(f"expected another {name} of a finished shard, got {str(values[name])[:80]}")
    drops = [parse_drop(drop) for drop in values["dropped"]]
    return Done(values["rows"], values["seconds"], values["sha256"], drops)


def _bring(source: Path, target: Path) -> None:
    """A second name for a file, or a copy where that cannot be."""
    with write_aside(target) as aside:
        aside.unlink()
        try:
            os.link(source, aside)
        except OSError:
            shutil.copyfile(source, aside)
