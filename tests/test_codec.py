"""The laws of the codec, on a small random one: what holds for every weight holds for the shipped weights."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audiotok.codec.config import CodecConfig
from audiotok.codec.model import AudioCodec
from audiotok.codec.quantizer import ResidualVectorQuantizer

TIE = 1e-5
# The fixture is not reset between examples; no test here changes it.
SHARED = [HealthCheck.function_scoped_fixture]


def noise(samples: int, seed: int, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.3 * torch.randn(batch, 1, samples, generator=generator).clamp(-3, 3)


def count_disagreements(
    codec: AudioCodec, wav: torch.Tensor, ours: torch.Tensor, theirs: torch.Tensor
) -> int:
    """Frames whose codes differ although no level's two best distances are within the tie margin."""
    frames = -(-wav.shape[-1] // codec.config.hop_length)
    padded = torch.nn.functional.pad(wav, (0, frames * codec.config.hop_length - wav.shape[-1]))
    failures = 0
    for b, t in {(int(b), int(t)) for b, _, t in (ours != theirs).nonzero()}:
        residual = codec.encoder(padded)[b, :, t]
        level = int((ours[b, :, t] != theirs[b, :, t]).nonzero()[0])
        for k in range(level):
            residual = residual - codec.quantizer.codebooks[k, ours[b, k, t]]
        best = (residual - codec.quantizer.codebooks[level]).square().sum(-1).topk(2, largest=False).values
        failures += bool((best[1] - best[0]) > TIE * best[1])
    return failures


@settings(max_examples=25, deadline=None, suppress_health_check=SHARED)
@given(samples=st.integers(1, 4000), seed=st.integers(0, 10_000))
@torch.no_grad()
def test_length_law(tiny_codec: AudioCodec, samples: int, seed: int) -> None:
    codes = tiny_codec.encode(noise(samples, seed)).audio_codes
    assert codes.shape[-1] == -(-samples // tiny_codec.config.hop_length)
    assert tiny_codec.decode(codes, num_samples=samples).audio_values.shape == (1, 1, samples)


@settings(max_examples=25, deadline=None, suppress_health_check=SHARED)
@given(frame=st.integers(1, 11), seed=st.integers(0, 10_000))
@torch.no_grad()
def test_causality_law(tiny_codec: AudioCodec, frame: int, seed: int) -> None:
    hop = tiny_codec.config.hop_length
    wav = noise(12 * hop, seed)
    changed = wav.clone()
    changed[..., frame * hop + tiny_codec.lookahead_samples :] = noise(12 * hop, seed + 1)[
        ..., frame * hop + tiny_codec.lookahead_samples :
    ]
    ours, theirs = (tiny_codec.encode(x).audio_codes[..., :frame] for x in (wav, changed))
    assert count_disagreements(tiny_codec, wav, ours, theirs) == 0


@settings(max_examples=40, deadline=None, suppress_health_check=SHARED)
@given(samples=st.integers(1, 6000), seed=st.integers(0, 10_000))
@torch.no_grad()
def test_streaming_law(tiny_codec: AudioCodec, samples: int, seed: int) -> None:
    chunks = random.Random(seed)
    wav = noise(samples, seed, batch=2)
    whole = tiny_codec.encode(wav).audio_codes
    session, pieces, at = tiny_codec.streaming_encoder(), [], 0
    while at < samples:
        size = chunks.choice((0, 1, 7, 160, 319, 320, 321, 700))
        pieces.append(session.push(wav[..., at : at + size]))
        at += size
    pieces.append(session.flush())
    codes = torch.cat(pieces, dim=-1)
    assert codes.shape == whole.shape
    assert count_disagreements(tiny_codec, wav, codes, whole) == 0

    sound = tiny_codec.decode(whole, num_samples=samples).audio_values
    decoder, pieces, at = tiny_codec.streaming_decoder(), [], 0
    while at < whole.shape[-1]:
        size = chunks.randint(1, 4)
        pieces.append(decoder.push(whole[..., at : at + size]))
        at += size
    rest = decoder.flush()
    streamed = torch.cat([*pieces, rest], dim=-1)[..., :samples]
    assert streamed.shape == sound.shape
    torch.testing.assert_close(streamed, sound, atol=1e-5, rtol=0)


@torch.no_grad()
def test_streaming_down_to_one_frame(tiny_codec: AudioCodec) -> None:
    wav = noise(10 * tiny_codec.config.hop_length, 3)
    session = tiny_codec.streaming_encoder(n_q=2)
    frames = [session.push(piece) for piece in wav.split(tiny_codec.config.hop_length, dim=-1)]
    assert all(frame.shape == (1, 2, 1) for frame in frames)
    assert session.flush().shape == (1, 2, 0)
    with pytest.raises(RuntimeError, match="flushed"):
        session.push(wav)


@settings(max_examples=25, deadline=None, suppress_health_check=SHARED)
@given(lengths=st.lists(st.integers(1, 3000), min_size=2, max_size=5), seed=st.integers(0, 10_000))
@torch.no_grad()
def test_batch_law(tiny_codec: AudioCodec, lengths: list[int], seed: int) -> None:
    wavs = [noise(n, seed + i) for i, n in enumerate(lengths)]
    batch = torch.full((len(wavs), 1, max(lengths)), 0.5)  # padding that is not silence must not matter
    mask = torch.zeros(len(wavs), max(lengths), dtype=torch.bool)
    for i, wav in enumerate(wavs):
        batch[i, :, : wav.shape[-1]] = wav
        mask[i, : wav.shape[-1]] = True
    together = tiny_codec.encode(batch, padding_mask=mask)
    for i, wav in enumerate(wavs):
        alone = tiny_codec.encode(wav).audio_codes
        frames = alone.shape[-1]
        assert int(together.audio_codes_mask[i].sum()) == frames
        assert count_disagreements(tiny_codec, wav, together.audio_codes[i : i + 1, :, :frames], alone) == 0
        assert not together.audio_codes[i, :, frames:].any()


@torch.no_grad()
def test_layers_law(tiny_codec: AudioCodec) -> None:
    wav = noise(3200, 0)
    codes = tiny_codec.encode(wav).audio_codes
    for n_q in range(1, tiny_codec.config.n_q + 1):
        assert torch.equal(tiny_codec.encode(wav, n_q=n_q).audio_codes, codes[:, :n_q])
        assert tiny_codec.decode(codes[:, :n_q]).audio_values.isfinite().all()


@torch.no_grad()
def test_quantisation_error_falls_level_by_level() -> None:
    latents = torch.randn(4000, 8, generator=torch.Generator().manual_seed(0))
    quantizer = ResidualVectorQuantizer(4, 32, 8)
    quantizer.init_from(latents)
    x = latents.t()[None]
    errors = [float((quantizer.decode(quantizer.encode(x, n_q)) - x).square().mean()) for n_q in range(1, 5)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.5 * errors[0]


def test_planted_dead_codes_come_alive() -> None:
    torch.manual_seed(0)
    quantizer = ResidualVectorQuantizer(2, 64, 4).train()
    quantizer.init_from(torch.randn(2000, 4))
    quantizer.start_averages(500)
    quantizer.codebooks[0, :32] = 1e3
    quantizer.sums[0, :32] = 1e3 * quantizer.usage[0, :32, None]
    for _ in range(400):
        quantizer(torch.randn(10, 4, 50))
    codes = quantizer(torch.randn(40, 4, 50)).codes[:, 0]
    assert codes.unique().numel() > 60


def test_commitment_gradient_reaches_every_level() -> None:
    torch.manual_seed(0)
    quantizer = ResidualVectorQuantizer(4, 16, 6).eval()
    quantizer.init_from(torch.randn(500, 6))
    gradients = []
    for levels in range(1, 5):
        latents = torch.randn(2, 6, 30, generator=torch.Generator().manual_seed(1), requires_grad=True)
        out = quantizer(latents, torch.full((2,), levels))
        out.commitment.backward()
        assert latents.grad is not None
        gradients.append(latents.grad.clone())
    for lower, higher in zip(gradients, gradients[1:], strict=False):
        assert (higher - lower).abs().max() > 1e-4


def test_fingerprints(tiny_codec: AudioCodec) -> None:
    other = AudioCodec(tiny_codec.config)
    other.load_state_dict(tiny_codec.state_dict())
    assert other.codes_fingerprint == tiny_codec.codes_fingerprint
    with torch.no_grad():
        next(other.decoder.parameters()).add_(1.0)
    assert other.codes_fingerprint == tiny_codec.codes_fingerprint
    assert other.weights_fingerprint != tiny_codec.weights_fingerprint
    with torch.no_grad():
        other.quantizer.codebooks[0, 0, 0] += 1.0
    assert other.codes_fingerprint != tiny_codec.codes_fingerprint


def test_save_and_load_is_bit_equal(tiny_codec: AudioCodec, tmp_path) -> None:
    tiny_codec.save_pretrained(tmp_path / "codec")
    back = AudioCodec.from_pretrained(tmp_path / "codec").eval()
    assert back.weights_fingerprint == tiny_codec.weights_fingerprint
    wav = noise(1600, 0)
    assert torch.equal(back(wav).audio_values, tiny_codec(wav).audio_values)


@pytest.mark.parametrize(
    ("wav", "message"),
    [
        (torch.zeros(1, 2, 320), r"expected input_values \[B, 1, N\]"),
        (torch.zeros(1, 1, 0), "N >= 1"),
        (torch.full((1, 1, 320), float("nan")), "finite"),
    ],
)
def test_bad_wavs_are_refused(tiny_codec: AudioCodec, wav: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_codec.encode(wav)


def test_bad_codes_are_refused(tiny_codec: AudioCodec) -> None:
    size, n_q = tiny_codec.config.codebook_size, tiny_codec.config.n_q
    with pytest.raises(ValueError, match=rf"\[0, {size}\), got values from 0 to {size}"):
        tiny_codec.decode(torch.full((1, n_q, 2), size) * torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="integer"):
        tiny_codec.decode(torch.zeros(1, n_q, 2))
    with pytest.raises(ValueError, match="num_samples"):
        tiny_codec.decode(torch.zeros(1, n_q, 2, dtype=torch.int64), num_samples=10_000)
    with pytest.raises(ValueError, match="n_q"):
        tiny_codec.encode(torch.zeros(1, 1, 320), n_q=n_q + 1)


def test_config_names_field_value_and_rule() -> None:
    with pytest.raises(ValueError, match=r"CodecConfig.hop_length=300 must be a multiple"):
        CodecConfig(hop_length=300)


@pytest.mark.parametrize("banks", [[], [5], [{}], [{"window": 64, "snapshots": 0}]])
def test_filter_banks_that_are_none_are_refused(banks: list) -> None:
    with pytest.raises(ValueError, match=r"CodecConfig\.encoder_banks"):
        CodecConfig(encoder_banks=banks)


@pytest.mark.parametrize(
    "tensor", [torch.zeros(1, 1, 640, device="meta"), torch.zeros(1, 1, 640).to_sparse()]
)
def test_tensors_without_their_numbers_are_refused(tiny_codec: AudioCodec, tensor: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="expected .* with its numbers"):
        tiny_codec.encode(tensor)
