"""Audio files are read completely or refused, equally from a path, bytes and a pipe."""

from __future__ import annotations

import io
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audiotok import AudioError, load_audio, read_comment, resample, save_audio, wav_head
from audiotok.audio import audio_blocks, open_audio, pcm_bytes, save_audio_blocks

RATE = 16_000
SUBTYPES = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")


class Pipe(io.BytesIO):
    """A pipe that brings a few bytes at a time and cannot seek."""

    def read1(self, size: int = -1, /) -> bytes:
        return super().read1(min(size, 1001) if size > 0 else 1001)

    def seekable(self) -> bool:
        return False

    def seek(self, *_: int) -> int:
        raise io.UnsupportedOperation("seek")


def tone(seconds: float, rate: int = RATE, silent_s: float = 0.0, pitch_hz: float = 220.0) -> np.ndarray:
    time_s = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).standard_normal(len(time_s))
    wav = 0.3 * np.sin(2 * np.pi * pitch_hz * time_s) * np.sin(np.pi * time_s) ** 2 + 0.03 * noise
    wav[: round(silent_s * rate)] = 0
    return wav.astype(np.float32)


def stored(
    wav: np.ndarray, form: str = "WAV", subtype: str | None = None, rate: int = RATE, **options
) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wav, rate, format=form, subtype=subtype, **options)
    return file.getvalue()


def resized(data: bytes, size: int, riff: int | None = None) -> bytes:
    """A wav whose header states the wrong number of bytes."""
    at = data.index(b"data")
    data = data[: at + 4] + struct.pack("<I", size) + data[at + 8 :]
    return data if riff is None else data[:4] + struct.pack("<I", riff) + data[8:]


def without_count(mp3: bytes) -> bytes:
    """An mp3 without its first frame, which counts the others."""
    assert b"Xing" in mp3[:60] or b"Info" in mp3[:60]
    return mp3[mp3.index(b"\xff" + mp3[1:2], 4) :]


def id3(size: int) -> bytes:
    """An ID3 tag with a picture."""
    body = b"APIC" + struct.pack(">I", size) + b"\0\0" + b"\0image/png\0\3\0" + bytes(size - 13)
    return b"ID3\3\0\0" + bytes(len(body) >> shift & 127 for shift in (21, 14, 7, 0)) + body


def flac_total(flac: bytes, total: int) -> bytes:
    """A FLAC file that states another number of samples."""
    head = int.from_bytes(flac[21:26], "big") & ~((1 << 36) - 1) | total
    return flac[:21] + head.to_bytes(5, "big") + flac[26:]


MP3 = {"form": "MP3", "subtype": "MPEG_LAYER_III"}


