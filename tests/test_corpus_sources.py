"""Every layout gives its rows in order with their metadata, and no files from outside the folder."""

from __future__ import annotations

import io
import json
import os
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from audiotok.corpus import Limits, SourceRow, dry_run, open_source
from audiotok.corpus.checks import Drop, Shaping, decode, inspect, read_dropped
from audiotok.corpus.rows import FilePart
from audiotok.corpus.sources import _in_cache, find_layout
from audiotok.corpus.tasks import survey

RATE = 16_000
Put = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "corpus").mkdir()
    return tmp_path / "corpus"


@pytest.fixture
def put(folder: Path, make_speech: Callable[..., torch.Tensor]) -> Put:
    """``put("a/b.flac")`` writes half a second of sound there; ``put("c.txt", "text")`` writes text or bytes."""
    sound = make_speech(0.5)[0].numpy()

    def write(name: str, content: str | bytes | None = None) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            soundfile.write(path, sound, RATE)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def row_fields(rows: list[SourceRow]) -> list[tuple[str, str, str, str, str]]:
    return [(row.id, row.text, row.speaker, row.language, row.split) for row in rows]


def file_of(row: SourceRow) -> str:
    assert isinstance(row.audio, str) and row.problem is None
    return os.path.basename(row.audio) if os.path.isfile(row.audio) else ""


def reasons(rows: list[SourceRow]) -> list[str | None]:
    return [row.problem[0] if row.problem else None for row in rows]


def sound_of(row: SourceRow) -> Any:
    """The decoded sound, or the reason for none."""
    limits = Limits(need_text=False, max_clipped=1.0)
    found = inspect(row, limits)
    found = found if isinstance(found, Drop) else decode(row, limits, None, Shaping())
    return found.reason if isinstance(found, Drop) else found.wav[0]


# ---- layouts


def test_vctk(put: Put, folder: Path) -> None:
    for name in ("p225_001_mic1", "p225_001_mic2", "p315_002_mic1"):
        put(f"wav48_silence_trimmed/{name[:4]}/{name}.flac")
    put("txt/p225/p225_001.txt", "Please call Stella.\n")
    assert find_layout(folder) == "vctk"
    rows = list(open_source(folder, language="en"))
    assert row_fields(rows) == [
        ("p225_001", "Please call Stella.", "p225", "en", "train"),
        ("p315_002", "", "p315", "en", "train"),
    ]
    assert file_of(rows[0]) == "p225_001_mic1.flac"
    assert {row.language for row in open_source(folder)} == {""}


@pytest.mark.parametrize("given", ["", "dev-clean"])
def test_libritts_and_librispeech(put: Put, folder: Path, given: str) -> None:
    put("dev-clean/84/121123/84_121123_000008_000000.wav")
    put("dev-clean/84/121123/84_121123_000008_000000.normalized.txt", "Mister Noirtier.")
    put("dev-clean/84/121550/84-121550-0001.flac")
    put("dev-clean/84/121550/84-121550.trans.txt", "84-121550-0001 BUT WITH\n")
    rows = list(open_source(folder / given, language="de"))
    assert row_fields(rows) == [
        ("84_121123_000008_000000", "Mister Noirtier.", "84", "de", "validation"),
        ("84-121550-0001", "BUT WITH", "84", "de", "validation"),
    ]
    assert json.loads(rows[0].other) == {"subset": "dev-clean"}


def test_common_voice(put: Put, folder: Path) -> None:
    head = "client_id\tpath\tsentence\tup_votes\tlocale\n"
    lines = [f'c{n}\tcommon_voice_de_{n}.flac\tSatz "{n}.\t{n}\tde\n' for n in range(3)]
    put("validated.tsv", head + "".join(lines))
    put("test.tsv", head + lines[1])
    put("train.tsv", head + lines[2])
    put("clips/common_voice_de_0.flac")
    rows = list(open_source(folder))
    assert [row.split for row in rows] == ["validated", "test", "train"]
    assert row_fields(rows)[1] == ("common_voice_de_1.flac", 'Satz "1.', "c1", "de", "test")
    assert json.loads(rows[1].other) == {"up_votes": "1"} and file_of(rows[0])
    assert [row.index for row in open_source(folder, split="test,train")] == [0, 1]


