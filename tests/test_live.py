"""``audiotok encode - -`` and ``decode - -``: live output equals the output for files."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audiotok import AtokError, load_audio, read_comment, save_audio, wav_head
from audiotok import open as open_atok
from audiotok.audio import AudioError, open_audio, pcm_bytes
from audiotok.bitstream import PacketScanner, coder_of
from audiotok.bitstream.format import head_bytes
from audiotok.cli.common import PROVENANCE
from audiotok.cli.decode import sound_of
from audiotok.cli.encode import new_header, packets_of
from audiotok.cli.main import main

ROOT = Path(__file__).parents[1]
HOP = 320


@pytest.fixture
def start():
    """Start ``audiotok VERB ...`` with pipes. The process ends with the test."""
    started = []

    def call(*words: object) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "audiotok.cli.main", *map(str, words)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, cwd=ROOT))
        return started[-1]

    yield call
    for process in started:
        process.kill()
        for end in (process.stdin, process.stdout, process.stderr):
            end.close()
        process.wait()


def header_of(codec, packet_frames: int = 1, n_q: int | None = None):
    return new_header(codec.config, codec.codes_fingerprint, n_q or codec.config.n_q, None, packet_frames)


def stream(codec, wav: torch.Tensor, packet_frames: int = 1, cut: int = 500) -> list[bytes]:
    """A stream in pieces: the header, every packet, and with the last one the tail."""
    header = header_of(codec, packet_frames)
    first, *others = packets_of(codec, header, None, wav.split(cut, dim=-1))
    head = head_bytes(header)
    assert first.startswith(head)
    return [head, *filter(None, [first[len(head) :], *others])]


def codes_of(data: bytes) -> torch.Tensor:
    """The codes [K, T] of a whole stream."""
    scanner = PacketScanner()
    packets = [each.packet for each in scanner.feed(data)]
    assert scanner.header is not None and scanner.damaged_bytes == 0
    codes = coder_of(scanner.header).decode([(packet.frames, packet.layers) for packet in packets])
    return torch.from_numpy(np.concatenate(codes, axis=1))


class Pipe:
    """Packets as a pipe brings them, one a read."""

    def __init__(self, packets: list[bytes]) -> None:
        self.packets = list(packets)

    def read1(self, size: int) -> bytes:
        return self.packets.pop(0) if self.packets else b""


def decoded_wav(codec, packets: list[bytes], n_q: int | None = None) -> torch.Tensor:
    return torch.cat(list(sound_of(codec, codec.codes_fingerprint, Pipe(packets), n_q)[1]), dim=-1)


def wait_for(process: subprocess.Popen[bytes], size: int, limit_s: float = 60.0) -> bytes:
    """Exactly ``size`` bytes of a process that must not need more input for them."""
    data, end = b"", time.monotonic() + limit_s
    while len(data) < size:
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))
        assert ready, f"{len(data)} bytes of {size} came in {limit_s} s"
        piece = os.read(process.stdout.fileno(), size - len(data))
        assert piece, process.stderr.read().decode()
        data += piece
    return data


def wait_for_packets(process: subprocess.Popen[bytes], count: int) -> bytes:
    """The output of a process up to its ``count``-th packet."""
    data, scanner, found = b"", PacketScanner(), 0
    while found < count:
        piece = wait_for(process, 1)
        data += piece
        found += len(list(scanner.feed(piece)))
    return data


def test_latency(start, tiny_codec, tiny_codec_dir, wav):
    """After 0.5 s of input, all output but 0.5 windows of the last frame is written while the pipe is open."""
    encode = start("encode", "-", "-", "--codec", tiny_codec_dir)
    decode = start("decode", "-", "-", "--raw", "f32le", "--codec", tiny_codec_dir)
    half = 8000  # 25 frames
    encode.stdin.write(wav_head(16_000) + pcm_bytes(wav[:, :half], "s16le"))
    encode.stdin.flush()
    packets = wait_for_packets(encode, 25)
    decode.stdin.write(packets)
    decode.stdin.flush()
    sound = wait_for(decode, 4 * (half - tiny_codec.config.synthesis_hop))
    rest, said = encode.communicate(pcm_bytes(wav[:, half:], "s16le"))
    assert encode.returncode == 0, said
    last, said = decode.communicate(rest)
    assert decode.returncode == 0 and "51 frames, 0 of them lost" in said.decode()

    samples = np.floor(wav.numpy() * 32768).astype(np.float32) / 32768
    codes = tiny_codec.encode(torch.from_numpy(samples)[None]).audio_codes
    ours = codes_of(packets + rest)
    assert (ours == codes[0]).float().mean() > 0.999  # equal but for ties
    whole = tiny_codec.decode(ours[None], num_samples=wav.shape[-1]).audio_values[0]
    played = torch.from_numpy(np.frombuffer(sound + last, "<f4").copy())[None]
    torch.testing.assert_close(played, whole, atol=1e-5, rtol=0)


@pytest.fixture
def piped(tiny_codec_dir, tmp_path, monkeypatch, capfdbinary):
    """Run ``audiotok VERB ... --codec TINY`` in tmp_path with bytes on standard input; returns what it put out."""

    def call(*words: str, data: bytes = b"", code: int = 0) -> tuple[bytes, str]:
        (tmp_path / "stdin").write_bytes(data)
        with open(tmp_path / "stdin") as file:
            monkeypatch.setattr("sys.stdin", file)
            result = main([*words, "--codec", str(tiny_codec_dir)])
        (tmp_path / "stdin").unlink()
        out, err = capfdbinary.readouterr()
        assert result == code, err.decode()
        return out, err.decode()

    monkeypatch.chdir(tmp_path)
    return call


def test_pipes_and_files_meet(piped, tmp_path, wav):
    """Files and pipes give the same codes and the same audio."""
    save_audio(tmp_path / "a.wav", wav, 16_000)
    piped("encode", "a.wav", "a.atok")
    piped("encode", "-", "b.atok", data=(tmp_path / "a.wav").read_bytes())
    with open_atok(tmp_path / "a.atok") as a, open_atok(tmp_path / "b.atok") as b:
        ours, theirs = a.read().codes, b.read().codes
    assert ours.shape == theirs.shape and (ours == theirs).float().mean() > 0.999  # equal but for ties
    packets, said = piped("encode", "a.wav", "-", "--packet-frames", "5")
    assert "51 frames x 4 codebooks" in said and codes_of(packets).shape == ours.shape
    piped("decode", "-", "a.flac", data=packets)
    (tmp_path / "b.wav").write_bytes(piped("decode", "a.atok", "-")[0])
    piped("decode", "a.atok", "c.wav")
    file, pipe, live = (load_audio(tmp_path / name)[0] for name in ("c.wav", "b.wav", "a.flac"))
    assert torch.equal(file, pipe) and file.shape == live.shape == wav.shape
    assert (file - live).abs().max() <= 2**-14


@pytest.mark.parametrize("comment", [f"{PROVENANCE}: by us, voice slt", "A recording of Ada", None])
def test_a_mark_of_generated_speech_goes_through_pipes(piped, tmp_path, wav, comment):
    """Every path from wav to wav keeps the provenance tag and no other comment."""
    mark = comment if comment and comment.startswith(PROVENANCE) else None
    sound = wav_head(16_000, comment) + pcm_bytes(wav, "s16le")
    (tmp_path / "a.wav").write_bytes(sound)
    packets, _ = piped("encode", "-", "-", data=sound)
    piped("encode", "-", "b.atok", data=sound)
    from_file, _ = piped("encode", "a.wav", "-")
    for name, data in (("live", packets), ("file", from_file), ("codes", (tmp_path / "b.atok").read_bytes())):
        (tmp_path / f"{name}.wav").write_bytes(piped("decode", "-", "-", data=data)[0])
        piped("decode", "-", f"{name}.flac", data=data)
        assert read_comment(tmp_path / f"{name}.wav") == read_comment(tmp_path / f"{name}.flac") == mark
    (tmp_path / "c.wav").write_bytes(piped("decode", "b.atok", "-")[0])
    assert read_comment(tmp_path / "c.wav") == mark
    silent, _ = piped("encode", "-", "-", "--meta", "generated=no", data=sound)
    assert b"Generated speech" not in silent


@pytest.mark.parametrize("samples", [1, HOP - 1, HOP, 7 * HOP, 7 * HOP + 161])
@pytest.mark.parametrize("packet_frames", [1, 3])
def test_every_length_comes_back(tiny_codec, make_speech, samples, packet_frames):
    wav = make_speech(samples / 16_000)
    packets = stream(tiny_codec, wav, packet_frames, cut=100)
    codes = tiny_codec.encode(wav[None]).audio_codes
    whole = tiny_codec.decode(codes, num_samples=samples).audio_values[0]
    played = decoded_wav(tiny_codec, packets)
    assert played.shape == whole.shape
    assert torch.equal(codes_of(b"".join(packets)), codes[0])
    torch.testing.assert_close(played, whole, atol=1e-5, rtol=0)


def test_every_read_gives_all_that_is_complete(tiny_codec, wav):
    scanner, given = PacketScanner(), 0
    blocks = wav.split(HOP, dim=-1)
    for number, data in enumerate(packets_of(tiny_codec, header_of(tiny_codec, n_q=2), None, blocks)):
        (found,) = scanner.feed(data)
        assert found.packet.number == number and len(found.packet.layers) == 2
        given += 1
    assert given == 51 and found.packet.trim == 51 * HOP - wav.shape[-1]


# --- losses and damage
# ----------------------------------------------------------------------------------------------


def test_lost_and_damaged_packets_are_carried_over(tiny_codec, wav, capsys):
    packets = stream(tiny_codec, wav)
    whole = decoded_wav(tiny_codec, packets)
    assert "0 of them lost" in capsys.readouterr().err
    damaged = bytearray(packets[31])
    damaged[9] ^= 1
    broken = [*packets[:11], *packets[13:31], bytes(damaged), packets[6], *packets[32:]]
    played = decoded_wav(tiny_codec, broken)
    said = capsys.readouterr().err
    assert "51 frames, 3 of them lost and concealed, 1 packets late, 15 bytes damaged" in said
    assert played.shape == whole.shape
    clean = 10 * HOP - tiny_codec.config.synthesis_hop
    torch.testing.assert_close(played[:, :clean], whole[:, :clean], atol=1e-5, rtol=0)
    assert played[:, 10 * HOP : 12 * HOP].any()


def test_a_long_gap_keeps_time(tiny_codec, make_speech, monkeypatch):
    wav = make_speech(40 * HOP / 16_000)
    packets = stream(tiny_codec, wav)
    whole = decoded_wav(tiny_codec, packets)
    monkeypatch.setattr("audiotok.cli.decode._GAP_FRAMES", 4)
    played = decoded_wav(tiny_codec, [*packets[:6], *packets[31:]])
    assert played.shape == whole.shape and not played[:, 15 * HOP : 25 * HOP].any()


def test_a_listener_may_join_late(tiny_codec, wav, capsys):
    packets = stream(tiny_codec, wav)
    played = decoded_wav(tiny_codec, [packets[0], *packets[21:]])
    assert played.shape[-1] == wav.shape[-1] - 20 * HOP
    said = capsys.readouterr().err
    assert "joined at frame 20" in said and "0 of them lost" in said


def test_a_stream_that_is_cut_off_is_played_and_said(tiny_codec, wav):
    packets = stream(tiny_codec, wav)
    data = b"".join(packets[:20]) + packets[20][:-3]
    played = []
    with pytest.raises(AtokError, match="19 frames"):
        for piece in sound_of(tiny_codec, tiny_codec.codes_fingerprint, Pipe([data]), None)[1]:
            played.append(piece)
    assert sum(piece.shape[-1] for piece in played) == 19 * HOP


def test_a_loss_at_the_end_keeps_the_length(tiny_codec, wav):
    packets = stream(tiny_codec, wav)
    data = b"".join(packets)
    last = PacketScanner().feed(data)[-1]
    assert decoded_wav(tiny_codec, [*packets[:40], data[last.at + last.size :]]).shape == wav.shape


def test_packets_of_another_codec_are_refused(tiny_codec, wav):
    packets = stream(tiny_codec, wav)
    with pytest.raises(AtokError, match="tiny"):
        sound_of(tiny_codec, "f" * 16, Pipe(packets), None)
    with pytest.raises(AtokError, match="got 5"):
        decoded_wav(tiny_codec, packets, n_q=5)


def test_a_gap_without_end_is_carried_over_for_a_minute(tiny_codec, wav, capsys):
    """A gap of a week, or a wrong packet number, is not decoded in full."""
    packets = stream(tiny_codec, wav)
    found = PacketScanner().feed(b"".join(packets))
    jumped = replace(found[-1].packet, number=(1 << 32) - 10).to_bytes()
    began = time.monotonic()
    with pytest.raises(AtokError):
        decoded_wav(tiny_codec, [*packets[:-1], jumped])
    told = capsys.readouterr().err
    assert f"{len(found) + 60 * 50} frames, {60 * 50} of them lost" in told
    assert time.monotonic() - began < 60


# --- the program
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "data", "text"),
    [
        (("encode", "-", "-"), b"", "empty"),
        (("encode", "-", "-"), b"hello, this is text", "expected an audio file"),
        (("encode", "-", "-", "--raw", "s16le"), b"\0", "whole samples"),
        (("encode", "-", "x.atok", "--raw", "s16le"), b"", "empty"),
        (("encode", "-", "no/x.atok"), wav_head(16_000) + bytes(4000), "no does not exist"),
        (("encode", "missing.wav", "-"), b"", "missing.wav: no such file"),
        (("decode", "-", "-"), b"", "got 0 bytes"),
        (("decode", "-", "x.wav"), b"hello, this is text", "expected an .atok file"),
        (("decode", "missing.atok", "-"), b"", "missing.atok: no such file"),
    ],
)
def test_bad_input_is_one_line(piped, tmp_path, words, data, text):
    before = sorted(tmp_path.rglob("*"))
    out, err = piped(*words, data=data, code=1)
    assert [text in line for line in err.splitlines() if line.startswith("audiotok: error: ")] == [True], err
    assert out == b"" and sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "words",
    [
        "encode - a b",
        "encode - --out x",
        "decode - a --raw s16le",
        "encode a - --raw u8",
        "decode a -  b",
        "encode - - --packet-frames 0",
        "decode - - --n-q 0",
        "encode - - --raw s16le --channels 0",
        "encode - - --raw s16le --rate 1180591620717411303424",
    ],
)
def test_wrong_usage_exits_2(words):
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    assert stop.value.code == 2


def test_a_listener_that_leaves_is_no_error(tiny_codec_dir, tmp_path, make_speech):
    save_audio(tmp_path / "a.wav", make_speech(20.0), 16_000)
    program = f"{sys.executable} -m audiotok.cli.main"
    done = subprocess.run(
        f"{program} encode a.wav - --codec {tiny_codec_dir} | head -c 100 | wc -c",
        shell=True, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.strip() == "100" and "Traceback" not in done.stderr and "Broken" not in done.stderr


def test_odd_sounds_on_a_pipe(tiny_codec, tmp_path):
    """One sample, 8 channels, 192 kHz."""
    for samples, channels, rate in (
        (1, 1, 16_000),
        (5_000, 8, 16_000),
        (19_200, 1, 192_000),
        (1, 1, 192_000),
    ):
        soundfile.write(tmp_path / "odd.wav", np.full((samples, channels), 0.1), rate)
        with open(tmp_path / "odd.wav", "rb") as file:
            blocks = open_audio(file).blocks(16_000)
            packets = list(packets_of(tiny_codec, header_of(tiny_codec), None, blocks))
        expected = max(1, samples * 16_000 / rate)
        assert abs(decoded_wav(tiny_codec, packets).shape[-1] - expected) <= 1


def test_a_bad_sample_ends_the_stream_without_a_last_packet(tiny_codec, wav):
    def blocks():
        yield wav[:, :8000]
        raise AudioError("stdin: expected finite samples")

    sent = []
    with pytest.raises(AudioError):
        for packet in packets_of(tiny_codec, header_of(tiny_codec), None, blocks()):
            sent.append(packet)
    scanner = PacketScanner()
    assert len(scanner.feed(b"".join(sent))) == len(sent) == 25 and scanner.tail is None