def odd_files() -> dict[str, tuple[bytes, float, float]]:
    """Name -> bytes, seconds of sound in them, and seconds that a decoder may add."""
    a, b = tone(3), tone(2, pitch_hz=330)
    a48, b48 = tone(3, 48_000), tone(2, 48_000)
    wav, flac = stored(a), stored(a, "FLAC")
    aiff, au = stored(a, "AIFF"), stored(a, "AU")
    vbr = {**MP3, "bitrate_mode": "VARIABLE"}
    rf64 = stored(a, "RF64")
    info = b"LIST" + struct.pack("<I", 18) + b"INFOICMT" + struct.pack("<I", 6) + b"hello\0"
    return {
        "mp3 vbr joined": (stored(a, **vbr) + stored(b, **vbr), 5, 0.2),
        "mp3 joined with tags": (
            id3(60_000) + stored(a, **MP3) + id3(30_000) + stored(b, **MP3) + b"TAG" + bytes(125), 5, 0.2,
        ),
        "mp3 joined with tags, without counts": (
            id3(99) + without_count(stored(a, **MP3)) + id3(30_000) + without_count(stored(b, **MP3)), 5, 0.3,
        ),
        "mp3 joined of two rates": (stored(a48, rate=48_000, **MP3) + stored(b, **MP3), 5, 0.2),
        "mp3 vbr, silent start": (without_count(stored(tone(20, silent_s=8), **vbr)), 20, 0.2),
        "mp3 cbr with art": (id3(60_000) + without_count(stored(a, **MP3)), 3, 0.2),
        "vorbis": (stored(a48, "OGG", "VORBIS", 48_000), 3, 0),
        "vorbis joined": (stored(a48, "OGG", "VORBIS", 48_000) + stored(b48, "OGG", "VORBIS", 48_000), 5, 0.03),
        "opus three times the same": (stored(a48, "OGG", "OPUS", 48_000) * 3, 9, 0.03),
        "flac of unknown length": (flac_total(flac, 0), 3, 0),
        "flac that states too little": (flac_total(flac, 40_000), 3, 0),
        "flac joined": (flac + stored(b, "FLAC"), 5, 0),
        "flac with a tag": (id3(500) + flac, 3, 0),
        "wav of size 0": (resized(wav, 0, 0), 3, 0),
        "wav of size 0, riff known": (resized(wav, 0), 3, 0),
        "wav of size ffffffff": (resized(wav, 0xFFFFFFFF, 0xFFFFFFFF), 3, 0),
        "wav by sox": (resized(wav, 0x7FFFF000, 0x7FFFF024), 3, 0),
        "wav by arecord": (resized(wav, 0x80000000, 0x80000024), 3, 0),
        "wav that counts its header": (resized(wav, len(wav), len(wav)), 3, 0),
        "wav of odd size": (resized(wav, 96_001), 3, 0),
        "wav twice as large as it is": (resized(wav, 192_000), 3, 0),
        "wav joined": (wav + stored(b), 5, 0),
        "wav joined of two rates": (wav + stored(tone(2, 8000), rate=8000), 5, 0.001),
        "wav joined of mono and stereo": (wav + stored(np.stack([b, b], axis=1)), 5, 0),
        "wav with chunks": (
            wav[:36] + b"junk" + struct.pack("<I", 1001) + bytes(1002) + wav[36:] + b"id3 \x0a\0\0\0" + bytes(10), 3, 0,
        ),
        "wav with a comment at its end": (wav + info, 3, 0),
        "wav and half a chunk": (wav + b"LIST\xff\0\0\0half a note", 3, 0),
        "wav and zeros": (wav + bytes(5000), 3, 0),
        "wav of mu-law, size 0": (resized(stored(a, "WAV", "ULAW"), 0), 3, 0),
        "wav big-endian": (stored(a, "WAV", endian="BIG"), 3, 0),
        "rf64 of unknown size": (rf64[:20] + bytes(16) + rf64[36:], 3, 0),
        "wave64": (stored(a, "W64"), 3, 0),
        "aiff that counts too little": (aiff.replace(struct.pack(">I", 48_000), struct.pack(">I", 20_000), 1), 3, 0),
        "au of unknown size": (au[:8] + b"\xff" * 4 + au[12:], 3, 0),
        "nist": (stored(a, "NIST"), 3, 0),
        "caf": (stored(a, "CAF"), 3, 0),
    }  # fmt: skip


ODD = odd_files()


@pytest.mark.parametrize("case", ODD)
def test_a_file_is_read_to_its_real_end(tmp_path, case, capfd):
    data, seconds, spare_s = ODD[case]
    (tmp_path / "a.bin").write_bytes(data)
    wav, rate = load_audio(tmp_path / "a.bin")
    assert seconds - 1e-9 <= wav.shape[1] / rate <= seconds + spare_s
    for source in (data, io.BytesIO(data), Pipe(data)):
        assert torch.equal(load_audio(source)[0], wav)
    joined = torch.cat(list(audio_blocks(tmp_path / "a.bin", 8000, 0.7)), dim=1)
    torch.testing.assert_close(joined, load_audio(data, 8000)[0], atol=1e-5, rtol=0)
    assert capfd.readouterr().err == ""