@pytest.mark.parametrize(
    ("lines", "expected", "columns"),
    [
        (["c1|Guten Tag.|Guten Tag."], ("Guten Tag.", "corpus", "de"), {}),
        (["c1|Es sind 3.|Es sind drei.", "c2|Ja.|"], ("Es sind drei.", "corpus", "de"), {}),
        (["c1|Guten Tag."], ("Guten Tag.", "corpus", "de"), {}),
        (["c1.wav|Guten Tag.", "c2.wav|Ja."], ("Guten Tag.", "corpus", "de"), {}),
        (["wavs/c1.wav|Guten Tag."], ("Guten Tag.", "corpus", "de"), {}),
        (["c1|anna|Guten Tag.", "c2|ben|Ja.", "c3|anna|Nein, danke."], ("Guten Tag.", "anna", "de"), {}),
        (["c1|Guten Tag.|anna", "c2|Ja bitte.|ben", "c3|Nein.|anna"], ("Guten Tag.", "anna", "de"), {}),
        (["c1|anna|DE|Guten Tag.", "c2|anna|DE|Ja."], ("Guten Tag.", "anna", "DE"), {}),
        (["c1|Guten Tag.|anna|x|y"], ("Guten Tag.", "anna", "de"), {"text": "2", "speaker": "3"}),
        (["anna|Guten Tag.|c1"], ("Guten Tag.", "anna", "de"), {"audio": "3", "text": "2", "speaker": "1"}),
        (["c1|Guten Tag.|Good day."], ("Guten Tag.", "", "de"), {"text": "2", "speaker": ""}),
    ],
)
def test_tables_without_a_header(
    lines: list[str], expected: tuple[str, str, str], columns: dict[str, str], put: Put, folder: Path
) -> None:
    put("wavs/c1.wav")
    put("metadata.csv", "\n".join(lines) + "\n")
    assert find_layout(folder) == "ljspeech"
    row = next(iter(open_source(folder, language="de", columns=columns)))
    assert (row.text, row.speaker, row.language) == expected and file_of(row) == "c1.wav"
    assert row.id in ("c1", "wavs/c1.wav", "c1.wav")


def test_an_ambiguous_piped_table_is_refused_and_a_long_row_dropped(put: Put, folder: Path) -> None:
    put("metadata.csv", "c1|a|b|c|d\n")
    for columns in ({}, {"text": "6"}, {"text": "words"}):
        with pytest.raises(ValueError, match="metadata"):
            open_source(folder, columns=columns)
    put("metadata.csv", "c1|One.\nc2|Two|more\nc3|Three.\n")
    assert reasons(list(open_source(folder))) == [None, "bad_row", None]
    put("metadata.csv", "audio_file|text|speaker_name\nc1.wav|One.|anna\n")
    assert row_fields(list(open_source(folder))) == [("c1.wav", "One.", "anna", "", "train")]


