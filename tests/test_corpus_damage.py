"""Damage costs what it touches: a bad row is dropped with a reason, a damaged preparation is made whole by a rerun."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from audiotok import AudioCodec, PreparedCorpus, prepare
from audiotok.cli.main import main
from audiotok.corpus import Limits, Manifest, Shaping, dry_run, listen, merge, open_source, report, verify
from audiotok.corpus.checks import Drop, parse_drop, read_dropped
from audiotok.corpus.journal import Journal

RATE = 16_000


@pytest.fixture
def corpus(tmp_path: Path, make_speech: Callable[..., torch.Tensor]) -> Path:
    """Six good clips in a CSV, and one row without text."""
    folder = tmp_path / "speech"
    folder.mkdir()
    lines = ["file_name,transcription"]
    for index in range(7):
        soundfile.write(folder / f"{index}.wav", make_speech(0.4, seed=index)[0].numpy(), RATE)
        lines.append(f"{index}.wav,{'Words.' if index != 4 else ''}")
    (folder / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def dropped(source: Path, out: Path, **options: Any) -> dict[int, tuple[str, str]]:
    """What a dry run drops: row -> reason and detail."""
    dry_run(source, out, limits=Limits(need_text=False), **options)
    return {drop.row: (drop.reason, drop.detail) for drop in read_dropped(out / "dry-run")}


# --- bad rows


def test_a_long_name_drops_its_row_only(corpus: Path, tmp_path: Path) -> None:
    with (corpus / "metadata.csv").open("a") as file:
        file.write(f"\n{'x' * 5000}.wav,Words.\n0.wav,Again.")
    found = dropped(corpus, tmp_path / "out")
    assert found.keys() == {7, 8} and found[8][0] == "duplicate"
    assert found[7][0] == "missing_file" and len(found[7][1]) == 203


def test_a_long_field_drops_its_row_only(corpus: Path, tmp_path: Path) -> None:
    import csv

    before = csv.field_size_limit()
    with (corpus / "metadata.csv").open("a") as file:
        file.write(f"\n5.wav,{'y' * 140_000}\n")
    assert dropped(corpus, tmp_path / "out") == {7: ("bad_row", "line 9: a field of 140000 characters")}
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("added", "told"),
    [
        ('5.wav,"' + "6.wav,Words.\n" * 20_000, "line 9: a quote that does not end"),
        ('5.wav,"Words.\n6.wav,Words.\n', "line 9: a quote that does not end"),
        ('5.wav,"Words.\n6.wav,"Words."\n', "line 9: ',' expected after '\"'"),
        ("5.wav,Wo\0rds.\n", "line 9: a NUL"),
    ],
)
def test_a_table_that_swallows_rows_is_refused_by_its_line(corpus: Path, added: str, told: str) -> None:
    with (corpus / "metadata.csv").open("a") as file:
        file.write(f"\n{added}")
    with pytest.raises(ValueError, match=f"metadata.csv: .*{told}"):
        open_source(corpus)


def test_a_column_that_stands_there_twice_is_refused(corpus: Path) -> None:
    table = corpus / "metadata.csv"
    table.write_text(table.read_text().replace("file_name,transcription", "file_name,file_name"))
    with pytest.raises(ValueError, match="line 1: the column 'file_name' twice"):
        open_source(corpus)


def test_bad_lines_of_json_are_dropped(corpus: Path, tmp_path: Path) -> None:
    (corpus / "metadata.csv").unlink()
    rows = [json.dumps({"file_name": f"{n}.wav", "text": "Words."}) for n in range(6)]
    rows[1] = '{"file_name": "1.wav", "text": "half'
    rows[2] = '["2.wav"]'
    rows[3] = '{"file_name": "3.wav", "text": "half of a pair \\ud83d"}'
    rows[4] = '{"file_name": "\\udc00.wav", "text": "Words."}'
    rows[5] = '{"file_name": "5.wav", "more": ' + "[" * 100_000
    (corpus / "metadata.jsonl").write_text("\n".join(rows), encoding="utf-8")
    found = dropped(corpus, tmp_path / "out")
    assert {row: reason for row, (reason, _) in found.items()} == {
        1: "bad_row", 2: "bad_row", 3: "bad_row", 4: "bad_name", 5: "bad_row",
    }  # fmt: skip
    assert found[1][1].startswith("line 2: ") and found[3][1] == "not Unicode: text"
    assert found[4][1] == "\\udc00.wav" and "nested without end" in found[5][1]


def test_a_file_that_is_no_table_from_the_start_is_refused(corpus: Path) -> None:
    (corpus / "rows.jsonl").write_text('[\n{"file_name": "1.wav"}\n]')
    with pytest.raises(ValueError, match="rows.jsonl: .* as object 1"):
        open_source(corpus / "rows.jsonl")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_not_utf8_are_dropped_by_their_escaped_name(
    corpus: Path, tmp_path: Path, make_speech: Callable[..., torch.Tensor]
) -> None:
    (corpus / "metadata.csv").unlink()
    os.rename(os.fsencode(corpus / "3.wav"), os.fsencode(corpus) + b"/caf\xe9.wav")
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/sp\xe9ech"))
    corpus.rename(folder)
    assert dropped(folder, tmp_path / "out") == {6: ("bad_name", "caf\\udce9.wav")}
    assert json.loads((tmp_path / "out/dry-run/report.json").read_text())["source"] == "sp\\udce9ech"


def test_a_wav_that_was_cut_off_is_dropped(corpus: Path, tmp_path: Path) -> None:
    data = (corpus / "2.wav").read_bytes()
    (corpus / "2.wav").write_bytes(data[:-1000])
    found = dropped(corpus, tmp_path / "out")
    assert {row: reason for row, (reason, _) in found.items()} == {2: "unreadable"}


def test_segments_that_are_no_span_of_time_are_dropped(corpus: Path, tmp_path: Path) -> None:
    (corpus / "metadata.csv").unlink()
    (corpus / "wav.scp").write_text("a 0.wav\n")
    spans = ["0.0 0.3", "0.3 0.1", "nan nan", "-1 0.2", "0 inf", "0 1e400"]
    lines = [f"u{n} a {span}" for n, span in enumerate(spans)]
    (corpus / "segments").write_text("\n".join(lines))
    assert dropped(corpus, tmp_path / "out").keys() == set(range(1, 6))


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_limits_are_finite(bad: float, tmp_path: Path, corpus: Path) -> None:
    for make in (
        lambda: Limits(max_s=bad),
        lambda: Limits(max_letters_per_s=bad),
        lambda: Shaping(edge_s=bad),
        lambda: dry_run(corpus, batch_s=bad),
    ):
        with pytest.raises(ValueError, match="expected"):
            make()


# --- a damaged preparation


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


@pytest.mark.parametrize(
    "damage",
    [
        lambda out: (out / "dropped.jsonl").unlink(),
        lambda out: (out / "dropped.jsonl").write_text(""),
        lambda out: (out / "dropped.jsonl").write_text("[" * 100_000),
        lambda out: (out / "dropped.jsonl").write_text('{"row": 0}\n'),
        lambda out: append(out / "dropped.jsonl", '{"row": 1, "id": "1", "reason": "silent", "detail": ""}'),
        lambda out: append(out / "dropped.jsonl", '{"row": 1, "id": "1", "reason": "odd", "detail": ""}'),
        lambda out: (out / "index.arrow").write_bytes(b"no index"),
        lambda out: (out / "index.arrow").write_bytes((out / "index.arrow").read_bytes()[:-90]),
        lambda out: (out / "shards/00001.parquet").unlink(),
    ],
)  # fmt: skip
def test_a_rerun_restores_what_is_lost_or_damaged(
    corpus: Path, tmp_path: Path, tiny_codec: AudioCodec, damage: Callable[[Path], object]
) -> None:
    out = tmp_path / "out"
    prepare(corpus, out, tiny_codec, rows_per_shard=3)
    whole = files_of(out)
    damage(out)
    assert files_of(out) != whole
    prepare(corpus, out, tiny_codec, rows_per_shard=3)
    assert files_of(out) == whole


def test_only_shards_that_dropped_rows_are_made_again(
    corpus: Path, tmp_path: Path, tiny_codec: AudioCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(corpus, tmp_path / "out", tiny_codec, rows_per_shard=3)
    (tmp_path / "out/dropped.jsonl").unlink()
    written: list[int] = []
    write = Journal.write
    monkeypatch.setattr(Journal, "write", lambda self, n, *rest: written.append(n) or write(self, n, *rest))
    prepare(corpus, tmp_path / "out", tiny_codec, rows_per_shard=3)
    assert written == [1]


@pytest.mark.parametrize("text", ["{}", "", "[" * 100_000, '{"rows": "3"}', '{"dropped": [{}]}', "\x00"])
def test_a_damaged_entry_of_the_journal_is_made_again(
    corpus: Path, tmp_path: Path, tiny_codec: AudioCodec, text: str
) -> None:
    whole, half = tmp_path / "whole", tmp_path / "half"
    prepare(corpus, whole, tiny_codec, rows_per_shard=3)
    prepare(corpus, half, tiny_codec, rows_per_shard=3, part=(1, 2))
    (half / ".journal/00000.json").write_text(text)
    prepare(corpus, half, tiny_codec, rows_per_shard=3)
    assert files_of(half) == files_of(whole)


BROKEN = {
    "shards": [[{}], {}, [None], [{"file": "../x.parquet", "rows": 1, "sha256": ""}]],
    "codec": [{}, None, {"name": 3}],
    "rows": ["7", None],
    "dropped": [{"silent": "many"}, []],
    "options": [None],
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in BROKEN.items() for value in values]
)
def test_a_damaged_manifest_is_one_line_that_says_what_to_do(
    corpus: Path, tmp_path: Path, tiny_codec: AudioCodec, key: str, value: object,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    plan = Manifest(
        codes_fingerprint="0" * 16, source="s", options={"rows_per_shard": 3}, plan="p",
        codec={"name": "c", "n_q": 1, "codebook_size": 2, "hop_length": 1, "sampling_rate": 1},
    )  # fmt: skip
    out.mkdir()
    plan.save(out)
    assert Manifest.load(out) == plan
    values = json.loads((out / "manifest.json").read_text()) | {key: value}
    (out / "manifest.json").write_text(json.dumps(values))
    (out / "shards").mkdir()
    for use in (report, PreparedCorpus, Manifest.load, lambda out: prepare(corpus, out, tiny_codec)):
        with pytest.raises(ValueError, match="manifest.json: not a manifest .*; move the folder away"):
            use(out)
    assert main(["verify", str(out), "--samples", "0"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_deep_json_and_parts_without_a_plan_are_one_line(tmp_path: Path) -> None:
    for name in ("out", "part/.journal"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "out/manifest.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested without end"):
        Manifest.load(tmp_path / "out")
    plan = Manifest(
        codes_fingerprint="0" * 16, source="s", options={}, plan="p",
        codec={"name": "c", "n_q": 1, "codebook_size": 2, "hop_length": 1, "sampling_rate": 1},
    )  # fmt: skip
    plan.save(tmp_path / "part/.journal", "plan.json")
    with pytest.raises(ValueError, match="does not say how many rows a shard has"):
        merge([tmp_path / "part"], tmp_path / "all")


def test_a_dropped_row_is_what_was_written() -> None:
    drop = {"row": 3, "id": "a", "reason": "silent", "detail": ""}
    assert parse_drop(drop) == Drop(3, "a", "silent")
    for change in ({"row": "3"}, {"row": -1}, {"reason": "odd"}, {"id": None}, {"more": 1}):
        with pytest.raises(ValueError, match="expected a row with its reason"):
            parse_drop(drop | change)


def test_what_is_no_source_is_one_line(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="got an empty name"):
        open_source("")
    with pytest.raises(ValueError, match="expected a folder wav48_silence_trimmed or wav48"):
        open_source(corpus, layout="vctk")
    assert next(iter(open_source(corpus, language="xx\udce9"))).language == "xx\\udce9"


def test_a_licence_of_any_bytes_is_stated(corpus: Path, tmp_path: Path, tiny_codec: AudioCodec) -> None:
    assert prepare(corpus, tmp_path / "out", tiny_codec, licence="by \udce9").licence == "by \\udce9"


# --- folders that cannot be written


def test_what_is_no_folder_to_write_is_one_line(
    corpus: Path, tmp_path: Path, tiny_codec: AudioCodec, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    for link, target in (("astray", "nowhere"), ("round", "round")):
        (tmp_path / link).symlink_to(tmp_path / target)
    for out, told in (
        ("", "got an empty name"),
        (tmp_path / "file", "expected a folder to write, got a file"),
        (tmp_path / "astray", "expected a folder to write, got a file or a link to nothing"),
        (tmp_path / "round", "expected a folder to write, got a file or a link to nothing"),
        (corpus, "outside of the source"),
        (corpus / "deep" / "tokens", "outside of the source"),
    ):
        with pytest.raises((ValueError, OSError), match=told):
            prepare(corpus, out, tiny_codec)
        assert main(["prepare", str(corpus), "--out", str(out), "--dry-run"]) == 1
        assert told in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine" and not (corpus / "deep").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")
def test_two_preparations_into_one_folder_do_not_meet(
    corpus: Path, tmp_path: Path, tiny_codec: AudioCodec
) -> None:
    out = tmp_path / "out"
    with Journal(out).held(alone=True):
        before = files_of(out)
        for part in (None, (1, 2)):
            with pytest.raises(
                BlockingIOError, match=rf"out: process {os.getpid()} is at work|another process"
            ):
                prepare(corpus, out, tiny_codec, part=part)
        assert files_of(out) == before
    with Journal(out).held(alone=False):  # parts of one preparation may meet, and nobody else
        prepare(corpus, out, tiny_codec, part=(1, 2), rows_per_shard=2, limits=Limits(need_text=False))
        with pytest.raises(BlockingIOError):
            prepare(corpus, out, tiny_codec, rows_per_shard=2, limits=Limits(need_text=False))
    assert prepare(corpus, out, tiny_codec, rows_per_shard=2, limits=Limits(need_text=False)).rows == 7


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such files")
def test_a_pipe_among_the_files_is_not_waited_for(
    corpus: Path, tmp_path: Path, tiny_codec: AudioCodec
) -> None:
    (corpus / "3.wav").unlink()
    os.mkfifo(corpus / "3.wav")
    assert dropped(corpus, tmp_path / "a") == {3: ("missing_file", "3.wav")}
    out = tmp_path / "out"
    prepare(corpus, out, tiny_codec)
    (out / "dropped.jsonl").unlink()
    os.mkfifo(out / "dropped.jsonl")
    with pytest.raises(OSError, match="dropped.jsonl: expected a file, got a device or a pipe"):
        prepare(corpus, out, tiny_codec)
    assert not (out / "manifest.json").exists(), "it is a preparation that was stopped"
    os.mkfifo(out / "manifest.json")
    with pytest.raises(
        ValueError, match="manifest.json: expected a file of a preparation, got something else"
    ):
        prepare(corpus, out, tiny_codec)


# --- what was prepared, and changed since


def parts_of(corpus: Path, tmp_path: Path, codec: AudioCodec) -> list[Path]:
    folders = [tmp_path / f"part{i}" for i in (1, 2)]
    for i, folder in enumerate(folders, 1):
        prepare(corpus, folder, codec, part=(i, 2), rows_per_shard=2, limits=Limits(need_text=False))
    return folders


def test_a_merge_takes_nothing_damaged_and_destroys_no_part(
    corpus: Path, tmp_path: Path, tiny_codec: AudioCodec
) -> None:
    parts, out = parts_of(corpus, tmp_path, tiny_codec), tmp_path / "whole"
    before = files_of(parts[0]), files_of(parts[1])
    for wrong in (parts[0], parts[1] / "deep", tmp_path):
        with pytest.raises(ValueError, match="apart from the part"):
            merge(parts, wrong)
    assert (files_of(parts[0]), files_of(parts[1])) == before
    shard = parts[1] / "shards" / "00001.parquet"
    whole = shard.read_bytes()
    for broken in (whole[:99] + b"x" + whole[100:], None):
        shard.unlink()
        if broken is not None:
            shard.write_bytes(broken)
        with pytest.raises(ValueError, match="00001.parquet: missing or damaged; run `audiotok prepare`"):
            merge(parts, out)
        shard.write_bytes(whole)
    plan = parts[1] / ".journal" / "plan.json"
    told = plan.read_text()
    plan.write_text(json.dumps(json.loads(told) | {"source_rows": 10**15}))
    with pytest.raises(ValueError, match="expected all 500000000000000 shards .*the first is 4"):
        merge(parts, tmp_path / "never")
    plan.write_text(told)
    done = merge(parts, out)
    assert merge(parts, out) == done and done.rows == 7, "once more changes nothing"


@pytest.mark.parametrize(
    ("column", "values", "told"),
    [
        ("codes", None, "expected a column codes of binary"),
        ("codes", pa.array(["a", "b"]), "expected a column codes of binary"),
        ("id", pa.array([None, "b"], pa.string()), "expected id in every row"),
        ("codes", pa.array([None, b""], pa.binary()), "expected codes in every row"),
        ("seconds", pa.array([float("nan"), 1.0], pa.float32()), "expected seconds, got nan"),
    ],
)
def test_a_shard_of_another_form_is_named(
    corpus: Path, tmp_path: Path, tiny_codec: AudioCodec, column: str, values: Any, told: str
) -> None:
    out = tmp_path / "out"
    prepare(corpus, out, tiny_codec, rows_per_shard=2)
    file = out / "shards" / "00000.parquet"
    table = pq.read_table(file)
    bound = table.schema.metadata
    at = table.column_names.index(column)
    table = table.drop([column]) if values is None else table.set_column(at, column, values)
    pq.write_table(table.replace_schema_metadata(bound), file)
    assert any(told in fault for fault in verify(out).faults)
    with pytest.raises(ValueError, match=r"00000.parquet: (row .* is damaged|expected a column)"):
        listen(out, tiny_codec, tmp_path / "x.html")


def test_a_codec_without_size_is_no_manifest(corpus: Path, tmp_path: Path, tiny_codec: AudioCodec) -> None:
    manifest = prepare(corpus, tmp_path / "out", tiny_codec)
    manifest.codec["hop_length"] = 0
    manifest.save(tmp_path / "out")
    with pytest.raises(ValueError, match="expected a codec with its numbers"):
        verify(tmp_path / "out")


def test_a_page_replaces_pages_only(
    corpus: Path, tmp_path: Path, tiny_codec: AudioCodec, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(corpus, tmp_path / "out", tiny_codec)
    before = files_of(tmp_path / "out")
    for name in ("shards/00000.parquet", "manifest.json", "page"):
        assert main(["listen", str(tmp_path / "out"), "--out", str(tmp_path / "out" / name)]) == 1
        assert "expected a name that ends in .html" in capsys.readouterr().err
    assert files_of(tmp_path / "out") == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such files")
def test_verify_waits_for_no_pipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert main(["verify", str(tmp_path / "pipe"), ""]) == 1
    told = capsys.readouterr().err
    assert "got a device or a pipe" in told and "got an empty name" in told
