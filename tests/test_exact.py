"""The exact mode: every operation exact, sums that cannot overflow, and codes that integers alone would give."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact_reference import reference_codes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from audiotok import AudioCodec, load_codec
from audiotok.codec.exact import RANGE_BITS, ExactAudioCodec, GridConv1d, GridQuantizer, on_grid
from audiotok.wav import MAX_PEAK

SHARED = [HealthCheck.function_scoped_fixture]


@pytest.fixture
def exact(tiny_codec: AudioCodec) -> ExactAudioCodec:
    """The tiny codec in exact mode."""
    codec = ExactAudioCodec(tiny_codec.config)
    codec.load_state_dict(tiny_codec.state_dict())
    return codec.eval()


def integers(x: Tensor, bits: int = 0) -> np.ndarray:
    """x * 2^bits as int64; fails where that is not whole or may not fit float64."""
    scaled = np.ldexp(x.numpy(), bits)
    assert (scaled == np.rint(scaled)).all() and np.abs(scaled).max(initial=0) < 2**53
    return scaled.astype(np.int64)


def powers_of_two(x: object) -> bool:
    mantissa = np.frexp(x.numpy() if isinstance(x, Tensor) else x)[0]
    return bool((np.abs(mantissa) == 0.5).all())


def check_sum(out: Tensor, x: Tensor, y: Any, sign: int = 1) -> None:
    if out.is_floating_point():
        x, y = (torch.as_tensor(part, dtype=torch.float64) for part in (x, y))
        # Inside a convolution integers; what stands between two of them lies on this grid or a coarser one.
        bits = 0 if torch.equal(x, x.round()) and torch.equal(y, y.round()) else 44
        assert (integers(out, bits) == integers(x, bits) + sign * integers(y, bits)).all()


def check_product(out: Tensor, x: Tensor, y: Any) -> None:
    assert powers_of_two(y) and bool((out / x == torch.as_tensor(y)).logical_or(x == 0).all())


def check_matmul(out: Tensor, x: Tensor, y: Tensor) -> None:
    assert (integers(out) == integers(x) @ integers(y)).all()


def check_addmm(out: Tensor, bias: Tensor, x: Tensor, y: Tensor, alpha: float = 1.0) -> None:
    assert (integers(out) == integers(bias) + int(alpha) * (integers(x) @ integers(y))).all()


def check_leaky(out: Tensor, x: Tensor, slope: float) -> None:
    assert powers_of_two(slope) and torch.equal(out, torch.where(x > 0, x, x * slope))


def check_power(out: Tensor, base: Any, exponent: Any) -> None:
    if isinstance(base, Tensor):
        assert exponent == 2 and (integers(out, 46) == integers(base, 23) ** 2).all()
    else:
        exact = [Fraction(base) ** int(e) for e in exponent.flatten()]
        assert base == 2.0 and [Fraction(float(p)) for p in out.flatten()] == exact


def check_ldexp(out: Tensor, x: Tensor, exponent: Tensor) -> None:
    assert (out.numpy() == np.ldexp(x.numpy(), exponent.numpy())).all()


def check_argmin(out: Tensor, x: Tensor, dim: int) -> None:
    assert (out.numpy() == integers(x).argmin(dim)).all()


CHECKS: dict[str, Callable[..., None]] = {
    "add": check_sum,
    "add_": check_sum,
    "sub": lambda out, x, y: check_sum(out, x, y, -1),
    "rsub": lambda out, x, y: check_sum(out, y, x, -1),
    "mul": check_product,
    "mul_": check_product,
    "bmm": check_matmul,
    "mm": check_matmul,
    "addmm": check_addmm,
    "leaky_relu": check_leaky,
    "ldexp": check_ldexp,  # or, in other versions of torch, a product with a power
    "pow": check_power,
    "argmin": check_argmin,
}
# Steps that move numbers, choose among them or round them to integers: nothing there to get wrong.
MOVES = set(
    "alias _reshape_alias _to_copy _unsafe_view cat clamp_ clone constant_pad_nd copy_ detach expand frexp index "
    "lift_fresh permute relu round_ select slice split stack t transpose unfold unsqueeze view".split()
)


class EveryOperation(TorchDispatchMode):
    """Recomputes every operation of torch in integers, and fails on the first that rounded."""

    def __init__(self) -> None:
        super().__init__()
        self.checked: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        before = tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, args)
        out = func(*args, **(kwargs or {}))
        if name in CHECKS:
            self.checked.add(name)
            CHECKS[name](out, *before, **(kwargs or {}))
        else:
            assert name in MOVES, f"{name} is not known to be exact"
        return out


@torch.no_grad()
def test_every_operation_is_exact(exact: ExactAudioCodec, wav: Tensor) -> None:
    encoder, quantizer = exact.coders()
    frames = wav[None, :, : 20 * exact.config.hop_length]
    with EveryOperation() as operations:
        codes = quantizer.encode(encoder(frames))
    assert {"add", "mul", "leaky_relu", "addmm"} <= operations.checked
    assert torch.equal(codes, exact.encode(frames).audio_codes)


@torch.no_grad()
def test_the_check_finds_a_rounding(exact: ExactAudioCodec, wav: Tensor) -> None:
    encoder, quantizer = exact.coders()
    with pytest.raises(AssertionError), EveryOperation():
        quantizer.encode(encoder(wav[None, :, :6400]) * 1.1)


@settings(max_examples=40, deadline=None, suppress_health_check=SHARED)
@given(samples=st.integers(1, 6000), seed=st.integers(0, 10_000), gain_db=st.floats(-60, 20))
def test_codes_equal_an_integer_reference(
    exact: ExactAudioCodec, samples: int, seed: int, gain_db: float
) -> None:
    wav = torch.randn(1, 1, samples, generator=torch.Generator().manual_seed(seed)) * 10 ** (gain_db / 20)
    wav = wav.clamp(-MAX_PEAK, MAX_PEAK)  # louder is refused
    assert torch.equal(exact.encode(wav).audio_codes, reference_codes(exact, wav))


@torch.no_grad()
def test_no_input_overflows_a_sum(exact: ExactAudioCodec) -> None:
    encoder, _ = exact.coders()
    largest = [
        sum(abs(int(w)) for w in row) * 2 ** (RANGE_BITS + conv.input_bits) + abs(int(b))
        for conv in encoder.modules()
        if isinstance(conv, GridConv1d)
        for row, b in zip(conv.weight.reshape(-1, conv.weight.shape[-1]), conv.bias[:, 0], strict=True)
    ]
    assert 2**50 < max(largest) < 2**53


@torch.no_grad()
def test_no_latent_overflows_a_distance(exact: ExactAudioCodec) -> None:
    quantizer = GridQuantizer(exact.quantizer)
    reach = int(quantizer.limit * 2**quantizer.bits)
    for book in quantizer.codebooks:
        words = [[int(c) for c in word] for word in book]
        assert max(sum(c * c + 2 * reach * abs(c) for c in word) for word in words) < 2**53
        reach += max(abs(c) for word in words for c in word)


@torch.no_grad()
def test_the_order_of_summation_changes_no_bit() -> None:
    torch.manual_seed(0)
    conv = nn.Conv1d(300, 8, 1)
    x = torch.randn(1, 300, 50, dtype=torch.float64)
    order = torch.randperm(300)
    turned = copy.deepcopy(conv)
    turned.weight.copy_(conv.weight[:, order])
    ours, theirs = GridConv1d(conv)(x), GridConv1d(turned)(x[:, order])
    assert torch.equal(ours, theirs)
    torch.testing.assert_close(ours, conv.double()(x), atol=1e-3, rtol=0)


@torch.no_grad()
def test_grids_follow_the_numbers() -> None:
    """Large weights, small weights, strides, dilations, groups: close to the convolution they imitate."""
    torch.manual_seed(0)
    for scale in (1e-3, 1.0, 300.0):
        for conv in (
            nn.Conv1d(1, 6, 12, stride=5),
            nn.Conv1d(6, 6, 3, dilation=4),
            nn.Conv1d(6, 3, 2, groups=3, bias=False),
        ):
            conv.weight.mul_(scale)
            x = torch.randn(2, conv.in_channels, 60)
            ours, theirs = GridConv1d(conv)(x), conv(x)
            assert ours.shape == theirs.shape
            torch.testing.assert_close(ours.float(), theirs, atol=2e-4 * scale + 1e-6, rtol=1e-4)


@torch.no_grad()
def test_samples_are_read_as_16_bit(exact: ExactAudioCodec, wav: Tensor) -> None:
    pcm = (wav[None] * 32768).round()
    nudged = (pcm + 0.8 * (torch.rand(pcm.shape, generator=torch.Generator().manual_seed(0)) - 0.5)) / 32768
    assert torch.equal(exact.encode(nudged).audio_codes, exact.encode(pcm / 32768).audio_codes)


@torch.no_grad()
def test_of_equal_codewords_the_first(exact: ExactAudioCodec, wav: Tensor) -> None:
    exact.quantizer.codebooks[0, 32:] = exact.quantizer.codebooks[0, :32]
    codes = exact.encode(wav[None]).audio_codes
    assert int(codes[:, 0].max()) < 32 and int(codes[:, 0].max()) > 0
    assert torch.equal(codes, reference_codes(exact, wav[None]))


@torch.no_grad()
def test_nearly_all_codes_are_those_of_the_float_mode(exact: ExactAudioCodec, tiny_codec: AudioCodec) -> None:
    generator = torch.Generator().manual_seed(0)
    wav = 0.2 * torch.randn(1, 1, 200 * 320, generator=generator)
    wav = (wav * 32768).round() / 32768
    same = exact.encode(wav).audio_codes == tiny_codec.encode(wav).audio_codes
    assert float(same.float().mean()) > 0.99


def test_exact_is_a_way_to_load(
    tiny_codec: AudioCodec, tiny_codec_dir: Path, tmp_path: Path, wav: Tensor
) -> None:
    exact = load_codec(tiny_codec_dir, exact=True)
    assert exact.is_exact and not load_codec(tiny_codec_dir).is_exact
    assert exact.codes_fingerprint == tiny_codec.codes_fingerprint
    assert exact.weights_fingerprint == tiny_codec.weights_fingerprint
    assert exact.state_dict().keys() == tiny_codec.state_dict().keys()
    codes = exact.encode(wav[None]).audio_codes
    assert torch.equal(exact.decode(codes).audio_values, tiny_codec.decode(codes).audio_values)
    exact.save_pretrained(tmp_path / "again")
    assert torch.equal(load_codec(tmp_path / "again", exact=True).encode(wav[None]).audio_codes, codes)


def test_weights_outside_convolutions_are_refused(exact: ExactAudioCodec) -> None:
    exact.encoder.units.append(nn.LayerNorm(4))
    with pytest.raises(TypeError, match=r"LayerNorm at encoder\.units\.2; this codec has no exact mode"):
        on_grid(exact.encoder)


def test_weights_too_large_are_refused() -> None:
    conv = nn.Conv1d(4, 4, 1)
    nn.init.constant_(conv.weight, 1e6)
    with pytest.raises(ValueError, match="no exact mode"):
        GridConv1d(conv)


def test_a_device_that_rounds_is_refused(exact: ExactAudioCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device whose sums differ from the CPU's: here the second of the two encodings that are compared."""
    sound, calls = GridConv1d.forward, []

    def rounds(self: GridConv1d, x: Tensor) -> Tensor:
        calls.append(x)
        return sound(self, x) * (1.0 if len(calls) <= 20 else 1.01)

    encoder = on_grid(exact.encoder)
    assert sum(isinstance(module, GridConv1d) for module in encoder.modules()) <= 20 < 40
    monkeypatch.setattr(GridConv1d, "forward", rounds)
    calls.extend([torch.empty(0)] * (20 - sum(isinstance(m, GridConv1d) for m in encoder.modules())))
    with pytest.raises(RuntimeError, match="expected exact float64 sums"):
        exact.coders()


