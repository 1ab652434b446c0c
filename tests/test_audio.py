"""Sound files: what comes in is finite, mono, whole, or an AudioError says why; blocks equal the whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audiotok import AudioError, load_audio, resample, save_audio
from audiotok.audio import audio_blocks, audio_facts, save_audio_blocks


def write(path: Path, samples: np.ndarray, rate: int = 16_000, **options) -> Path:
    soundfile.write(path, samples, rate, **options)
    return path


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_pcm_files_round_trip_within_a_step(tmp_path, wav, suffix):
    save_audio(tmp_path / f"a{suffix}", wav, 16_000)
    back, rate = load_audio(tmp_path / f"a{suffix}")
    assert rate == 16_000 and back.shape == wav.shape and back.dtype == torch.float32
    assert (back - wav).abs().max() <= 2**-15


@pytest.mark.parametrize("suffix", [".ogg", ".opus"])
def test_opus_files_keep_length_and_sound(tmp_path, wav, suffix):
    save_audio(tmp_path / f"a{suffix}", wav[0], 16_000)
    back, rate = load_audio(tmp_path / f"a{suffix}", 16_000)
    assert rate == 16_000 and back.shape == wav.shape
    assert torch.corrcoef(torch.cat([back, wav]))[0, 1] > 0.9


def test_channels_are_averaged(tmp_path):
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (1000, 8)).astype(np.float32)
    path = write(tmp_path / "eight.wav", sound, subtype="FLOAT")
    back, _ = load_audio(path)
    assert back.shape == (1, 1000)
    np.testing.assert_allclose(back[0], sound.mean(axis=1), atol=1e-6)


def test_192_khz_comes_down_to_16(tmp_path, make_speech):
    path = write(tmp_path / "high.wav", make_speech(0.5, 192_000)[0].numpy(), 192_000)
    back, rate = load_audio(path, 16_000)
    assert (back.shape, rate) == ((1, 8000), 16_000)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 192_000])
def test_one_sample_stays_a_sound(tmp_path, rate):
    path = write(tmp_path / "one.wav", np.array([0.25], dtype=np.float32), rate)
    back, _ = load_audio(path, 16_000)
    assert back.shape[-1] >= 1 and torch.isfinite(back).all()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(1, 150_000),
    rates=st.sampled_from([(16_000, 16_000), (44_100, 16_000), (8_000, 16_000), (22_050, 24_000)]),
    block_s=st.floats(0.01, 3.0),
)
def test_blocks_equal_the_whole(tmp_path, n, rates, block_s):
    samples = np.random.default_rng(n).uniform(-0.9, 0.9, n).astype(np.float32)
    path = write(tmp_path / "x.wav", samples, rates[0], subtype="FLOAT")
    whole, _ = load_audio(path, rates[1])
    blocks = list(audio_blocks(path, rates[1], block_s))
    joined = torch.cat(blocks, dim=-1)
    assert joined.shape == whole.shape
    assert (joined - whole).abs().max() <= 1e-5
    assert len({block.shape[-1] for block in blocks[:-1]}) <= 1
    direct = resample(torch.from_numpy(samples)[None], *rates)
    assert direct.shape == whole.shape and (direct - whole).abs().max() <= 1e-5


def test_resample_keeps_batch_shape_and_pitch():
    t = torch.arange(24_000) / 24_000
    tone = torch.sin(2 * torch.pi * 440 * t).expand(2, 1, -1)
    out = resample(tone, 24_000, 16_000)
    assert out.shape == (2, 1, 16_000)
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(16_000) / 16_000)
    assert (out[1, 0, 500:-500] - expected[500:-500]).abs().max() < 1e-3
    assert resample(tone, 16_000, 16_000) is tone


@pytest.mark.parametrize(("n", "rates"), [(5, (0, 16_000)), (5, (16_000, -1)), (0, (8_000, 16_000))])
def test_resample_refuses_nonsense(n, rates):
    with pytest.raises(ValueError, match="expected"):
        resample(torch.zeros(1, n), *rates)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused_by_position_and_count(tmp_path, bad):
    samples = np.zeros(200_000, dtype=np.float32)
    samples[[150_001, 150_007]] = bad
    path = write(tmp_path / "bad.wav", samples, subtype="FLOAT")
    for read in (load_audio, lambda p: list(audio_blocks(p, 8_000))):
        with pytest.raises(AudioError, match=r"bad\.wav.*NaN or inf at sample 150001 \(2 in"):
            read(path)
    with pytest.raises(AudioError, match="sample 150001"):
        save_audio(tmp_path / "out.wav", torch.from_numpy(samples), 16_000)
    assert not (tmp_path / "out.wav").exists()


def test_overshoot_is_clamped_and_another_unit_refused(tmp_path):
    path = write(tmp_path / "loud.wav", np.array([0.5, 1.3, -1.2], dtype=np.float32), subtype="FLOAT")
    assert load_audio(path)[0].tolist() == [[0.5, 1.0, -1.0]]
    path = write(tmp_path / "int.wav", np.array([0.0, 30_000.0], dtype=np.float32), subtype="FLOAT")
    with pytest.raises(AudioError, match="peak of 30000"):
        load_audio(path)


def bad_files(folder: Path) -> dict[str, tuple[Path, type[Exception], str]]:
    """Every file that is not a sound, with the error it must give."""
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("This is not a sound.\n" * 100)
    write(folder / "none.wav", np.zeros(0, dtype=np.float32))
    whole = write(folder / "whole.flac", np.random.default_rng(0).uniform(-0.5, 0.5, 100_000))
    data = whole.read_bytes()
    (folder / "cut.flac").write_bytes(data[: len(data) // 2])
    return {
        "missing": (folder / "missing.wav", FileNotFoundError, "no such file"),
        "empty": (folder / "empty.wav", AudioError, "empty file"),
        "text": (folder / "text.wav", AudioError, "got something else"),
        "folder": (folder, AudioError, "got a folder"),
        "no samples": (folder / "none.wav", AudioError, "0 samples"),
        "cut off": (folder / "cut.flac", AudioError, "damaged|cut off"),
    }


@pytest.mark.parametrize("case", ["missing", "empty", "text", "folder", "no samples", "cut off"])
def test_what_is_not_a_sound_is_refused(tmp_path, case):
    path, error, text = bad_files(tmp_path)[case]
    with pytest.raises(error, match=text) as caught:
        load_audio(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "wav_shape", "rate", "text"),
    [
        ("a.mp4", (1, 10), 16_000, "expected a name ending in"),
        ("a", (1, 10), 16_000, "no suffix"),
        ("a.wav", (2, 10), 16_000, r"got \[2, 10\]"),
        ("a.wav", (1, 1, 10), 16_000, "expected wav"),
        ("a.wav", (1, 0), 16_000, "at least one sample"),
        ("a.wav", (1, 10), 0, "whole sampling rate of 1"),
        ("a.opus", (1, 10), 22_050, "Opus takes"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(tmp_path, name, wav_shape, rate, text):
    with pytest.raises(AudioError, match=text):
        save_audio(tmp_path / name, torch.zeros(wav_shape), rate)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        save_audio(tmp_path / "no" / "a.wav", torch.zeros(10), 16_000)


def test_blocks_are_written_in_order_and_a_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.wav"
    assert save_audio_blocks(path, [torch.full((3,), 0.5), torch.full((1, 2), -0.5)], 16_000) == 5
    assert load_audio(path)[0][0].round(decimals=3).tolist() == [0.5, 0.5, 0.5, -0.5, -0.5]
    before = path.read_bytes()
    with pytest.raises(AudioError):
        save_audio_blocks(path, [torch.zeros(3), torch.tensor([torch.nan])], 16_000)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("form", ["WAV", "WAVEX", "RF64"])
@pytest.mark.parametrize("lost", [4, 999, 15_000])
def test_a_wav_that_was_cut_off_is_refused(tmp_path, wav, form, lost):
    path = write(tmp_path / "whole.wav", wav[0].numpy(), format=form)
    (tmp_path / "cut.wav").write_bytes(path.read_bytes()[:-lost])
    for reading in (load_audio, audio_facts, lambda path: list(audio_blocks(path))):
        reading(path)
        with pytest.raises(AudioError, match=f"cut.wav: expected {lost} bytes more of sound by its header"):
            reading(tmp_path / "cut.wav")


def test_a_wav_is_not_cut_off_by_less_than_a_sample_or_by_what_follows_it(tmp_path, wav):
    whole = write(tmp_path / "whole.wav", wav[0].numpy()).read_bytes()
    (tmp_path / "a.wav").write_bytes(whole[:-1])
    (tmp_path / "b.wav").write_bytes(whole + b"LIST\xff\0\0\0half a note")
    (tmp_path / "zeros.wav").write_bytes(whole[:12] + bytes(100_000))
    assert load_audio(tmp_path / "a.wav")[0].shape[-1] == wav.shape[-1] - 1
    assert load_audio(tmp_path / "b.wav")[0].shape == wav.shape
    with pytest.raises(AudioError, match="expected"):
        load_audio(tmp_path / "zeros.wav")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_not_utf8_are_read_and_written(tmp_path, wav):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    save_audio(path, wav, 16_000)
    assert load_audio(path)[0].shape == wav.shape and os.listdir(os.fsencode(tmp_path)) == [b"caf\xe9.wav"]


@pytest.mark.parametrize(
    ("sound", "kind", "text"),
    [
        ([0.1, 0.2], TypeError, "expected wav as a torch.Tensor, got list"),
        (None, TypeError, "got NoneType"),
        (np.zeros(9, np.float32), TypeError, "got ndarray"),
        (torch.zeros(9, dtype=torch.int16), AudioError, "divide 16-bit samples by 32768"),
        (torch.full((9,), 32_767.0), AudioError, "got a peak of 32767"),
    ],
)
def test_what_is_no_wav_is_not_saved(tmp_path, sound, kind, text):
    with pytest.raises(kind, match=text):
        save_audio(tmp_path / "a.wav", sound, 16_000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rate", ["16000", 16_000.5, 1 << 70, -1])
def test_rates_that_no_sound_has_are_refused(tmp_path, wav, rate):
    with pytest.raises(AudioError, match="whole sampling rate of 1 to 1000000 Hz"):
        save_audio(tmp_path / "a.wav", wav, rate)
    if rate != 16_000.5:
        with pytest.raises(AudioError, match="sampling rates of 1 to 1000000 Hz"):
            resample(wav, rate, 16_000)


def test_a_rate_of_0_and_blocks_without_end_are_refused(tmp_path, wav):
    save_audio(tmp_path / "a.wav", wav, 16_000)
    with pytest.raises(AudioError, match="got 16000 and 0 Hz"):
        load_audio(tmp_path / "a.wav", 0)
    for block_s in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite number of seconds above 0"):
            list(audio_blocks(tmp_path / "a.wav", block_s=block_s))


def test_facts_come_from_the_header(tmp_path):
    path = write(tmp_path / "a.flac", np.zeros((4410, 2)), 44_100)
    facts = audio_facts(path)
    assert facts == {
        "duration_s": 0.1,
        "sampling_rate": 44_100,
        "num_samples": 4410,
        "channels": 2,
        "format": "FLAC/PCM_16",
    }


_TEN_HOURS = """
import resource, sys
from audiotok.audio import audio_blocks
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
samples = sum(block.shape[-1] for block in audio_blocks(sys.argv[1], 4_000))
print(samples, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) // 1024)
"""


def test_ten_hours_are_read_in_constant_memory(tmp_path):
    path = tmp_path / "long.wav"
    hours, rate = 10, 2_000
    with soundfile.SoundFile(path, "w", rate, 1, subtype="PCM_U8") as file:
        for _ in range(hours):
            file.write(np.zeros(3600 * rate, dtype=np.float32))
    done = subprocess.run(
        [sys.executable, "-c", _TEN_HOURS, str(path)], capture_output=True, text=True, check=True
    )
    samples, grown_mib = map(int, done.stdout.split())
    assert samples == hours * 3600 * 4_000
    assert grown_mib < 100  # all of it as float32 would be 549 MiB
