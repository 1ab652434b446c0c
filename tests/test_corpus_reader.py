"""Reading a prepared corpus: batches of an epoch, report, page, verification; corpora of the first format."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lm_toys import write_corpus

from audiotok import AudioCodec, PreparedCorpus
from audiotok.cli.main import main
from audiotok.corpus import listen, report, verify
from audiotok.corpus.reports import Tally, write_report
from audiotok.corpus.shards import Manifest, sha256, write_shard

BUDGET = 400


def build(folder: Path, codec: AudioCodec, shards: int = 5, rows: int = 12) -> Path:
    """A prepared corpus of random codes with a shorter last shard."""
    rng = np.random.default_rng(0)
    (folder / "shards").mkdir(parents=True)
    config = codec.config
    bound = {"codes_fingerprint": codec.codes_fingerprint, "n_q": config.n_q}
    listed, number = [], 0
    for shard in range(shards):
        table: list[dict[str, Any]] = []
        for _ in range(rows if shard < shards - 1 else rows - 5):
            frames = int(rng.integers(5, 120))
            codes = rng.integers(0, config.codebook_size, (config.n_q, frames)).astype("<i2").tobytes()
            row: dict[str, Any] = {"id": f"r<{number}>", "text": f"Text & {number}"}
            row |= {"speaker": f"s{number % 3}", "language": "en"}
            row |= {"split": "test" if number % 4 == 0 else "train", "frames": frames, "codes": codes}
            seconds = frames * config.hop_length / config.sampling_rate
            table.append(row | {"seconds": seconds, "n_q": config.n_q, "row": number, "level_db": -20.0})
            number += 1
        file = f"{shard:05d}.parquet"
        write_shard(folder / "shards" / file, table, bound)
        seconds, digest = sum(row["seconds"] for row in table), sha256(folder / "shards" / file)
        listed.append({"file": file, "rows": len(table), "seconds": seconds, "sha256": digest})
    codec_facts = {"name": "tiny", "n_q": config.n_q, "codebook_size": config.codebook_size}
    codec_facts |= {"hop_length": config.hop_length, "sampling_rate": config.sampling_rate}
    drop = {"row": number, "id": "x", "reason": "silent", "detail": ""}
    (folder / "dropped.jsonl").write_text(json.dumps(drop) + "\n")
    Manifest(
        codes_fingerprint=codec.codes_fingerprint,
        codec=codec_facts,
        source="a <toy>",
        options={},
        plan="toy",
        source_rows=number + 1,
        rows=number,
        hours=sum(shard["seconds"] for shard in listed) / 3600,
        dropped={"silent": 1},
        shards=listed,
    ).save(folder)
    return folder


@pytest.fixture
def prepared(tiny_codec: AudioCodec, tmp_path: Path) -> Path:
    return build(tmp_path / "tokens", tiny_codec)


def ids(corpus: PreparedCorpus, **how: Any) -> list[list[str]]:
    return [[row["id"] for row in batch.rows] for batch in corpus.batches(BUDGET, **how)]


@pytest.mark.parametrize("split", [None, "train"])
def test_an_epoch_holds_every_row_once_in_full_batches(prepared: Path, split: str | None) -> None:
    corpus = PreparedCorpus(prepared, split)
    seen: list[str] = []
    padding = 0
    for batch in corpus.batches(BUDGET):
        assert batch.codes.shape[0] * batch.codes.shape[2] <= BUDGET
        padding += batch.codes.shape[0] * batch.codes.shape[2] - int(batch.frames.sum())
        for codes, frames, row in zip(batch.codes, batch.frames, batch.rows, strict=True):
            own = next(r for r in corpus if r["id"] == row["id"])
            assert torch.equal(codes[:, :frames], own["codes"]) and not codes[:, frames:].any()
            seen.append(row["id"])
    assert sorted(seen) == sorted(corpus.column("id")) and len(seen) == len(corpus)
    assert padding < 0.2 * sum(corpus.column("frames"))
    assert corpus.frames.tolist() == corpus.column("frames")


def test_batches_depend_on_seed_epoch_and_readers_alone(prepared: Path) -> None:
    corpus = PreparedCorpus(prepared)
    whole = ids(corpus, seed=1)
    assert ids(PreparedCorpus(prepared), seed=1) == whole
    assert ids(corpus, seed=1, epoch=1) != whole != ids(corpus, seed=2)
    assert ids(corpus, seed=1, first=4) == whole[4:]
    halves = [ids(corpus, seed=1, reader=reader, readers=2) for reader in (0, 1)]
    assert halves == [whole[::2], whole[1::2]]
    assert ids(corpus, seed=1, reader=1, readers=2, first=2) == halves[1][2:]
    with pytest.raises(ValueError, match="reader < readers"):
        next(corpus.batches(BUDGET, reader=2, readers=2))


def test_the_first_format_is_still_read(tmp_path: Path) -> None:
    texts = write_corpus(tmp_path / "old", rows=5)
    manifest = json.loads((tmp_path / "old/manifest.json").read_text())
    for name in ("licence", "versions"):
        del manifest[name]
    (tmp_path / "old/manifest.json").write_text(json.dumps(manifest | {"format_version": 1}))
    shard = tmp_path / "old/shards/00000.parquet"
    table = pq.read_table(shard)
    pq.write_table(table.drop_columns(["scales", "row", "start_s", "level_db", "fields"]), shard)
    corpus = PreparedCorpus(tmp_path / "old")
    assert corpus.column("text") == texts and corpus.row(3)["text"] == texts[3]
    assert corpus.row(3)["codes_fingerprint"] == corpus.manifest.codes_fingerprint
    assert sum(len(batch.rows) for batch in corpus.batches(1000)) == 5
    assert len(PreparedCorpus(tmp_path / "old", "train")) == 5


def rewrite(prepared: Path, change: dict[str, Any], seal: bool) -> None:
    """Change a row of the second shard; ``sealed`` also updates its hash in the manifest."""
    path = prepared / "shards/00001.parquet"
    rows = pq.read_table(path).to_pylist()
    manifest = Manifest.load(prepared)
    rows[2] |= change
    bound = {"codes_fingerprint": manifest.codes_fingerprint, "n_q": manifest.codec["n_q"]}
    write_shard(path, rows, bound)
    if seal:
        manifest.shards[1]["sha256"] = sha256(path)
        manifest.save(prepared)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"codes": np.full((4, 10), 64, "<i2").tobytes(), "frames": 10, "seconds": 0.2}, "got 64 to 64"),
        ({"frames": 7}, "expected 7 frames of 4 codes"),
        ({"seconds": 99.0}, "frames for 99.000 s"),
        ({"n_q": 3}, "expected 4 codebooks"),
        ({"row": 0}, "row 0 of the source is there twice"),
        ({"row": 55}, "both dropped and in a shard"),
    ],
)
def test_a_wrong_row_is_found(
    change: dict[str, Any], fault: str, prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(prepared, change, seal=True)
    assert main(["verify", str(prepared), "--samples", "0"]) == 1
    captured = capsys.readouterr()
    assert fault in captured.err and captured.err.startswith("audiotok: error: ")
    assert captured.out == ""


def test_wrong_files_are_found(prepared: Path) -> None:
    rewrite(prepared, {"text": "Another."}, seal=False)
    (prepared / "shards/stray.parquet").write_bytes(b"")
    (prepared / "shards/00003.parquet").unlink()
    (prepared / "dropped.jsonl").write_text("")
    faults = "\n".join(verify(prepared).faults)
    for expected in (
        "00001.parquet: expected SHA-256",
        "shard is missing",
        "stray.parquet: belongs to no shard",
        "dropped.jsonl: expected {'silent': 1}, got {}",
        "expected 56 rows of the source, got 43 in shards and 0 dropped",
    ):
        assert expected in faults


def test_verify_reports_another_codec_and_other_paths(
    prepared: Path, tiny_codec_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from audiotok import load_codec

    assert main(["verify", str(prepared), "--codec", str(tiny_codec_dir), "--device", "cpu"]) == 0
    assert "tokens: whole, 55 rows, 1.1 min" in capsys.readouterr().out
    other = load_codec(tiny_codec_dir)
    with torch.no_grad():
        other.quantizer.codebooks.add_(1.0)
    with pytest.raises(ValueError, match="name its codec with --codec"):
        verify(prepared, other)
    assert main(["verify", str(tmp_path), "--samples", "0"]) == 1
    assert "no such file; expected a folder written by" in capsys.readouterr().err


def test_the_page_to_listen_to(
    prepared: Path, tiny_codec: AudioCodec, tiny_codec_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--codec", str(tiny_codec_dir), "--rows", "3", "--device", "cpu"]
    assert main(["listen", str(prepared), *words]) == 0
    out = Path(capsys.readouterr().out.strip())
    page = out.read_text(encoding="utf-8")
    assert out == prepared / "listen.html" and page.count("<section>") == page.count("<audio") == 3
    assert "Text &amp; " in page and "r&lt;" in page and "http" not in page
    chosen = listen(prepared, tiny_codec, out, rows=3)
    assert page == out.read_text(encoding="utf-8") and len(chosen) == 3
    assert listen(prepared, tiny_codec, out, rows=3, seed=1) != chosen
    assert len(listen(prepared, tiny_codec, out, rows=99, split="test")) == 14
    before = (prepared / "manifest.json").read_bytes()
    assert main(["listen", str(prepared), "--out", str(prepared / "manifest.json")]) == 1
    assert (prepared / "manifest.json").read_bytes() == before


def test_the_report_counts_and_shows(prepared: Path) -> None:
    corpus, tally = PreparedCorpus(prepared), Tally()
    names = ("text", "speaker", "language", "split", "frames", "seconds", "level_db")
    tally.add({name: corpus.column(name) for name in names})
    counts = tally.result("a <toy>", len(corpus) + 1, Counter(silent=1), corpus.manifest)
    assert counts["rows"] == len(corpus) == sum(counts["histograms"]["seconds"]["counts"])
    assert counts["histograms"]["level_db"]["counts"][20] == len(corpus)
    assert counts["frames"] == sum(corpus.column("frames")) and set(counts["speakers"]) == {"s0", "s1", "s2"}
    with pytest.raises(FileNotFoundError, match=r"report\.json"):
        report(prepared)
    write_report(prepared, counts)
    assert report(prepared) == {"out": str(prepared)} | counts
    page = (prepared / "report.html").read_text(encoding="utf-8")
    assert "a &lt;toy&gt;" in page and "silent" in page and "http" not in page
    for damage in ({"rows": 7}, {"dropped": []}):
        (prepared / "report.json").write_text(json.dumps(counts | damage))
        with pytest.raises(ValueError, match=r"report\.json"):
            report(prepared)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("codes", None),
        ("codes", ["a"] * 12),
        ("id", [None, *"abcdefghijk"]),
        ("codes", pa.array([None] * 12, pa.binary())),
        ("seconds", pa.array([float("nan")] * 12, pa.float32())),
    ],
)
def test_a_shard_of_another_form_is_named(
    prepared: Path, tmp_path: Path, tiny_codec: AudioCodec, column: str, values: Any
) -> None:
    file = prepared / "shards/00000.parquet"
    table = pq.read_table(file)
    metadata, at = table.schema.metadata, table.column_names.index(column)
    table = table.drop([column]) if values is None else table.set_column(at, column, pa.array(values))
    pq.write_table(table.replace_schema_metadata(metadata), file)
    assert any("00000.parquet" in fault and column in fault for fault in verify(prepared).faults)
    with pytest.raises(ValueError, match=r"00000\.parquet"):
        listen(prepared, tiny_codec, tmp_path / "x.html", rows=99)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shards", [None]),
        ("shards", [{"file": "../x.parquet", "rows": 1, "sha256": ""}]),
        ("codec", {"name": "c", "n_q": 1, "codebook_size": 2, "hop_length": 0, "sampling_rate": 1}),
        ("codec", None),
        ("rows", "7"),
        ("dropped", {"silent": "many"}),
    ],
)
def test_a_damaged_manifest_is_one_line(prepared: Path, key: str, value: object, capsys: Any) -> None:
    values = json.loads((prepared / "manifest.json").read_text()) | {key: value}
    (prepared / "manifest.json").write_text(json.dumps(values))
    for use in (report, PreparedCorpus):
        with pytest.raises(ValueError, match=r"manifest\.json"):
            use(prepared)
    assert main(["verify", str(prepared), "--samples", "0"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    (prepared / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"manifest\.json"):
        Manifest.load(prepared)


@pytest.mark.parametrize(
    "text",
    ["", "[" * 100_000, '{"row": 0}', '{"row": 1, "id": "1", "reason": "odd", "detail": ""}', '{"row": -1}'],
)
def test_damaged_drops_are_found(prepared: Path, text: str) -> None:
    (prepared / "dropped.jsonl").write_text(text + "\n")
    assert any("dropped.jsonl" in fault for fault in verify(prepared).faults)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such files")
def test_verify_waits_for_no_pipe(tmp_path: Path, capsys: Any) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert main(["verify", str(tmp_path / "pipe"), ""]) == 1
    told = capsys.readouterr().err
    assert "pipe" in told and "empty name" in told
