"""The entropy model: exact integers, independence of higher codebooks, and coded size near the cross-entropy."""

from __future__ import annotations

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

from audiotok.bitstream import EntropyModel, EntropyModelError, find_model
from audiotok.bitstream.entropy import LAG, TOTAL, Decoder, Steps, encode, frequencies, spread
from audiotok.bitstream.format import ADAPTIVE, LEARNT, RAW
from audiotok.bitstream.layers import LayerCoder, LayerError

ROOT = Path(__file__).parents[1]


@given(st.lists(st.integers(0, 1 << 20), min_size=2, max_size=40).filter(any))
def test_counts_are_shared_out_exactly(weights):
    """The float64 arithmetic gives what Python's integers give."""
    edges = [0]
    for end in range(1, len(weights) + 1):
        edges.append(sum(weights[:end]) * (TOTAL - len(weights)) // sum(weights))
    expected = [1 + b - a for a, b in zip(edges, edges[1:], strict=False)]
    counts = spread(np.array(weights, dtype=np.float64))
    assert counts.tolist() == expected and counts.sum() == TOTAL and counts.min() >= 1


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(2, 60), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_the_coder_uses_exactly_the_counts(length, size, power, seed):
    """constriction, fed with floats, makes the interval of an integer range coder with frequencies 256 * count."""
    rng = np.random.default_rng(seed)
    counts = spread(rng.integers(0, 12, (length, size)).astype(np.float64) ** power + 1)
    symbols = np.array([rng.choice(size, p=row / TOTAL) for row in counts], dtype=np.int64)
    low, width, words = 0, (1 << 64) - 1, 0
    for symbol, row in zip(symbols, counts.astype(int).tolist(), strict=True):
        part = width >> 24
        low, width = low + part * 256 * sum(row[:symbol]), part * 256 * row[symbol]
        if width < 1 << 32:
            low, width, words = low << 32, width << 32, words + 1
    data = encode(symbols, frequencies(counts))
    point = int.from_bytes(data.ljust(8 + 4 * words, b"\0"), "big")
    assert low <= point < low + width
    coarser = 1 << 8 * (8 + 4 * words - len(data) + 1)
    assert not data or -(-low // coarser) * coarser >= low + width, "one byte less would have done"
    decoder = Decoder(data)
    assert [
        decoder.next(row[None]) for row in frequencies(counts)
    ] == symbols.tolist() and not decoder.is_damaged


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_step_by_step_equals_all_at_once(frames, packets, seed):
    model = atok_toys.toy_model()
    codes = np.random.default_rng(seed).integers(0, model.codebook_size, (packets, model.n_q, frames))
    codes[0, :, frames // 2 :] = model.codebook_size  # the first packet is shorter
    whole = [model.freqs(k, codes) for k in range(model.n_q)]
    steps, seen = Steps(model, packets, model.n_q, frames), np.zeros((model.n_q, frames), int)
    for step in range(steps.count):
        books, freqs = steps.codebooks, steps.freqs()
        for i, k in enumerate(books):
            seen[k, step - LAG * k] += 1
            assert np.array_equal(freqs[i], whole[k][:, step - LAG * k])
        steps.see(np.array([codes[:, k, step - LAG * k] for k in books], int).reshape(len(books), packets))
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
        assert np.array_equal(before[:, :10], after[:, :10]) and not np.array_equal(
            before[:, 10:], after[:, 10:]
        )


def test_weights_whose_sums_could_round_are_refused():
    model = atok_toys.toy_model(width=8)
    for name, book in (("w1", 2), ("w2", 1), ("out", 0)):
        tensors = {key: value.copy() for key, value in model.tensors.items()}
        bias = {"w1": "b1", "w2": "b2", "out": "bias"}[name]
        tensors[bias][book] = (1 << 24) - 1
        with pytest.raises(EntropyModelError, match=name):
            EntropyModel(tensors, model.taps, model.shifts, model.codes_fingerprint)


def test_a_model_of_other_shapes_is_refused():
    model = atok_toys.toy_model()
    tensors = model.tensors | {"w3": model.tensors["w3"][:, :-1]}
    with pytest.raises(EntropyModelError, match="expected w3"):
        EntropyModel(tensors, model.taps, model.shifts, model.codes_fingerprint)


def test_a_model_travels_in_a_file(tmp_path):
    model = atok_toys.toy_model()
    path = tmp_path / "entropy.safetensors"
    model.save(path)
    again = EntropyModel.load(path)
    assert again.fingerprint == model.fingerprint
    assert find_model(model.codes_fingerprint, tmp_path).fingerprint == model.fingerprint
    assert find_model("f" * 16, tmp_path) is None
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(EntropyModelError, match="copy it again"):
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
    assert all(
        size <= coder.raw_bytes(0, p.shape[1]) for s, p in zip(sizes, packets, strict=True) for size in s
    )
    if coding == ADAPTIVE:
        assert sizes[0][1] < sizes[0][0] // 2
    if coding == LEARNT:
        assert sizes[0][0] < coder.raw_bytes(0, 20)


def test_bytes_that_no_encoder_writes_are_refused():
    """Malicious layers with a valid packet checksum are refused."""
    coder = LayerCoder((32,) * 3, LEARNT, atok_toys.toy_model())
    layers = [b"\xff" * 9, b"", b""]
    for broken in ([b"\xff" * 11, b"", b""], [b"\x01\0", b"", b""], [b"\xff" * 20, b"", b""]):
        assert isinstance(coder.decode([(20, broken)])[0], LayerError)
    assert coder.decode([(20, layers), (20, [b"", b"", b""])])[1].shape == (3, 20), (
        "the other packet is untouched"
    )


def test_the_coded_size_is_the_models_own_cross_entropy():
    """The coded size is within 1 % of the cross-entropy. The rest is the last byte of every layer."""
    model = atok_toys.toy_model(n_q=3)
    codes = atok_toys.toy_codes(model, 800, 400).numpy()
    bits = coded = 0.0
    for packet in (codes[:, :400], codes[:, 400:]):
        for k in range(model.n_q):
            freqs = model.freqs(k, packet[None])[0]
            chosen = freqs[np.arange(400), packet[k]].astype(np.float64) + 1
            bits -= np.log2(chosen / (1 << 24)).sum()
            coded += 8 * len(encode(packet[k], freqs))
    assert bits <= coded <= 1.01 * bits


_CLIPS = """
import hashlib, os, sys
import numpy as np, torch
threads, onednn, precision, clips = int(sys.argv[1]), sys.argv[2] == "1", sys.argv[3], int(sys.argv[4])
torch.set_num_threads(threads)
torch.backends.mkldnn.enabled = onednn
torch.set_float32_matmul_precision(precision)
sys.path.insert(0, "tests")
import atok_toys
from audiotok.bitstream import EntropyModel
from audiotok.bitstream.format import LEARNT
from audiotok.bitstream.layers import LayerCoder
if sys.argv[5] == "shipped":
    model, n_q, size = EntropyModel.load("audiotok/checkpoints/default/entropy.safetensors"), 8, 1024
else:
    model, n_q, size = atok_toys.toy_model(n_q=4, codebook_size=256, width=32, hidden=64), 4, 256
coder = LayerCoder((size,) * n_q, LEARNT, model)
digest, rng = hashlib.sha256(), np.random.default_rng(0)
for clip in range(clips):
    walk = np.cumsum(rng.integers(-2, 3, (n_q, 100)), axis=1) % size
    packets = [walk[:, :40], walk[:, 40:80], walk[:, 80:]]
    layers = coder.encode(packets)
    back = coder.decode([(p.shape[1], l) for p, l in zip(packets, layers)])
    assert all(np.array_equal(a, b) for a, b in zip(packets, back)), clip
    alone = [coder.encode([packet])[0] for packet in packets] if clip % 10 == 0 else layers
    assert alone == layers, clip
    for layer in sum(layers, []):
        digest.update(len(layer).to_bytes(2, "little") + layer)
print(digest.hexdigest())
"""
_SETTINGS = [("1", "1", "highest"), ("2", "1", "high"), ("2", "0", "medium")]


def _bytes_under(settings: tuple[str, str, str], clips: int, model: str = "toy") -> str:
    threads, onednn, _ = settings
    environment = os.environ | {
        "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "MKL_NUM_THREADS": threads,
        "ONEDNN_MAX_CPU_ISA": "ALL" if onednn == "1" else "SSE41",
        "OPENBLAS_CORETYPE": "" if onednn == "1" else "Nehalem",
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    command = [sys.executable, "-c", _CLIPS, *settings, str(clips), model]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_same_bytes_whatever_computes_them():
    """Counts do not depend on threads, oneDNN, matmul precision, BLAS kernel or batch size."""
    assert len({_bytes_under(setting, 3) for setting in (_SETTINGS[0], _SETTINGS[2])}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("model", ["toy", "shipped"])
def test_same_bytes_whatever_computes_them_1000_clips(model):
    assert len({_bytes_under(setting, 1000, model) for setting in _SETTINGS}) == 1


def test_what_is_trained_is_what_codes():
    """The network's forward pass, rounded as it trains, gives the exported model's counts exactly."""
    from audiotok.training.entropy_net import EntropyNet

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
        assert np.array_equal(frequencies(spread(table[index])), model.freqs(k, codes.numpy()))
