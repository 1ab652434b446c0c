"""Damaged, truncated and malicious ``.atok`` files are detected, and undamaged packets stay readable."""

from __future__ import annotations

import functools
import tracemalloc

import numpy as np
import pytest
import torch
from atok_toys import toy_codes, toy_header, toy_model, written

from audiotok.bitstream import AtokError, AtokReader, PacketScanner, truncate
from audiotok.bitstream.format import (
    ADAPTIVE,
    LEARNT,
    RAW,
    Cursor,
    DamageError,
    Tail,
    frame,
    head_bytes,
    varint,
)

MODEL = toy_model()
FRAMES, SAMPLES = 93, 93 * 320 - 7


CODES = toy_codes(MODEL, FRAMES, 20)


@functools.cache
def make(coding: int = LEARNT) -> bytes:
    """A file of 5 packets with the codes above."""
    header = toy_header(MODEL if coding == LEARNT else None, coding=coding, num_samples=SAMPLES)
    return written(CODES, header, MODEL)


def places(data: bytes) -> list[int]:
    """Where the packets begin."""
    return [at for at, _, _ in PacketScanner().feed(data)]


def flipped(data: bytes, *offsets: int, bit: int = 0x40) -> bytes:
    broken = bytearray(data)
    for offset in offsets:
        broken[offset] ^= bit
    return bytes(broken)


@pytest.fixture
def check(tmp_path):
    """Read bytes as a file and check the codes that are present. Returns present [T] and the damage."""
    path = tmp_path / "x.atok"

    def read(data: bytes, codes: torch.Tensor = CODES) -> tuple[torch.Tensor, list[str]]:
        path.write_bytes(data)
        with AtokReader(path, MODEL) as file:
            excerpt = file.read()
            assert torch.equal(excerpt.codes[:, excerpt.present], codes[:, : file.frames][:, excerpt.present])
            return excerpt.present, file.verify()

    return read


@pytest.mark.parametrize("indexed", [True, False])
def test_a_damaged_packet_costs_itself(check, indexed):
    data = make() if indexed else make()[:-9]
    for packet, at in enumerate(places(data)[: None if indexed else 4]):
        for offset in (0, 1, 2, 5, 12) if indexed else (0, 1, 12):  # mark, size, number, and layers
            present, damage = check(flipped(data, at + offset))
            lost = range(20 * packet, min(20 * packet + 20, FRAMES))
            assert (~present).nonzero().flatten().tolist() == list(lost)
            assert any(words.startswith(f"packet {packet} ({0.4 * packet:.2f} to") for words in damage)
            assert len(damage) == 1 if indexed else any("index" in words for words in damage)


def test_a_damaged_header_is_rebuilt_from_its_copy(check):
    data = make()
    for offset in (0, 4, 5, 6, 20, places(data)[0] - 1):
        present, damage = check(flipped(data, offset))
        assert bool(present.all()) and len(present) == FRAMES and len(damage) == 1
    with pytest.raises(AtokError, match="x.atok"):
        check(flipped(data, 20, -20))


@pytest.mark.parametrize("coding", [RAW, LEARNT])
def test_bytes_missing_or_too_many_at_the_very_end_are_found(check, coding):
    """Damage outside the packets and the index is reported, although all codes are read."""
    data = make(coding)
    changed = {f"{count} bytes are missing": data[:-count] for count in (1, 2, 3, 4)}
    for more in (b"\0", b"ATOK", data[-4:], data[:999], data):
        changed[f"{len(more)} bytes too many"] = data + more
    changed["last 4 bytes are damaged"] = data[:-4] + bytes([data[-4] ^ 1]) + data[-3:]
    for expected, broken in changed.items():
        present, damage = check(broken)
        assert bool(present.all()) and any(expected in words for words in damage), (expected, damage)
    assert check(data)[1] == []


def test_packets_must_cover_the_length(check):
    """Missing frames are reported when the header or the index states more of them."""
    data = make()
    header, longer = (toy_header(MODEL, num_samples=SAMPLES + more) for more in (0, 320))
    start = len(head_bytes(header))
    sizes = tuple(size for _, size, _ in PacketScanner().feed(data))
    body = data[start : start + sum(sizes)]
    too_short = head_bytes(longer) + body + Tail(longer, FRAMES, sizes).to_bytes()
    assert any("the end is missing" in words for words in check(too_short)[1])
    lying = head_bytes(header) + body + Tail(header, FRAMES + 3, sizes).to_bytes()
    padded = torch.nn.functional.pad(CODES, (0, 3))
    assert any("expected 16 frames" in words for words in check(lying, padded)[1])


