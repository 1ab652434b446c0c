"""EnCodec: with the weights of transformers' EncodecModel, the same codes and the same audio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import encodec_toys as toys
import pytest
import torch
from torch import Tensor
from transformers import EncodecModel

from audiotok.codec import seanet as convert
from audiotok.codec.adapters import adapt
from audiotok.codec.pretrained import load_codec
from audiotok.codec.seanet import PRESETS, SeanetCodec, SeanetConfig, seanet_preset, segment_starts

TIE = 1e-5  # relative difference of squared distances that counts as a tie
PRESET = pytest.mark.parametrize("preset", ["24k", "48k"])


def pair(preset: str, changes: dict[str, dict[str, Any]] = toys.SMALL) -> tuple[EncodecModel, SeanetCodec]:
    theirs = toys.random_encodec(changes[preset])
    return theirs, convert.convert_encodec(theirs)


@torch.no_grad()
def is_tie(codec: SeanetCodec, wav: Tensor, ours: Tensor, theirs: Tensor, frame: int) -> bool:
    """Whether two codings [K, T] of a sound [1, C, N] differ in this frame only by a tie of two codewords."""
    size = codec.config.segment_samples
    latents = []
    for start in segment_starts(wav.shape[-1], codec.config.segment_stride):
        piece = wav[..., start : start + size] if size else wav
        scale = piece.mean(1).square().mean(-1).sqrt() + 1e-8 if codec.has_scale else 1.0
        latents.append(codec.encoder(piece / scale)[0])
    target = torch.cat(latents, dim=-1)[:, frame].double()
    level = int((ours[:, frame] != theirs[:, frame]).nonzero()[0])
    books = codec.quantizer.codebooks.double()
    target = target - sum(books[k, ours[k, frame]] for k in range(level))
    near, far = sorted(
        float((books[level, codes[level, frame]] - target).square().sum()) for codes in (ours, theirs)
    )
    return far - near < TIE * far


def compare(theirs: EncodecModel, ours: SeanetCodec, inputs: int, sizes: tuple[int, ...]) -> dict[str, float]:
    """Encode many sounds with both codecs and count the differences."""
    found = {"frames": 0, "ties": 0, "failures": 0, "audio": 0.0}
    used = [set() for _ in range(ours.config.n_q)]
    for size in sizes:
        for number in range(inputs):
            wav = toys.sounds(1, size, ours.config.audio_channels, 1000 * size + number)
            codes, scales, padded = toys.their_codes(theirs, wav)
            got = ours.encode(wav)
            assert got.audio_codes is not None and got.audio_codes.shape == codes.shape
            for book, row in zip(used, codes[0].tolist(), strict=True):
                book.update(row)
            apart = (codes != got.audio_codes)[0].any(0).nonzero()[:, 0].tolist()
            ties = sum(is_tie(ours, wav, got.audio_codes[0], codes[0], t) for t in apart)
            found["frames"] += codes.shape[-1]
            found["ties"] += ties
            found["failures"] += len(apart) - ties
            if number % 10 == 0:
                out = theirs.encode(wav, bandwidth=max(theirs.config.target_bandwidths))
                sound = theirs.decode(out.audio_codes, out.audio_scales, last_frame_pad_length=padded)[0]
                again = ours.decode(codes, audio_scales=got.audio_scales).audio_values
                assert again is not None and again.shape == sound.shape
                found["audio"] = max(found["audio"], float((again - sound).abs().max()))
            if ours.has_scale:
                torch.testing.assert_close(got.audio_scales, torch.cat(scales, dim=1))
    found["fewest"] = min(map(len, used))
    return found


@PRESET
@torch.no_grad()
def test_encodec_weights_give_the_same_codes_and_sound(preset: str) -> None:
    theirs, ours = pair(preset)
    found = compare(theirs, ours, 4, (801, 4_800, 20_007))
    assert found["failures"] == 0 and found["fewest"] > 50 and found["audio"] < 1e-4, found


@pytest.mark.slow
@PRESET
@torch.no_grad()
def test_encodec_of_the_papers_size_gives_the_same_codes_and_sound(preset: str) -> None:
    theirs, ours = pair(preset, toys.PAPER)
    rate = ours.config.sampling_rate
    found = compare(theirs, ours, 100, (rate // 4 + 7, rate // 2, 3 * rate // 2 - 11))
    print(f"{preset}: {found}")
    assert found["failures"] == 0 and found["fewest"] > 100 and found["audio"] < 1e-4, found


@PRESET
def test_length_and_first_codebooks(preset: str) -> None:
    _, codec = pair(preset)
    hop = codec.config.hop_length
    for size in (1, hop, hop + 1, 3_168 + 1, 9_000):
        wav = toys.sounds(1, size, codec.config.audio_channels, size)
        out = codec(wav)
        assert out.audio_codes.shape[-1] == codec.frames(size) and out.audio_values.shape == wav.shape
        assert codec.samples(codec.frames(size)) >= size
        some = codec.encode(wav, n_q=2)
        assert torch.equal(some.audio_codes, out.audio_codes[:, :2])
        codec.decode(some.audio_codes, audio_scales=some.audio_scales)
    if codec.segment_samples is None:
        assert codec.frames(9_000) == -(-9_000 // hop)


@PRESET
def test_an_items_codes_do_not_depend_on_its_batch(preset: str) -> None:
    _, codec = pair(preset)
    lengths = (5_000, 7_777, 130)
    wav = toys.sounds(3, 7_777, codec.config.audio_channels, 3)
    together = codec.encode(wav, padding_mask=torch.arange(7_777) < torch.tensor(lengths)[:, None])
    for i, length in enumerate(lengths):
        alone = codec.encode(wav[i : i + 1, :, :length])
        frames = int(together.audio_codes_mask[i].sum())
        assert torch.equal(alone.audio_codes[0], together.audio_codes[i, :, :frames])
        if codec.has_scale:
            segments = alone.audio_scales.shape[1]
            torch.testing.assert_close(alone.audio_scales[0], together.audio_scales[i, :segments])


def once(session: Any, piece: Tensor) -> Tensor:
    """Push a piece and overwrite its buffer afterwards."""
    buffer = piece.clone()
    given = session.push(buffer)
    buffer.zero_()
    return given


@PRESET
def test_a_session_in_pieces_equals_one_pass(preset: str) -> None:
    _, codec = pair(preset)
    wav = toys.sounds(1, 10_007, codec.config.audio_channels, 5)
    whole = codec(wav)
    encoder, decoder = codec.streaming_encoder(), codec.streaming_decoder()
    cuts = [0, 1, 700, 3_168, 3_200, 3_201, 9_900, 10_007]
    pieces = [once(encoder, wav[..., start:stop]) for start, stop in zip(cuts, cuts[1:], strict=False)]
    codes = torch.cat([*pieces, encoder.flush()], dim=-1)
    assert torch.equal(codes, whole.audio_codes)
    if codec.has_scale:
        decoder.add_scales(torch.tensor(encoder.take_scales()))
    found = [once(decoder, codes[..., t : t + 3]) for t in range(0, codes.shape[-1], 3)]
    sound = torch.cat([*found, decoder.flush()], dim=-1)
    torch.testing.assert_close(sound[..., : wav.shape[-1]], whole.audio_values, atol=1e-5, rtol=0)
    lossy, frames = codec.streaming_decoder(), codes.shape[-1]
    sound = [lossy.push(codes[..., : frames - 9]), lossy.conceal(9), lossy.flush()]
    silent = codec.samples(frames) - codec.samples(frames - 9)
    wav = torch.cat(sound, dim=-1)
    assert wav.shape[-1] == codec.samples(frames) and wav[..., : -silent - 1].any()
    assert not wav[..., -silent:].any()


def test_lookahead_of_the_24k_preset() -> None:
    _, codec = pair("24k")
    wav = toys.sounds(1, 6_000, 1, 8)
    hop, ahead = codec.config.hop_length, codec.lookahead_samples
    codes = codec.encode(wav).audio_codes
    for frame in (1, 3, 12):
        changed = wav.clone()
        changed[..., frame * hop + ahead :] = 0.3
        assert torch.equal(codec.encode(changed).audio_codes[..., :frame], codes[..., :frame])
    changed = wav.clone()
    changed[..., hop : hop + ahead] = 0.3
    assert not torch.equal(codec.encode(changed).audio_codes[..., :1], codes[..., :1])  # not causal


def test_a_checkpoint_has_one_fingerprint_however_it_is_opened(tmp_path: Path) -> None:
    theirs, ours = pair("48k")
    theirs.save_pretrained(tmp_path / "music")
    back = load_codec(tmp_path / "music")
    back.save_pretrained(tmp_path / "ours")
    for codec in (back, load_codec(tmp_path / "ours"), adapt(theirs)):
        assert codec.codes_fingerprint == ours.codes_fingerprint
        assert codec.weights_fingerprint == ours.weights_fingerprint
    assert back.config.codec_name == "music"


def test_unsupported_encodec_configs_are_refused() -> None:
    config = toys.random_encodec(toys.SMALL["24k"]).config
    config.trim_right_ratio = 0.5
    with pytest.raises(ValueError, match="trim_right_ratio"):
        convert.convert_config(config)


@pytest.mark.parametrize(
    ("preset", "changes"), [("encodec-24k", toys.PAPER["24k"]), ("encodec-48k", toys.PAPER["48k"])]
)
def test_presets_equal_the_papers(preset: str, changes: dict[str, Any]) -> None:
    from transformers import EncodecConfig

    theirs = convert.convert_config(EncodecConfig(**changes), preset)
    assert theirs.to_diff_dict() == seanet_preset(preset).to_diff_dict()
    assert theirs.bitrate_bps == 24_000


def test_bad_preset_arguments_are_named() -> None:
    assert set(PRESETS) == {"soundstream", "encodec-24k", "encodec-48k"}
    with pytest.raises(ValueError, match="encodec-24k"):
        seanet_preset("encodec")
    with pytest.raises(ValueError, match="filters"):
        seanet_preset("soundstream", filter=3)
    with pytest.raises(ValueError, match="pad_mode"):
        SeanetConfig(pad_mode="wrap")
