"""However a preparation is stopped, split, merged or handed to workers: the files are those of an undisturbed run."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile
import torch
from test_prepare import ENVIRONMENT, RATE, files_of, write_folder

from audiotok import AudioCodec, PreparedCorpus, prepare
from audiotok.cli.main import main
from audiotok.corpus import Progress, dry_run, merge, open_source
from audiotok.corpus import journal as journal_module
from audiotok.corpus.pool import Call, Pool
from audiotok.corpus.sources import StreamSource

ROWS = 17
OPTIONS: dict[str, Any] = {"rows_per_shard": 3, "batch_s": 1.5}


@pytest.fixture
def corpus(tmp_path: Path, make_speech: Callable[..., torch.Tensor]) -> Path:
    """Seventeen rows: two broken, one silent, one repeated; one shard of three has no good row at all."""
    folder = tmp_path / "speech"
    folder.mkdir()
    rows = []
    rng = random.Random(0)
    for index in range(ROWS - 1):
        sound = make_speech(rng.uniform(0.3, 1.0), seed=index)[0].numpy()
        soundfile.write(folder / f"{index}.flac", 0 * sound if index == 6 else sound, RATE)
        rows.append((f"{index}.flac", f"Sentence {index}."))
    for index in (7, 8):
        (folder / f"{index}.flac").write_bytes(b"broken")
    return write_folder(folder, [*rows, rows[1]])


@pytest.fixture
def whole(corpus: Path, tiny_codec: AudioCodec, tmp_path: Path) -> dict[str, bytes]:
    manifest = prepare(corpus, tmp_path / "whole", tiny_codec, **OPTIONS)
    assert manifest.dropped == {"duplicate": 1, "silent": 1, "unreadable": 2}
    assert [shard["file"] for shard in manifest.shards] == [f"0000{n}.parquet" for n in (0, 1, 3, 4, 5)]
    return files_of(tmp_path / "whole")


class _Stop(BaseException):
    """What a kill is to the code it hits: nothing handles it."""


def stop_at(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise at the ``count``-th file that is about to get its name."""
    import audiotok.files as files

    real, seen = files.os.replace, [0]

    def replace(source: Any, target: Any) -> None:
        seen[0] += 1
        if seen[0] == count:
            # A kill leaves the temporary file behind; the handler of an exception would remove it.
            shutil.copy(source, f"{source}x{Path(source).suffix}")
            raise _Stop
        real(source, target)

    monkeypatch.setattr(files.os, "replace", replace)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8, 12, 13, 14, 15, 17, 18])
def test_stopped_at_any_write_and_resumed(
    count: int,
    corpus: Path,
    whole: dict[str, bytes],
    tiny_codec: AudioCodec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        stop_at(count, patch)
        with pytest.raises(_Stop):
            prepare(corpus, tmp_path / "out", tiny_codec, **OPTIONS)
    assert not (tmp_path / "out/manifest.json").exists()
    prepare(corpus, tmp_path / "out", tiny_codec, **OPTIONS)
    assert files_of(tmp_path / "out") == whole


def test_stopped_while_the_journal_is_removed(
    corpus: Path,
    whole: dict[str, bytes],
    tiny_codec: AudioCodec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise _Stop

    with monkeypatch.context() as patch:
        patch.setattr(journal_module.shutil, "rmtree", stop)
        with pytest.raises(_Stop):
            prepare(corpus, tmp_path / "out", tiny_codec, **OPTIONS)
    prepare(corpus, tmp_path / "out", tiny_codec, **OPTIONS)
    assert files_of(tmp_path / "out") == whole


def test_run_again_nothing_is_touched(
    corpus: Path, whole: dict[str, bytes], tiny_codec: AudioCodec, tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "whole").rglob("*")}
    seen: list[Progress] = []
    prepare(corpus, tmp_path / "whole", tiny_codec, progress=seen.append, **OPTIONS)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "whole").rglob("*")} == before and not seen


@pytest.mark.parametrize("parts", [1, 4, 9])
def test_split_and_merged(
    parts: int, corpus: Path, whole: dict[str, bytes], tiny_codec_dir: Path, tmp_path: Path, capsys: Any
) -> None:
    folders = [str(tmp_path / f"part{number}") for number in range(1, parts + 1)]
    given = [
        "prepare",
        str(corpus),
        "--codec",
        str(tiny_codec_dir),
        "--device",
        "cpu",
        "--rows-per-shard",
        "3",
    ]
    given += ["--batch-s", "1.5"]
    for number, folder in enumerate(folders, 1):
        assert main([*given, "--out", folder, "--shard", f"{number}/{parts}"]) == 0
    if parts == 1:
        assert files_of(Path(folders[0])) == whole
        return
    assert not any((Path(folder) / "manifest.json").exists() for folder in folders)
    with pytest.raises(ValueError, match="expected all 6 shards among the parts"):
        merge(folders[1:], tmp_path / "less")
    assert main(["merge", *reversed(folders), "--out", str(tmp_path / "merged")]) == 0
    assert files_of(tmp_path / "merged") == whole
    assert "4, listed in dropped.jsonl" in capsys.readouterr().out