LATENTS = """
import hashlib, sys, torch
from audiotok import load_codec
n = torch.arange(64000)  # integers: the sine of one kernel is not that of another
wav = ((n * (n // 100)) % 30011 - 15000)[None, None] / 32768
for exact in (True, False):
    encoder, _ = load_codec(sys.argv[1], exact=exact).coders()
    with torch.no_grad():
        print(hashlib.sha256(encoder(wav).double().numpy().tobytes()).hexdigest())
"""
# Names of instruction sets of x86; elsewhere these change nothing, and the codes must still be the same.
OTHER_KERNELS = {
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    "ATEN_CPU_CAPABILITY": "default",
    "OMP_NUM_THREADS": "3",
}


@pytest.mark.slow
def test_other_kernels_and_threads_give_the_same_latents(tiny_codec_dir: Path) -> None:
    """On another machine other kernels sum in another order."""
    command = [sys.executable, "-W", "ignore", "-c", LATENTS, str(tiny_codec_dir)]
    hashes = [
        subprocess.run(
            command, env=os.environ | kernels, cwd=Path(__file__).parents[1],
            check=True, capture_output=True, text=True,
        ).stdout.split()
        for kernels in ({"OMP_NUM_THREADS": "1"}, OTHER_KERNELS)
    ]  # fmt: skip
    assert hashes[0][0] == hashes[1][0]
    print("float mode:", "the same" if hashes[0][1] == hashes[1][1] else "other", "latents")