def test_kaldi_runs_nothing_and_cuts_segments(put: Put, folder: Path, tmp_path: Path) -> None:
    sound = put("a.wav")
    put("wav.scp", f"rec1\ta.wav\nrec2 touch {tmp_path}/run |\nrec3   {sound}\nrec4 /etc/passwd\n")
    put("text", "rec1\t ONE TWO\nrec2 THREE\nrec3 FOUR\nrec4 FIVE\n")
    put("utt2spk", "rec1 anna\n")
    rows = list(open_source(folder))
    assert row_fields(rows)[0] == ("rec1", "ONE TWO", "anna", "", "train")
    assert reasons(rows) == [None, "unreadable", None, "outside_folder"] and not (tmp_path / "run").exists()
    assert open_source(folder, audio_root="/").take([3])[0].problem is None
    spans = ["rec1 0.1 0.4", "rec1 0.1 -1", "rec1 0.0 0.5 0", "rec1 0.0 0.5 1", "rec1 x 0.4", "none 0 1"]
    spans += [f"rec1 {span}" for span in ("0.3 0.1", "nan nan", "-1 0.2", "0 inf", "0.1", "9 -1", "0 3")]
    put("segments", "".join(f"utt{n} {span}\n" for n, span in enumerate(spans)))
    rows = list(open_source(folder))
    sounds = [sound_of(row) for row in rows]
    assert [len(s) for s in sounds[:3]] == [4800, 6400, 8000]
    assert sounds[3:] == ["bad_span", "bad_span", "missing_file", *["bad_span"] * 7]


def test_folders(put: Put, folder: Path, tmp_path: Path) -> None:
    for name in ("ben/1.wav", "test/ben/2.wav", "3.WAV", "4.m4a"):
        put(name, None if name != "4.m4a" else "not audio")
    put("ben/1.txt", "Hello.")
    put("3.TXT", "Loud names.")
    put("4.pdf", "no sound")
    (tmp_path / "elsewhere").mkdir()
    (folder / "ben").rename(tmp_path / "elsewhere/anna")
    (folder / "anna").symlink_to(tmp_path / "elsewhere/anna")
    (folder / "anna/round").symlink_to(folder)
    (folder / "itself.wav").symlink_to(folder / "itself.wav")
    rows = list(open_source(folder))
    assert row_fields(rows) == [
        ("3.WAV", "Loud names.", "corpus", "", "train"),
        ("4.m4a", "", "corpus", "", "train"),
        ("anna/1.wav", "Hello.", "anna", "", "train"),
        ("itself.wav", "", "corpus", "", "train"),
        ("test/ben/2.wav", "", "ben", "", "test"),
    ]
    sounds = [s if isinstance(s, str) else "" for s in map(sound_of, rows)]
    assert sounds == ["", "unreadable", "", "missing_file", ""]


def test_a_folder_that_cannot_be_read_stops_the_run(
    put: Put, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("ben/1.wav")
    scan = os.scandir

    def refuse(path: str) -> object:
        if Path(path).name == "ben":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError):
        open_source(folder, layout="folder")


def test_what_is_no_source_is_refused(folder: Path) -> None:
    for layout, said in ((None, "metadata.csv"), ("timit", "timit"), ("vctk", "wav48")):
        with pytest.raises(ValueError, match=said):
            open_source(folder, layout=layout)
    for source, layout in (("", None), ("absent", None), (folder / "absent.csv", None), (folder, "metadata")):
        with pytest.raises(FileNotFoundError):
            open_source(source, layout=layout)


# ---- tables


def test_tables(put: Put, folder: Path) -> None:
    put("x/a.flac")
    put("list.tsv", "file\tsentence\tlang\tage\nx/a.flac\tHe said 'no\"\ten-GB\t30\nx/b.flac\tJa.\tde\t\n")
    rows = list(open_source(folder / "list.tsv"))
    assert row_fields(rows)[1] == ("x/b.flac", "Ja.", "", "de", "train")
    assert [json.loads(row.other or "null") for row in rows] == [{"age": "30"}, None]
    put("rows.jsonl", json.dumps({"file_name": "x/a.flac", "text": "A  b\n c."}))
    assert row_fields(list(open_source(folder / "rows.jsonl"))) == [("x/a.flac", "A b c.", "", "", "train")]
    pq.write_table(pa.table({"file_name": ["x/a.flac"], "text": ["P."]}), folder / "metadata.parquet")
    assert row_fields(list(open_source(folder))) == [("x/a.flac", "P.", "", "", "train")]
    (folder / "metadata.parquet").unlink()
    spread = (("file_name", "transcription", "speaker_id"), ("a.wav", '"Well; yes,\n ""maybe""."', "ben"))
    for between in (";", ", ", "|"):  # as spreadsheets write them
        put("metadata.csv", "\ufeff" + "\r\n".join(between.join(row) for row in spread))
        assert row_fields(list(open_source(folder))) == [("a.wav", 'Well; yes, "maybe".', "ben", "", "train")]


