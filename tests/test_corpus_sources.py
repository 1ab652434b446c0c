"""Every layout gives its rows in order with their metadata, and no files from outside the folder."""

from __future__ import annotations

import io
import json
import os
import tarfile
import unicodedata
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from conftest import speech_like

from audiotok.corpus import Limits, SourceRow, dry_run, open_source
from audiotok.corpus.checks import Drop, Shaping, decode, inspect, read_dropped
from audiotok.corpus.sources import _in_cache
from audiotok.corpus.tasks import survey

RATE = 16_000
Files = dict[str, Any]


def wav_bytes(wav: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wav, RATE, format="WAV", subtype="FLOAT")
    return file.getvalue()


SOUND = wav_bytes(speech_like(0.5)[0].numpy())
LONG = np.random.default_rng(0).uniform(-0.3, 0.3, (2 * RATE, 2)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "corpus").mkdir()
    return tmp_path / "corpus"


def write(folder: Path, files: Files) -> None:
    """Write texts (FOLDER stands for the folder), bytes, JSON lines (a list), Parquet tables and tars (a dict)."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, pa.Table):
            pq.write_table(content, path)
        elif isinstance(content, dict):
            with tarfile.open(path, "w") as tar:
                for member, data in content.items():
                    info = tarfile.TarInfo(member)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        else:
            text = "\n".join(map(json.dumps, content)) if isinstance(content, list) else content
            path.write_bytes(
                text if isinstance(text, bytes) else text.replace("FOLDER", str(folder)).encode()
            )


def sound_of(row: SourceRow) -> np.ndarray | str:
    """The decoded samples [N], or the reason for none."""
    limits = Limits(need_text=False, max_clipped=1.0)
    found = inspect(row, limits)
    found = found if isinstance(found, Drop) else decode(row, limits, None, Shaping())
    return found.reason if isinstance(found, Drop) else found.wav[0].numpy()


def rows_of(source: Any) -> list[str]:
    """``id|text|speaker|language|split|seconds or reason`` of every row, then its other columns, if any."""
    lines = []
    for row in source:
        sound = sound_of(row)
        outcome = sound if isinstance(sound, str) else f"{len(sound) / RATE:g}"
        cells = [row.id, row.text, row.speaker, row.language, row.split, outcome]
        lines.append("|".join(cells + ([row.other] if row.other else [])))
    return lines


def sound_table(sounds: list[Any], kind: Any = None, **columns: list[Any]) -> pa.Table:
    return pa.table({"audio": pa.array(sounds, kind), "text": ["T."] * len(sounds), **columns})


BYTES = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
OUTSIDE = ("../a.wav", "x/../../a.wav", "..\\a.wav", "/etc/passwd", "C:\\a.wav", "a\0b.wav")
VCTK = {
    f"wav48_silence_trimmed/{name[:4]}/{name}.flac": b"" if name.endswith("mic2") else SOUND
    for name in ("p225_001_mic1", "p225_001_mic2", "p315_002_mic1")
} | {"txt/p225/p225_001.txt": "Please call Stella.\n"}
LIBRI = {
    "dev-clean/84/121123/84_121123_000008_000000.wav": SOUND,
    "dev-clean/84/121123/84_121123_000008_000000.normalized.txt": "Mister Noirtier.",
    "dev-clean/84/121550/84-121550-0001.flac": SOUND,
    "dev-clean/84/121550/84-121550.trans.txt": "84-121550-0001 BUT WITH\n",
}
LIBRI_ROWS = [
    '84_121123_000008_000000|Mister Noirtier.|84|de|validation|0.5|{"subset": "dev-clean"}',
    '84-121550-0001|BUT WITH|84|de|validation|0.5|{"subset": "dev-clean"}',
]
VOICE_HEAD = "client_id\tpath\tsentence\tup_votes\tlocale\n"
VOICE_LINES = [f'c{n}\tcv_{n}.flac\tSatz "{n}.\t{n}\tde\n' for n in range(3)]
COMMON_VOICE = {
    "validated.tsv": VOICE_HEAD + "".join(VOICE_LINES),
    "test.tsv": VOICE_HEAD + VOICE_LINES[1],
    "train.tsv": VOICE_HEAD + VOICE_LINES[2],
    "clips/cv_1.flac": SOUND,
}
VOICE_ROWS = [
    'cv_0.flac|Satz "0.|c0|de|validated|missing_file|{"up_votes": "0"}',
    'cv_1.flac|Satz "1.|c1|de|test|0.5|{"up_votes": "1"}',
    'cv_2.flac|Satz "2.|c2|de|train|missing_file|{"up_votes": "2"}',
]
KALDI = {
    "a.wav": SOUND,
    "wav.scp": "rec1\ta.wav\nrec2 touch FOLDER/run |\nrec3   FOLDER/a.wav\nrec4 /etc/passwd\n",
    "text": "rec1\t ONE TWO\nrec2 THREE\nutt1 FOUR\n",
    "utt2spk": "rec1 anna\n",
}
SPANS = "0.1 0.4,0.1 -1,0.0 0.5 0,0.0 0.5 1,x 0.4,0.3 0.1,nan nan,-1 0.2,0 inf,0.1,9 -1,0 3".split(",")
SEGMENTS = "".join(f"utt{n} rec1 {span}\n" for n, span in enumerate(SPANS)) + "utt12 none 0 1\n"
KALDI_SEGMENTS = KALDI | {"segments": SEGMENTS}
TARS = {
    "data/test-1.tar": {
        "b/1.flac": SOUND, "b/1.json": b'{"text": "Two.", "speaker_id": 7, "mood": "calm"}',
        "c.txt": b"alone", "d.json": b"{", "e.json": b"[" * 100_000,
    },
    "00000.tar": {"a.v2.flac": b"", "a.txt": b"One.\n", "a.flac": SOUND},
}  # fmt: skip
KEYS = {f"LJ.{n}.flac": SOUND for n in (1, 2)} | {f"LJ.{n}.txt": f"Text {n}.".encode() for n in (1, 2)}
KEYS |= dict.fromkeys(("b.mic.flac", "c.wav.flac", "d.x.flac", "d.y.flac", "e.v1.flac", "e.flac"), SOUND)
KEYS |= {"b.txt": b"B.", "d.txt": b"D.", "e.txt": b"E.", "e.original.txt": b"e"}
QUOTES = ["file_name,text", '1.wav,"Words.', "2.wav,Two.", '3.wav,Words."', '4.wav,"of', "two, or", 'three"']
JSON_LINES = [json.dumps({"file_name": f"{n}.wav", "text": "Words."}) for n in range(6)]
JSON_LINES[1] = '{"file_name": "1.wav", "text": "half'
JSON_LINES[2] = '["2.wav"]'
JSON_LINES[3] = '{"file_name": "3.wav", "text": "half of a pair \\ud83d"}'
JSON_LINES[4] = '{"file_name": "\\udc00.wav", "text": "Words."}'
JSON_LINES[5] = '{"file_name": "5.wav", "more": ' + "[" * 100_000
JSON_ROWS = [
    "0.wav|Words.|||train|missing_file",
    "00000001||||train|bad_row",
    "00000002||||train|bad_row",
    "3.wav|half of a pair \\ud83d|||train|bad_row",
    "\\udc00.wav|Words.|||train|bad_name",
    "00000005||||train|bad_row",
]
SPLITS = {f"{split}/a.wav": SOUND for split in ("train", "validation", "data/test")}
SPLITS |= {
    "train/metadata.csv": "file_name,text,split\na.wav,T.,\n../train/a.wav,T.,other\n",
    "validation/metadata.tsv": 'path\tsentence\na.wav\tShe said "hi\n',
    "data/test/metadata.csv": "file_name,text\na.wav,T.\n",
}
LANGUAGES = "".join(
    f"{name}.wav,{tag}\n" for name, tag in zip("abcde", ("en-GB", "de", "", "EN", "eng"), strict=True)
)
NFC, NFD = (unicodedata.normalize(form, "Zoë/é.wav") for form in ("NFC", "NFD"))
PCM = pa.struct([("array", pa.list_(pa.float32())), ("sampling_rate", pa.int64())])
ARRAYS = [(LONG[:, 0].tolist(), RATE), ([], RATE), (LONG[:, 0].tolist(), 0)]

CASES: dict[str, tuple[Files, dict[str, Any], list[str]]] = {
    "vctk": (VCTK, {}, ["p225_001|Please call Stella.|p225||train|0.5", "p315_002||p315||train|0.5"]),
    "vctk, language": (VCTK, {"language": "en"}, [
        "p225_001|Please call Stella.|p225|en|train|0.5", "p315_002||p315|en|train|0.5"]),
    "libri": (LIBRI, {"language": "de"}, LIBRI_ROWS),
    "libri, one subset": (LIBRI, {"at": "dev-clean", "language": "de"}, LIBRI_ROWS),
    "common voice": (COMMON_VOICE, {}, VOICE_ROWS),
    "common voice, splits": (COMMON_VOICE, {"split": "test,train"}, VOICE_ROWS[1:]),
    "kaldi": (KALDI, {}, [
        "rec1|ONE TWO|anna||train|0.5", "rec2|THREE|||train|unreadable", "rec3||||train|0.5",
        "rec4||||train|outside_folder"]),
    "kaldi, audio root": (KALDI | {"wav.scp": "rec1 /etc/passwd"}, {"audio_root": "/"}, [
        "rec1|ONE TWO|anna||train|unreadable"]),
    "kaldi, segments": (KALDI_SEGMENTS, {}, [
        "utt0||||train|0.3", "utt1|FOUR|||train|0.4", "utt2||||train|0.5",
        *(f"utt{n}||||train|bad_span" for n in range(3, 12)), "utt12||||train|missing_file"]),
    "tars": (TARS, {}, [
        "00000/a|One.|||train|0.5", 'data/test-1/b/1|Two.|7||test|0.5|{"mood": "calm"}',
        "data/test-1/c|alone|||test|missing_file", "data/test-1/d||||test|no_text",
        "data/test-1/e||||test|no_text"]),
    "tars, keys with dots": ({"a.tar": KEYS}, {"at": "a.tar"}, [
        "a/LJ.1|Text 1.|||train|0.5", "a/LJ.2|Text 2.|||train|0.5", "a/b|B.|||train|0.5",
        "a/c.wav||||train|0.5", "a/d.x|D.|||train|0.5", "a/d.y|D.|||train|0.5", "a/e|E.|||train|0.5"]),
    "tsv": (
        {"x/a.wav": SOUND, "l.tsv": "file\tsentence\tlang\tage\nx/a.wav\tHe said 'no\"\ten-GB\t30\nb.wav\tJa.\tde\t\n"},
        {"at": "l.tsv"},
        ['x/a.wav|He said \'no"||en-GB|train|0.5|{"age": "30"}', "b.wav|Ja.||de|train|missing_file"]),
    "jsonl": ({"a.wav": SOUND, "rows.jsonl": '{"file_name": "a.wav", "text": "A  b\\n c."}'}, {"at": "rows.jsonl"}, [
        "a.wav|A b c.|||train|0.5"]),
    "names of columns before a |": (
        {"a.wav": SOUND, "metadata.csv": "audio_file|text|speaker_name\na.wav|One.|anna"}, {}, [
        "a.wav|One.|anna||train|0.5"]),
    "an open quote": ({"metadata.csv": "\n".join(QUOTES)}, {}, [
        '1.wav|"Words.|||train|bad_row', "2.wav|Two.|||train|missing_file", '3.wav|Words."|||train|missing_file',
        "4.wav|of two, or three|||train|missing_file"]),
    "bad JSON": ({"metadata.jsonl": "\n".join(JSON_LINES)}, {}, JSON_ROWS),
    "long piped row": ({"metadata.csv": "c1|One.\nc2|Two|more\nc3|Three.\n", "wavs/c1.wav": SOUND}, {}, [
        "c1|One.|corpus||train|0.5", "c2|Two|corpus||train|bad_row", "c3|Three.|corpus||train|missing_file"]),
    "tables of splits": (SPLITS, {}, [
        "data/test/a.wav|T.|||test|0.5", "train/a.wav|T.|||train|0.5", "train/../train/a.wav|T.|||other|0.5",
        'validation/a.wav|She said "hi|||validation|0.5']),
    "language": ({"metadata.csv": "file_name,language\n" + LANGUAGES}, {"language": "en"}, [
        f"{name}.wav|||{tag}|train|missing_file" for name, tag in (("a", "en-GB"), ("c", "en"), ("d", "EN"))]),
    "other spellings": (
        {NFD: SOUND, "b/c.wav": SOUND, "m.csv": f"file_name,text\n{NFC},T.\n{NFD},T.\nb\\c.wav,T."}, {"at": "m.csv"}, [
        f"{name}|T.|||train|0.5" for name in (NFC, NFD, "b\\c.wav")]),
    "other spelling of a text": ({NFD.split("/")[1]: SOUND, NFC.split("/")[1][:-3] + "txt": "T."}, {}, [
        NFD.split("/")[1] + "|T.|corpus||train|0.5"]),
    "outside, jsonl": ({"metadata.jsonl": [{"file_name": name, "text": "T."} for name in OUTSIDE]}, {}, [
        "{}|T.|||train|outside_folder".format(name if name != "/etc/passwd" else "00000003") for name in OUTSIDE]),
    "outside, parquet": ({"a.parquet": sound_table([{"path": name} for name in OUTSIDE], BYTES)}, {}, [
        f"train/{n:08d}|T.|||train|outside_folder" for n in range(len(OUTSIDE))]),
    "paths in parquet": ({"clips/a.wav": SOUND, "test.parquet": sound_table(["clips/a.wav", None])}, {}, [
        "test/00000000|T.|||test|0.5", "test/00000001|T.|||test|missing_file"]),
    "metadata.parquet": ({"a.wav": SOUND, "metadata.parquet": sound_table(["a.wav"])}, {}, ["a.wav|T.|||train|0.5"]),
    "metadata.parquet, structs of paths": (
        {"a.wav": SOUND, "metadata.parquet": sound_table([{"path": "a.wav"}], BYTES)}, {}, ["a.wav|T.|||train|0.5"]),
    "metadata.parquet, structs of bytes": (
        {"a.wav": SOUND, "metadata.parquet": sound_table([{"bytes": SOUND}, {"path": "a.wav"}, None], BYTES)}, {}, [
        "train/00000000|T.|||train|0.5", "train/00000001|T.|||train|0.5", "train/00000002|T.|||train|missing_file"]),
    "metadata.parquet of splits, bytes": (
        {f"{split}/metadata.parquet": sound_table([SOUND], pa.binary()) for split in ("test", "train")}, {}, [
        f"{split}/00000000|T.|||{split}|0.5" for split in ("test", "train")]),
    "samples in parquet": (
        {"a.parquet": sound_table([*({"array": wav, "sampling_rate": rate} for wav, rate in ARRAYS), None], PCM)}, {}, [
        f"train/{n:08d}|T.|||train|{end}" for n, end in enumerate(("2", "too_short", "unreadable", "missing_file"))]),
}  # fmt: skip
for delimiter in (";", ", ", "|"):  # as spreadsheets write them
    table = (("file_name", "transcription", "speaker_id"), ("a.wav", '"Well; yes,\n ""maybe""."', "ben"))
    content = "\ufeff" + "\r\n".join(delimiter.join(row) for row in table)
    row = 'a.wav|Well; yes, "maybe".|ben||train|missing_file'
    CASES[f"spreadsheet {delimiter}"] = ({"metadata.csv": content}, {}, [row])
for bad in (b'"Words.', b'"Words." more', b'Wo\0rds."', b"x" * 140_000, b"Well, yes.", b"Caf\xe9."):
    content = b'file_name,text\n0.wav,"Wor,ds"\n1.wav,%s\n2.wav,"Wor,ds"\n9.wav,Words."' % bad
    rows = [f"{name}|||train|missing_file" for name in ("0.wav|Wor,ds", "2.wav|Wor,ds", '9.wav|Words."')]
    CASES[f"bad row {bad[:8]!r}"] = ({"metadata.csv": content}, {}, [rows[0], "1.wav|...|bad_row", *rows[1:]])
PIPED: list[tuple[list[str], str, dict[str, str]]] = [
    (["c1|Guten Tag.|Guten Tag."], "c1|Guten Tag.|corpus|de", {}),
    (["c1|Es sind 3.|Es sind drei.", "c2|Ja.|"], "c1|Es sind drei.|corpus|de", {}),
    (["c1|Guten Tag."], "c1|Guten Tag.|corpus|de", {}),
    (["c1.wav|Guten Tag.", "c2.wav|Ja."], "wavs/c1.wav|Guten Tag.|corpus|de", {}),
    (["wavs/c1.wav|Guten Tag."], "wavs/c1.wav|Guten Tag.|corpus|de", {}),
    (["c1|anna|Guten Tag.", "c2|ben|Ja.", "c3|anna|Nein, danke."], "c1|Guten Tag.|anna|de", {}),
    (["c1|Guten Tag.|anna", "c2|Ja bitte.|ben", "c3|Nein.|anna"], "c1|Guten Tag.|anna|de", {}),
    (["c1|anna|DE|Guten Tag.", "c2|anna|DE|Ja."], "c1|Guten Tag.|anna|DE", {}),
    (["c1|Guten Tag.|anna|x|y"], "c1|Guten Tag.|anna|de", {"text": "2", "speaker": "3"}),
    (["anna|Guten Tag.|c1"], "c1|Guten Tag.|anna|de", {"audio": "3", "text": "2", "speaker": "1"}),
    (["c1|Guten Tag.|Good day."], "c1|Guten Tag.||de", {"text": "2", "speaker": ""}),
]
for lines, first, columns in PIPED:
    content = {"wavs/c1.wav": SOUND, "metadata.csv": "\n".join(lines)}
    rows = [f"{first}|train|0.5...", *(f"c{n}..." for n in range(2, len(lines) + 1))]
    CASES[" ".join(lines)] = (content, {"language": "de", "columns": columns}, rows)


@pytest.mark.parametrize("case", CASES)
def test_rows_of_a_source(case: str, folder: Path, tmp_path: Path) -> None:
    files, options, expected = CASES[case]
    (tmp_path / "a.wav").write_bytes(SOUND)  # outside of the corpus
    write(folder, files)
    options = dict(options)
    found = rows_of(open_source(folder / options.pop("at", ""), **options))
    for line, wanted in zip(found, expected, strict=True):
        start, _, end = wanted.partition("...")
        assert line.startswith(start) and line.endswith(end) if "..." in wanted else line == wanted
    assert not (folder / "run").exists()


HEAD = "file_name,text\n"
REFUSED: list[tuple[Files, dict[str, Any], str]] = [
    *(({"metadata.csv": "c1|a|b|c|d\n"}, {"columns": c}, "metadata") for c in ({}, {"text": "6"}, {"text": "words"})),
    *(({"metadata.csv": text}, {}, "metadata.csv") for text in (b"", HEAD, "name,words\na.wav,x", "text,text\na,b")),
    ({"metadata.csv": (HEAD + "a.wav,x\n").encode("utf-16")}, {}, "UTF-8"),
    ({"rows.jsonl": '[\n{"file_name": "1.wav"}\n]'}, {"at": "rows.jsonl"}, "line 1"),
    (SPLITS | {"train/metadata.jsonl": "{}"}, {}, "name the one to read"),
    ({"a/metadata.csv": HEAD + "a,b", "b/metadata.parquet": sound_table([b""], pa.binary())}, {}, "metadata.parquet"),
    ({"metadata.csv": "file_name,language\na.wav,en\nb.wav,de\n"}, {"language": "fr"}, "fr"),
    ({}, {}, "metadata.csv"), ({}, {"layout": "timit"}, "timit"), ({}, {"layout": "vctk"}, "wav48"),
    ({"a.tar": b"this is no tar" * 100}, {}, "a.tar"), ({"a.tar": {}, "b.tar.gz": b""}, {}, "gunzip"),
    *(({"metadata.jsonl": [{"file_name": "a.wav", name: 0.25} for name in names]}, {}, f"--column {field}={names[0]}")
      for field, names in (("start", ("offset", "start")), ("end", ("end", "end_time")))),
]  # fmt: skip


@pytest.mark.parametrize(("files", "options", "said"), REFUSED)
def test_what_is_refused(files: Files, options: dict[str, Any], said: str, folder: Path) -> None:
    write(folder, files)
    options = dict(options)
    with pytest.raises(ValueError, match=said):
        open_source(folder / options.pop("at", ""), **options)


def test_what_is_not_there(folder: Path) -> None:
    for source, layout in (("", None), ("absent", None), (folder / "absent.csv", None), (folder, "metadata")):
        with pytest.raises(FileNotFoundError):
            open_source(source, layout=layout)


# ---- trees of files


def test_folders(folder: Path, tmp_path: Path) -> None:
    write(
        folder, {"test/ben/2.wav": SOUND, "3.WAV": SOUND, "3.TXT": "Loud.", "4.m4a": "no sound", "5.pdf": ""}
    )
    write(tmp_path / "elsewhere", {"anna/1.wav": SOUND, "anna/1.txt": "Hello."})
    (folder / "anna").symlink_to(tmp_path / "elsewhere/anna")
    (folder / "anna/round").symlink_to(folder)
    (folder / "itself.wav").symlink_to(folder / "itself.wav")
    assert rows_of(open_source(folder)) == [
        "3.WAV|Loud.|corpus||train|0.5",
        "4.m4a||corpus||train|unreadable",
        "anna/1.wav|Hello.|anna||train|0.5",
        "itself.wav||corpus||train|missing_file",
        "test/ben/2.wav||ben||test|0.5",
    ]


def test_a_folder_that_cannot_be_read_stops_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, {"ben/1.wav": SOUND})
    scan = os.scandir

    def refuse(path: str) -> object:
        if Path(path).name == "ben":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError):
        open_source(folder, layout="folder")


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such names")
def test_a_name_that_is_not_unicode_is_dropped_by_its_escaped_name(folder: Path, tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.wav")).write_bytes(SOUND)
    except OSError:
        pytest.skip("the file system has no such names")
    dry_run(folder, tmp_path / "out", limits=Limits(need_text=False))
    (drop,) = read_dropped(tmp_path / "out/dry-run")
    assert (drop.reason, drop.detail) == ("bad_name", "caf\\udce9.wav")


def test_a_tar_that_is_cut_off_costs_what_is_behind_the_cut(folder: Path) -> None:
    files = {name: data for n in range(4) for name, data in ((f"{n}.flac", SOUND), (f"{n}.txt", b"Text."))}
    write(folder, {"whole.tar": files})
    whole = (folder / "whole.tar").read_bytes()
    with tarfile.open(folder / "whole.tar") as tar:
        places = [member.offset_data for member in tar if member.name.endswith("flac")]
    for cut, kept in ((places[2] + 700, 2), (places[2] - 300, 2), (places[2] - 512, 2), (0, 0)):
        (folder / "whole.tar").write_bytes(whole[:cut])
        lines = rows_of(open_source(folder))
        assert lines[:kept] == [f"whole/{n}|Text.|||train|0.5" for n in range(kept)]
        assert len(lines) in (kept + 1, kept + 2)
        assert all(line.endswith("|unreadable") for line in lines[kept:])


# ---- parts of recordings


SPAN_COLUMNS: list[Any] = [
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
    ("kind", "span"),
    [("table", s) for s in SPAN_COLUMNS] + [(k, s) for k in ("parquet", "tar") for s in SPAN_COLUMNS[:2]],
)
def test_columns_that_name_a_part_are_honoured(kind: str, span: Any, folder: Path) -> None:
    fields, start, stop, channel = span
    data, fields = wav_bytes(LONG), fields | {"text": "T."}
    if kind == "table":
        files: Files = {"long.wav": data, "metadata.jsonl": [{"audio_filepath": "long.wav", **fields}]}
    elif kind == "tar":
        files = {"a.tar": {"a.wav": data, "a.json": json.dumps(fields).encode()}}
    else:
        columns = {name: [value] for name, value in fields.items()}
        files = {"a.parquet": sound_table([{"bytes": data}], BYTES, **columns)}
    write(folder, files)
    (row,) = open_source(folder)
    expected = LONG[round(start * RATE) : round(stop * RATE)]
    expected = expected.mean(axis=1) if channel is None else expected[:, channel]
    assert row.other is None
    np.testing.assert_allclose(np.array(sound_of(row)), expected, atol=1e-6)


@pytest.mark.parametrize(
    "fields",
    [
        {"offset": 1.0, "duration": 4.0}, {"offset": 5.0}, {"start": 1.0, "end": 0.5}, {"start": "00:00:01"},
        {"duration": 1.0}, {"duration": 5.0}, {"channel": 2}, {"channel": "the news"}, {"start": -2.0},
    ],
)  # fmt: skip
def test_columns_that_fit_no_part_drop_the_row(fields: dict[str, Any], folder: Path) -> None:
    row = {"file_name": "long.wav", "text": "T.", **fields}
    write(folder, {"long.wav": wav_bytes(LONG), "metadata.jsonl": [row]})
    assert rows_of(open_source(folder))[0].split("|")[5] == "bad_span"
    ignored = dict.fromkeys(("start", "end", "duration", "channel"), "")
    assert rows_of(open_source(folder, columns=ignored)) == [f"long.wav|T.|||train|2|{json.dumps(fields)}"]


def test_parts_of_one_recording_are_rows_of_their_own(folder: Path) -> None:
    row = {"audio_filepath": "long.wav", "text": "T.", "duration": 0.5}
    rows = [row | {"offset": at} for at in (0.0, 0.5, 1.0)]
    write(folder, {"long.wav": wav_bytes(LONG), "metadata.jsonl": rows})
    counts = dry_run(folder)
    assert counts["rows"] == 3 and counts["hours"] == pytest.approx(1.5 / 3600, abs=1e-4)


# ---- data sets in memory


def test_samples_are_read_without_a_decoder() -> None:
    wav = LONG[:, 0]
    for samples, tolerance in ((wav, 1e-7), ((wav * 32767).astype(int), 1e-4)):
        sounds = [{"array": samples.tolist(), "sampling_rate": RATE}]
        (row,) = open_source(datasets.Dataset.from_dict({"audio": sounds, "text": ["T."]}))
        np.testing.assert_allclose(np.array(sound_of(row)), wav, atol=tolerance)


def test_paths_of_a_data_set_in_memory(folder: Path, tmp_path: Path) -> None:
    write(folder, {"a.wav": SOUND})
    opened = datasets.Dataset.from_dict({"audio": [str(folder / "a.wav")], "text": ["T."]})
    opened = opened.cast_column("audio", datasets.Audio())
    assert rows_of(open_source(opened)) == ["train/00000000|T.|||train|0.5"]
    elsewhere = open_source(opened, audio_root=tmp_path / "other")
    assert rows_of(elsewhere) == ["train/00000000|T.|||train|outside_folder"]


def test_paths_of_a_named_data_set_lie_in_its_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    inside = str(tmp_path / "downloads/a.wav")
    assert _in_cache(inside) == (inside, None)
    for name in ("/etc/passwd", str(tmp_path / "../a.wav"), "a.wav"):
        assert _in_cache(name)[1] == ("outside_folder", name)


def test_splits_and_languages_of_a_data_set() -> None:
    parts = {
        split: datasets.Dataset.from_dict({"audio": [{"bytes": SOUND, "path": None}] * 2, "lang": langs})
        for split, langs in (("train", ["en", None]), ("test", ["de", "en"]))
    }
    source = datasets.DatasetDict(parts)
    names = ["train/00000000||", "train/00000001||", "test/00000001||"]
    expected = [f"{name}|en|{name.split('/')[0]}|0.5" for name in names]
    assert rows_of(open_source(source, language="en")) == expected
    chosen = open_source(source, split="test", language="en")
    assert [(row.id, row.index) for row in chosen.listing()] == [("test/00000001", 0)]
    only_sound = open_source(parts["train"].select_columns(["audio"]))
    assert len(list(only_sound.listing())) == len(survey(only_sound).groups["train"]) == 2


def test_the_survey_finds_repeated_ids_and_changed_files(folder: Path) -> None:
    ids = [*"abcabd", *map(str, range(500)), "a"]
    lines = [{"file_name": "a.wav", "id": id, "split": "dev" if id == "d" else None} for id in ids]
    write(folder, {"a.wav": SOUND, "metadata.jsonl": lines})
    found = survey(open_source(folder))
    assert np.flatnonzero(found.repeated).tolist() == [3, 4, 506] and found.groups["dev"].tolist() == [5]
    assert len(found.groups["train"]) == len(ids) - 1
    assert survey(open_source(folder)).digest == found.digest
    write(folder, {"a.wav": SOUND + b"more"})
    assert survey(open_source(folder)).digest != found.digest