def test_a_cut_file_gives_every_whole_packet_and_reports_the_missing_ones(check):
    data = make()
    starts = places(data)
    for whole in range(1, 5):
        present, damage = check(data[: starts[whole] + 6])
        assert bool(present.all()) and len(present) == 20 * whole
        assert any(f"missing from {0.4 * whole:.2f} s" in words for words in damage)
    present, damage = check(data[: starts[4]])
    assert len(present) == 80 and any("index" in words for words in damage)


def test_truncating_a_damaged_file_keeps_the_rest(tmp_path):
    data = make()
    source, target = tmp_path / "x.atok", tmp_path / "y.atok"
    source.write_bytes(flipped(data, places(data)[1] + 9))
    assert len(truncate(source, target, 2)) == 1
    with AtokReader(target, MODEL) as file:
        present = file.read().present
        assert (~present).nonzero().flatten().tolist() == list(range(20, 40))
        assert len(file.damage) == 1 and file.damage[0].startswith("packet 1 (0.40 to 0.80 s)")


def test_a_pipe_goes_on_after_damage():
    data = make()
    starts = places(data)
    broken = bytearray(flipped(data, starts[1] + 1, bit=0x20))  # the size
    del broken[starts[3] + 4 : starts[3] + 9]  # lost on the way
    scanner, numbers = PacketScanner(), []
    for at in range(0, len(broken), 7):
        numbers += [packet.number for _, _, packet in scanner.feed(bytes(broken[at : at + 7]))]
    numbers += [packet.number for _, _, packet in scanner.finish()]
    assert numbers == [0, 2, 4] and scanner.tail is not None and scanner.damaged_bytes > 0


def test_a_pipe_of_something_else_is_refused():
    data = make()
    scanner = PacketScanner()
    scanner.feed(data[: places(data)[0]])
    for refuse in (
        lambda: PacketScanner().feed(b"RIFFxxxx"),
        lambda: PacketScanner().finish(),
        lambda: scanner.feed((b"\xb3\x20" + bytes(498)) * (1 << 12)),
    ):
        with pytest.raises(AtokError):
            refuse()


def test_forged_lengths_allocate_nothing(tmp_path):
    """An index that would allocate 8 GB is refused, and one that is larger than the file is not believed."""
    header = toy_header(n_q=64, packet_frames=1024)
    path = tmp_path / "x.atok"
    path.write_bytes(head_bytes(header) + Tail(header, 15_000 * 1024, (0,) * 15_000).to_bytes())
    with pytest.raises(AtokError, match="codes a byte"):
        AtokReader(path)
    body = header.to_bytes() + varint(1 << 50) + varint(1 << 50)
    with pytest.raises(DamageError):
        Tail.from_body(body)
    data = frame(0xC9, body)
    path.write_bytes(head_bytes(header) + data + len(data).to_bytes(4, "little"))
    with AtokReader(path) as file:
        assert file.frames == 0 and file.damage
    for read in (lambda c: c.take(3), lambda c: c.text(), lambda c: Cursor(b"\xff" * 20).varint()):
        with pytest.raises(DamageError):
            read(Cursor(b"\x7f\x01"))


def test_flips_and_cuts_are_found(tmp_path):
    """Random bit flips and cuts give an error, a report or unchanged codes, in bounded memory."""
    rng = np.random.default_rng(0)
    path = tmp_path / "x.atok"
    files = [make(coding) for coding in (RAW, ADAPTIVE, LEARNT)]
    detected, count = 0, 90
    tracemalloc.start()
    try:
        for turn in range(-3, count):  # the first three are whole, and show how much memory a file takes
            data = files[turn % 3]
            broken = bytearray(data)
            for _ in range(int(rng.integers(0, 4)) if turn >= 0 else 0):
                broken[rng.integers(len(broken))] ^= 1 << int(rng.integers(8))
            if turn > 0 and turn % 2:
                del broken[rng.integers(len(broken)) :]
            path.write_bytes(broken)
            if turn <= 0:
                clean_bytes = tracemalloc.get_traced_memory()[1]
            tracemalloc.reset_peak()
            try:
                with AtokReader(path, MODEL) as file:
                    excerpt = file.read()
                    found = bool(file.damage)
                    expected = CODES[:, : file.frames][:, excerpt.present]
                    assert torch.equal(excerpt.codes[:, excerpt.present], expected), f"turn {turn}"
                    if not found:
                        assert bool(excerpt.present.all()) and torch.equal(excerpt.codes, CODES)
                        assert file.header.num_samples == SAMPLES
            except AtokError:
                found = True
            detected += found
            assert turn < 0 or tracemalloc.get_traced_memory()[1] <= 4 * clean_bytes, f"turn {turn}: memory"
            assert not found or bytes(broken) != data
        assert detected > count // 2
    finally:
        tracemalloc.stop()