@pytest.mark.parametrize(
    "row",
    [
        '1.wav,"Words.',
        '1.wav,"Words." more',
        '1.wav,Wo\0rds."',
        "1.wav," + "x" * 140_000,
        "1.wav,Well, yes.",
        b"1.wav,Caf\xe9.",
    ],
)
def test_one_bad_row_of_a_table_costs_itself(row: str | bytes, put: Put, folder: Path) -> None:
    lines = [b"file_name,transcription", *(f'{n}.wav,"Wor,ds {n}."'.encode() for n in range(4))]
    lines[2] = row if isinstance(row, bytes) else row.encode()
    lines.append(b'9.wav,Words."')  # would end a quote that is open
    put("metadata.csv", b"\n".join(lines))
    rows = list(open_source(folder))
    assert reasons(rows) == [None, "bad_row", None, None, None] and rows[1].id == "1.wav"
    assert rows[1].problem and ("line 3" in rows[1].problem[1] or "Unicode" in rows[1].problem[1])
    assert [row.text for row in rows if not row.problem] == ["Wor,ds 0.", "Wor,ds 2.", "Wor,ds 3.", 'Words."']


def test_an_open_quote_does_not_swallow_the_rows_behind_it(put: Put, folder: Path) -> None:
    lines = [
        "file_name,text",
        '1.wav,"Words.',
        "2.wav,Two.",
        '3.wav,Words."',
        '4.wav,"of',
        "two, or",
        'three lines"',
    ]
    put("metadata.csv", "\n".join(lines))
    rows = list(open_source(folder))
    assert reasons(rows) == ["bad_row", None, None, None]
    assert [row.text for row in rows[1:]] == ["Two.", 'Words."', "of two, or three lines"]


def test_bad_lines_of_json_cost_themselves(put: Put, folder: Path) -> None:
    rows = [json.dumps({"file_name": f"{n}.wav", "text": "Words."}) for n in range(6)]
    rows[1] = '{"file_name": "1.wav", "text": "half'
    rows[2] = '["2.wav"]'
    rows[3] = '{"file_name": "3.wav", "text": "half of a pair \\ud83d"}'
    rows[4] = '{"file_name": "\\udc00.wav", "text": "Words."}'
    rows[5] = '{"file_name": "5.wav", "more": ' + "[" * 100_000
    put("metadata.jsonl", "\n".join(rows))
    assert reasons(list(open_source(folder))) == [None, *["bad_row"] * 3, "bad_name", "bad_row"]
    put("rows.jsonl", '[\n{"file_name": "1.wav"}\n]')
    with pytest.raises(ValueError, match="line 1"):
        open_source(folder / "rows.jsonl")


def test_what_is_no_table_is_refused(put: Put, folder: Path) -> None:
    utf16 = "file_name,transcription\na.wav,x\n".encode("utf-16")
    for content in (b"", b"file_name,text\n", b"name,words\na.wav,x\n", b"file_name,file_name\na,b\n", utf16):
        put("metadata.csv", content)
        with pytest.raises(ValueError, match=r"metadata\.csv"):
            open_source(folder)


def test_tables_of_splits(put: Put, folder: Path) -> None:
    for split in ("train", "validation", "data/test"):
        put(f"{split}/a.wav")
        put(f"{split}/metadata.csv", "file_name,text\na.wav,T.\n")
    put("train/metadata.csv", "file_name,text,split\na.wav,T.,\n../train/a.wav,T.,other\n")
    rows = list(open_source(folder))
    assert [row.split for row in rows] == ["test", "train", "other", "validation"] and all(map(file_of, rows))
    (folder / "validation/metadata.csv").unlink()
    put("validation/metadata.tsv", 'path\tsentence\na.wav\tShe said "hi\n')
    last = row_fields(list(open_source(folder)))[-1]
    assert last == ("validation/a.wav", 'She said "hi', "", "", "validation")
    put("train/metadata.jsonl", "{}")
    with pytest.raises(ValueError, match="name the one to read"):
        open_source(folder)


