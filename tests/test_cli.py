"""The program audiotok: outputs, and one-line errors with exit code 1 and no partial files for bad input."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import atok_toys
import numpy as np
import pytest
import soundfile
import torch

from audiotok import AtokHeader, load_audio, read_comment, save_atok, save_audio
from audiotok import open as open_atok
from audiotok.bitstream.format import PacketScanner, head_bytes
from audiotok.cli.main import VERBS, main

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
    """Encoded so, truncated by codebooks or by bitrate (byte for byte), or decoded so."""
    options = ("--meta", "speaker=Ada", "--packet-frames", 20)
    assert run("encode", clip, tmp_path / "all.atok", *options)[0] == 0
    for n_q in (1, 2, 4):
        assert run("encode", clip, tmp_path / f"{n_q}.atok", "--n-q", n_q, *options)[0] == 0
        for option in (("--bitrate", 0.3 * n_q), ("--n-q", n_q)):
            words = ("truncate", tmp_path / "all.atok", tmp_path / "cut.atok", *option, "--overwrite")
            assert run(*words, codec=None)[0] == 0
            assert (tmp_path / "cut.atok").read_bytes() == (tmp_path / f"{n_q}.atok").read_bytes()
    assert torch.equal(load_codes(tmp_path / "2.atok")[0], load_codes(tmp_path / "all.atok")[0][:2])
    assert run("decode", tmp_path / "all.atok", tmp_path / "a.wav", "--n-q", 2)[0] == 0
    assert run("decode", tmp_path / "2.atok", tmp_path / "b.wav")[0] == 0
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    assert_one_line_error(run("encode", clip, tmp_path / "x.atok", "--n-q", 5), "--n-q in 1..4", "got 5")
    assert_one_line_error(run("decode", tmp_path / "2.atok", tmp_path / "x.wav", "--n-q", 3), "1..2")
    for option, value in ((("--n-q", 3), "1..2"), (("--bitrate", 0.1), "at least 0.3")):
        words = ("truncate", tmp_path / "2.atok", tmp_path / "x.atok", *option)
        assert_one_line_error(run(*words, codec=None), value)


def test_a_file_longer_than_a_block_equals_one_pass(run, tmp_path, tiny_codec, make_speech):
    save_audio(tmp_path / "long.flac", make_speech(30.5), 16_000)
    assert run("encode", tmp_path / "long.flac", tmp_path / "long.atok")[0] == 0
    codes, _ = load_codes(tmp_path / "long.atok")
    whole = tiny_codec.encode(load_audio(tmp_path / "long.flac")[0][None]).audio_codes[0]
    assert codes.shape == whole.shape and (codes == whole).float().mean() > 0.999
    assert run("decode", tmp_path / "long.atok", tmp_path / "back.wav")[0] == 0
    assert soundfile.info(tmp_path / "back.wav").frames == 30.5 * 16_000


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
            program = [sys.executable, "-m", "audiotok.cli.main", verb]
            command = [*program, *names, "--codec", str(tiny_codec_dir)]
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
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


def test_files_are_replaced_only_when_told(run, clip, tmp_path):
    target = tmp_path / "a.atok"
    target.write_text("precious")
    assert_one_line_error(run("encode", clip, target), "a.atok", "--overwrite")
    assert target.read_text() == "precious"
    assert run("encode", clip, target, "--overwrite")[0] == 0
    assert_one_line_error(run("encode", clip, clip, "--overwrite"), ".atok")
    (tmp_path / "other").mkdir()
    save_audio(tmp_path / "other" / "clip.flac", torch.zeros(100), 16_000)
    both = (clip, tmp_path / "other" / "clip.flac")  # would write the same file
    assert_one_line_error(run("encode", *both, "--out", tmp_path / "out", "--overwrite"), "clip.flac")
    assert load_codes(tmp_path / "out" / "clip.atok")[1].num_samples > 100


def test_a_glob_of_sounds_replaces_none_of_them(run, clip, tmp_path):
    save_audio(tmp_path / "other.wav", torch.zeros(100), 16_000)
    run("encode", clip, tmp_path / "a.atok")
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*") if path.is_file()}
    assert_one_line_error(run("encode", clip, tmp_path / "other.wav", "--overwrite"), "other.wav", "--out")
    words = ("truncate", tmp_path / "a.atok", clip, "--n-q", 1, "--overwrite")
    assert_one_line_error(run(*words, codec=None), "clip")
    assert_one_line_error(run("decode", tmp_path / "a.atok", tmp_path / "a.atok", "--overwrite"))
    assert before == {path: path.read_bytes() for path in before}


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


def test_bfloat16_and_device_are_taken(run, clip, tmp_path):
    assert run("encode", clip, tmp_path / "a.atok", "--device", "cpu")[0] == 0
    words = ("decode", tmp_path / "a.atok", tmp_path / "b.wav")
    assert run(*words, "--dtype", "bfloat16")[0] == 0
    assert_one_line_error(run(*words, "--device", "toaster", "--overwrite"), "toaster")


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


def test_what_is_not_sound_is_refused(run, tmp_path):
    cases = bad_sounds(tmp_path)
    before = left_in(tmp_path)
    for path, text in cases.values():
        assert_one_line_error(run("encode", path, tmp_path / "out.atok"), text, path.name)
        if path.is_file():
            assert_one_line_error(run("info", path), text, path.name)
    assert left_in(tmp_path) == before


def test_odd_sounds_are_encoded(run, tmp_path):
    for samples, channels, rate in ((1, 1, 192_000), (5_000, 8, 16_000), (321, 2, 44_100)):
        soundfile.write(tmp_path / "odd.wav", np.full((samples, channels), 0.1), rate)
        assert run("encode", tmp_path / "odd.wav", tmp_path / "odd.atok", "--overwrite")[0] == 0
        assert run("decode", tmp_path / "odd.atok", tmp_path / "back.wav", "--overwrite")[0] == 0
        expected = max(1, samples * 16_000 / rate)
        assert abs(soundfile.info(tmp_path / "back.wav").frames - expected) <= 1


def test_a_folder_that_cannot_be_written_is_refused(run, clip, tmp_path):
    run("encode", clip, tmp_path / "a.atok")
    before = left_in(tmp_path)
    for words in (("encode", clip), ("decode", tmp_path / "a.atok")):
        for folder in ("missing", "/proc", "clip.wav"):
            assert_one_line_error(run(*words, tmp_path / folder / "out.wav"))
        assert_one_line_error(run(*words, "--out", "/proc/out"))
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
        "empty": (b"", "damaged"),
        "text": (b"hello", "expected an .atok file"),
        "version": (b"ATOK\x09" + data[5 : found.at], "version 1"),
        "header": (bytes(header), "damaged"),
        "cut": (data[: found.at + 9], "expected packets, got none"),
        "other": ((folder / "whole.other").read_bytes(), "got codes of 'loud'"),
        "patched": (head_bytes(other) + data[found.at :], "joined from two"),
    }
    for name, (content, _) in contents.items():
        (folder / f"{name}.atok").write_bytes(content)
    cases = {name: (folder / f"{name}.atok", text) for name, (_, text) in contents.items()}
    return cases | {"missing": (folder / "missing.atok", "no such file"), "folder": (folder, "folder")}


def test_decode_refuses_what_is_not_its_codes(run, clip, tmp_path):
    run("encode", clip, tmp_path / "whole.atok")
    cases = damaged_codes(tmp_path / "whole.atok")
    before = left_in(tmp_path)
    for path, text in cases.values():
        assert_one_line_error(run("decode", path, tmp_path / "out.wav"), text)
    result = run("decode", tmp_path / "whole.atok", tmp_path / "a.wav", codec=None)
    assert_one_line_error(result, "'tiny'", "--codec")
    words = ("truncate", tmp_path / "cut.atok", tmp_path / "b.atok", "--n-q", 2)
    assert_one_line_error(run(*words, codec=None), "expected packets, got none", "copy it again")
    assert left_in(tmp_path) == before


def test_a_provenance_tag_comes_back_with_the_sound(run, clip, tmp_path, wav):
    tag = "Generated speech, not a recording: by us, voice slt"
    for suffix in ("wav", "flac"):
        save_audio(tmp_path / f"said.{suffix}", wav, 16_000, tag)
        assert run("encode", tmp_path / f"said.{suffix}", tmp_path / f"{suffix}.atok")[0] == 0
        assert run("decode", tmp_path / f"{suffix}.atok", tmp_path / f"back.{suffix}")[0] == 0
        assert read_comment(tmp_path / f"back.{suffix}") == tag
    assert tag in run("info", tmp_path / "said.wav")[1]
    assert load_codes(tmp_path / "wav.atok")[1].metadata == {"generated": tag}
    for said, comment in (("yes", "Generated speech, not a recording"), ("no", None)):
        words = ("encode", clip, tmp_path / "a.atok", "--meta", f"generated={said}", "--overwrite")
        assert run(*words)[0] == 0
        assert run("decode", tmp_path / "a.atok", tmp_path / "a.wav", "--overwrite")[0] == 0
        assert read_comment(tmp_path / "a.wav") == comment


def test_a_codecs_own_model_makes_files_that_need_it(run, clip, tmp_path, tiny_codec, tiny_codec_dir):
    model = atok_toys.toy_model(n_q=4, codebook_size=64, fingerprint=tiny_codec.codes_fingerprint)
    model.save(tiny_codec_dir / "entropy.safetensors")
    assert run("encode", clip, tmp_path / "lm.atok", "--meta", "generated=no")[0] == 0
    assert run("encode", clip, tmp_path / "plain.atok", "--no-lm")[0] == 0
    lm, plain = map(
        json.loads, run("info", tmp_path / "lm.atok", tmp_path / "plain.atok", "--json")[1].splitlines()
    )
    assert (lm["coding"], plain["coding"]) == ("learnt", "adaptive") and lm["meta.generated"] == "no"
    assert lm["model_fingerprint"] == model.fingerprint and lm["damage"] == []
    for name in ("lm", "plain"):
        assert run("decode", tmp_path / f"{name}.atok", tmp_path / f"{name}.wav")[0] == 0
    assert (tmp_path / "lm.wav").read_bytes() == (tmp_path / "plain.wav").read_bytes()
    assert "every code decoded" in run("verify", tmp_path / "lm.atok")[1]
    assert f"model {model.fingerprint} is not installed" in run("verify", tmp_path / "lm.atok", codec=None)[1]


def test_damage_is_reported_concealed_and_verified(run, tmp_path, make_speech):
    save_audio(tmp_path / "a.wav", make_speech(1.0), 16_000)
    assert run("encode", tmp_path / "a.wav", tmp_path / "a.atok", "--packet-frames", 10)[0] == 0
    code, out, err = run("verify", tmp_path / "a.atok")
    assert (code, err) == (0, "") and "5 packets" in out
    data = bytearray((tmp_path / "a.atok").read_bytes())
    data[PacketScanner().feed(bytes(data))[2].at + 9] ^= 4
    (tmp_path / "b.atok").write_bytes(data)
    (tmp_path / "c.atok").write_bytes(data[:-30])
    where = "packet 2 (0.40 to 0.60 s)"
    assert_one_line_error(run("verify", tmp_path / "a.atok", tmp_path / "b.atok"), where)
    for name, text in (("a", ""), ("b", where), ("c", "the index at the end")):
        code, _, err = run("decode", tmp_path / f"{name}.atok", tmp_path / f"{name}2.wav")
        assert code == 0 and text in err and ("warning" in err) == bool(text)
    whole, broken, cut = (load_audio(tmp_path / f"{name}2.wav")[0] for name in "abc")
    assert whole.shape == broken.shape == cut.shape and torch.equal(whole[:, :6000], broken[:, :6000])


def test_wrong_usage_exits_2(capsys):
    wrong = (
        "nonsense|encode|encode a.wav|encode a b c|decode a|encode - a b|encode - --out x|decode - - --n-q 0"
    )
    for words in (wrong + "|encode --n-q x a b|info --codec").split("|"):
        with pytest.raises(SystemExit) as stop:
            main(words.split())
        assert stop.value.code == 2 and "usage: audiotok" in capsys.readouterr().err


def test_every_verb_has_help(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    for verb in VERBS:
        assert verb in out
        with pytest.raises(SystemExit) as stop:
            main([verb, "--help"])
        assert stop.value.code == 0 and f"audiotok {verb}" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="counts processor time as POSIX does")
def test_help_and_import_are_cheap():
    """In processor time, since tests run beside others."""
    import resource

    def seconds() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    for words, limit_s in ((["-m", "audiotok.cli.main", "--help"], 0.5), (["-c", "import audiotok"], 0.3)):
        costs = []
        for _ in range(2):
            start = seconds()
            subprocess.run([sys.executable, *words], check=True, capture_output=True, cwd=ROOT)
            costs.append(seconds() - start)
        assert min(costs) < limit_s


def test_help_imports_nothing_heavy():
    code = (
        "import sys, audiotok, audiotok.cli.main as m\n"
        "for verb in m.VERBS: m.build_parser(verb)\n"
        "print([n for n in ('torch', 'av', 'transformers', 'soundfile', 'datasets') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(sys.platform != "linux", reason="devices and names of Linux")
def test_outputs_that_are_no_files_are_refused_before_the_work(run, clip, tmp_path):
    (tmp_path / "null.atok").symlink_to("/dev/null")
    (tmp_path / "folder.atok").mkdir()
    assert_one_line_error(run("encode", clip, tmp_path / "null.atok", "--overwrite"), "device")
    assert_one_line_error(run("encode", clip, tmp_path / "folder.atok", "--overwrite"), "folder")
    run("encode", clip, tmp_path / "a.atok")
    for name in ("/dev/null", "/dev/stdout", tmp_path):
        assert run("decode", tmp_path / "a.atok", name, "--overwrite")[0] == 1


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
    assert_one_line_error(result, "metadata")
