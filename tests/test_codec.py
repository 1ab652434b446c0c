"""Invariants of the default codec family, on a small random codec."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audiotok.codec.config import CodecConfig
from audiotok.codec.model import AudioCodec

TIE = 1e-5
# The fixture is not reset between examples; no test here changes it.
SHARED = [HealthCheck.function_scoped_fixture]


def noise(samples: int, seed: int, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.3 * torch.randn(batch, 1, samples, generator=generator).clamp(-3, 3)


def count_disagreements(
    codec: AudioCodec, wav: torch.Tensor, ours: torch.Tensor, theirs: torch.Tensor
) -> int:
    """Frames whose codes differ although the two smallest distances of every level are outside the tie margin."""
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


@settings(max_examples=12, deadline=None, suppress_health_check=SHARED)
@given(samples=st.integers(1, 4000), seed=st.integers(0, 10_000))
@torch.no_grad()
def test_length(tiny_codec: AudioCodec, samples: int, seed: int) -> None:
    codes = tiny_codec.encode(noise(samples, seed)).audio_codes
    assert codes.shape[-1] == -(-samples // tiny_codec.config.hop_length)
    assert tiny_codec.decode(codes, num_samples=samples).audio_values.shape == (1, 1, samples)


@settings(max_examples=12, deadline=None, suppress_health_check=SHARED)
@given(frame=st.integers(1, 11), seed=st.integers(0, 10_000))
@torch.no_grad()
def test_causality(tiny_codec: AudioCodec, frame: int, seed: int) -> None:
    hop = tiny_codec.config.hop_length
    wav = noise(12 * hop, seed)
    changed = wav.clone()
    changed[..., frame * hop + tiny_codec.lookahead_samples :] = noise(12 * hop, seed + 1)[
        ..., frame * hop + tiny_codec.lookahead_samples :
    ]
    ours, theirs = (tiny_codec.encode(x).audio_codes[..., :frame] for x in (wav, changed))
    assert count_disagreements(tiny_codec, wav, ours, theirs) == 0


@settings(max_examples=15, deadline=None, suppress_health_check=SHARED)
@given(samples=st.integers(1, 6000), seed=st.integers(0, 10_000))
@torch.no_grad()
def test_any_chunking_equals_one_pass(tiny_codec: AudioCodec, samples: int, seed: int) -> None:
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


@settings(max_examples=12, deadline=None, suppress_health_check=SHARED)
@given(lengths=st.lists(st.integers(1, 3000), min_size=2, max_size=5), seed=st.integers(0, 10_000))
@torch.no_grad()
def test_items_do_not_depend_on_their_batch(tiny_codec: AudioCodec, lengths: list[int], seed: int) -> None:
    wavs = [noise(n, seed + i) for i, n in enumerate(lengths)]
    batch = torch.full((len(wavs), 1, max(lengths)), 0.5)  # padding that is not silence
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
def test_the_first_codebooks_decode_on_their_own(tiny_codec: AudioCodec) -> None:
    wav = noise(3200, 0)
    codes = tiny_codec.encode(wav).audio_codes
    for n_q in (1, 3):
        assert torch.equal(tiny_codec.encode(wav, n_q=n_q).audio_codes, codes[:, :n_q])
        assert tiny_codec.decode(codes[:, :n_q]).audio_values.isfinite().all()


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


def test_bad_configs_are_refused() -> None:
    with pytest.raises(ValueError, match="hop_length=300"):
        CodecConfig(hop_length=300)
    for banks in ([], [5], [{}], [{"window": 64, "snapshots": 0}], [{"window": 64, "snapshots": 1}]):
        with pytest.raises(ValueError, match="encoder_banks"):
            CodecConfig(encoder_banks=banks)


NO_WAVS: list[tuple[Any, type[Exception], str]] = [
    ([0.0], TypeError, "got list"),
    (None, TypeError, "got NoneType"),
    (torch.zeros(9), ValueError, r"\[9\]"),
    (torch.zeros(0, 1, 9), ValueError, "B >= 1"),
    (torch.zeros(1, 2, 9), ValueError, "channels"),
    (torch.zeros(1, 1, 320, dtype=torch.int16), ValueError, "32768"),
    (torch.full((1, 1, 9), 1e6), ValueError, "1e"),
    (torch.full((1, 1, 9), float("nan")), ValueError, "finite"),
    (torch.zeros(1, 1, 640, device="meta"), ValueError, "meta"),
    (torch.zeros(1, 1, 640).to_sparse(), ValueError, "sparse"),
]
NO_CODES: list[tuple[Any, type[Exception], str]] = [
    ([[[1]]], TypeError, "got list"),
    (torch.full((1, 4, 2), -1), ValueError, "from -1 to -1"),
    (torch.full((1, 4, 2), 64), ValueError, "from 64 to 64"),
    (torch.zeros(1, 5, 2, dtype=torch.int64), ValueError, "K <= 4"),
    (torch.zeros(0, 4, 2, dtype=torch.int64), ValueError, "B >= 1"),
    (torch.zeros(4, 2, dtype=torch.int64), ValueError, r"\[4, 2\]"),
    (torch.zeros(1, 4, 2), ValueError, "float32"),
    (torch.zeros(1, 4, 2, dtype=torch.bool), ValueError, "bool"),
]


def test_bad_wavs_are_refused_and_a_session_continues(tiny_codec: AudioCodec) -> None:
    session, good = tiny_codec.streaming_encoder(), noise(500, 0)
    found = [session.push(good)]
    for wav, error, message in NO_WAVS:
        for encode in (tiny_codec.encode, session.push):
            with pytest.raises(error, match=message):
                encode(wav)
    found += [session.push(good), session.flush()]
    assert torch.cat(found, dim=-1).shape == tiny_codec.encode(noise(1000, 0)).audio_codes.shape


def test_bad_codes_are_refused_and_a_session_continues(tiny_codec: AudioCodec) -> None:
    session, good = tiny_codec.streaming_decoder(), torch.full((1, 4, 3), 7)
    found = [session.push(good)]
    for codes, error, message in NO_CODES:
        for decode in (tiny_codec.decode, session.push, lambda bad: session.conceal(1, following=bad)):
            with pytest.raises(error, match=message):
                decode(codes)
    found += [session.push(good), session.flush()]
    whole = tiny_codec.decode(torch.cat([good, good], dim=-1)).audio_values
    torch.testing.assert_close(torch.cat(found, dim=-1), whole, atol=1e-5, rtol=0)


def test_numbers_are_checked(tiny_codec: AudioCodec) -> None:
    codes, session = torch.zeros(1, 4, 2, dtype=torch.int64), tiny_codec.streaming_decoder()
    for error, name, call in (
        (TypeError, "n_q", lambda: tiny_codec.encode(noise(320, 0), n_q="3")),
        (ValueError, "n_q", lambda: tiny_codec.encode(noise(320, 0), n_q=5)),
        (TypeError, "num_samples", lambda: tiny_codec.decode(codes, num_samples="3")),
        (ValueError, "num_samples", lambda: tiny_codec.decode(codes, num_samples=10_000)),
        (TypeError, "padding_mask", lambda: tiny_codec.encode(noise(320, 0), padding_mask=[1])),
        (ValueError, "padding_mask", lambda: tiny_codec.decode(codes, padding_mask=torch.ones(2, 640))),
        (ValueError, "audio_scales", lambda: tiny_codec.decode(codes, audio_scales=torch.ones(1, 1))),
        (TypeError, "frames", lambda: session.conceal(1.5)),
    ):
        with pytest.raises(error, match=name):
            call()


def test_a_semantic_codebook_streams_loads_and_is_kept_by_the_search(
    tiny_codec: AudioCodec, tmp_path
) -> None:
    from audiotok import search_codes

    config = type(tiny_codec.config)(**tiny_codec.config.to_dict() | {"semantic_dim": 8})
    AudioCodec(config).save_pretrained(tmp_path)
    codec = AudioCodec.from_pretrained(tmp_path).eval()
    with torch.no_grad():  # codewords among the latents, so that more than one code is used
        latents = codec.encoder(noise(320 * 64, 0))[0].T
        codec.quantizer.semantic_codebook.copy_(latents[:, config.codebook_dim :])
        codec.quantizer.codebooks.mul_(latents[:, : config.codebook_dim].std())
    wav = noise(5_000, 1)
    whole, session = codec(wav), codec.streaming_encoder()
    codes = torch.cat([session.push(wav[..., :777]), session.push(wav[..., 777:]), session.flush()], dim=-1)
    assert (codes != whole.audio_codes).float().mean() < 0.01  # ties
    assert whole.audio_codes[:, 0].unique().numel() > 1 and whole.audio_values.isfinite().all()
    found = search_codes(codec, wav, steps=2).audio_codes
    assert torch.equal(found[:, 0], whole.audio_codes[:, 0])
