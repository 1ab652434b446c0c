"""The entropy model: exact integers, independence of higher codebooks, and coded size near the cross-entropy."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import atok_toys
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audiotok.bitstream import EntropyModel, EntropyModelError, LayerError, find_model
from audiotok.bitstream.entropy import TOTAL, Decoder, LayerCoder, Steps, encode, frequencies
from audiotok.bitstream.format import ADAPTIVE, LEARNT, RAW

ROOT = Path(__file__).parents[1]


def counts_of(weights):
    """The counts behind the coder's frequencies, as Python integers."""
    return ((frequencies(np.asarray(weights, np.float64)).astype(np.int64) + 1) // 256).tolist()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 1 << 20), min_size=2, max_size=40).filter(any))
def test_counts_are_shared_out_exactly(weights):
    """The float64 arithmetic gives what Python's integers give."""
    edges = [0]
    for end in range(1, len(weights) + 1):
        edges.append(sum(weights[:end]) * (TOTAL - len(weights)) // sum(weights))
    counts = counts_of(weights)
    assert counts == [1 + b - a for a, b in zip(edges, edges[1:], strict=False)]
    assert sum(counts) == TOTAL and min(counts) >= 1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 60), st.integers(2, 60), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_the_coder_uses_exactly_the_counts(length, size, power, seed):
    """constriction, fed with floats, makes the interval of an integer range coder with frequencies 256 * count."""
    rng = np.random.default_rng(seed)
    weights = rng.integers(0, 12, (length, size)).astype(np.float64) ** power + 1
    freqs, counts = frequencies(weights), counts_of(weights)
    symbols = np.array([rng.choice(size, p=np.array(row) / TOTAL) for row in counts], dtype=np.int64)
    low, width, words = 0, (1 << 64) - 1, 0
    for symbol, row in zip(symbols, counts, strict=True):
        part = width >> 24
        low, width = low + part * 256 * sum(row[:symbol]), part * 256 * row[symbol]
        if width < 1 << 32:
            low, width, words = low << 32, width << 32, words + 1
    data = encode(symbols, freqs)
    point = int.from_bytes(data.ljust(8 + 4 * words, b"\0"), "big")
    assert low <= point < low + width
    coarser = 1 << 8 * (8 + 4 * words - len(data) + 1)
    assert not data or -(-low // coarser) * coarser >= low + width, "one byte less would have done"
    decoder = Decoder(data)
    assert [decoder.next(row[None]) for row in freqs] == symbols.tolist() and not decoder.is_damaged


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 30), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_step_by_step_equals_all_at_once(frames, packets, seed):
    model = atok_toys.toy_model()
    codes = np.random.default_rng(seed).integers(0, model.codebook_size, (packets, model.n_q, frames))
    codes[0, :, frames // 2 :] = model.codebook_size  # the first packet is shorter
    whole = [model.freqs(k, codes) for k in range(model.n_q)]
    steps, seen = Steps(model, packets, model.n_q, frames), np.zeros((model.n_q, frames), int)
    for _ in range(steps.count):
        places, freqs = [(k, steps.frame(k)) for k in steps.codebooks], steps.freqs()
        for i, (k, t) in enumerate(places):
            seen[k, t] += 1
            assert np.array_equal(freqs[i], whole[k][:, t])
        steps.see(np.array([codes[:, k, t] for k, t in places], int).reshape(len(places), packets))
    assert (seen == 1).all()
    for k in range(model.n_q):
        assert np.array_equal(model.freqs(k, codes[-1:])[0], whole[k][-1])


def test_counts_do_not_depend_on_higher_codebooks_or_later_frames():
    model = atok_toys.toy_model()
    rng = np.random.default_rng(2)
    codes = rng.integers(0, model.codebook_size, (1, model.n_q, 20))
    for k in range(model.n_q):
        changed = codes.copy()
        changed[:, k + 1 :] = rng.integers(0, model.codebook_size, changed[:, k + 1 :].shape)
        changed[:, k, 9:] = (codes[:, k, 9:] + 1) % model.codebook_size
        before, after = model.freqs(k, codes), model.freqs(k, changed)
        assert np.array_equal(before[:, :10], after[:, :10])
        assert not np.array_equal(before[:, 10:], after[:, 10:])


def test_a_model_is_saved_and_found_and_a_bad_one_refused(tmp_path):
    """Damaged weights, and weights whose sums could be rounded."""
    model = atok_toys.toy_model()
    for name, bias, book in (("w1", "b1", 2), ("w2", "b2", 1), ("out", "bias", 0)):
        large = model.tensors[bias].copy()
        large[book] = (1 << 24) - 1
        with pytest.raises(EntropyModelError, match=name):
            EntropyModel(model.tensors | {bias: large}, model.taps, model.shifts, model.codes_fingerprint)
    path = tmp_path / "entropy.safetensors"
    model.save(path)
    assert find_model(model.codes_fingerprint, tmp_path).fingerprint == model.fingerprint
    assert find_model("f" * 16, tmp_path) is None
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(EntropyModelError):
        EntropyModel.load(path)


@pytest.mark.parametrize("coding", [RAW, ADAPTIVE, LEARNT])
def test_layers_come_back_as_they_were(coding):
    model = atok_toys.toy_model()
    codes = atok_toys.toy_codes(model, 50, 20).numpy()
    codes[1] = 7  # what adaptive counts like
    coder = LayerCoder((32,) * 3, coding, model)
    packets = [codes[:, :20], codes[:, 20:40], codes[:, 40:]]
    layers = coder.encode(packets)
    back = coder.decode([(packet.shape[1], layer) for packet, layer in zip(packets, layers, strict=True)])
    assert all(np.array_equal(a, b) for a, b in zip(packets, back, strict=True))
    sizes = [[len(layer) for layer in packet] for packet in layers]
    assert max(map(max, sizes)) <= coder.raw_bytes(0, 20)
    if coding == ADAPTIVE:
        assert sizes[0][1] < sizes[0][0] // 2
    if coding == LEARNT:
        assert sizes[0][0] < coder.raw_bytes(0, 20)


def test_bytes_that_no_encoder_writes_are_refused():
    """Malicious layers with a valid packet checksum are refused, and the other packets are read."""
    coder = LayerCoder((32,) * 3, LEARNT, atok_toys.toy_model())
    for broken in (b"\xff" * 11, b"\x01\0", b"\xff" * 20):
        damaged, whole = coder.decode([(20, [broken, b"", b""]), (20, [b"", b"", b""])])
        assert isinstance(damaged, LayerError) and whole.shape == (3, 20)


def test_the_coded_size_is_the_models_own_cross_entropy():
    """The coded size is within 1.5 % of the cross-entropy. The rest is the last byte of every layer."""
    model = atok_toys.toy_model(n_q=3)
    codes = atok_toys.toy_codes(model, 400, 400).numpy()
    bits = coded = 0.0
    for k in range(model.n_q):
        freqs = model.freqs(k, codes[None])[0]
        chosen = freqs[np.arange(400), codes[k]].astype(np.float64) + 1
        bits -= np.log2(chosen / (1 << 24)).sum()
        coded += 8 * len(encode(codes[k], freqs))
    assert bits <= coded <= 1.015 * bits


def digest_of_layers() -> str:
    """Hash of the layers of some clips, which are also decoded and coded one by one."""
    model, n_q, size = atok_toys.toy_model(n_q=3, codebook_size=64, width=32, hidden=64), 3, 64
    coder = LayerCoder((size,) * n_q, LEARNT, model)
    digest, rng = hashlib.sha256(), np.random.default_rng(0)
    for _ in range(2):
        walk = np.cumsum(rng.integers(-2, 3, (n_q, 50)), axis=1) % size
        packets = [walk[:, :20], walk[:, 20:40], walk[:, 40:]]
        layers = coder.encode(packets)
        back = coder.decode([(p.shape[1], one) for p, one in zip(packets, layers, strict=True)])
        assert all(np.array_equal(a, b) for a, b in zip(packets, back, strict=True))
        assert [coder.encode([packet])[0] for packet in packets] == layers
        for layer in sum(layers, []):
            digest.update(len(layer).to_bytes(2, "little") + layer)
    return digest.hexdigest()


def test_same_bytes_whatever_computes_them():
    """Layers do not depend on threads, BLAS kernel or batch size."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "OPENBLAS_CORETYPE": "Nehalem",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
    }  # fmt: skip
    command = [sys.executable, "-c", "import test_entropy; print(test_entropy.digest_of_layers())"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == digest_of_layers(), done.stderr


def test_what_is_trained_is_what_codes():
    """The network's forward pass, rounded as it trains, gives the exported model's counts exactly."""
    from audiotok.training.entropy import EntropyNet

    torch.manual_seed(0)
    net = EntropyNet(3, 32, 8, 12, 8, (1, 2))
    model = net.export("0" * 16)
    codes = torch.randint(0, 32, (2, 3, 15), generator=torch.Generator().manual_seed(0))
    table = model.tensors["exp_table"].astype(np.float64)
    for k in range(3):
        with torch.no_grad():
            scores = net(k, codes).numpy().astype(np.float64) * 512
        assert np.array_equal(scores, np.rint(scores))
        index = np.minimum((scores.max(-1, keepdims=True) - scores) // 8, len(table) - 1).astype(int)
        assert np.array_equal(frequencies(table[index]), model.freqs(k, codes.numpy()))
