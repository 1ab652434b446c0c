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
pytest.importorskip("openai", reason="the toys use its client")

from server_toys import clip, heard

from audiotok import AudioError
from tts_lm.server.audio import StreamEncoder, change_speed, encode, read_clip

TAG = "Generated speech, not a recording: tts-lm 0.1.0, voice kathleen, request 0123456789ab"


@pytest.mark.parametrize("form", ["wav", "mp3", "opus", "aac", "pcm"])
@pytest.mark.parametrize("rate", [16_000, 24_000, 44_100])
def test_a_stream_joined_is_the_file(form, rate):
    wav = speech_like(1.5, rate)[0]
    pieces = torch.tensor_split(wav, [0, 1, 701, 8_701])
    encoder = StreamEncoder(rate, form, TAG)
    joined = b"".join([encoder.push(piece) for piece in pieces]) + encoder.close()
    whole = encode(wav, rate, form, TAG)
    if form == "pcm":
        assert len(joined) == len(whole) == 2 * round(len(wav) * 24_000 / rate)
        both = [np.frombuffer(data, "<i2").astype(float) for data in (joined, whole)]
        assert np.abs(both[0] - both[1]).max() <= 1
        return
    (streamed, own, comment), (at_once, other, same) = heard(joined), heard(whole)
    assert own == other == (48_000 if (form, rate) == ("opus", 44_100) else rate)
    assert same == ("" if form == "aac" else TAG)
    assert comment == ("" if form in ("wav", "aac") else TAG)
    # A streamed mp3 may begin and end with the coder's silence.
    assert abs(len(streamed) - len(at_once)) <= (4_000 if form in ("mp3", "aac") else 0)
    loud = [np.sqrt(np.mean(sound**2)) for sound in (streamed, at_once)]
    assert loud[0] == pytest.approx(loud[1], rel=0.1)


@pytest.mark.parametrize("speed", [0.25, 1.0, 1.5, 4.0])
def test_speed_keeps_the_pitch(speed):
    wav = 0.5 * torch.sin(2 * torch.pi * 220.0 * torch.arange(32_000) / 16_000)
    fast = change_speed(wav, 16_000, speed)
    assert abs(len(fast) - len(wav) / speed) <= 1 and fast.abs().max() <= 1
    middle = fast[len(fast) // 4 : -len(fast) // 4]
    spectrum = torch.fft.rfft(middle * torch.hann_window(len(middle))).abs()
    assert int(spectrum.argmax()) * 16_000 / len(middle) == pytest.approx(220, abs=8)
    assert torch.equal(fast, change_speed(wav, 16_000, speed))


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3"])
def test_common_formats_are_read(form):
    data = clip(1.0, form, 24_000)
    wav = read_clip(data, 5.0, 16_000)
    assert wav.shape[0] == 1 and abs(wav.shape[1] - 16_000) < 2_000
    assert read_clip(data, 0.5, 16_000, cut=True).shape[1] == 8_000


def flac_bomb() -> bytes:
    """A hundred seconds of silence in a few bytes."""
    out = io.BytesIO()
    soundfile.write(out, np.zeros(100 * 48_000, dtype="int16"), 48_000, format="FLAC")
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
    "nothing": lambda: b"",
    "text": lambda: b"<script>alert(1)</script>",
    "zip": lambda: b"PK\3\4" + bytes(100),
    "a header alone": lambda: b"RIFF",
    "noise behind a magic word": lambda: b"fLaC" + bytes(range(256)) * 40,
    "noise as mp3": lambda: b"\xff\xfb" + bytes(range(256)) * 40,
    "a tag of a gigabyte": lambda: b"ID3\3\0\0\3\x7f\x7f\x7f" + bytes(100),
    "a hundred seconds of zeros": flac_bomb,
    "a gigabyte by its header": lambda: wav_of(1 << 30),
    "three gigabytes by its header": lambda: wav_of(3 << 30),
    "a rate of nothing": lambda: wav_of(3200, rate=1),
    "a rate of a gigahertz": lambda: wav_of(3200, rate=1_000_000_000),
    "300 channels": lambda: wav_of(3200, channels=300),
    "flac of a day": lambda: lying_flac(86_400 * 16_000),
    "flac cut off": lambda: clip(1.0, "FLAC")[:2_000],
    "a playlist": lambda: b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_sounds_are_refused_within_bounds(name):
    data = HOSTILE[name]()
    tracemalloc.start()
    try:
        with pytest.raises(AudioError) as caught:
            read_clip(data, 60.0, 16_000)
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value) and "/tmp" not in str(caught.value)


def test_a_header_is_not_trusted_for_the_length():
    assert read_clip(lying_flac(0), 5.0, 16_000).shape == (1, 16_000)
    with pytest.raises(AudioError):
        read_clip(clip(3.0, "MP3") * 2, 5.0, 16_000)  # its header says 3 s
