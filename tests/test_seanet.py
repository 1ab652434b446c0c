"""SoundStream's denoising, and EnCodec with the codes and the audio of transformers' EncodecModel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from codec_toys import PAPER, SMALL, random_encodec, shared_codec, sounds
from test_codec import is_tie
from torch import Tensor
from transformers import EncodecConfig, EncodecModel

from audiotok.codec.adapters import adapt
from audiotok.codec.pretrained import load_codec
from audiotok.codec.seanet import (
    PRESETS,
    SeanetCodec,
    SeanetConfig,
    convert_config,
    convert_encodec,
    seanet_preset,
)

PRESET = pytest.mark.parametrize("preset", ["24k", "48k"])


@torch.no_grad()
def compare(theirs: EncodecModel, inputs: int, sizes: tuple[int, ...]) -> dict[str, float]:
    """Encode many sounds with a model and its conversion, and count the differences."""
    ours = convert_encodec(theirs)
    found = {"frames": 0, "ties": 0, "failures": 0, "audio": 0.0}
    used = [set() for _ in range(ours.config.n_q)]
    for size in sizes:
        for number in range(inputs):
            wav = sounds(1, size, ours.config.audio_channels, 1000 * size + number)
            out = theirs.encode(wav, bandwidth=max(theirs.config.target_bandwidths))
            padded = out.last_frame_pad_length or 0
            codes = torch.cat(list(out.audio_codes), dim=-1)  # segments end to end
            codes = codes[..., : codes.shape[-1] - padded]
            got = ours.encode(wav)
            assert got.audio_codes.shape == codes.shape
            for book, row in zip(used, codes[0].tolist(), strict=True):
                book.update(row)
            apart = (codes != got.audio_codes)[0].any(0).nonzero()[:, 0].tolist()
            ties = sum(is_tie(ours, wav, got.audio_codes[0], codes[0], t) for t in apart)
            found["frames"] += codes.shape[-1]
            found["ties"] += ties
            found["failures"] += len(apart) - ties
            if number % 10 == 0:
                sound = theirs.decode(out.audio_codes, out.audio_scales, last_frame_pad_length=padded)[0]
                again = ours.decode(codes, audio_scales=got.audio_scales).audio_values
                assert again.shape == sound.shape
                found["audio"] = max(found["audio"], float((again - sound).abs().max()))
            if ours.has_scale:
                torch.testing.assert_close(got.audio_scales, torch.cat(out.audio_scales, dim=1))
    found["fewest"] = min(map(len, used))
    return found


@PRESET
def test_encodec_weights_give_the_same_codes_and_sound(preset: str) -> None:
    found = compare(random_encodec(SMALL[preset]), 4, (801, 4_800, 20_007))
    assert found["failures"] == 0 and found["fewest"] > 50 and found["audio"] < 1e-4, found


@pytest.mark.slow
@PRESET
def test_encodec_of_the_papers_size_gives_the_same_codes_and_sound(preset: str) -> None:
    theirs = random_encodec(PAPER[preset])
    rate = theirs.config.sampling_rate
    found = compare(theirs, 100, (rate // 4 + 7, rate // 2, 3 * rate // 2 - 11))
    print(f"{preset}: {found}")
    assert found["failures"] == 0 and found["fewest"] > 100 and found["audio"] < 1e-4, found


def test_a_checkpoint_has_one_fingerprint_however_it_is_opened(tmp_path: Path) -> None:
    theirs = random_encodec(SMALL["48k"])
    theirs.save_pretrained(tmp_path / "music")
    back, ours = load_codec(tmp_path / "music"), convert_encodec(theirs)
    back.save_pretrained(tmp_path / "ours")
    for codec in (back, load_codec(tmp_path / "ours"), adapt(theirs)):
        assert codec.codes_fingerprint == ours.codes_fingerprint
        assert codec.weights_fingerprint == ours.weights_fingerprint
    assert back.config.codec_name == "music"


def test_presets_equal_the_papers() -> None:
    for preset, changes in PAPER.items():
        theirs = convert_config(EncodecConfig(**changes), f"encodec-{preset}")
        assert theirs.to_diff_dict() == seanet_preset(f"encodec-{preset}").to_diff_dict()
        assert theirs.bitrate_bps == 24_000
    config = seanet_preset("soundstream")
    assert (config.filters, config.strides, config.dilations) == (32, [2, 4, 5, 8], [1, 3, 9])
    assert config.frame_rate == 75 and config.bitrate_bps == 6_000 and config.residual_kernel_size == 7
    with torch.device("meta"):
        codec = SeanetCodec(config)
    units = [m for stage in codec.encoder.stages for m in stage][:4]
    assert [unit.dilated.conv.dilation[0] for unit in units[:3]] == [1, 3, 9] and units[3].conv.stride == (2,)
    assert codec.streams and codec.is_causal and codec.lookahead_samples == 0 and not codec.has_scale


def test_bad_configs_are_named() -> None:
    calls: list[tuple[Callable[..., Any], Any, dict[str, Any], str]] = [
        (convert_config, EncodecConfig(**SMALL["24k"], trim_right_ratio=0.5), {}, "trim_right_ratio"),
        (seanet_preset, "encodec", {}, list(PRESETS)[1]),
        (seanet_preset, "soundstream", {"filter": 3}, "filters"),
        (SeanetConfig, 24_000, {"pad_mode": "wrap"}, "pad_mode"),
    ]
    for call, argument, options, value in calls:
        with pytest.raises(ValueError, match=value):
            call(argument, **options)


def test_a_frames_flag_changes_that_frame_and_no_earlier_one(make_speech: Callable[..., Tensor]) -> None:
    """Denoising is switched per frame without latency, and streaming gives the same result."""
    codec, wav = shared_codec("soundstream"), make_speech(1.0, 8_000)[None]
    off, on = (codec.encode(wav, denoise=wanted).audio_codes for wanted in (False, True))
    assert not torch.equal(off, on)
    switched = torch.zeros(1, off.shape[-1], dtype=torch.bool)
    switched[:, 12:] = True
    codes = codec.encode(wav, denoise=switched).audio_codes
    assert torch.equal(codes[..., :12], off[..., :12])
    # The last convolution spans two frames with the previous flag.
    assert torch.equal(codes[..., 14:], on[..., 14:])
    session = codec.streaming_encoder(denoise=True)
    pieces = [session.push(wav[..., :3_000]), session.push(wav[..., 3_000:]), session.flush()]
    assert torch.equal(torch.cat(pieces, dim=-1), on)
    with pytest.raises(ValueError, match="denoise"):
        shared_codec("encodec-24k").encode(wav, denoise=True)
