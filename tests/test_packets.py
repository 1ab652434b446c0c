"""Packets: codes come back bit for bit from any pieces, and damage costs what it touches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audiotok.packets import MAGIC, Packet, PacketError, PacketReader, pack

FINGERPRINT = "0123456789abcdef"


def packet(
    number: int = 0, frames: int = 1, n_q: int = 8, size: int = 1024, seed: int = 0, **facts
) -> Packet:
    codes = torch.randint(size, (n_q, frames), generator=torch.Generator().manual_seed(seed))
    return Packet(FINGERPRINT, number, codes, size, **facts)


def same(ours: Packet, theirs: Packet) -> bool:
    facts = ("codes_fingerprint", "first_frame", "trim", "is_last")
    return torch.equal(ours.codes, theirs.codes) and all(
        getattr(ours, f) == getattr(theirs, f) for f in facts
    )


@settings(max_examples=40, deadline=None)
@given(
    frames=st.integers(0, 9), n_q=st.integers(1, 9), size=st.integers(1, 1 << 16),
    number=st.integers(0, (1 << 32) - 1), seed=st.integers(0, 99),
    cuts=st.lists(st.integers(1, 30), min_size=1, max_size=9),
)  # fmt: skip
def test_packets_survive_any_pieces(frames, n_q, size, number, seed, cuts):
    sent = [
        packet(number, frames, n_q, size, seed),
        packet(7, 3, n_q, size, seed + 1, trim=319, is_last=True),
    ]
    data, reader, got, at = b"".join(map(pack, sent)), PacketReader(), [], 0
    while at < len(data):
        step = cuts[at % len(cuts)]
        got += reader.feed(data[at : at + step])
        at += step
    assert len(got) == 2 and all(map(same, got, sent)) and reader.damaged_bytes == 0


def test_a_packet_is_given_at_its_last_byte():
    data, reader = pack(packet()), PacketReader()
    assert reader.feed(data[:-1]) == [] and len(reader.feed(data[-1:])) == 1


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 5 * 42 - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_costs_one_packet(at, bit):
    sent = [packet(number, seed=number) for number in range(5)]
    data = bytearray(b"".join(map(pack, sent)))
    assert len(data) == 5 * 42  # 32 bytes beside the codes
    data[at] ^= 1 << bit
    reader = PacketReader()
    got = reader.feed(bytes(data))
    assert [p.first_frame for p in got] == [n for n in range(5) if n != at // 42]
    assert all(same(p, sent[p.first_frame]) for p in got) and reader.damaged_bytes > 0


@settings(max_examples=40, deadline=None)
@given(start=st.integers(0, 150), count=st.integers(1, 60))
def test_missing_bytes_cost_the_packets_they_touch(start, count):
    sent = [packet(number, seed=number) for number in range(6)]
    data = b"".join(map(pack, sent))
    got = PacketReader().feed(data[:start] + data[start + count :])
    touched = set(range(start // 42, (start + count - 1) // 42 + 1))
    assert {p.first_frame for p in got} >= set(range(6)) - touched
    assert all(same(p, sent[p.first_frame]) for p in got)


def test_a_reader_may_join_in_the_middle():
    data = b"".join(pack(packet(number, seed=number)) for number in range(4))
    assert [p.first_frame for p in PacketReader().feed(data[50:])] == [2, 3]


def test_what_only_looks_like_a_packet_is_passed_over():
    reader = PacketReader()
    got = reader.feed(MAGIC * 20 + pack(packet(3)) + MAGIC)
    assert [p.first_frame for p in got] == [3]


def test_something_else_is_said():
    reader = PacketReader()
    assert reader.feed(b"RIFF" * 1000) == []
    with pytest.raises(PacketError, match="got 4000 bytes without a whole one"):
        raise reader.nothing()
    with pytest.raises(PacketError, match="expected packets"):
        for _ in range(40):
            reader.feed(bytes(1 << 15))


def test_what_does_not_fit_is_refused():
    with pytest.raises(PacketError, match="70000 frames"):
        pack(packet(frames=70_000, n_q=1))
    with pytest.raises(PacketError, match="frame 4294967296"):
        pack(packet(1 << 32))
