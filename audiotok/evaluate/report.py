"""What an evaluation found, as plain values.

Knows nothing of how it was found. The law it keeps: what was left out of a mean is in ``failures``, by clip and reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from .intervals import Average, bootstrap


@dataclass
class Condition:
    """One line of the table: a codec at ``n_q`` codebooks, or something to compare it with.

    Attributes:
        name: as printed.
        kind: "codec", "search" (its codes sought), "loss" (the codec with packets lost), "opus", or "baseline" (no
            codec at all).
        metrics: what it is scored by.
        n_q: codebooks decoded, of a codec.
        loss: share of the packets that are lost, of a "loss".
        conceal: whether the decoder carries on where they are missing, or plays silence.
        search: steps by which codes were sought, of a "search".
        opus_kbps: the bitrate asked of Opus.
        bitrate_bps: bits of sound per second: a codec's codes as they are, Opus's packets as they were.
        file_bps: the same with everything else that a file holds, where files were written.
        averages: metric -> mean over the clips on which it is defined.
        failed: metric -> clips on which it is not.
        failures: file, metric and reason of each.
        clips: file, speaker and scores of each clip.
    """

    name: str
    kind: Literal["codec", "search", "loss", "opus", "baseline"]
    metrics: tuple[str, ...]
    n_q: int | None = None
    loss: float | None = None
    conceal: bool | None = None
    search: int | None = None
    opus_kbps: float | None = None
    bitrate_bps: float | None = None
    file_bps: float | None = None
    averages: dict[str, Average] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    failures: list[dict[str, str]] = field(default_factory=list)
    clips: list[dict[str, Any]] = field(default_factory=list)

    def add(self, path: Path, speaker: str, result: dict[str, Any]) -> None:
        """Take one clip's result.

        Args:
            path: of the clip.
            speaker: who speaks, "" if unknown.
            result: "scores", "failed" (reasons), "duration_s" and, where bits were counted, "payload_bits"
                and "file_bits".
        """
        facts = {name: value for name, value in result.items() if name not in ("scores", "failed")}
        self.clips.append({"file": str(path), "speaker": speaker, **facts, **result["scores"]})
        for name, reason in result["failed"].items():
            self.failed[name] = self.failed.get(name, 0) + 1
            self.failures.append({"file": str(path), "metric": name, "reason": reason})

    def average(self) -> None:
        """Fill ``averages`` and, where bits were counted, the bitrates, from ``clips``."""
        for name in self.metrics:
            if values := [clip[name] for clip in self.clips if name in clip]:
                self.averages[name] = bootstrap(values)
        if counted := [clip for clip in self.clips if "payload_bits" in clip]:
            seconds = sum(clip["duration_s"] for clip in counted)
            self.bitrate_bps = sum(clip["payload_bits"] for clip in counted) / seconds
            self.file_bps = sum(clip["file_bits"] for clip in counted) / seconds


@dataclass
class CodecReport:
    """What ``audiotok eval`` prints and writes.

    Attributes:
        codec: its name, numbers and fingerprints.
        rows: clips.
        duration_s: their length together.
        conditions: the lines of the table.
        skipped: conditions that were asked for and could not be had here, each with the reason.
        frames: over which the use of the codebooks was counted.
        perplexity: of each codebook, 1 to V.
        perplexity_percent: the same, of V.
        entropy_bits: of each codebook, per frame.
        efficiency: of each codebook, its entropy over the bits it is stored in, 0 to 1.
        bitrate_efficiency: of all of them together.
        entropy_bps: bits per second that the codes would need with ideal order-0 coding.
    """

    codec: dict[str, Any]
    rows: int
    duration_s: float
    conditions: list[Condition]
    skipped: Sequence[dict[str, str]]
    frames: int
    perplexity: list[float]
    perplexity_percent: list[float]
    entropy_bits: list[float]
    efficiency: list[float]
    bitrate_efficiency: float
    entropy_bps: float

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-plain values."""
        return asdict(self)
