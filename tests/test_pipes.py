"""Sound on pipes: the samples of the file reader, from every format and every header that programs write."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile
import torch

from audiotok import AudioError, load_audio, save_audio
from audiotok.audio import read_comment
from audiotok.pipes import Pcm, pcm_bytes, read_sound, wav_head
from audiotok.wav import PCM_BYTES

KINDS = {
    "PCM_U8": "u8", "PCM_16": "s16le", "PCM_24": "s24le", "PCM_32": "s32le", "FLOAT": "f32le", "DOUBLE": "f64le",
}  # fmt: skip


class Dripping(io.BytesIO):
    """A pipe that brings a few bytes at a time."""

    def read1(self, size: int = -1, /) -> bytes:
        return super().read1(min(size, 1001) if size > 0 else 1001)


def heard(data: bytes, rate: int = 16_000, raw: Pcm | None = None, stream=Dripping) -> torch.Tensor:
    return torch.cat(list(read_sound(stream(data), rate, raw).blocks), dim=-1)


def written(folder, wav, rate=16_000, **options):
    soundfile.write(folder / "x.wav", wav, rate, **options)
    return (folder / "x.wav").read_bytes()


@pytest.mark.parametrize("subtype", KINDS)
@pytest.mark.parametrize(("channels", "form"), [(1, "WAV"), (3, "WAVEX"), (2, "RF64")])
def test_a_wav_on_a_pipe_is_the_wav_in_a_file(tmp_path, subtype, channels, form):
    sound = np.random.default_rng(0).uniform(-0.9, 0.9, (5000, channels))
    data = written(tmp_path, sound, format=form, subtype=subtype)
    assert torch.equal(heard(data), load_audio(tmp_path / "x.wav")[0])


@pytest.mark.parametrize("subtype", KINDS)
def test_raw_samples_are_read(tmp_path, subtype):
    sound = np.random.default_rng(0).uniform(-0.9, 0.9, (5000, 2))
    soundfile.write(tmp_path / "x.raw", sound, 16_000, format="RAW", subtype=subtype, endian="LITTLE")
    soundfile.write(tmp_path / "x.wav", sound, 16_000, subtype=subtype)
    ours = heard((tmp_path / "x.raw").read_bytes(), raw=Pcm(KINDS[subtype], 16_000, 2))
    assert torch.equal(ours, load_audio(tmp_path / "x.wav")[0])
    assert set(KINDS.values()) == set(PCM_BYTES)


def test_other_rates_are_resampled_as_in_a_file(tmp_path, make_speech):
    data = written(tmp_path, make_speech(0.7, 44_100)[0].numpy(), 44_100)
    whole = load_audio(tmp_path / "x.wav", 16_000)[0]
    ours = heard(data)
    assert ours.shape == whole.shape
    torch.testing.assert_close(ours, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000, 0x7FFFFFFF, 0x80000000])
def test_headers_that_do_not_know_the_length(tmp_path, wav, size):
    """As sox, ffmpeg and arecord write them to a pipe; also when such a pipe was saved as a file."""
    data = bytearray(written(tmp_path, wav[0].numpy()))
    data[40:44] = struct.pack("<I", size)
    data[4:8] = struct.pack("<I", size and min(0xFFFFFFFF, size + 36))
    whole = load_audio(tmp_path / "x.wav")[0]
    assert torch.equal(heard(bytes(data)), whole)
    (tmp_path / "saved.wav").write_bytes(data)
    if size:  # libsndfile believes a 0
        assert torch.equal(load_audio(tmp_path / "saved.wav")[0], whole)


def test_chunks_around_the_samples_are_passed_over(tmp_path):
    data = written(tmp_path, np.full(999, 0.25), subtype="PCM_U8")
    note = struct.pack("<4sI", b"LIST", 5) + b"hello\0"
    around = data[:12] + note + data[12:] + note
    assert torch.equal(heard(around), heard(data)) and heard(data).shape == (1, 999)


@pytest.mark.parametrize("comment", ["odd", "even", "Grüße, 3 Sätze", "x" * 900])
def test_a_comment_comes_with_the_sound(tmp_path, wav, comment):
    """From the file writer, from our own head, and behind a list of another kind; nothing else is one."""
    save_audio(tmp_path / "a.wav", wav, 16_000, comment)
    head = wav_head(16_000, comment) + bytes(2000)
    other = struct.pack("<4sI4s", b"LIST", 8, b"adtl") + b"ICMT"
    for data in ((tmp_path / "a.wav").read_bytes(), head, head[:12] + other + head[12:]):
        assert read_sound(Dripping(data), 16_000).comment == comment
    (tmp_path / "piped.wav").write_bytes(head)
    assert read_comment(tmp_path / "a.wav") == read_comment(tmp_path / "piped.wav") == comment
    assert heard(head).shape == (1, 1000)
    plain = wav_head(16_000) + bytes(2000)
    assert read_sound(Dripping(plain), 16_000).comment is None
    title = struct.pack("<4sI4s4sI2s", b"LIST", 14, b"INFO", b"INAM", 2, b"x\0")
    assert read_sound(Dripping(plain[:12] + title + plain[12:]), 16_000).comment is None


def test_samples_come_before_the_pipe_ends():
    class Stuck(io.BytesIO):
        def read1(self, size: int = -1, /) -> bytes:
            data = super().read1(4000)
            assert data, "asked for more before giving on what had come"
            return data

    blocks = read_sound(Stuck(wav_head(16_000) + bytes(12_000)), 16_000).blocks
    assert [next(blocks).shape[-1] for _ in range(3)] == [2000, 2000, 2000]


def test_what_is_written_is_what_the_file_writer_writes(tmp_path, wav):
    save_audio(tmp_path / "a.wav", wav * 1.9, 16_000)
    piped = wav_head(16_000) + pcm_bytes(wav * 1.9, "s16le")
    assert piped[44:] == (tmp_path / "a.wav").read_bytes()[-2 * wav.shape[-1] :]
    (tmp_path / "b.wav").write_bytes(piped)
    assert torch.equal(load_audio(tmp_path / "b.wav")[0], load_audio(tmp_path / "a.wav")[0])
    assert torch.equal(heard(pcm_bytes(wav, "f32le"), raw=Pcm("f32le", 16_000)), wav)
    with pytest.raises(ValueError, match="s16le or f32le, got u8"):
        pcm_bytes(wav, "u8")


def bad_streams() -> dict[str, tuple[bytes, str]]:
    """What is not a wav stream, with what the error says."""
    head = wav_head(16_000)
    known = head[:40] + struct.pack("<I", 2000)
    nan = np.array([0.0, np.nan], "<f4").tobytes()
    floats = head[:20] + struct.pack("<HHIIHH", 3, 1, 16_000, 64_000, 4, 32) + head[36:]
    return {
        "nothing": (b"", "got nothing"),
        "text": (b"hello, this is text", "expected a wav stream, got one that begins with b'hello"),
        "half a header": (head[:30], "an end within the header"),
        "no samples": (head, "at least one sample, got 0"),
        "cut off": (known + bytes(1000), "the 1000 samples of its header, got 500"),
        "half a sample": (head + bytes(1001), "got 1 bytes at the end"),
        "nan": (floats + nan, "sample 1"),
        "another format": (head[:20] + struct.pack("<H", 7) + head[22:], "format 7 with 16 bits"),
        "half a long size": (
            struct.pack("<4sI4s4sI4s", b"RF64", 0xFFFFFFFF, b"WAVE", b"ds64", 4, b"\0\0\0\1") + head[12:],
            "at least one sample, got 0",
        ),
        "no rate of sound": (head[:24] + struct.pack("<I", 4_000_000_000) + head[28:], "4000000000 Hz"),
        "a chunk without end": (head[:12] + struct.pack("<4sI", b"LIST", 4_000_000_000), "got nothing"),
        "no format": (head[:12] + head[36:] + bytes(10), "describes its samples"),
    }


@pytest.mark.parametrize("case", bad_streams())
def test_what_is_no_sound_is_refused(case):
    data, text = bad_streams()[case]
    with pytest.raises(AudioError) as caught:
        heard(data)
    assert text in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("what", [("s16be", 16_000, 1), ("s16le", 1 << 70, 1), ("s16le", 16_000, 10**12)])
def test_raw_samples_that_cannot_be_are_refused(what):
    with pytest.raises(AudioError, match="expected samples of u8, s16le"):
        Pcm(*what)
