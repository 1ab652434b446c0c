"""Invariants of every codec family, on small random codecs."""

from __future__ import annotations

import copy
import math
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from codec_toys import FAMILIES, random_codec, shared_codec, sounds
from datasets.fingerprint import Hasher
from torch import Tensor, nn

from audiotok import AudioCodec, CodecConfig, load_codec, search_codes
from audiotok.codec.seanet import segment_starts

TIE = 1e-5  # relative difference of squared distances that counts as a tie
# Own weights, whose dtype can change.
OWN = pytest.mark.parametrize("family", ["speech", "soundstream", "encodec-24k"])


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def codec(family: str) -> Any:
    """The codec that all tests of a family share."""
    return shared_codec(family)


def wav_for(codec: Any, samples: int, seed: int = 0, batch: int = 1) -> Tensor:
    return sounds(batch, samples, codec.config.audio_channels, seed)


@torch.no_grad()
def is_tie(codec: Any, wav: Tensor, ours: Tensor, theirs: Tensor, frame: int) -> bool:
    """Whether two codings [K, T] of a sound [1, C, N] differ in this frame only by a tie of two codewords."""
    size, quantizer = codec.segment_samples or wav.shape[-1], codec.quantizer
    if codec.streams:
        wav = nn.functional.pad(wav, (0, -wav.shape[-1] % codec.config.hop_length))
        size = wav.shape[-1]
    latents = []
    for start in segment_starts(wav.shape[-1], getattr(codec.config, "segment_stride", None)):
        piece = wav[..., start : start + size]
        scale = piece.mean(1).square().mean(-1).sqrt() + 1e-8 if codec.has_scale else 1.0
        latents.append(codec.encoder(piece / scale)[0])
    target = torch.cat(latents, dim=-1)[:, frame].double()
    target, meaning = target[: quantizer.dim], target[quantizer.dim :]
    level = int((ours[:, frame] != theirs[:, frame]).nonzero()[0])
    books = quantizer.codebooks.double()
    for k in range(level):
        target = target - books[k, ours[k, frame]]
    book = books[level]
    if level == 0 and quantizer.semantic_dim:
        target, book = meaning, quantizer.semantic_codebook.double()
    near, far = sorted(float((book[codes[level, frame]] - target).square().sum()) for codes in (ours, theirs))
    return far - near < TIE * far


def assert_same_codes(codec: Any, wav: Tensor, ours: Tensor, theirs: Tensor) -> None:
    """Codes [B, K, T] of wavs [B, C, N] are equal but for ties."""
    assert ours.shape == theirs.shape
    for row in range(len(ours)):
        apart = (ours[row] != theirs[row]).any(0).nonzero()[:, 0].tolist()
        assert all(is_tie(codec, wav[row : row + 1], ours[row], theirs[row], t) for t in apart)


def test_length_and_first_codebooks(codec: Any) -> None:
    hop = codec.config.hop_length
    for samples in (1, hop - 1, hop, hop + 1, 3_169, 9_001):
        wav = wav_for(codec, samples, samples)
        out = codec(wav)
        frames = out.audio_codes.shape[-1]
        assert frames == codec.frames(samples) and codec.samples(frames) >= samples
        assert codec.segment_samples or frames == math.ceil(samples / hop)
        assert out.audio_values.shape == wav.shape and out.audio_values.isfinite().all()
        some = codec.encode(wav, n_q=2)
        assert torch.equal(some.audio_codes, out.audio_codes[:, :2])
        few = codec.decode(some.audio_codes, audio_scales=some.audio_scales).audio_values
        assert few.shape[-1] == codec.samples(frames) and few.isfinite().all()