def test_language_takes_its_rows_and_those_that_name_none(put: Put, folder: Path) -> None:
    rows = ["a.flac,en-GB", "b.flac,de", "c.flac,", "d.flac,EN", "e.flac,eng"]
    put("metadata.csv", "file_name,language\n" + "\n".join(rows) + "\n")
    chosen = [(row.index, row.id, row.language) for row in open_source(folder, language="en")]
    assert chosen == [(0, "a.flac", "en-GB"), (1, "c.flac", "en"), (2, "d.flac", "EN")]
    put("metadata.csv", "file_name,language\n" + "\n".join(rows[:2]) + "\n")
    with pytest.raises(ValueError, match="fr"):
        open_source(folder, language="fr")


# ---- file names


OUTSIDE = ("../a.flac", "x/../../a.flac", "..\\a.flac", "/etc/passwd", "C:\\a.flac", "a\0b.flac")


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_no_name_leads_out_of_any_source(kind: str, put: Put, folder: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", np.zeros(RATE), RATE)
    if kind == "jsonl":
        put("metadata.jsonl", "\n".join(json.dumps({"file_name": name, "text": "T"}) for name in OUTSIDE))
    else:
        sounds = [{"path": name, "bytes": None} for name in OUTSIDE]
        column = pa.array(sounds, pa.struct([("path", pa.string()), ("bytes", pa.binary())]))
        pq.write_table(pa.table({"audio": column}), folder / "data.parquet")
    rows = list(open_source(folder))
    assert reasons(rows) == ["outside_folder"] * len(OUTSIDE) and {row.audio for row in rows} == {None}


def test_names_in_other_spellings(put: Put, folder: Path) -> None:
    nfc, nfd = (unicodedata.normalize(form, "Zoë/é.wav") for form in ("NFC", "NFD"))
    put(nfd)
    put("b/c.wav")
    put("metadata.csv", f"file_name,text\n{nfc},T.\n{nfd},T.\nb\\c.wav,T.\n")
    rows = list(open_source(folder))
    assert reasons(rows) == [None] * 3 and all(map(file_of, rows))
    (folder / "metadata.csv").unlink()
    put(nfc.replace("wav", "txt"), "Text.")
    (folder / "b/c.wav").unlink()
    # One folder each on Linux.
    assert [row.text for row in open_source(folder, layout="folder")] in (["Text."], [""])
    put("flat/" + unicodedata.normalize("NFD", "é.wav"))
    put("flat/" + unicodedata.normalize("NFC", "é.txt"), "Text.")
    assert [row.text for row in open_source(folder / "flat")] == ["Text."]


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such names")
def test_a_name_that_is_not_unicode_is_dropped_by_its_escaped_name(
    put: Put, folder: Path, tmp_path: Path
) -> None:
    put("a.wav")
    try:
        os.rename(os.fsencode(folder / "a.wav"), os.fsencode(folder) + b"/caf\xe9.wav")
    except OSError:
        pytest.skip("the file system has no such names")
    dry_run(folder, tmp_path / "out", limits=Limits(need_text=False))
    (drop,) = read_dropped(tmp_path / "out/dry-run")
    assert (drop.reason, drop.detail) == ("bad_name", "caf\\udce9.wav")


# ---- parts of recordings


@pytest.fixture
def recording(folder: Path) -> np.ndarray:
    """Two seconds of two channels, ``long.wav``."""
    wav = np.random.default_rng(0).uniform(-0.3, 0.3, (2 * RATE, 2)).astype(np.float32)
    soundfile.write(folder / "long.wav", wav, RATE, subtype="FLOAT")
    return wav


SPANS: list[Any] = [
    ({"offset": 0.5, "duration": 0.25}, 0.5, 0.75, None),
    ({"offset": 0.5, "duration": None}, 0.5, 2.0, None),
    ({"start": 0.5, "end": 1.0}, 0.5, 1.0, None),
    ({"start": "0.5", "end": "-1"}, 0.5, 2.0, None),
    ({"start_ms": 500, "end_ms": 1000}, 0.5, 1.0, None),
    ({"end": 1.0}, 0.0, 1.0, None),
    ({"start": 1.5, "end": 2.3}, 1.5, 2.0, None),
    ({"begin_time": 61.0, "end_time": 63.0}, 0.0, 2.0, None),  # cut up already
    ({"duration": 2.04}, 0.0, 2.0, None),
    ({"channel": 1}, 0.0, 2.0, 1),
    ({"channel": "left", "offset": 1, "duration": 0.5}, 1.0, 1.5, 0),
    ({}, 0.0, 2.0, None),
]


@pytest.mark.parametrize(
    ("kind", "span"), [("table", s) for s in SPANS] + [(k, s) for k in ("parquet", "tar") for s in SPANS[:2]]
)
def test_columns_that_name_a_part_are_honoured(
    kind: str, span: Any, recording: np.ndarray, put: Put, folder: Path
) -> None:
    fields, start, stop, channel = span
    fields = fields | {"text": "T"}
    data = (folder / "long.wav").read_bytes()
    if kind == "table":
        put("metadata.jsonl", json.dumps({"audio_filepath": "long.wav", **fields}))
    elif kind == "tar":
        write_tar(folder / "a.tar", {"a.wav": data, "a.json": json.dumps(fields).encode()})
    else:
        columns = {name: [value] for name, value in fields.items()}
        pq.write_table(
            pa.table(columns | {"audio": [{"bytes": data, "path": None}]}), folder / "data.parquet"
        )
    (row,) = open_source(folder)
    expected = recording[round(start * RATE) : round(stop * RATE)]
    expected = expected.mean(axis=1) if channel is None else expected[:, channel]
    assert row.other is None
    np.testing.assert_allclose(sound_of(row).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("field, columns", [("start", ("offset", "start")), ("end", ("end", "end_time"))])
def test_two_columns_for_one_part_are_refused(
    field: str, columns: tuple[str, str], put: Put, folder: Path
) -> None:
    rows = [{"file_name": "long.wav", "text": "T", name: 0.25} for name in columns]
    put("metadata.jsonl", "\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=f"--column {field}={columns[0]}"):
        open_source(folder)
    assert len(open_source(folder, columns={field: columns[1]})) == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"offset": 1.0, "duration": 4.0},
        {"offset": 5.0},
        {"start": 1.0, "end": 0.5},
        {"start": "00:00:01"},
        {"duration": 1.0},
        {"duration": 5.0},
        {"channel": 2},
        {"channel": "the news"},
        {"start": -2.0},
    ],
)
def test_columns_that_fit_no_part_drop_the_row(
    fields: dict[str, Any], recording: np.ndarray, put: Put, folder: Path
) -> None:
    put("metadata.jsonl", json.dumps({"file_name": "long.wav", "text": "T", **fields}))
    assert sound_of(next(iter(open_source(folder)))) == "bad_span"
    left = {name: "" for name in ("start", "end", "duration", "channel")}
    (row,) = open_source(folder, columns=left)
    assert len(sound_of(row)) == 2 * RATE and json.loads(row.other) == fields


