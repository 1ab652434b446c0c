"""What of a preparation is already done, on disk, so that a killed run goes on where it was.

Knows nothing of sound or codecs. The law it keeps: a shard counts as done only if its file has the hash that
was written down after it was whole; and a folder that holds anything else is refused, not overwritten.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..files import write_aside, write_json
from .checks import Drop
from .plan import Plan
from .shards import Manifest, sha256, write_shard


@dataclass(frozen=True)
class Done:
    """A finished shard: its rows, seconds of sound and hash, and the planned rows that did not make it."""

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
        OSError: it cannot be made, or is a file.
    """

    def __init__(self, out: str | Path) -> None:
        self.out = Path(out)
        self.shards = self.out / "shards"
        self.journal = self.out / ".journal"
        if self.out.is_dir():
            found = {path.name for path in self.out.iterdir()}
            strange = sorted(found - {"shards"})
            # Beside a preparation other files may lie, such as alignments.
            if strange and not found & {"manifest.json", ".journal"}:
                raise ValueError(
                    f"{self.out}: expected an empty folder or a preparation, it holds {strange[0]}; "
                    "choose another"
                )
        self.shards.mkdir(parents=True, exist_ok=True)

    def finished(self, plan: Plan) -> dict[int, Done]:
        """The shards of ``plan`` that are done, by number. Removes what a killed run left half-written.

        Raises:
            ValueError: the folder holds the result of another plan.
        """
        found = (
            self._from_manifest(plan) if (self.out / "manifest.json").exists() else self._from_journal(plan)
        )
        done = {n: shard for n, shard in found.items() if _has_hash(self._file(n), shard.sha256)}
        self.journal.mkdir(exist_ok=True)
        keep = {self._file(number).name for number in done}
        for path in [*self.shards.iterdir(), *self.out.glob(".manifest.*"), *self.out.glob(".dropped.*")]:
            if path.name not in keep:
                path.unlink()
        return done

    def write(
        self, number: int, rows: Sequence[dict[str, Any] | Drop], bound: Mapping[str, Any], plan: Plan
    ) -> Done:
        """Write a shard, then write down that it is done."""
        kept = [row for row in rows if not isinstance(row, Drop)]
        digest = write_shard(self._file(number), kept, bound)
        dropped = [row for row in rows if isinstance(row, Drop)]
        done = Done(len(kept), sum(row["seconds"] for row in kept), digest, dropped)
        write_json(self._entry(number), {"plan": plan.digest, **asdict(done)})
        return done

    def finish(self, manifest: Manifest, plan: Plan, done: Mapping[int, Done]) -> Manifest:
        """Complete ``manifest``, write it and ``dropped.jsonl``, and drop the journal."""
        shards = [done[number] for number in range(len(plan.shards))]
        dropped = sorted(
            (*plan.drops, *(drop for shard in shards for drop in shard.dropped)), key=lambda d: d.row
        )
        manifest.rows = sum(shard.rows for shard in shards)
        manifest.hours = sum(shard.seconds for shard in shards) / 3600
        manifest.dropped = _counts(drop.reason for drop in dropped)
        manifest.shards = [
            {"file": self._file(n).name, "rows": shard.rows, "seconds": shard.seconds, "sha256": shard.sha256}
            for n, shard in enumerate(shards)
        ]
        with write_aside(self.out / "dropped.jsonl") as aside:
            lines = (json.dumps(asdict(drop), ensure_ascii=False) + "\n" for drop in dropped)
            aside.write_text("".join(lines), encoding="utf-8")
        manifest.save(self.out)
        shutil.rmtree(self.journal)
        return manifest

    def _file(self, number: int) -> Path:
        return self.shards / f"{number:05d}.parquet"

    def _entry(self, number: int) -> Path:
        return self.journal / f"{number:05d}.json"

    def _refuse_other(self, theirs: str, plan: Plan) -> None:
        if theirs != plan.digest:
            raise ValueError(
                f"{self.out}: holds a preparation with another source, codec or options; choose another "
                "folder, or delete this one"
            )

    def _from_manifest(self, plan: Plan) -> dict[int, Done]:
        manifest = Manifest.load(self.out)
        self._refuse_other(manifest.plan, plan)
        owner = {header.row: number for number, shard in enumerate(plan.shards) for header in shard}
        dropped: dict[int, list[Drop]] = {}
        planned = {drop.row for drop in plan.drops}
        for drop in read_dropped(self.out):
            if drop.row not in planned:
                dropped.setdefault(owner[drop.row], []).append(drop)
        return {
            number: Done(shard["rows"], shard["seconds"], shard["sha256"], dropped.get(number, []))
            for number, shard in enumerate(manifest.shards)
        }

    def _from_journal(self, plan: Plan) -> dict[int, Done]:
        found = {}
        for path in sorted(self.journal.glob("[0-9]*.json")):
            entry = json.loads(path.read_text(encoding="utf-8"))
            self._refuse_other(entry.pop("plan"), plan)
            entry["dropped"] = [Drop(**drop) for drop in entry["dropped"]]
            found[int(path.stem)] = Done(**entry)
        return found


def read_dropped(out: str | Path) -> list[Drop]:
    """The dropped rows of a preparation, in the order of the source.

    Raises:
        FileNotFoundError: there is no ``dropped.jsonl``.
        ValueError: it is damaged.
    """
    path = Path(out) / "dropped.jsonl"
    try:
        return [Drop(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{path}: damaged ({error}); delete the folder and prepare again") from None


def _has_hash(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def _counts(reasons: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for reason in reasons:
        counts[reason] = counts.get(reason, 0) + 1
    return dict(sorted(counts.items()))