@pytest.mark.parametrize("family", ["speech", "semantic", "soundstream", "encodec-24k"])
def test_causality(codec: Any) -> None:
    hop, ahead = codec.config.hop_length, codec.lookahead_samples
    wav = wav_for(codec, 14 * hop)
    codes = codec.encode(wav).audio_codes
    for frame in (1, 3, 12):
        changed = wav.clone()
        changed[..., frame * hop + ahead :] = 0.3
        found = codec.encode(changed).audio_codes[..., :frame]
        assert_same_codes(codec, wav, found, codes[..., :frame])
    if ahead:
        changed = wav.clone()
        changed[..., hop : hop + ahead] = 0.3
        assert not torch.equal(codec.encode(changed).audio_codes[..., :1], codes[..., :1])


def test_items_do_not_depend_on_their_batch(codec: Any) -> None:
    lengths = (7_777, 4_900, 7_777, 130)
    wav = wav_for(codec, 7_777, 3, batch=4)  # padding that is not silence
    mask = torch.arange(7_777) < torch.tensor(lengths)[:, None]
    together = codec.encode(wav, padding_mask=mask)
    decoded = codec.decode(together.audio_codes, 7_777, mask, together.audio_scales).audio_values
    for i, length in enumerate(lengths):
        item = wav[i : i + 1, :, :length]
        alone = codec.encode(item)
        frames = int(together.audio_codes_mask[i].sum())
        assert frames == codec.frames(length)
        assert_same_codes(codec, item, together.audio_codes[i : i + 1, :, :frames], alone.audio_codes)
        assert not together.audio_codes[i, :, frames:].any() and not decoded[i, :, length:].any()
        if codec.has_scale:
            segments = alone.audio_scales.shape[1]
            torch.testing.assert_close(alone.audio_scales[0], together.audio_scales[i, :segments])


@pytest.mark.parametrize("seed", [0, 1])
def test_any_chunking_equals_one_pass(codec: Any, seed: int) -> None:
    """Pieces may be empty, and their buffers may be reused."""
    chunks, samples = random.Random(seed), 9_000 + seed
    wav = wav_for(codec, samples, seed, batch=2 if codec.streams else 1)
    whole, encoder, decoder = codec(wav), codec.streaming_encoder(), codec.streaming_decoder()
    pieces, at = [], 0
    while at < samples:
        buffer = wav[..., at : at + chunks.choice((0, 1, 7, 160, 319, 320, 321, 1_700))].clone()
        at += buffer.shape[-1]
        pieces.append(encoder.push(buffer))
        buffer.zero_()
    codes = torch.cat([*pieces, encoder.flush()], dim=-1)
    assert_same_codes(codec, wav, codes, whole.audio_codes)

    if codec.has_scale:
        decoder.add_scales(torch.tensor(encoder.take_scales()))
    pieces, at = [], 0
    while at < codes.shape[-1]:
        buffer = whole.audio_codes[..., at : at + chunks.randint(1, 4)].clone()
        at += buffer.shape[-1]
        pieces.append(decoder.push(buffer))
        buffer.zero_()
    streamed = torch.cat([*pieces, decoder.flush()], dim=-1)[..., :samples]
    torch.testing.assert_close(streamed, whole.audio_values, atol=1e-5, rtol=0)


def test_missing_frames_keep_the_length_and_fade_to_silence(codec: Any) -> None:
    codes = codec.encode(wav_for(codec, codec.config.sampling_rate)).audio_codes
    frames, session = codes.shape[-1], codec.streaming_decoder()
    parts = [session.push(codes[..., : frames - 9]), session.conceal(9), session.flush()]
    sound = torch.cat(parts, dim=-1)
    assert sound.shape[-1] == codec.samples(frames) and sound.isfinite().all()
    assert sound.any() and not sound[..., -160:].any()