def test_parts_of_one_recording_are_rows_of_their_own(recording: np.ndarray, put: Put, folder: Path) -> None:
    row = {"audio_filepath": "long.wav", "text": "T", "duration": 0.5}
    put("metadata.jsonl", "\n".join(json.dumps(row | {"offset": at}) for at in (0.0, 0.5, 1.0)))
    counts = dry_run(folder)
    assert counts["rows"] == 3 and counts["hours"] == pytest.approx(1.5 / 3600, abs=1e-4)


# ---- tars


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def test_webdataset(put: Put, folder: Path) -> None:
    sound = put("x.flac").read_bytes()
    (folder / "x.flac").unlink()
    note = json.dumps({"text": "Two.", "speaker_id": 7, "mood": "calm"}).encode()
    files = {"b/1.flac": sound, "b/1.json": note, "c.txt": b"alone", "d.json": b"{", "e.json": b"[" * 100_000}
    write_tar(folder / "data/test-1.tar", files)
    write_tar(folder / "00000.tar", {"a.v2.flac": b"", "a.txt": b"One.\n", "a.flac": sound})
    rows = list(open_source(folder))
    assert row_fields(rows) == [
        ("00000/a", "One.", "", "", "train"),
        ("data/test-1/b/1", "Two.", "7", "", "test"),
        ("data/test-1/c", "alone", "", "", "test"),
        ("data/test-1/d", "", "", "", "test"),
        ("data/test-1/e", "", "", "", "test"),
    ]
    assert isinstance(rows[0].audio, FilePart) and rows[0].audio.read() == sound and rows[2].audio is None
    assert json.loads(rows[1].other) == {"mood": "calm"} and reasons(rows)[3:] == ["no_text", "no_text"]