def cut_files() -> dict[str, bytes]:
    """Truncated or damaged files."""
    long = tone(20)
    opus, vorbis = stored(long, "OGG", "OPUS"), stored(long, "OGG", "VORBIS")
    flac, mp3, wav = stored(long, "FLAC"), stored(long, **MP3), stored(long)
    middle = len(opus) // 2
    return {
        "ogg": vorbis[: len(vorbis) // 2],
        "opus": opus[:middle],
        "opus at a page": opus[: opus.index(b"OggS", middle)],
        "opus, joined": opus[:middle] + stored(tone(1), "OGG", "OPUS"),
        "opus without its middle": opus[: opus.index(b"OggS", middle)] + opus[opus.rindex(b"OggS") :],
        "opus of two rates": vorbis + stored(tone(1, 48_000), "OGG", "VORBIS", 48_000),
        "opus with a wrong bit": opus[:middle] + bytes([opus[middle] ^ 4]) + opus[middle + 1 :],
        "flac": flac[: len(flac) // 2],
        "flac of unknown length": flac_total(flac, 0)[: len(flac) // 2],
        "flac with a wrong bit": flac[:200_000] + bytes([flac[200_000] ^ 4]) + flac[200_001:],
        "mp3": mp3[: len(mp3) // 2],
        "wav": wav[:-5000],
        "wav at once": wav[: len(wav) // 2],
        "rf64": stored(long, "RF64")[:-999],
        "wave64": stored(long, "W64")[:-999],
        "mu-law": stored(long, "WAV", "ULAW")[:-999],
        "aiff": stored(long, "AIFF")[:-9999],
        "au": stored(long, "AU")[:-9999],
        "nist": stored(long, "NIST")[:-9999],
        "wav that states half": resized(wav, len(wav) // 4 * 2),
        "wav with two chunks of samples": wav + wav[36:],
    }


CUT = cut_files()


@pytest.mark.parametrize("case", CUT)
def test_a_file_that_lacks_a_part_is_refused(tmp_path, case):
    path = tmp_path / "cut.bin"
    path.write_bytes(CUT[case])
    for read in (load_audio, lambda path: list(audio_blocks(path, 8000))):
        with pytest.raises(AudioError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    with pytest.raises(AudioError, match="stdin: "):
        load_audio(Pipe(CUT[case]))


def test_a_comment_behind_samples_of_unknown_size_is_no_sound():
    """In a file; on a pipe the end is not known before it comes."""
    wav = resized(stored(tone(1)), 0)
    for size in (6, 3000):
        text = b"a" * (size - 1) + b"\0"
        listed = b"LIST" + struct.pack("<I", 12 + size) + b"INFOICMT" + struct.pack("<I", size) + text
        assert load_audio(wav + listed)[0].shape[1] == RATE


def test_a_cut_mp4_is_told_to_be_damaged():
    head = b"\0\0\0\x20ftypM4A \0\0\2\0M4A mp42isom\0\0\0\0" + struct.pack(">I", 90_000) + b"mdat"
    with pytest.raises(AudioError, match="MP4.*copy it again"):
        load_audio(head + bytes(5000))


def test_bad_files_are_refused_with_their_name(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("This is not a sound.\n" * 100)
    (tmp_path / "page.mp3").write_text("<html><body>404 not found</body></html>" * 50)
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")
    (tmp_path / "none.wav").write_bytes(stored(np.zeros(0)))
    (tmp_path / "zeros.wav").write_bytes(stored(tone(0.1))[:12] + bytes(100_000))
    (tmp_path / "noise.mp3").write_bytes(np.random.default_rng(0).bytes(50_000))
    for path in (*tmp_path.iterdir(), tmp_path):
        with pytest.raises(AudioError) as caught:
            load_audio(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        load_audio(tmp_path / "missing.wav")


@pytest.mark.parametrize("subtype", SUBTYPES)
def test_samples_of_every_kind(tmp_path, subtype):
    for channels, form in ((1, "WAV"), (3, "WAVEX"), (2, "RF64")):
        sound = np.random.default_rng(0).uniform(-0.9, 0.9, (5000, channels))
        soundfile.write(tmp_path / "x.wav", sound, RATE, subtype, format=form)
        expected = soundfile.read(tmp_path / "x.wav", dtype="float32", always_2d=True)[0].mean(axis=1)
        for source in (tmp_path / "x.wav", Pipe((tmp_path / "x.wav").read_bytes())):
            assert np.array_equal(load_audio(source)[0][0].numpy(), expected)


@pytest.mark.parametrize("form", ["WAV", "FLAC", "MP3"])
def test_a_part_of_a_recording_equals_that_part_of_the_whole(form):
    left, right = tone(3), tone(3, pitch_hz=300)
    data = stored(np.stack([left, right], axis=1), form)
    with open_audio(data) as sound:
        whole = np.concatenate(list(sound.samples()))
    for start_s, stop_s in ((0.0, 1.0), (0.7, 1.9), (1.5, None), (2.9, 9.0), (4.0, 5.0)):
        with open_audio(data) as sound:
            part = list(sound.samples(start_s, stop_s))
        stop = None if stop_s is None else round(stop_s * RATE)
        assert np.array_equal(np.concatenate([*part, whole[:0]]), whole[round(start_s * RATE) : stop])
    with open_audio(data) as sound:
        second = np.concatenate(list(sound.samples(channel=1)))
    assert np.abs(second[: len(right)] - right).max() < (0.1 if form == "MP3" else 1e-4)
    with open_audio(data) as sound, pytest.raises(AudioError):
        list(sound.samples(channel=2))


def test_samples_come_before_the_pipe_ends():
    class Stuck(Pipe):
        def read1(self, size: int = -1, /) -> bytes:
            data = super().read1(size)
            assert data, "asked for more before giving on what had come"
            return data

    blocks = open_audio(Stuck(wav_head(RATE) + bytes(2000))).blocks()
    count = 0
    while count < 1000:
        count += next(blocks).shape[1]


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus"])
def test_files_round_trip_with_their_comment(tmp_path, wav, suffix):
    path = tmp_path / f"a{suffix}"
    save_audio(path, wav, RATE, "Grüße")
    back, rate = load_audio(path, RATE)
    assert rate == RATE and back.shape == wav.shape and back.dtype == torch.float32
    if suffix in (".wav", ".flac"):
        assert (back - wav).abs().max() <= 2**-15
    assert torch.corrcoef(torch.cat([back, wav]))[0, 1] > 0.9
    assert read_comment(path) == "Grüße"


def test_a_comment_comes_before_the_samples_of_a_pipe(wav):
    for comment in ("odd", "even", "x" * 900, None):
        head = wav_head(RATE, comment)
        other = struct.pack("<4sI4s", b"LIST", 8, b"adtl") + b"ICMT"
        for data in (head, head[:12] + other + head[12:]):
            with open_audio(Pipe(data + pcm_bytes(wav))) as sound:
                assert sound.comment == comment and sum(b.shape[1] for b in sound.blocks()) == wav.shape[1]


def test_piped_samples_are_those_of_the_file_writer(tmp_path, wav):
    save_audio(tmp_path / "a.wav", wav * 1.9, RATE)
    piped = wav_head(RATE) + pcm_bytes(wav * 1.9)
    assert torch.equal(load_audio(piped)[0], load_audio(tmp_path / "a.wav")[0])


def bad_streams() -> dict[str, tuple[bytes, str]]:
    """Streams that are refused, with a value that the error names."""
    head = wav_head(RATE)
    floats = head[:20] + struct.pack("<HHIIHH", 3, 1, RATE, 64_000, 4, 32) + head[36:]
    return {
        "nothing": (b"", "empty"),
        "half a header": (head[:30], "header"),
        "no samples": (head, "got 0"),
        "nan": (floats + np.array([0.0, np.nan], "<f4").tobytes(), "sample 1"),
        "no rate of sound": (head[:24] + struct.pack("<I", 4_000_000_000) + head[28:], "4000000000 Hz"),
        "a chunk without end": (head[:12] + struct.pack("<4sI", b"LIST", 4_000_000_000), "header"),
        "no format": (head[:12] + head[36:] + bytes(10), "describes its samples"),
    }


@pytest.mark.parametrize("case", bad_streams())
def test_streams_that_are_no_sound_are_refused(case):
    data, value = bad_streams()[case]
    with pytest.raises(AudioError, match=value):
        load_audio(Pipe(data))


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(1, 60_000),
    rates=st.sampled_from([(16_000, 16_000), (44_100, 16_000), (8_000, 16_000), (22_050, 24_000)]),
    block_s=st.floats(0.01, 3.0),
)
def test_blocks_equal_the_whole(n, rates, block_s):
    samples = np.random.default_rng(n).uniform(-0.9, 0.9, n).astype(np.float32)
    data = stored(samples, "WAV", "FLOAT", rates[0])
    whole, _ = load_audio(data, rates[1])
    blocks = list(audio_blocks(data, rates[1], block_s))
    torch.testing.assert_close(torch.cat(blocks, dim=-1), whole, atol=1e-5, rtol=0)
    assert whole.shape[1] >= 1 and len({block.shape[-1] for block in blocks[:-1]}) <= 1
    direct = resample(torch.from_numpy(samples)[None], *rates)
    torch.testing.assert_close(direct, whole, atol=1e-5, rtol=0)


def test_resample_keeps_batch_shape_and_pitch():
    t = torch.arange(24_000) / 24_000
    sine = torch.sin(2 * torch.pi * 440 * t).expand(2, 1, -1)
    out = resample(sine, 24_000, RATE)
    assert out.shape == (2, 1, RATE)
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(RATE) / RATE)
    assert (out[1, 0, 500:-500] - expected[500:-500]).abs().max() < 1e-3
    assert resample(sine, RATE, RATE) is sine
    for n, rates in (
        (5, (0, RATE)),
        (5, (RATE, -1)),
        (5, (1 << 70, RATE)),
        (5, ("8000", RATE)),
        (0, (8000, RATE)),
    ):
        with pytest.raises(ValueError):
            resample(torch.zeros(1, n), *rates)


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_samples_that_are_not_finite_are_refused(tmp_path, bad):
    samples = np.zeros(200_000, dtype=np.float32)
    samples[[150_001, 150_007]] = bad
    with pytest.raises(AudioError, match="sample 150001"):
        load_audio(stored(samples, "WAV", "FLOAT"))
    with pytest.raises(AudioError, match="sample 150001"):
        save_audio(tmp_path / "out.wav", torch.from_numpy(samples), RATE)
    assert list(tmp_path.iterdir()) == []


def test_overshoot_is_clamped_and_another_unit_refused():
    assert load_audio(stored(np.array([0.5, 1.3, -1.2]), "WAV", "FLOAT"))[0].tolist() == [[0.5, 1.0, -1.0]]
    with pytest.raises(AudioError, match="30000"):
        load_audio(stored(np.array([0.0, 30_000.0]), "WAV", "FLOAT"))


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    some = torch.zeros(1, 10)
    for name, sound, rate, error in (
        ("a.mp4", some, RATE, AudioError),
        ("a", some, RATE, AudioError),
        ("a.wav", torch.zeros(2, 10), RATE, AudioError),
        ("a.wav", torch.zeros(1, 1, 10), RATE, AudioError),
        ("a.wav", torch.zeros(1, 0), RATE, AudioError),
        ("a.wav", some, 0, AudioError),
        ("a.wav", some, "16000", AudioError),
        ("a.opus", some, 22_050, AudioError),
        ("a.wav", torch.zeros(9, dtype=torch.int16), RATE, AudioError),
        ("a.wav", torch.full((9,), 32_767.0), RATE, AudioError),
        ("a.wav", [0.1, 0.2], RATE, TypeError),
        ("no/a.wav", some, RATE, FileNotFoundError),
    ):
        with pytest.raises(error):
            save_audio(tmp_path / name, sound, rate)
    assert list(tmp_path.iterdir()) == []


def test_blocks_are_written_in_order_and_a_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.wav"
    assert save_audio_blocks(path, [torch.full((3,), 0.5), torch.full((1, 2), -0.5)], RATE) == 5
    assert load_audio(path)[0][0].round(decimals=3).tolist() == [0.5, 0.5, 0.5, -0.5, -0.5]
    before = path.read_bytes()
    with pytest.raises(AudioError):
        save_audio_blocks(path, [torch.zeros(3), torch.tensor([torch.nan])], RATE)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_not_utf8_are_read_and_written(tmp_path, wav):
    for suffix in (b".wav", b".flac"):
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9" + suffix))
        save_audio(path, wav, RATE)
        assert load_audio(path)[0].shape == wav.shape


def test_blocks_have_a_length():
    for block_s in (0.0, float("nan"), float("inf")):
        with pytest.raises(ValueError):
            list(audio_blocks(stored(tone(0.1)), block_s=block_s))


def peak_mib() -> float:
    """The peak of this process's memory since ``/proc/self/clear_refs`` was written."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="Linux can reset the peak of memory")
def test_hours_are_read_in_constant_memory(tmp_path):
    hours, rate = 3, 2_000
    with soundfile.SoundFile(tmp_path / "long.flac", "w", rate, 1) as file:
        for _ in range(hours):
            file.write(np.zeros(3600 * rate, dtype=np.int16))
    assert load_audio(stored(tone(1), "FLAC"), 4_000)[1] == 4_000  # imports
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_mib()
    samples = sum(block.shape[-1] for block in audio_blocks(tmp_path / "long.flac", 4_000))
    assert samples == hours * 3600 * 4_000
    assert peak_mib() - before < 50  # all of it as float32 would be 165 MiB