def test_a_codec_can_be_saved_copied_and_pickled(
    family: str, codec: Any, tmp_path: Path, no_network: list[object]
) -> None:
    model = random_codec(family) if family in ("dac", "mimi", "xcodec") else codec
    model.save_pretrained(tmp_path / "saved")
    loaded = load_codec(tmp_path / "saved")
    loaded.save_pretrained(tmp_path / "again")
    assert no_network == []
    twins = (load_codec(tmp_path / "again"), pickle.loads(pickle.dumps(loaded)), copy.deepcopy(loaded))
    for twin in (*twins, loaded):
        assert twin.codes_fingerprint == codec.codes_fingerprint
        assert twin.weights_fingerprint == codec.weights_fingerprint
    config = codec.config
    assert config.bitrate_bps == config.n_q * math.log2(config.codebook_size) * config.frame_rate


@OWN
def test_autocast_changes_neither_codes_nor_audio(codec: Any, wav: Tensor) -> None:
    out, session = codec(wav[None]), codec.streaming_encoder()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = codec(wav[None])
        assert torch.equal(again.audio_codes, out.audio_codes)
        torch.testing.assert_close(again.audio_values, out.audio_values)
        codes = [session.push(wav[None, :, :1000]), session.push(wav[None, :, 1000:]), session.flush()]
        assert torch.equal(torch.cat(codes, dim=-1), out.audio_codes)


@OWN
@pytest.mark.parametrize(
    "cast", [lambda c: c.to(torch.bfloat16), lambda c: c.half()], ids=["bfloat16", "half"]
)
def test_a_cast_codec_makes_the_same_codes(family: str, wav: Tensor, cast: Callable[[Any], Any]) -> None:
    codec = FAMILIES[family]()
    out, fingerprint = codec(wav[None]), codec.codes_fingerprint
    cast(codec)
    assert {p.dtype for p in codec.decoder.parameters()} != {torch.float32}
    again = codec(wav[None])
    assert torch.equal(again.audio_codes, out.audio_codes) and codec.codes_fingerprint == fingerprint
    assert again.audio_values.dtype == torch.float32
    assert (again.audio_values - out.audio_values).abs().max() < 0.1 * out.audio_values.abs().max()


@OWN
def test_loading_in_bfloat16_keeps_codes_in_float32(codec: Any, wav: Tensor, tmp_path: Path) -> None:
    codec.save_pretrained(tmp_path)
    expected = codec.encode(wav[None]).audio_codes
    for loaded in (
        type(codec).from_pretrained(tmp_path, dtype=torch.bfloat16).eval(),
        load_codec(tmp_path, dtype=torch.bfloat16),
        load_codec(tmp_path, dtype="bfloat16"),
    ):
        assert torch.equal(loaded.encode(wav[None]).audio_codes, expected)
        assert loaded.decode(expected).audio_values.isfinite().all()
        assert any(p.dtype == torch.bfloat16 for p in loaded.decoder.parameters())
    with pytest.raises(ValueError, match="float64"):
        load_codec(tmp_path, dtype=torch.float64)


@OWN
def test_no_tensor_is_left_uninitialised(codec: Any) -> None:
    """With all weights missing from the checkpoint, a codec equals a newly constructed one."""
    made = type(codec)(codec.config)
    loaded = type(codec).from_pretrained(None, config=codec.config, state_dict={})
    for (name, ours), (_, theirs) in zip(made.named_buffers(), loaded.named_buffers(), strict=True):
        assert torch.equal(ours, theirs), name
    for (name, ours), (_, theirs) in zip(made.named_parameters(), loaded.named_parameters(), strict=True):
        assert ours.shape == theirs.shape and theirs.isfinite().all() and theirs.abs().max() < 100, name
    assert loaded(0.1 * torch.randn(1, 1, 3_200)).audio_values.isfinite().all()


def test_a_codecs_hash_is_the_same_in_every_process(tiny_codec_dir: Path, wav: Tensor) -> None:
    """``datasets.map`` uses this hash for its cache. A second load stands for another process."""
    codec = load_codec(tiny_codec_dir)
    expected = Hasher.hash(codec)
    codec.encode(wav[None])
    assert Hasher.hash(codec) == Hasher.hash(load_codec(tiny_codec_dir)) == expected