def test_keys_with_dots(put: Put, folder: Path) -> None:
    sound = put("x.flac").read_bytes()
    files = {f"LJ.{n}.flac": sound for n in (1, 2)} | {f"LJ.{n}.txt": f"Text {n}.".encode() for n in (1, 2)}
    files |= {"b.mic.flac": sound, "b.txt": b"B."}
    files |= {"c.wav.flac": sound, "d.x.flac": sound, "d.y.flac": sound, "d.txt": b"D.", "e.v1.flac": sound}
    write_tar(folder / "a.tar", files | {"e.flac": sound, "e.txt": b"E.", "e.original.txt": b"e"})
    rows = list(open_source(folder / "a.tar"))
    assert [(row.id[2:], row.text) for row in rows] == [
        ("LJ.1", "Text 1."), ("LJ.2", "Text 2."), ("b", "B."), ("c.wav", ""), ("d.x", "D."), ("d.y", "D."), ("e", "E."),
    ]  # fmt: skip
    assert all(isinstance(sound_of(row), torch.Tensor) for row in rows)


def test_a_tar_that_is_cut_off_costs_what_is_behind_the_cut(put: Put, folder: Path) -> None:
    sound = put("x.flac").read_bytes()
    files = {name: data for n in range(4) for name, data in ((f"{n}.flac", sound), (f"{n}.txt", b"Text."))}
    write_tar(folder / "whole.tar", files)
    whole = (folder / "whole.tar").read_bytes()
    with tarfile.open(folder / "whole.tar") as tar:
        places = [member.offset_data for member in tar if member.name.endswith("flac")]
    for cut, kept in ((places[2] + 700, 2), (places[2] - 300, 2), (places[2] - 512, 2), (0, 0)):
        (folder / "whole.tar").write_bytes(whole[:cut])
        rows = list(open_source(folder))
        good = [row.id for row in rows if isinstance(sound_of(row), torch.Tensor)]
        assert good == [f"whole/{n}" for n in range(kept)] and len(rows) in (kept + 1, kept + 2)
        assert {sound_of(row) for row in rows[kept:]} == {"unreadable"}
    (folder / "whole.tar").write_bytes(b"this is no tar" * 100)
    with pytest.raises(ValueError, match=r"whole\.tar"):
        open_source(folder)
    (folder / "whole.tar").write_bytes(whole)
    (folder / "more.tar.gz").write_bytes(b"")
    with pytest.raises(ValueError, match="gunzip"):
        open_source(folder)


# ---- datasets


