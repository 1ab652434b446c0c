"""``.atok`` files: equal bytes for any chunking, reading by time range, truncation, and codec binding."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import atok_reference
import pytest
import torch
from atok_toys import FINGERPRINT, toy_codes, toy_header, toy_model, written
from hypothesis import given, settings
from hypothesis import strategies as st

from audiotok.bitstream import (
    AtokError,
    AtokReader,
    AtokWriter,
    EntropyModel,
    PacketScanner,
    reader,
    save_atok,
    truncate,
)
from audiotok.bitstream.format import ADAPTIVE, LEARNT, RAW

GOLDEN = Path(__file__).parent / "golden"
MODEL = toy_model()
CODES = toy_codes(MODEL, 93, 20)
each_coding = pytest.mark.parametrize("coding", [RAW, ADAPTIVE, LEARNT], ids=["raw", "adaptive", "learnt"])


def header_for(coding, **changes):
    return toy_header(MODEL if coding == LEARNT else None, **({"coding": coding} | changes))


@each_coding
def test_codes_survive_bit_for_bit(tmp_path, coding):
    """Read by AtokReader, and by a reader written from the specification."""
    path = tmp_path / "x.atok"
    metadata = {"transcript": "Grüße", "generated": "yes"}
    header = header_for(coding, num_samples=93 * 320 - 7, metadata=metadata)
    save_atok(path, CODES, header, MODEL)
    with AtokReader(path, MODEL) as file:
        excerpt = file.read()
        assert torch.equal(excerpt.codes, CODES) and bool(excerpt.present.all()) and excerpt.scales is None
        assert file.header == header and file.frames == 93 and file.damage == []
        assert file.duration_s == pytest.approx((93 * 320 - 7) / 16_000)
        assert torch.equal(torch.cat([block.codes for block in file.blocks()], dim=1), CODES)
    tensors = {name: value.tolist() for name, value in MODEL.tensors.items()}
    got = atok_reference.read(path.read_bytes(), tensors, list(MODEL.taps), list(MODEL.shifts))
    assert got["codes"] == CODES.tolist() and got["metadata"] == metadata
    assert (got["codec"], got["fingerprint"], got["samples"]) == ("toy", FINGERPRINT, 93 * 320 - 7)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(sum), st.integers(0, 2**32 - 1))
def test_pieces_do_not_matter(pieces, seed):
    codes = torch.randint(0, 32, (3, sum(pieces)), generator=torch.Generator().manual_seed(seed))
    header = header_for(LEARNT)
    assert written(codes, header, MODEL, pieces) == written(codes, header, MODEL)


@each_coding
def test_cut_equals_encoded_so(tmp_path, coding):
    """Truncation needs no model and equals encoding with fewer codebooks."""
    whole, cut = tmp_path / "whole.atok", tmp_path / "cut.atok"
    header = header_for(coding, num_samples=93 * 320)
    whole.write_bytes(written(CODES, header, MODEL))
    for n_q in (1, 2, 3):
        assert truncate(whole, cut, n_q) == []
        assert cut.read_bytes() == written(CODES[:n_q], header.with_n_q(n_q), MODEL)
        with AtokReader(whole, MODEL) as file:
            assert torch.equal(file.read(n_q=n_q).codes, CODES[:n_q])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 93), st.integers(0, 93), st.integers(1, 3))
def test_any_range_is_what_the_whole_has_there(tmp_path_factory, a, b, n_q):
    path = tmp_path_factory.mktemp("range") / "x.atok"
    path.write_bytes(written(CODES, header_for(RAW)))
    start, stop = sorted((a, b))
    with AtokReader(path) as file:
        excerpt = file.read_frames(start, stop, n_q)
        assert torch.equal(excerpt.codes, CODES[:n_q, start:stop]) and bool(excerpt.present.all())
        assert torch.equal(file.read(start / 50, stop / 50).codes, CODES[:, start:stop])


def test_a_live_pipe_learns_its_length_at_the_end(tmp_path):
    """The length is in the header of a file, and in the tail of a pipe."""

    class Pipe(io.BytesIO):
        def seekable(self):
            return False

    pipe = Pipe()
    writer = AtokWriter(pipe, header_for(LEARNT), MODEL)
    scanner, seen, sent = PacketScanner(), [], 0
    for frame in CODES.split(1, dim=1):
        writer.write(frame)
        seen += scanner.feed(pipe.getvalue()[sent:])
        sent = pipe.tell()
    assert len(seen) == 4, "every packet was out as soon as it was full"
    writer.close(num_samples=93 * 320 - 1)
    seen += scanner.feed(pipe.getvalue()[sent:]) + scanner.finish()
    assert [packet.number for _, _, packet in seen] == [0, 1, 2, 3, 4]
    assert scanner.header.num_samples is None and scanner.tail.header.num_samples == 93 * 320 - 1
    path = tmp_path / "x.atok"
    path.write_bytes(pipe.getvalue())
    with AtokReader(path, MODEL) as file:
        assert file.header.num_samples == 93 * 320 - 1 and torch.equal(file.read().codes, CODES)
    at_once = written(CODES, header_for(LEARNT), MODEL, num_samples=93 * 320 - 1)
    assert len(at_once) == len(pipe.getvalue()) and at_once != pipe.getvalue()
    assert at_once == written(CODES, header_for(LEARNT, num_samples=93 * 320 - 1), MODEL)


def test_seeking_reads_little(tmp_path, monkeypatch):
    """One packet, header and index: below 32 KiB of 360 kB."""
    sizes = []

    class Counting(io.FileIO):
        def read(self, size=-1):
            data = super().read(size)
            sizes.append(len(data))
            return data

    codes = torch.randint(0, 1024, (8, 36_000), generator=torch.Generator().manual_seed(0), dtype=torch.int16)
    path = tmp_path / "long.atok"
    header = toy_header(n_q=8, codebook_size=1024, packet_frames=100, num_samples=36_000 * 320)
    path.write_bytes(written(codes, header))
    monkeypatch.setattr(reader, "open", lambda path, mode: Counting(path), raising=False)
    with AtokReader(path) as file:
        assert torch.equal(file.read(333.0, 334.0).codes, codes[:, 16_650:16_700].long())
    assert 0 < sum(sizes) < 32 * 1024 < path.stat().st_size // 10


def test_an_adapted_codec_with_scales(tmp_path):
    """The shape of EnCodec 48 kHz: stereo, 150 frames a second in segments of 1 s, each with its scale."""
    header = toy_header(
        n_q=16, codebook_size=1024, sampling_rate=48_000, channels=2, packet_frames=150, scale_frames=150,
        num_samples=3 * 48_000 + 99,
    )  # fmt: skip
    codes = torch.randint(0, 1024, (16, 451), generator=torch.Generator().manual_seed(0))
    scales = [0.5, 1.25, 3.0, 0.0625]
    path, cut = tmp_path / "x.atok", tmp_path / "cut.atok"
    save_atok(path, codes, header, scales=scales)
    with AtokReader(path) as file:
        excerpt = file.read()
        assert torch.equal(excerpt.codes, codes) and excerpt.scales.tolist() == scales
        assert file.header.frame_rate == 150 and file.header.bitrate_bps == 24_000
        assert file.read_frames(150, 160).scales.tolist() == [1.25]
    truncate(path, cut, 4)
    save_atok(path, codes[:4], header.with_n_q(4), scales=scales)
    assert cut.read_bytes() == path.read_bytes()
    assert atok_reference.read(path.read_bytes())["scales"] == scales
    with pytest.raises(AtokError):
        save_atok(path, codes, header, scales=scales[:3])


def test_codebooks_of_different_sizes(tmp_path):
    header = replace(toy_header(), codebook_sizes=(2, 1000, 1 << 20), coding=ADAPTIVE)
    codes = torch.stack([torch.randint(0, size, (50,)) for size in header.codebook_sizes])
    path = tmp_path / "x.atok"
    save_atok(path, codes, header)
    with AtokReader(path) as file:
        assert file.header == header and torch.equal(file.read().codes, codes)


def test_another_codec_or_model_is_refused(tmp_path):
    """Only reading codes needs the model; facts and truncation do not."""
    path = tmp_path / "x.atok"
    save_atok(path, CODES, header_for(LEARNT), MODEL)
    other = EntropyModel(MODEL.tensors, MODEL.taps, (8, 7, 7, 6), MODEL.codes_fingerprint)
    for model in (other, None):
        with AtokReader(path, model) as file, pytest.raises(AtokError, match=MODEL.fingerprint):
            assert file.frames == 93 and len(list(file.packets())) == 5
            file.header.check_codec(path, "toy", FINGERPRINT)
            file.read()
    with pytest.raises(AtokError, match="'other'.*'toy'"):
        file.header.check_codec(path, "other", "f" * 16)


def test_bad_headers_codes_ranges_and_files_are_refused(tmp_path):
    for change in (
        {"codebook_sizes": ()}, {"packet_frames": 0}, {"codes_fingerprint": "xyz"}, {"scale_frames": 3},
        {"metadata": {"a": 1}}, {"metadata": {"speaker": "\udce9"}}, {"codec": 3}, {"sampling_rate": "16000"},
        {"hop_length": 1.5}, {"coding": LEARNT},
    ):  # fmt: skip
        with pytest.raises(AtokError):
            toy_header(**change)
    path = tmp_path / "x.atok"
    few = torch.zeros(1, 2)
    for codes in ([[1]], None, few.bool(), few * 1j, torch.zeros(2, 9).long()):
        with pytest.raises((TypeError, AtokError)):
            save_atok(path, codes, header_for(RAW, codebook_sizes=(2,)))
    wrong = CODES.clone()
    wrong[1, 50] = 32
    with pytest.raises(AtokError, match="codebook 1, frame 50"):
        save_atok(path, wrong, header_for(RAW))
    assert list(tmp_path.iterdir()) == []
    save_atok(path, CODES, header_for(RAW))
    with AtokReader(path) as file:
        for arguments in ((-1.0,), (0.0, float("nan")), (0.0, float("inf")), ("1",), (0.0, None, "2")):
            with pytest.raises(AtokError):
                file.read(*arguments)
        with pytest.raises(AtokError):
            file.read_frames(0.5, 1.5)
    for content in (b"", b"RIFF" * 99, b"ATOK\x02" * 9):
        path.write_bytes(content)
        with pytest.raises(AtokError, match="x.atok"):
            AtokReader(path)
    for missing, error in ((tmp_path, AtokError), (tmp_path / "none.atok", FileNotFoundError)):
        with pytest.raises(error):
            AtokReader(missing)


@pytest.mark.parametrize("name", ["raw", "adaptive", "learnt", "scales"])
def test_golden_files_never_change(name, tmp_path):
    """Stored bytes decode to the stored codes, and these codes encode to the same bytes."""
    path = GOLDEN / f"{name}.atok"
    expected = json.loads(path.with_suffix(".json").read_text())
    model = EntropyModel.load(GOLDEN / "entropy.safetensors")
    with AtokReader(path, model) as file:
        excerpt, header = file.read(), file.header
    assert excerpt.codes.tolist() == expected["codes"]
    assert (excerpt.scales.tolist() if excerpt.scales is not None else []) == expected["scales"]
    again = tmp_path / path.name
    save_atok(again, excerpt.codes, header, model, expected["scales"])
    assert again.read_bytes() == path.read_bytes()