def test_parts_in_one_folder_need_no_merging(
    corpus: Path, whole: dict[str, bytes], tiny_codec: AudioCodec, tmp_path: Path
) -> None:
    for number in (2, 3, 1):
        assert not (tmp_path / "out/manifest.json").exists()
        manifest = prepare(corpus, tmp_path / "out", tiny_codec, part=(number, 3), **OPTIONS)
    assert files_of(tmp_path / "out") == whole and manifest.rows == ROWS - 4
    with pytest.raises(FileNotFoundError, match="expected a part made with --shard"):
        merge([corpus], tmp_path / "merged")


def test_a_part_that_is_the_whole_can_be_merged(corpus: Path, tiny_codec: AudioCodec, tmp_path: Path) -> None:
    for number in (1, 2):
        prepare(corpus, tmp_path / str(number), tiny_codec, part=(number, 2))  # one shard in all
    former = files_of(tmp_path / "1")
    assert (tmp_path / "1/manifest.json").is_file() and not (tmp_path / "2/manifest.json").exists()
    merge([tmp_path / "1", tmp_path / "2"], tmp_path / "merged")
    assert files_of(tmp_path / "merged") == former == files_of(tmp_path / "1")


def test_processes_of_accelerate_launch_are_parts(
    corpus: Path,
    whole: dict[str, bytes],
    tiny_codec: AudioCodec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        prepare(corpus, tmp_path / "out", tiny_codec, **OPTIONS)
        assert (tmp_path / "out/manifest.json").exists() == (rank == "0")
    assert files_of(tmp_path / "out") == whole


def test_parts_of_something_else_are_refused(corpus: Path, tiny_codec: AudioCodec, tmp_path: Path) -> None:
    prepare(corpus, tmp_path / "1", tiny_codec, part=(1, 2), **OPTIONS)
    prepare(corpus, tmp_path / "2", tiny_codec, part=(2, 2), n_q=2, **OPTIONS)
    with pytest.raises(ValueError, match="same source, codec and options as .*/1; codec n_q was 4, is 2 now"):
        merge([tmp_path / "1", tmp_path / "2"], tmp_path / "merged")
    with pytest.raises(ValueError, match="another source, codec or options"):
        prepare(corpus, tmp_path / "1", tiny_codec, part=(2, 2), n_q=2, **OPTIONS)
    with pytest.raises(ValueError, match="at least one part to merge, got none"):
        merge([], tmp_path / "merged")
    with pytest.raises(ValueError, match="part i of n"):
        prepare(corpus, tmp_path / "3", tiny_codec, part=(0, 2), **OPTIONS)


def test_a_stream_gives_the_rows_of_the_list(
    corpus: Path, tiny_codec: AudioCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = list(open_source(corpus))
    table = {
        "audio": [{"bytes": (corpus / row.id).read_bytes(), "path": None} for row in rows],
        "text": [row.text for row in rows],
        "id": [row.id for row in rows],
        "speaker": [row.speaker for row in rows],
    }
    listed = datasets.Dataset.from_dict(table)

    def stream() -> StreamSource:
        return StreamSource({"train": listed.to_iterable_dataset()}, {}, "", "a dataset in memory")

    whole = prepare(listed, tmp_path / "whole", tiny_codec, **OPTIONS)
    with monkeypatch.context() as patch:
        stop_at(9, patch)
        with pytest.raises(_Stop):
            prepare(stream(), tmp_path / "out", tiny_codec, **OPTIONS)
    manifest = prepare(stream(), tmp_path / "out", tiny_codec, **OPTIONS)
    assert manifest.shards == whole.shards and manifest.dropped == whole.dropped
    assert manifest.source_rows == ROWS and not (tmp_path / "out/.journal").exists()
    prepare(stream(), tmp_path / "1", tiny_codec, part=(1, 2), **OPTIONS)
    prepare(stream(), tmp_path / "2", tiny_codec, part=(2, 2), **OPTIONS)
    assert merge([tmp_path / "1", tmp_path / "2"], tmp_path / "merged") == manifest


def test_a_dry_run_tells_what_a_run_would_drop(
    corpus: Path, whole: dict[str, bytes], tiny_codec: AudioCodec, tmp_path: Path
) -> None:
    counts = dry_run(corpus, tmp_path / "out", **OPTIONS)
    assert counts["rows"] == ROWS - 4 and counts["dropped"] == {"duplicate": 1, "silent": 1, "unreadable": 2}
    assert (tmp_path / "out/dry-run/dropped.jsonl").read_bytes() == whole["dropped.jsonl"]
    assert (tmp_path / "out/dry-run/report.html").is_file()
    prepare(corpus, tmp_path / "out", tiny_codec, **OPTIONS)
    made = {name: data for name, data in files_of(tmp_path / "out").items() if not name.startswith("dry-run")}
    assert made == whole


class _Fickle:
    """An executor's stand-in whose workers die at given calls."""

    def __init__(self, deaths: Iterator[bool]) -> None:
        self.deaths = deaths

    def submit(self, function: Callable[..., Any], *given: Any) -> Any:
        from concurrent.futures import Future
        from concurrent.futures.process import BrokenProcessPool

        future: Future[Any] = Future()
        if next(self.deaths, False):
            future.set_exception(BrokenProcessPool("killed"))
        else:
            future.set_result(given)
        return future

    def shutdown(self, **_: object) -> None:
        pass


def answers(deaths: list[bool], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    chance = iter(deaths)
    monkeypatch.setattr(Pool, "_start", lambda self, method=None: _Fickle(chance))
    pool = Pool(list, (), workers=2)
    calls: list[Call] = [pool.submit("encode", [f"row {number}"]) for number in range(4)]
    return [pool.result(call)[-1] for call in calls]


def test_a_lost_worker_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [[f"row {number}"] for number in range(4)]
    assert answers([], monkeypatch) == expected
    assert answers([False, True, True, False, True, False], monkeypatch) == expected
    with pytest.raises(ChildProcessError, match=r"died 3 times over the rows row 1 \(out of memory\?\)"):
        answers([False, *[True] * 20], monkeypatch)


_FROM_STDIN = """
import audiotok.corpus.pool
from audiotok import load_codec, prepare
audiotok.corpus.pool.start_method = lambda: {method!r}
prepare({corpus!r}, {out!r}, load_codec({codec!r}), rows_per_shard=3, batch_s=1.5, workers=2)
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_change_nothing_and_need_no_main_module(
    method: str, corpus: Path, whole: dict[str, bytes], tiny_codec_dir: Path, tmp_path: Path
) -> None:
    folders = {"corpus": str(corpus), "out": str(tmp_path / "out"), "codec": str(tiny_codec_dir)}
    script = _FROM_STDIN.format(method=method, **folders)
    done = subprocess.run(
        [sys.executable, "-"], input=script, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert files_of(tmp_path / "out") == whole


def test_codes_of_a_trimmed_clip_are_those_of_the_clip_cut_by_hand(
    tiny_codec: AudioCodec, tmp_path: Path, make_speech: Callable[..., torch.Tensor]
) -> None:
    from audiotok.corpus import Shaping

    (tmp_path / "a").mkdir()
    speech = make_speech(1.0)[0].numpy() + 0.05 * np.sin(np.arange(RATE) * 0.3)
    soundfile.write(tmp_path / "a/x.wav", np.concatenate([np.zeros(RATE), speech]), RATE, subtype="FLOAT")
    write_folder(tmp_path / "a", [("x.wav", "A word.")])
    prepare(tmp_path / "a", tmp_path / "out", tiny_codec, shaping=Shaping(trim=True))
    row = PreparedCorpus(tmp_path / "out").row(0)
    assert row["start_s"] == pytest.approx(0.9)
    cut = np.concatenate([np.zeros(RATE // 10), speech])[None, None].astype(np.float32)
    assert torch.equal(row["codes"], tiny_codec.encode(torch.from_numpy(cut)).audio_codes[0])


def test_the_benchmark_of_preparation(
    tiny_codec_dir: Path,
    tmp_path: Path,
    make_speech: Callable[..., torch.Tensor],
    capsys: Any,
    monkeypatch: Any,
) -> None:
    import json

    import audiotok.cli.bench_prepare as bench

    monkeypatch.setattr(bench, "_PURE_S", 0.05)
    (tmp_path / "speech").mkdir()
    for index, seconds in enumerate((1.2, 0.5, 1.5, 2.0)):
        soundfile.write(tmp_path / f"speech/{index}.flac", make_speech(seconds)[0].numpy(), RATE)
    write_folder(tmp_path / "speech", [(f"{index}.flac", "") for index in range(4)])
    given = ["bench-prepare", str(tmp_path / "speech"), "--codec", str(tiny_codec_dir), "--device", "cpu"]
    given += [
        "--workers",
        "1",
        "--turns",
        "1",
        "--rival-clips",
        "0",
        "--clips",
        "2",
        "--json",
        str(tmp_path / "f.json"),
    ]
    assert main(given) == 0
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["clips"] == 2 and figures["hours"] == pytest.approx(2.7 / 3600)
    assert figures["share"] > 0 and figures["faster"] is None and 0 < figures["most"] < 1
    assert "of the codec alone" in capsys.readouterr().out
    assert main([*given[:-2], "--flac"]) == 0
    assert "2 clips" in capsys.readouterr().out
