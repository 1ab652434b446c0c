"""``audiotok encode - -`` and ``decode - -``: live output equals the output for files."""

from __future__ import annotations

import io
import os
import select
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from audiotok import AtokError, load_audio, read_comment, save_audio, wav_head
from audiotok import open as open_atok
from audiotok.audio import AudioError, open_audio, pcm_bytes
from audiotok.bitstream import PacketScanner, coder_of
from audiotok.bitstream.format import head_bytes
from audiotok.cli.common import PROVENANCE
from audiotok.cli.decode import stream_sound
from audiotok.cli.encode import encode_sound, new_header
from audiotok.cli.main import main

HOP = 320


class Sink(io.RawIOBase):
    """A pipe that keeps what is written to it, one piece a write."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data) -> int:
        self.written.append(bytes(data))
        return len(data)


class Pipe:
    """Packets as a pipe brings them, one a read."""

    def __init__(self, packets: list[bytes]) -> None:
        self.packets = list(packets)

    def read1(self, size: int) -> bytes:
        return self.packets.pop(0) if self.packets else b""


def stream(codec, wav: torch.Tensor, packet_frames: int = 1, n_q: int = 4) -> list[bytes]:
    """A stream in pieces: the header, every packet, and the tail."""
    header = new_header(codec.config, codec.codes_fingerprint, n_q, None, packet_frames)
    sink = Sink()
    with open_audio(io.BytesIO(wav_head(16_000) + pcm_bytes(wav))) as sound:
        encode_sound(sound, sink, "stdout", codec, header, None)
    assert sink.written[0] == head_bytes(header)
    return sink.written


def codes_of(data: bytes) -> torch.Tensor:
    """The codes [K, T] of a whole stream."""
    scanner = PacketScanner()
    packets = [each.packet for each in scanner.feed(data)]
    assert scanner.header is not None and scanner.damaged_bytes == 0
    codes = coder_of(scanner.header).decode([(packet.frames, packet.layers) for packet in packets])
    return torch.from_numpy(np.concatenate(codes, axis=1))


def decoded_wav(codec, packets: list[bytes], n_q: int | None = None) -> torch.Tensor:
    return torch.cat(list(stream_sound(codec, codec.codes_fingerprint, None, Pipe(packets), n_q)[1]), dim=-1)


def as_stored(wav: torch.Tensor) -> torch.Tensor:
    return torch.floor(wav * 32768) / 32768


class Running:
    """``audiotok VERB ...`` in a thread, with pipes for standard input and output."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
        given, self.stdin = os.pipe()
        self.stdout, taken = os.pipe()
        self.taken = os.fdopen(taken, "w")
        self.given = os.fdopen(given)
        monkeypatch.setattr("sys.stdin", self.given)
        monkeypatch.setattr("sys.stdout", self.taken)
        self.code: int | None = None
        self.thread = threading.Thread(target=self._run, args=[[*map(str, words)]], daemon=True)
        self.thread.start()

    def _run(self, words: list[str]) -> None:
        self.code = main(words)
        self.given.close()
        self.taken.close()

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes, which must come without more input."""
        data = b""
        while len(data) < size:
            ready, _, _ = select.select([self.stdout], [], [], 60)
            assert ready, f"{len(data)} bytes of {size} came"
            piece = os.read(self.stdout, size - len(data))
            assert piece, f"{len(data)} bytes of {size} came"
            data += piece
        return data

    def finish(self, data: bytes) -> bytes:
        """Write the last input and return the rest of the output."""
        os.write(self.stdin, data)
        os.close(self.stdin)
        self.thread.join(60)
        with os.fdopen(self.stdout, "rb") as rest:
            return rest.read()


def test_latency(monkeypatch, tiny_codec, tiny_codec_dir, wav, capsys):
    """After 0.5 s of input, all output but half a window is written while the pipe is open."""
    half = 8000  # 25 frames
    encode = Running(monkeypatch, "encode", "-", "-", "--codec", tiny_codec_dir)
    os.write(encode.stdin, wav_head(16_000) + pcm_bytes(wav[:, :half]))
    packets, scanner, found = b"", PacketScanner(), 0
    while found < 25:
        packets += (piece := encode.read(1))
        found += len(scanner.feed(piece))
    rest = encode.finish(pcm_bytes(wav[:, half:]))
    decode = Running(monkeypatch, "decode", "-", "-", "--codec", tiny_codec_dir)
    os.write(decode.stdin, packets)
    sound = decode.read(len(wav_head(16_000)) + 2 * (half - tiny_codec.config.synthesis_hop))
    last = decode.finish(rest)
    assert (encode.code, decode.code) == (0, 0)
    assert "51 frames, 0 of them lost" in capsys.readouterr().err

    ours = codes_of(packets + rest)
    codes = tiny_codec.encode(as_stored(wav)[None]).audio_codes
    assert (ours == codes[0]).float().mean() > 0.999  # equal but for ties
    whole = tiny_codec.decode(ours[None], num_samples=wav.shape[-1]).audio_values[0]
    torch.testing.assert_close(load_audio(sound + last)[0], whole.clamp(-1, 1), atol=2**-14, rtol=0)


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


@pytest.mark.parametrize("comment", [f"{PROVENANCE}: by us, voice slt", "A recording of Ada"])
def test_a_provenance_tag_goes_through_pipes(piped, tmp_path, wav, comment):
    """Every path from wav to wav keeps the provenance tag and no other comment."""
    tag = comment if comment.startswith(PROVENANCE) else None
    sound = wav_head(16_000, comment) + pcm_bytes(wav[:, :4000])
    (tmp_path / "a.wav").write_bytes(sound)
    packets, _ = piped("encode", "-", "-", data=sound)
    piped("encode", "-", "b.atok", data=sound)
    from_file, _ = piped("encode", "a.wav", "-")
    for name, data in (("live", packets), ("file", from_file), ("codes", (tmp_path / "b.atok").read_bytes())):
        (tmp_path / f"{name}.wav").write_bytes(piped("decode", "-", "-", data=data)[0])
        assert read_comment(tmp_path / f"{name}.wav") == tag
    piped("decode", "b.atok", "c.flac")
    assert read_comment(tmp_path / "c.flac") == tag
    silent, _ = piped("encode", "-", "-", "--meta", "generated=no", data=sound)
    assert b"Generated speech" not in silent


@pytest.mark.parametrize(
    ("samples", "packet_frames"), [(1, 1), (HOP - 1, 3), (7 * HOP, 3), (7 * HOP + 161, 1)]
)
def test_every_length_comes_back(tiny_codec, make_speech, samples, packet_frames):
    wav = make_speech(samples / 16_000)
    packets = stream(tiny_codec, wav, packet_frames)
    codes = tiny_codec.encode(as_stored(wav)[None]).audio_codes
    whole = tiny_codec.decode(codes, num_samples=samples).audio_values[0]
    played = decoded_wav(tiny_codec, packets)
    assert torch.equal(codes_of(b"".join(packets)), codes[0])
    torch.testing.assert_close(played, whole, atol=1e-5, rtol=0)


def test_lost_and_damaged_packets_are_carried_over(tiny_codec, wav, capsys):
    packets = stream(tiny_codec, wav)
    whole = decoded_wav(tiny_codec, packets)
    assert "0 of them lost" in capsys.readouterr().err
    damaged = bytearray(packets[31])
    damaged[9] ^= 1
    broken = [*packets[:11], *packets[13:31], bytes(damaged), packets[6], *packets[32:]]
    played = decoded_wav(tiny_codec, broken)
    said = capsys.readouterr().err
    assert "51 frames, 3 of them lost" in said and "1 packets late, 15 bytes damaged" in said
    assert played.shape == whole.shape
    clean = 10 * HOP - tiny_codec.config.synthesis_hop
    torch.testing.assert_close(played[:, :clean], whole[:, :clean], atol=1e-5, rtol=0)
    assert played[:, 10 * HOP : 12 * HOP].any()


def test_late_start_and_loss_at_the_end(tiny_codec, wav, capsys):
    packets = stream(tiny_codec, wav)
    assert decoded_wav(tiny_codec, [packets[0], *packets[21:]]).shape[-1] == wav.shape[-1] - 20 * HOP
    said = capsys.readouterr().err
    assert "frame 20" in said and "0 of them lost" in said
    assert decoded_wav(tiny_codec, [*packets[:40], packets[-1]]).shape == wav.shape


def test_a_stream_that_is_cut_off_is_played_and_refused(tiny_codec, wav):
    packets = stream(tiny_codec, wav)
    data = b"".join(packets[:20]) + packets[20][:-3]
    played = []
    with pytest.raises(AtokError, match="19 frames"):
        for piece in stream_sound(tiny_codec, tiny_codec.codes_fingerprint, None, Pipe([data]), None)[1]:
            played.append(piece)
    assert sum(piece.shape[-1] for piece in played) == 19 * HOP


def test_packets_of_another_codec_are_refused(tiny_codec, wav):
    packets = stream(tiny_codec, wav, n_q=2)
    with pytest.raises(AtokError, match="tiny"):
        stream_sound(tiny_codec, "f" * 16, None, Pipe(packets), None)
    with pytest.raises(AtokError, match="got 3"):
        decoded_wav(tiny_codec, packets, n_q=3)


def test_long_gaps_keep_time_and_endless_ones_are_shortened(tiny_codec, make_speech, capsys, monkeypatch):
    """A gap of a week, or a wrong packet number, is not decoded in full."""
    monkeypatch.setattr("audiotok.cli.decode._GAP_FRAMES", 4)
    monkeypatch.setattr("audiotok.cli.decode.MAX_GAP_S", 1.0)
    packets = stream(tiny_codec, make_speech(40 * HOP / 16_000))
    played = decoded_wav(tiny_codec, [*packets[:6], *packets[31:]])
    assert played.shape[-1] == 40 * HOP and not played[:, 15 * HOP : 25 * HOP].any()
    capsys.readouterr()
    found = PacketScanner().feed(b"".join(packets))
    jumped = replace(found[-1].packet, number=(1 << 32) - 10).to_bytes()
    with pytest.raises(AtokError):
        decoded_wav(tiny_codec, [*packets[:-2], jumped])
    assert "50 of them lost" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "data", "text"),
    [
        ("encode - -", b"", "empty"),
        ("encode - -", b"hello, this is text", "expected an audio file"),
        ("encode - x.atok", b"", "empty"),
        ("encode - no/x.atok", wav_head(16_000) + bytes(4000), "no/x.atok"),
        ("encode missing.wav -", b"", "missing.wav"),
        ("decode - -", b"", "got 0 bytes"),
        ("decode - x.wav", b"hello, this is text", ".atok"),
        ("decode missing.atok -", b"", "missing.atok"),
    ],
)
def test_bad_input_is_one_line(piped, tmp_path, words, data, text):
    before = sorted(tmp_path.rglob("*"))
    out, err = piped(*words.split(), data=data, code=1)
    assert [text in line for line in err.splitlines() if line.startswith("audiotok: error: ")] == [True], err
    assert out == b"" and sorted(tmp_path.rglob("*")) == before


def test_a_reader_that_leaves_is_no_error(monkeypatch, tiny_codec_dir, wav, capsys):
    encode = Running(monkeypatch, "encode", "-", "-", "--codec", tiny_codec_dir)
    os.write(encode.stdin, wav_head(16_000) + pcm_bytes(wav[:, :8000]))
    assert len(encode.read(100)) == 100
    os.close(encode.stdout)
    os.write(encode.stdin, pcm_bytes(wav[:, 8000:]))
    os.close(encode.stdin)
    encode.thread.join(60)
    assert encode.code == 1 and "error" not in capsys.readouterr().err


def test_a_bad_sample_ends_the_stream_without_a_last_packet(tiny_codec, wav):
    class Broken:
        comment = header_s = None

        def blocks(self, rate: int):
            yield wav[:, :8000]
            raise AudioError("stdin: expected finite samples")

    header, sink = new_header(tiny_codec.config, tiny_codec.codes_fingerprint, 4, None, 1), Sink()
    with pytest.raises(AudioError):
        encode_sound(Broken(), sink, "stdout", tiny_codec, header, None)
    scanner = PacketScanner()
    assert len(scanner.feed(b"".join(sink.written))) == 25 and scanner.tail is None
