"""Audio formats, speed change and limits of uploads."""

from __future__ import annotations

import io
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch
from conftest import speech_like

pytest.importorskip("fastapi", reason="the server is an extra")

from server_toys import clip, heard

from audiotok import AudioError
from tts_lm.server.audio import StreamEncoder, change_speed, encode, read_clip

MARK = "Generated speech, not a recording: tts-lm 0.1.0, voice kathleen, request 0123456789ab"


def tone(seconds: float, pitch: float, rate: int = 16_000) -> torch.Tensor:
    return 0.5 * torch.sin(2 * torch.pi * pitch * torch.arange(int(seconds * rate)) / rate)


@pytest.mark.parametrize("form", ["wav", "mp3", "opus", "aac", "pcm"])
@pytest.mark.parametrize("rate", [16_000, 24_000, 44_100])
def test_a_stream_joined_is_the_file(form, rate):
    wav = speech_like(1.5, rate)[0]
    sizes = [0, 1, 700, 8_000]
    pieces = torch.split(wav, [*sizes, len(wav) - sum(sizes)])
    encoder = StreamEncoder(rate, form, MARK)
    joined = b"".join([encoder.push(piece) for piece in pieces]) + encoder.close()
    whole = encode(wav, rate, form, MARK)
    if form == "pcm":
        assert len(joined) == len(whole) == 2 * round(len(wav) * 24_000 / rate)
        both = [np.frombuffer(data, "<i2").astype(float) for data in (joined, whole)]
        assert np.abs(both[0] - both[1]).max() <= 1
        return
    (streamed, own, comment), (at_once, other, same) = heard(joined), heard(whole)
    assert own == other == (48_000 if (form, rate) == ("opus", 44_100) else rate)
    assert same == ("" if form == "aac" else MARK)
    assert comment == ("" if form in ("wav", "aac") else MARK)
    # A streamed mp3 may begin and end with the coder's silence.
    assert abs(len(streamed) - len(at_once)) <= (4_000 if form in ("mp3", "aac") else 0)
    loud = [np.sqrt(np.mean(sound**2)) for sound in (streamed, at_once)]
    assert loud[0] == pytest.approx(loud[1], rel=0.1)


@pytest.mark.parametrize("speed", [0.25, 0.8, 1.0, 1.5, 4.0])
def test_speed_keeps_the_pitch(speed):
    wav = tone(2.0, 220.0)
    fast = change_speed(wav, 16_000, speed)
    assert abs(len(fast) - len(wav) / speed) <= 1 and fast.abs().max() <= 1
    middle = fast[len(fast) // 4 : -len(fast) // 4]
    spectrum = torch.fft.rfft(middle * torch.hann_window(len(middle))).abs()
    assert int(spectrum.argmax()) * 16_000 / len(middle) == pytest.approx(220, abs=8)
    assert torch.equal(fast, change_speed(wav, 16_000, speed))


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3"])
def test_common_formats_are_read(form):
    wav = read_clip(io.BytesIO(clip(1.0, form, 24_000)), 5.0, 16_000)
    assert wav.shape[0] == 1 and abs(wav.shape[1] - 16_000) < 2_000


def flac_bomb() -> bytes:
    """Ten minutes of silence in a few bytes."""
    out = io.BytesIO()
    soundfile.write(out, np.zeros(600 * 48_000, dtype="int16"), 48_000, format="FLAC")
    return out.getvalue()


def wav_of(header_bytes: int, rate: int = 16_000, channels: int = 1) -> bytes:
    """A wav with 0.1 s of sound whose header states another length."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, 2 * rate * channels, 2 * channels, 16)
    data = struct.pack("<4sI", b"data", header_bytes) + b"\1\0" * 1600
    return struct.pack("<4sI4s", b"RIFF", 36 + header_bytes, b"WAVE") + form + data


def lying_flac(frames: int) -> bytes:
    """A FLAC file with a wrong number of samples in its header."""
    data = bytearray(clip(1.0, "FLAC"))
    word = int.from_bytes(data[18:26], "big") & ~((1 << 36) - 1)
    data[18:26] = (word | frames).to_bytes(8, "big")
    return bytes(data)


HOSTILE = {
    "nothing": b"",
    "text": b"<script>alert(1)</script>",
    "zip": b"PK\3\4" + bytes(100),
    "a header alone": b"RIFF",
    "noise behind a magic word": b"fLaC" + bytes(range(256)) * 40,
    "noise as mp3": b"\xff\xfb" + bytes(range(256)) * 40,
    "a tag of a gigabyte": b"ID3\3\0\0\3\x7f\x7f\x7f" + bytes(100),
    "ten minutes of zeros": flac_bomb(),
    "a gigabyte by its header": wav_of(1 << 30),
    "three gigabytes by its header": wav_of(3 << 30),
    "a rate of nothing": wav_of(3200, rate=1),
    "a rate of a gigahertz": wav_of(3200, rate=1_000_000_000),
    "300 channels": wav_of(3200, channels=300),
    "flac of a day": lying_flac(86_400 * 16_000),
    "flac cut off": clip(1.0, "FLAC")[:2_000],
    "not finite": b"",
}
out = io.BytesIO()
soundfile.write(out, np.full(1600, np.nan, dtype="float32"), 16_000, format="WAV", subtype="FLOAT")
HOSTILE["not finite"] = out.getvalue()


def test_a_header_is_not_trusted_for_the_length():
    assert read_clip(io.BytesIO(lying_flac(0)), 5.0, 16_000).shape == (1, 16_000)
    twice = clip(3.0, "MP3") * 2  # its header says 3 s
    with pytest.raises(AudioError):
        read_clip(io.BytesIO(twice), 5.0, 16_000)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_sounds_are_refused_within_bounds(name):
    tracemalloc.start()
    try:
        with pytest.raises(AudioError) as caught:
            read_clip(io.BytesIO(HOSTILE[name]), 60.0, 16_000)
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert "\n" not in message and "/tmp" not in message and "tts-lm-" not in message