@OWN
def test_offloaded_weights_are_refused(family: str, wav: Tensor) -> None:
    codec = FAMILIES[family]()
    codes = codec.encode(wav[None]).audio_codes
    accelerate.cpu_offload(codec)
    for use in (
        lambda: codec.encode(wav[None]),
        lambda: codec.decode(codes),
        codec.streaming_encoder,
        codec.streaming_decoder,
    ):
        with pytest.raises(RuntimeError, match="offloaded"):
            use()


def test_a_folder_precedes_a_shipped_name(
    tiny_codec: AudioCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "default").mkdir()
    assert load_codec("default").config.codec_name != "tiny"  # a folder without a codec is ignored
    tiny_codec.save_pretrained(tmp_path / "mine")
    tiny_codec.save_pretrained(tmp_path / "default")
    assert load_codec("mine").config.codec_name == load_codec("default").config.codec_name == "tiny"


@pytest.mark.parametrize("family", ["encodec-48k"])
def test_a_missing_scale_means_the_same_in_a_session(codec: Any) -> None:
    codes = codec.encode(wav_for(codec, 3_200)).audio_codes
    session = codec.streaming_decoder()
    sound = torch.cat([session.push(codes), session.flush()], dim=-1)
    torch.testing.assert_close(sound, codec.decode(codes).audio_values)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("family", ["speech", "encodec-24k", "encodec-48k"])
def test_sessions_stay_on_their_device(family: str) -> None:
    codec = FAMILIES[family]().to("cuda")
    wav = wav_for(codec, 3_300).to("cuda")
    encoder, decoder = codec.streaming_encoder(), codec.streaming_decoder()
    codes = [codec.streaming_encoder().flush(), encoder.push(wav[..., :7]), encoder.push(wav[..., 7:])]
    codes += [encoder.flush()]
    sound = [codec.streaming_decoder().flush(), decoder.push(codes[0]), decoder.push(torch.cat(codes, -1))]
    sound += [decoder.flush()]
    assert {x.device.type for x in codes + sound} == {"cuda"}


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
    session, good = tiny_codec.streaming_encoder(), wav_for(tiny_codec, 500)
    found = [session.push(good)]
    for wav, error, message in NO_WAVS:
        for encode in (tiny_codec.encode, session.push):
            with pytest.raises(error, match=message):
                encode(wav)
    found += [session.push(good), session.flush()]
    assert torch.cat(found, dim=-1).shape == tiny_codec.encode(wav_for(tiny_codec, 1000)).audio_codes.shape


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
        (TypeError, "n_q", lambda: tiny_codec.encode(wav_for(tiny_codec, 320), n_q="3")),
        (ValueError, "n_q", lambda: tiny_codec.encode(wav_for(tiny_codec, 320), n_q=5)),
        (TypeError, "num_samples", lambda: tiny_codec.decode(codes, num_samples="3")),
        (ValueError, "num_samples", lambda: tiny_codec.decode(codes, num_samples=10_000)),
        (TypeError, "padding_mask", lambda: tiny_codec.encode(wav_for(tiny_codec, 320), padding_mask=[1])),
        (ValueError, "padding_mask", lambda: tiny_codec.decode(codes, padding_mask=torch.ones(2, 640))),
        (ValueError, "audio_scales", lambda: tiny_codec.decode(codes, audio_scales=torch.ones(1, 1))),
        (TypeError, "frames", lambda: session.conceal(1.5)),
    ):
        with pytest.raises(error, match=name):
            call()


def test_the_search_keeps_the_semantic_codebook() -> None:
    codec, wav = shared_codec("semantic"), sounds(1, 5_000, 1, 1)
    codes = codec.encode(wav).audio_codes
    found = search_codes(codec, wav, steps=2).audio_codes
    assert torch.equal(found[:, 0], codes[:, 0]) and codes[:, 0].unique().numel() > 1
