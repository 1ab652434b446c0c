"""Every layout of a corpus gives the rows that lie in it, in order, and nothing that leads out of it."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import torch

from audiotok.corpus import Limits, SourceRow, open_source
from audiotok.corpus.checks import inspect
from audiotok.corpus.plan import survey
from audiotok.corpus.sections import IndexedSections, StreamSections
from audiotok.corpus.sources import StreamSource
from audiotok.corpus.sources import find_layout

RATE = 16_000


@pytest.fixture
def put(tmp_path: Path, make_speech: Callable[..., torch.Tensor]) -> Callable[..., Path]:
    """``put("a/b.flac")`` writes half a second of sound there; ``put("c.txt", "text")`` writes text."""
    sound = make_speech(0.5)[0].numpy()

    def write(name: str, text: str | None = None) -> Path:
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            soundfile.write(path, sound, RATE)
        else:
            path.write_text(text, encoding="utf-8")
        return path

    return write


def told(rows: list[SourceRow]) -> list[tuple[str, str, str, str, str]]:
    return [(row.id, row.text, row.speaker, row.language, row.split) for row in rows]


def file_of(row: SourceRow) -> str:
    assert isinstance(row.audio, Path)
    return row.audio.name


def test_vctk(put: Callable[..., Path], tmp_path: Path) -> None:
    for name in ("p225_001_mic1", "p225_001_mic2", "p315_002_mic1"):
        put(f"wav48_silence_trimmed/{name[:4]}/{name}.flac")
    put("txt/p225/p225_001.txt", "Please call Stella.\n")
    rows = list(open_source(tmp_path / "corpus"))
    assert find_layout(tmp_path / "corpus") == "vctk"
    assert told(rows) == [
        ("p225_001", "Please call Stella.", "p225", "en", "train"),
        ("p315_002", "", "p315", "en", "train"),
    ]
    assert file_of(rows[0]) == "p225_001_mic1.flac"


@pytest.mark.parametrize("given", ["", "dev-clean"])
def test_libritts_and_librispeech(put: Callable[..., Path], tmp_path: Path, given: str) -> None:
    put("dev-clean/84/121123/84_121123_000008_000000.wav")
    put("dev-clean/84/121123/84_121123_000008_000000.normalized.txt", "Mister Noirtier.")
    put("dev-clean/84/121550/84-121550-0001.flac")
    put("dev-clean/84/121550/84-121550-0002.flac")
    put("dev-clean/84/121550/84-121550.trans.txt", "84-121550-0001 BUT WITH\n84-121550-0002 OH\n")
    rows = list(open_source(tmp_path / "corpus" / given))
    assert told(rows) == [
        ("84_121123_000008_000000", "Mister Noirtier.", "84", "en", "validation"),
        ("84-121550-0001", "BUT WITH", "84", "en", "validation"),
        ("84-121550-0002", "OH", "84", "en", "validation"),
    ]
    assert json.loads(rows[0].fields) == {"subset": "dev-clean"}


def test_common_voice(put: Callable[..., Path], tmp_path: Path) -> None:
    head = "client_id\tpath\tsentence\tup_votes\tlocale\n"
    lines = [f'c{n}\tcommon_voice_de_{n}.flac\tSatz "{n}.\t{n}\tde\n' for n in range(3)]
    put("validated.tsv", head + "".join(lines))
    put("test.tsv", head + lines[1])
    put("train.tsv", head + lines[2])
    put("clips/common_voice_de_0.flac")
    rows = list(open_source(tmp_path / "corpus"))
    assert [row.split for row in rows] == ["validated", "test", "train"]
    assert rows[1].text == 'Satz "1.' and rows[1].language == "de" and rows[1].speaker == "c1"
    assert json.loads(rows[1].fields) == {"up_votes": "1"}
    assert [row.index for row in open_source(tmp_path / "corpus", split="test,train")] == [0, 1]


def test_kaldi_runs_nothing(put: Callable[..., Path], tmp_path: Path) -> None:
    sound = put("a.wav")
    put("wav.scp", f"rec1 a.wav\nrec2 touch {tmp_path}/run |\nrec3 {sound}\nrec4 /etc/passwd\n")
    put("text", "rec1 ONE TWO\nrec2 THREE\nrec3 FOUR\nrec4 FIVE\n")
    put("utt2spk", "rec1 anna\n")
    rows = list(open_source(tmp_path / "corpus"))
    assert told(rows)[0] == ("rec1", "ONE TWO", "anna", "", "train")
    assert [row.problem[0] if row.problem else None for row in rows] == [
        None,
        "unreadable",
        None,
        "outside_folder",
    ]
    assert not (tmp_path / "run").exists()
    assert open_source(tmp_path / "corpus", audio_root="/").take([3])[0].problem is None
    put("segments", "utt1 rec1 0.1 0.4\nutt2 rec1 x 0.4\nutt3 none 0 1\n")
    rows = list(open_source(tmp_path / "corpus"))
    assert rows[0].span == (0.1, 0.4) and file_of(rows[0]) == "a.wav"
    assert rows[1].problem == ("unreadable", "segments: rec1 x 0.4")
    assert rows[2].problem is not None and rows[2].problem[0] == "missing_file"


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def test_kaldi_takes_tabs_and_keeps_a_name_that_stands_there_twice(
    put: Callable[..., Path], tmp_path: Path
) -> None:
    put("a.wav")
    put("b.wav")
    put("wav.scp", "u1\ta.wav\nu1   b.wav\n")
    put("text", "u1\t Hello there.\n")
    put("utt2spk", "u1\tanna\n")
    rows = list(open_source(tmp_path / "corpus"))
    assert told(rows) == 2 * [("u1", "Hello there.", "anna", "", "train")]
    assert [file_of(row) for row in rows] == ["a.wav", "b.wav"]


def test_folders_are_followed_through_links_but_not_round(put: Callable[..., Path], tmp_path: Path) -> None:
    put("ben/1.wav")
    put("ben/1.txt", "Hello.")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "corpus/ben").rename(tmp_path / "elsewhere/anna")
    put("ben/2.wav")
    put("ben/2.txt", "Bye.")
    (tmp_path / "corpus/anna").symlink_to(tmp_path / "elsewhere/anna")
    (tmp_path / "corpus/ben/round").symlink_to(tmp_path / "corpus")
    (tmp_path / "corpus/itself.wav").symlink_to(tmp_path / "corpus/itself.wav")
    rows = list(open_source(tmp_path / "corpus"))
    assert [(row.id, row.text) for row in rows] == [
        ("anna/1.wav", "Hello."),
        ("ben/2.wav", "Bye."),
        ("itself.wav", ""),
    ]


def test_sound_of_any_suffix_is_a_row(put: Callable[..., Path], tmp_path: Path) -> None:
    put("1.au")
    put("2.m4a", "not for libsndfile")
    put("3.WAV")
    put("3.TXT", "Loud names.")
    put("4.pdf", "no sound")
    rows = list(open_source(tmp_path / "corpus"))
    assert [(row.id, row.text) for row in rows] == [("1.au", ""), ("2.m4a", ""), ("3.WAV", "Loud names.")]
    limits = Limits(need_text=False)
    kinds = [getattr(inspect(row, limits), "reason", "fit") for row in rows]
    assert kinds == ["fit", "unreadable", "fit"]


def test_a_folder_that_cannot_be_read_is_not_passed_over(
    put: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("anna/1.wav")
    put("ben/1.wav")
    scan = os.scandir

    def refuse(folder: str) -> object:
        if Path(folder).name == "ben":
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="ben"):
        open_source(tmp_path / "corpus", layout="folder")


def test_a_corpus_has_the_name_of_its_folder(
    put: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("ben/1.wav")
    monkeypatch.chdir(tmp_path / "corpus/ben")
    assert open_source("..").describe == "corpus"
    monkeypatch.chdir(tmp_path / "corpus")
    assert open_source(".").describe == open_source(tmp_path / "corpus").describe == "corpus"


def test_webdataset(put: Callable[..., Path], tmp_path: Path) -> None:
    sound = put("x.flac").read_bytes()
    folder = tmp_path / "tars"
    folder.mkdir()
    told_json = json.dumps({"text": "Two.", "speaker_id": 7, "mood": "calm"}).encode()
    write_tar(
        folder / "00001.tar", {"b/1.flac": sound, "b/1.json": told_json, "c.txt": b"alone", "d.json": b"{"}
    )
    write_tar(folder / "00000.tar", {"a.v2.flac": b"", "a.txt": b"One.\n", "a.flac": sound})
    rows = list(open_source(folder))
    assert told(rows) == [
        ("00000/a", "One.", "", "", "train"),
        ("00001/b/1", "Two.", "7", "", "train"),
        ("00001/c", "alone", "", "", "train"),
        ("00001/d", "", "", "", "train"),
    ]
    assert rows[0].audio == rows[1].audio == sound and rows[2].audio is None
    assert json.loads(rows[1].fields) == {"mood": "calm"} and rows[3].problem is not None
    (folder / "00002.tar").write_bytes(b"this is no tar" * 100)
    with pytest.raises(ValueError, match="00002.tar: expected a plain tar"):
        open_source(folder)


def test_json_without_end_beside_a_sound_is_a_problem_of_its_row(
    put: Callable[..., Path], tmp_path: Path
) -> None:
    sound = put("x.flac")
    with tarfile.open(tmp_path / "corpus/all.tar", "w") as tar:
        tar.add(sound, "a.flac")
        member = tarfile.TarInfo("a.json")
        member.size = 100_000
        tar.addfile(member, io.BytesIO(b"[" * member.size))
    (row,) = open_source(tmp_path / "corpus/all.tar")
    assert row.problem == ("no_text", "the .json file is damaged")


def test_tables(put: Callable[..., Path], tmp_path: Path) -> None:
    put("x/a.flac")
    put("list.tsv", "file\tsentence\tlang\tage\nx/a.flac\tHe said 'no\"\ten-GB\t30\nx/b.flac\tJa.\tde\t\n")
    put("nemo.jsonl", json.dumps({"audio_filepath": "x/a.flac", "text": "A  b\n c.", "duration": 0.5}))
    rows = list(open_source(tmp_path / "corpus/list.tsv"))
    assert told(rows)[1] == ("x/b.flac", "Ja.", "", "de", "train")
    assert [json.loads(row.fields or "null") for row in rows] == [{"age": "30"}, None]
    (row,) = open_source(tmp_path / "corpus/nemo.jsonl")
    assert row.text == "A b c." and json.loads(row.fields) == {"duration": 0.5}


@pytest.mark.parametrize("between", [";", ", "])
def test_tables_as_spreadsheets_write_them(put: Callable[..., Path], tmp_path: Path, between: str) -> None:
    put("a.wav")
    rows = (("file_name", "transcription", "speaker_id"), ("a.wav", '"Well; yes, ""maybe""."', "ben"))
    put("metadata.csv", "\ufeff" + "\r\n".join(between.join(row) for row in rows))
    assert told(list(open_source(tmp_path / "corpus"))) == [
        ("a.wav", 'Well; yes, "maybe".', "ben", "", "train")
    ]


def test_language_takes_its_rows_and_those_that_name_none(put: Callable[..., Path], tmp_path: Path) -> None:
    rows = ["a.flac,en-GB", "b.flac,de", "c.flac,", "d.flac,EN", "e.flac,eng"]
    put("metadata.csv", "file_name,language\n" + "\n".join(rows) + "\n")
    chosen = list(open_source(tmp_path / "corpus", language="en"))
    assert [(row.index, row.id, row.language) for row in chosen] == [
        (0, "a.flac", "en-GB"),
        (1, "c.flac", "en"),
        (2, "d.flac", "EN"),
    ]
    with pytest.raises(ValueError, match="rows of language fr, it has"):
        put("metadata.csv", "file_name,language\n" + "\n".join(rows[:2]) + "\n")
        open_source(tmp_path / "corpus", language="fr")


@pytest.mark.parametrize("name", ["../a.flac", "x/../../a.flac", "/etc/passwd", "a\0b.flac"])
def test_no_name_leads_out(put: Callable[..., Path], tmp_path: Path, name: str) -> None:
    put("metadata.jsonl", json.dumps({"file_name": name, "text": "T"}))
    (row,) = open_source(tmp_path / "corpus")
    assert row.audio is None and row.problem is not None and row.problem[0] == "outside_folder"


def test_unknown_layouts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected metadata.csv or metadata.jsonl"):
        open_source(tmp_path)
    with pytest.raises(ValueError, match="expected a layout of metadata, ljspeech"):
        open_source(tmp_path, layout="timit")
    with pytest.raises(FileNotFoundError, match=r"metadata.csv: no such file"):
        open_source(tmp_path, layout="metadata")


def test_the_survey_finds_repeated_ids_and_changed_files(put: Callable[..., Path], tmp_path: Path) -> None:
    put("a.flac")
    ids = [*"abcabd", *map(str, range(5000)), "a"]
    lines = [json.dumps({"file_name": "a.flac", "id": id, "text": "T"}) for id in ids]
    put("metadata.jsonl", "\n".join(lines))
    found = survey(open_source(tmp_path / "corpus"))
    assert np.flatnonzero(found.repeated).tolist() == [3, 4, 5006] and found.rows == len(ids)
    assert survey(open_source(tmp_path / "corpus")).digest == found.digest
    with put("a.flac").open("ab") as file:
        file.write(b"more")
    assert survey(open_source(tmp_path / "corpus")).digest != found.digest


def streamed(sounds: list[bytes]) -> StreamSource:
    table = {
        "audio": [{"bytes": sound, "path": None} for sound in sounds],
        "text": [f"T {n}." for n in range(len(sounds))],
    }
    dataset = datasets.Dataset.from_dict(table).to_iterable_dataset()
    return StreamSource({"train": dataset}, {}, "en", "a stream")


def test_a_stream_is_cut_as_a_list_is(put: Callable[..., Path], tmp_path: Path) -> None:
    sounds = [bytes([n]) * (n + 1) for n in range(8)]
    sections = StreamSections(streamed(sounds), 3, tmp_path / "spool")
    seen = []
    for section in sections.sections(lambda number: number != 1):
        rows = section.take(list(section.indices)[::-1])
        seen.append((section.number, [row.audio for row in rows]))
        assert len(list((tmp_path / "spool").iterdir())) == 1
        section.close()
    assert seen == [(0, sounds[2::-1]), (2, sounds[:5:-1])]
    assert (sections.rows, sections.count) == (8, 3)
    assert list((tmp_path / "spool").iterdir()) == []
    put("metadata.csv", "file_name,text\n" + "".join(f"{n}.flac,T\n" for n in range(8)))
    listed = IndexedSections(open_source(tmp_path / "corpus"), 3)
    cuts = [(section.number, section.indices) for section in listed.sections(lambda _: True)]
    assert cuts == [(0, range(0, 3)), (1, range(3, 6)), (2, range(6, 8))] and listed.count == 3
