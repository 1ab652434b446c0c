"""The program audiotok: outputs, and one-line errors with exit code 1 and no partial files for bad input."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import atok_toys
import numpy as np
import pytest
import soundfile
import torch

from audiotok import AtokHeader, load_audio, read_comment, save_atok, save_audio
from audiotok import open as open_atok
from audiotok.bitstream.format import PacketScanner, head_bytes
from audiotok.cli.main import VERBS, build_parser, main

ROOT = Path(__file__).parents[1]


@pytest.fixture
def run(tiny_codec_dir, capsys):
    """Run ``audiotok VERB ... --codec TINY``; returns (exit code, stdout, stderr)."""

    def call(*words: object, codec: Path | None = tiny_codec_dir) -> tuple[int, str, str]:
        option = [] if codec is None else ["--codec", str(codec)]
        try:
            code = main([str(word) for word in words] + option)
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def clip(tmp_path, wav):
    save_audio(tmp_path / "clip.wav", wav, 16_000)
    return tmp_path / "clip.wav"


def load_codes(path: Path) -> tuple[torch.Tensor, AtokHeader]:
    with open_atok(path) as file:
        return file.read().codes, file.header


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file() and "tiny-codec" not in path.parts}


def assert_one_line_error(result: tuple[int, str, str], *texts: str) -> None:
    code, out, err = result
    assert code == 1, (out, err)
    lines = [line for line in err.splitlines() if line.startswith("audiotok: error: ")]
    assert len(lines) == 1 and "Traceback" not in err
    for text in texts:
        assert text in lines[0]


# --- verbs
# ---------------------------------------------------------------------------------------------


def test_encode_then_decode_keeps_the_number_of_samples(run, clip, tmp_path, tiny_codec, wav):
    assert run("encode", clip, tmp_path / "clip.atok")[0] == 0
    codes, header = load_codes(tmp_path / "clip.atok")
    read, _ = load_audio(clip, 16_000)
    expected = tiny_codec.encode(read[None]).audio_codes[0]
    assert (codes == expected).float().mean() > 0.999  # equal but for ties; test_codec.py counts those
    assert header.num_samples == wav.shape[-1] and header.codec == "tiny" and header.n_q == 4

    assert run("decode", tmp_path / "clip.atok", tmp_path / "back.wav")[0] == 0
    back, rate = load_audio(tmp_path / "back.wav")
    assert rate == 16_000 and back.shape == wav.shape
    whole = tiny_codec.decode(codes[None], num_samples=wav.shape[-1]).audio_values[0]
    assert (back - whole.clamp(-1, 1)).abs().max() <= 2**-14


def test_fewer_codebooks_are_the_first_ones(run, clip, tmp_path):
    assert run("encode", clip, tmp_path / "all.atok")[0] == 0
    assert run("encode", clip, tmp_path / "two.atok", "--n-q", 2)[0] == 0
    assert torch.equal(load_codes(tmp_path / "two.atok")[0], load_codes(tmp_path / "all.atok")[0][:2])
    assert run("decode", tmp_path / "all.atok", tmp_path / "a.wav", "--n-q", 2)[0] == 0
    assert run("decode", tmp_path / "two.atok", tmp_path / "b.wav")[0] == 0
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    assert_one_line_error(run("encode", clip, tmp_path / "x.atok", "--n-q", 5), "--n-q in 1..4", "got 5")
    assert_one_line_error(run("decode", tmp_path / "two.atok", tmp_path / "x.wav", "--n-q", 3), "1..2")


def test_a_file_longer_than_a_block_equals_one_pass(run, tmp_path, tiny_codec, make_speech):
    save_audio(tmp_path / "long.flac", make_speech(61.0), 16_000)
    assert run("encode", tmp_path / "long.flac", tmp_path / "long.atok")[0] == 0
    codes, _ = load_codes(tmp_path / "long.atok")
    whole = tiny_codec.encode(load_audio(tmp_path / "long.flac")[0][None]).audio_codes[0]
    assert codes.shape == whole.shape and (codes == whole).float().mean() > 0.999
    assert run("decode", tmp_path / "long.atok", tmp_path / "back.wav")[0] == 0
    assert soundfile.info(tmp_path / "back.wav").frames == 61 * 16_000


@pytest.mark.slow
def test_an_hour_takes_the_memory_of_a_minute(tiny_codec_dir, tmp_path, make_speech):
    minute = make_speech(60.0)[0].numpy()
    peaks: dict[tuple[str, int], int] = {}
    for minutes in (1, 60):
        with soundfile.SoundFile(tmp_path / f"{minutes}.wav", "w", 16_000, 1) as file:
            for _ in range(minutes):
                file.write(minute)
        for verb, source, target in (("encode", "wav", "atok"), ("decode", "atok", "flac")):
            names = [str(tmp_path / f"{minutes}.{suffix}") for suffix in (source, target)]
            done = subprocess.run(
                [sys.executable, "-m", "audiotok.cli.main", verb, *names, "--codec", str(tiny_codec_dir)],
                capture_output=True, text=True, cwd=ROOT, check=True,
            )  # fmt: skip
            peaks[verb, minutes] = int(done.stderr.split("peak memory ")[1].split()[0])
    assert soundfile.info(tmp_path / "60.flac").frames == 3600 * 16_000
    for verb in ("encode", "decode"):
        assert peaks[verb, 60] <= 1.1 * peaks[verb, 1], peaks


def test_every_input_is_done_although_one_fails(run, tmp_path, make_speech):
    for seed in range(3):
        save_audio(tmp_path / f"{seed}.wav", make_speech(0.3, seed=seed), 16_000)
    (tmp_path / "1.wav").write_text("not a sound")
    result = run("encode", *(tmp_path / f"{seed}.wav" for seed in range(3)), "--out", tmp_path / "out")
    assert_one_line_error(result, "1.wav")
    assert left_in(tmp_path / "out") == {"0.atok", "2.atok"}
    codes = sorted((tmp_path / "out").glob("*.atok"))
    assert run("decode", *codes, "--out", tmp_path / "back")[0] == 0
    assert left_in(tmp_path / "back") == {"0.wav", "2.wav"}


def test_two_inputs_of_one_name_do_not_overwrite_each_other(run, clip, tmp_path):
    (tmp_path / "other").mkdir()
    save_audio(tmp_path / "other" / "clip.flac", torch.zeros(100), 16_000)
    both = (clip, tmp_path / "other" / "clip.flac")
    assert_one_line_error(run("encode", *both, "--out", tmp_path / "out", "--overwrite"), "rename one")
    assert load_codes(tmp_path / "out" / "clip.atok")[1].num_samples > 100


def test_files_are_replaced_only_when_told(run, clip, tmp_path):
    target = tmp_path / "a.atok"
    target.write_text("precious")
    assert_one_line_error(run("encode", clip, target), "exists already", "--overwrite")
    assert target.read_text() == "precious"
    assert run("encode", clip, target, "--overwrite")[0] == 0
    assert_one_line_error(run("encode", clip, clip, "--overwrite"), ".atok")
    assert load_audio(clip)[0].shape[-1] > 0


def test_info_describes_sounds_codes_and_codecs(run, clip, tmp_path, tiny_codec, tiny_codec_dir):
    run("encode", clip, tmp_path / "a.atok")
    code, out, _ = run("info", clip, tmp_path / "a.atok", tiny_codec_dir, "--json")
    sound, codes, codec = map(json.loads, out.splitlines())
    assert code == 0
    assert sound["kind"] == "audio" and sound["num_samples"] == 16_123 and sound["T"] == 51
    assert codes["kind"] == "codes" and codes["T"] == 51 and codes["codec"] == "tiny"
    assert codes["frame_rate"] == codec["frame_rate"] == 50.0
    assert codes["bitrate_bps"] == codec["bitrate_bps"] == 4 * 6 * 50
    assert codec["codes_fingerprint"] == codes["codes_fingerprint"] == tiny_codec.codes_fingerprint
    assert codec["algorithmic_latency_ms"] <= 40
    code, out, _ = run("info", clip)
    assert code == 0 and "bitrate_bps" in out and "frame_rate" in out


@pytest.mark.parametrize("verb", ["encode", "decode", "info"])
def test_bfloat16_and_device_are_taken(run, clip, tmp_path, verb):
    run("encode", clip, tmp_path / "a.atok")
    words = {
        "encode": (clip, tmp_path / "b.atok"),
        "decode": (tmp_path / "a.atok", tmp_path / "b.wav"),
        "info": (clip,),
    }[verb]
    assert run(verb, *words, "--device", "cpu", "--dtype", "bfloat16")[0] == 0
    assert_one_line_error(
        run(verb, *words, "--device", "toaster", "--overwrite" if verb != "info" else "--json"), "toaster"
    )


# --- bad input
# -----------------------------------------------------------------------------------------------------


def bad_sounds(folder: Path) -> dict[str, tuple[Path, str]]:
    """Bad input files that must fail, with a value in the error."""
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("hello")
    soundfile.write(folder / "none.wav", np.zeros(0), 16_000)
    samples = np.zeros(1000, dtype=np.float32)
    samples[700] = np.nan
    soundfile.write(folder / "nan.wav", samples, 16_000, subtype="FLOAT")
    return {
        "missing": (folder / "missing.wav", "no such file"),
        "empty": (folder / "empty.wav", "empty"),
        "text": (folder / "text.wav", "expected an audio file"),
        "none": (folder / "none.wav", "got 0"),
        "nan": (folder / "nan.wav", "sample 700"),
        "folder": (folder, "folder"),
    }


@pytest.mark.parametrize("case", ["missing", "empty", "text", "none", "nan", "folder"])
def test_encode_refuses_what_is_not_sound(run, tmp_path, case):
    path, text = bad_sounds(tmp_path)[case]
    before = left_in(tmp_path)
    assert_one_line_error(run("encode", path, tmp_path / "out.atok"), text, path.name)
    assert left_in(tmp_path) == before


@pytest.mark.parametrize("case", ["missing", "empty", "text", "none"])
def test_info_refuses_what_is_not_sound(run, tmp_path, case):
    path, text = bad_sounds(tmp_path)[case]
    assert_one_line_error(run("info", path), path.name)


@pytest.mark.parametrize(
    ("samples", "channels", "rate"),
    [(1, 1, 16_000), (1, 1, 192_000), (5_000, 8, 16_000), (19_200, 1, 192_000), (321, 2, 44_100)],
)
def test_odd_sounds_are_encoded(run, tmp_path, samples, channels, rate):
    soundfile.write(tmp_path / "odd.wav", np.full((samples, channels), 0.1), rate)
    assert run("encode", tmp_path / "odd.wav", tmp_path / "odd.atok")[0] == 0
    assert run("decode", tmp_path / "odd.atok", tmp_path / "back.wav")[0] == 0
    expected = max(1, samples * 16_000 / rate)
    assert abs(soundfile.info(tmp_path / "back.wav").frames - expected) <= 1
    assert run("info", tmp_path / "odd.wav")[0] == 0


@pytest.mark.parametrize("folder", ["missing", "/proc", "clip.wav"])
def test_a_folder_that_cannot_be_written_is_said(run, clip, tmp_path, folder):
    run("encode", clip, tmp_path / "a.atok")
    before = left_in(tmp_path)
    for words in (("encode", clip), ("decode", tmp_path / "a.atok")):
        assert_one_line_error(run(*words, tmp_path / folder / "out.wav"))
        if folder != "missing":
            assert_one_line_error(run(*words, "--out", tmp_path / folder / "out"))
    assert left_in(tmp_path) == before


def damaged_codes(whole: Path) -> dict[str, tuple[Path, str]]:
    """Files without readable codes of the tiny codec, with a value in the error."""
    data, folder = whole.read_bytes(), whole.parent
    (found,) = PacketScanner().feed(data)
    with open_atok(whole) as file:
        other = dataclasses.replace(file.header, codec="loud", codes_fingerprint="f" * 16)
        save_atok(folder / "whole.other", file.read().codes, other)
    header = bytearray(data[: found.at + 9])
    header[10] ^= 1
    contents = {
        "empty": (b"", "header and its copy are damaged"),
        "text": (b"hello", "expected an .atok file"),
        "version": (b"ATOK\x09" + data[5 : found.at], "version 1"),
        "header": (bytes(header), "header and its copy are damaged"),
        "cut": (data[: found.at + 9], "expected packets, got none"),
        "other": ((folder / "whole.other").read_bytes(), "got codes of 'loud'"),
        "patched": (head_bytes(other) + data[found.at :], "joined from two"),
    }
    for name, (content, _) in contents.items():
        (folder / f"{name}.atok").write_bytes(content)
    cases = {name: (folder / f"{name}.atok", text) for name, (_, text) in contents.items()}
    return cases | {"missing": (folder / "missing.atok", "no such file"), "folder": (folder, "folder")}


@pytest.mark.parametrize(
    "case", ["missing", "cut", "empty", "text", "folder", "version", "header", "other", "patched"]
)
def test_decode_refuses_what_is_not_its_codes(run, clip, tmp_path, case):
    run("encode", clip, tmp_path / "whole.atok")
    path, text = damaged_codes(tmp_path / "whole.atok")[case]
    before = left_in(tmp_path)
    assert_one_line_error(run("decode", path, tmp_path / "out.wav"), text)
    assert left_in(tmp_path) == before


def test_decode_without_the_codec_names_it(run, clip, tmp_path):
    run("encode", clip, tmp_path / "a.atok")
    result = run("decode", tmp_path / "a.atok", tmp_path / "a.wav", codec=None)
    assert_one_line_error(result, "'tiny'", "--codec")


# --- .atok files
# -----------------------------------------------------------------------------------------------------


def test_truncated_equals_encoded_so(run, clip, tmp_path):
    """By codebooks or by bitrate, byte for byte."""
    options = ("--meta", "speaker=Ada", "--packet-frames", 20)
    assert run("encode", clip, tmp_path / "all.atok", *options)[0] == 0
    for n_q in (1, 2, 3, 4):
        assert run("encode", clip, tmp_path / f"{n_q}.atok", "--n-q", n_q, *options)[0] == 0
        same = tmp_path / f"cut{n_q}.atok"
        assert run("truncate", tmp_path / "all.atok", same, "--bitrate", 0.3 * n_q, codec=None)[0] == 0
        assert same.read_bytes() == (tmp_path / f"{n_q}.atok").read_bytes()
    assert_one_line_error(
        run("truncate", tmp_path / "2.atok", tmp_path / "x.atok", "--n-q", 3, codec=None), "1..2"
    )
    assert_one_line_error(
        run("truncate", tmp_path / "2.atok", tmp_path / "x.atok", "--bitrate", 0.1, codec=None),
        "at least 0.3",
    )


@pytest.mark.parametrize(("said", "comment"), [("yes", "Generated speech, not a recording"), ("no", "")])
def test_a_mark_of_generated_speech_comes_back_with_the_sound(run, clip, tmp_path, said, comment):
    assert run("encode", clip, tmp_path / "a.atok", "--meta", f"generated={said}")[0] == 0
    assert run("decode", tmp_path / "a.atok", tmp_path / "a.wav")[0] == 0
    with soundfile.SoundFile(tmp_path / "a.wav") as file:
        assert file.comment == comment


def test_a_mark_of_the_sound_is_kept_without_being_asked_for(run, tmp_path, wav):
    mark = "Generated speech, not a recording: by us, voice slt"
    for suffix in ("wav", "flac"):
        save_audio(tmp_path / f"said.{suffix}", wav, 16_000, mark)
        assert run("encode", tmp_path / f"said.{suffix}", tmp_path / f"{suffix}.atok")[0] == 0
        assert run("decode", tmp_path / f"{suffix}.atok", tmp_path / f"back.{suffix}")[0] == 0
        assert read_comment(tmp_path / f"back.{suffix}") == mark
    assert f"comment        {mark}" in run("info", tmp_path / "said.wav")[1]
    assert load_codes(tmp_path / "wav.atok")[1].metadata == {"generated": mark}


def test_a_codecs_own_model_makes_smaller_files_that_need_it(run, clip, tmp_path, tiny_codec, tiny_codec_dir):
    model = atok_toys.toy_model(n_q=4, codebook_size=64, fingerprint=tiny_codec.codes_fingerprint)
    model.save(tiny_codec_dir / "entropy.safetensors")
    assert run("encode", clip, tmp_path / "lm.atok", "--meta", "generated=no")[0] == 0
    assert run("encode", clip, tmp_path / "plain.atok", "--no-lm")[0] == 0
    code, out, _ = run("info", tmp_path / "lm.atok", tmp_path / "plain.atok", "--json")
    lm, plain = map(json.loads, out.splitlines())
    assert (lm["coding"], plain["coding"]) == ("learnt", "adaptive") and lm["meta.generated"] == "no"
    assert lm["model_fingerprint"] == model.fingerprint and lm["damage"] == []
    for name in ("lm", "plain"):
        assert run("decode", tmp_path / f"{name}.atok", tmp_path / f"{name}.wav")[0] == 0
    assert (tmp_path / "lm.wav").read_bytes() == (tmp_path / "plain.wav").read_bytes()
    code, out, _ = run("verify", tmp_path / "lm.atok")
    assert code == 0 and "every code decoded" in out
    code, out, _ = run("verify", tmp_path / "lm.atok", codec=None)
    assert code == 0 and f"model {model.fingerprint} is not installed" in out


def test_damage_is_reported_concealed_and_verified(run, tmp_path, make_speech):
    save_audio(tmp_path / "a.wav", make_speech(1.0), 16_000)
    assert run("encode", tmp_path / "a.wav", tmp_path / "a.atok", "--packet-frames", 10)[0] == 0
    code, out, err = run("verify", tmp_path / "a.atok")
    assert (code, err) == (0, "") and "whole, 1.00 s, 4 codebooks, 5 packets" in out
    data = bytearray((tmp_path / "a.atok").read_bytes())
    data[PacketScanner().feed(bytes(data))[2].at + 9] ^= 4
    (tmp_path / "b.atok").write_bytes(data)
    assert_one_line_error(
        run("verify", tmp_path / "a.atok", tmp_path / "b.atok"), "packet 2 (0.40 to 0.60 s)"
    )
    code, _, err = run("decode", tmp_path / "b.atok", tmp_path / "b.wav")
    assert code == 0 and "warning" in err and "packet 2 (0.40 to 0.60 s)" in err
    run("decode", tmp_path / "a.atok", tmp_path / "a2.wav")
    whole, broken = (load_audio(tmp_path / name)[0] for name in ("a2.wav", "b.wav"))
    assert whole.shape == broken.shape and torch.equal(whole[:, :6000], broken[:, :6000])
    (tmp_path / "c.atok").write_bytes(data[:-30])
    code, _, err = run("decode", tmp_path / "c.atok", tmp_path / "c.wav")
    assert code == 0 and "the index at the end is missing or damaged" in err
    assert load_audio(tmp_path / "c.wav")[0].shape == whole.shape


# --- the program itself
# --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "nonsense",
        "encode",
        "encode a.wav",
        "encode a b c",
        "decode a",
        "encode a b --rate 8000",
        "encode --n-q x a b",
        "info --codec",
    ],
)
def test_wrong_usage_exits_2(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    assert stop.value.code == 2
    assert "usage: audiotok" in capsys.readouterr().err


def test_no_verb_is_a_question_for_help(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, capsys):
    build_parser(verb)
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0 and f"audiotok {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("program", ["audiotok", "tts_lm"])
@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_help_takes_less_than_a_second(program, words):
    command = [sys.executable, "-m", f"{program}.cli.main", *words]
    fastest = 1e9
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        fastest = min(fastest, time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
    assert fastest < 1.0


def test_help_imports_nothing_heavy():
    code = (
        "import sys, audiotok, audiotok.cli.main as m\n"
        "for verb in m.VERBS: m.build_parser(verb)\n"
        "print([n for n in ('torch', 'av', 'transformers', 'soundfile', 'datasets') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_a_reader_that_leaves_is_no_error(tiny_codec_dir):
    done = subprocess.run(
        f"{sys.executable} -m audiotok.cli.main info {tiny_codec_dir} {tiny_codec_dir} --json | true",
        shell=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="devices and names of Linux")
def test_outputs_that_are_no_files_are_refused_before_the_work(run, clip, tmp_path):
    (tmp_path / "null.atok").symlink_to("/dev/null")
    (tmp_path / "folder.atok").mkdir()
    assert_one_line_error(run("encode", clip, tmp_path / "null.atok", "--overwrite"), "device")
    assert_one_line_error(run("encode", clip, tmp_path / "folder.atok", "--overwrite"), "folder")
    run("encode", clip, tmp_path / "a.atok")
    for name in ("/dev/null", "/dev/stdout", tmp_path):
        assert run("decode", tmp_path / "a.atok", name, "--overwrite")[0] == 1


def test_a_glob_of_sounds_replaces_none_of_them(run, clip, tmp_path):
    save_audio(tmp_path / "other.wav", torch.zeros(100), 16_000)
    run("encode", clip, tmp_path / "a.atok")
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*") if path.is_file()}
    assert_one_line_error(run("encode", clip, tmp_path / "other.wav", "--overwrite"), "other.wav", "--out")
    assert_one_line_error(
        run("truncate", tmp_path / "a.atok", clip, "--n-q", 1, "--overwrite", codec=None), "clip"
    )
    assert_one_line_error(run("decode", tmp_path / "a.atok", tmp_path / "a.atok", "--overwrite"))
    assert before == {path: path.read_bytes() for path in before}


def test_names_that_begin_with_a_dash(run, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip.rename("-clip.wav")
    assert run("encode", "-clip.wav", "--out", "out")[0] == 0
    assert run("encode", "--overwrite", "--", "-clip.wav", "-a.atok", codec=None)[0] == 0
    assert run("decode", "out/-clip.atok", "b.wav")[0] == 0
    assert run("info", "-a.atok", "-clip.wav")[0] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="limits and names of Linux")
def test_a_full_disk_is_said_with_the_name_of_the_file(run, clip, tmp_path):
    import resource
    import signal

    assert run("encode", clip, tmp_path / "a.atok")[0] == 0
    before, limits = left_in(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        results = {
            "full.atok": run("encode", clip, tmp_path / "full.atok"),
            "full.wav": run("decode", tmp_path / "a.atok", tmp_path / "full.wav"),
        }
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    for name, result in results.items():
        assert_one_line_error(result, f"/{name}: ")
    assert left_in(tmp_path) == before


@pytest.mark.skipif(sys.platform != "linux", reason="names of Linux")
def test_names_and_texts_that_are_not_utf8(run, clip, tmp_path):
    odd = tmp_path / "caf\udce9.wav"
    clip.rename(odd)
    assert run("encode", odd, tmp_path / "a.atok")[0] == 0
    assert "caf\\udce9.wav" in run("info", odd)[1]
    result = run("encode", odd, tmp_path / "b.atok", "--meta", "speaker=\udce9")
    assert_one_line_error(result, "expected metadata of the header to be texts by name, in Unicode")


def test_a_file_of_which_nothing_is_whole_is_not_truncated(run, clip, tmp_path):
    assert run("encode", clip, tmp_path / "a.atok")[0] == 0
    whole = (tmp_path / "a.atok").read_bytes()
    (tmp_path / "cut.atok").write_bytes(whole[: len(whole) // 2])
    result = run("truncate", tmp_path / "cut.atok", tmp_path / "b.atok", "--n-q", 2, codec=None)
    assert_one_line_error(result, "expected packets, got none", "copy it again")
    assert not (tmp_path / "b.atok").exists()