def test_samples_in_parquet_need_no_decoder(folder: Path) -> None:
    wav = np.random.default_rng(0).uniform(-0.3, 0.3, RATE).astype(np.float32)
    audio = [
        {"array": wav.tolist(), "sampling_rate": RATE},
        {"array": [], "sampling_rate": RATE},
        {"array": wav.tolist(), "sampling_rate": 0},
        None,
    ]
    kind = pa.struct([("array", pa.list_(pa.float32())), ("sampling_rate", pa.int64())])
    pq.write_table(pa.table({"audio": pa.array(audio, kind), "text": ["T"] * 4}), folder / "a.parquet")
    rows = list(open_source(folder))
    np.testing.assert_array_equal(sound_of(rows[0]).numpy(), wav)
    assert [sound_of(row) for row in rows[1:]] == ["too_short", "unreadable", "missing_file"]
    pcm = [{"array": (wav * 32767).astype(int).tolist(), "sampling_rate": RATE}]
    (row,) = open_source(datasets.Dataset.from_dict({"audio": pcm, "text": ["T"]}))
    np.testing.assert_allclose(sound_of(row).numpy(), wav, atol=1e-4)


def test_paths_of_a_data_set_are_those_of_its_folder(put: Put, folder: Path, tmp_path: Path) -> None:
    path = put("clips/a.wav")
    table = pa.table({"audio": ["clips/a.wav", str(path)], "text": ["T", "T"]})
    pq.write_table(table, folder / "train.parquet")
    rows = list(open_source(folder / "train.parquet"))
    assert [(file_of(row), row.split) for row in rows] == [("a.wav", "train")] * 2
    opened = datasets.Dataset.from_dict({"audio": [str(path)], "text": ["T"]})
    opened = opened.cast_column("audio", datasets.Audio())
    assert file_of(open_source(opened).take([0])[0]) == "a.wav"
    (tmp_path / "other").mkdir()
    assert reasons(open_source(opened, audio_root=tmp_path / "other").take([0])) == ["outside_folder"]


def test_paths_of_a_named_data_set_lie_in_its_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    inside = str(tmp_path / "downloads/a.wav")
    assert _in_cache(inside) == (inside, None)
    for name in ("/etc/passwd", str(tmp_path / "../a.wav"), "a.wav"):
        assert _in_cache(name)[1] == ("outside_folder", name)


def test_splits_and_languages_of_a_data_set() -> None:
    parts = {
        split: datasets.Dataset.from_dict({"audio": [{"bytes": b"x", "path": None}] * 2, "lang": langs})
        for split, langs in (("train", ["en", None]), ("test", ["de", "en"]))
    }
    source = datasets.DatasetDict(parts)
    assert row_fields(list(open_source(source, language="en"))) == [
        ("train/00000000", "", "", "en", "train"),
        ("train/00000001", "", "", "en", "train"),
        ("test/00000001", "", "", "en", "test"),
    ]
    chosen = open_source(source, split="test", language="en")
    assert [(row.id, row.index) for row in chosen.listing()] == [("test/00000001", 0)]
    only_sound = open_source(parts["train"].select_columns(["audio"]))
    assert len(list(only_sound.listing())) == len(survey(only_sound).groups["train"]) == 2


def test_the_survey_finds_repeated_ids_and_changed_files(put: Put, folder: Path) -> None:
    put("a.flac")
    ids = [*"abcabd", *map(str, range(500)), "a"]
    lines = [{"file_name": "a.flac", "id": id, "split": "dev" if id == "d" else None} for id in ids]
    put("metadata.jsonl", "\n".join(map(json.dumps, lines)))
    found = survey(open_source(folder))
    assert np.flatnonzero(found.repeated).tolist() == [3, 4, 506] and found.groups["dev"].tolist() == [5]
    assert len(found.groups["train"]) == len(ids) - 1
    assert survey(open_source(folder)).digest == found.digest
    with (folder / "a.flac").open("ab") as file:
        file.write(b"more")
    assert survey(open_source(folder)).digest != found.digest
