"""Optimised codes are closer to the recording and work like those of the encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from audiotok import AudioCodec, SearchingEncoder, load_audio, load_codec, save_audio, search, search_codes
from audiotok import open as open_atok
from audiotok.cli.main import main
from audiotok.evaluate import Row, evaluate_codec
from audiotok.metrics import mel_distance

Speech = Callable[..., Tensor]


@pytest.fixture
def short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of a fifth of a second, so that a second of audio has several."""
    monkeypatch.setattr(search, "WINDOW_FRAMES", 10)
    monkeypatch.setattr(search, "_AHEAD_FRAMES", 3)


def distance(codec: AudioCodec, wav: Tensor, codes: Tensor) -> float:
    """The distance of the search for the audio that codes [1, K, T] decode to."""
    size = codes.shape[-1] * codec.config.hop_length
    target = torch.nn.functional.pad(wav, (0, size - wav.shape[-1]))
    with torch.no_grad():
        decoded = codec.decode(codes).audio_values
        measured = slice(0, size - codec.config.synthesis_hop)
        return float(
            search._Distance(codec.config.sampling_rate)(decoded[..., measured], target[..., measured])
        )


def in_pieces(session: SearchingEncoder, pieces: list[Tensor]) -> Tensor:
    """Codes of a stream in pieces, whose buffers are overwritten after each push."""
    found = []
    for piece in pieces:
        buffer = piece.clone()
        found.append(session.push(buffer))
        buffer.zero_()
    return torch.cat([*found, session.flush()], dim=-1)


def test_optimised_codes_are_closer(make_speech: Speech) -> None:
    """A distance that the search does not use: dB between mel spectra."""
    codec = load_codec()
    rate = codec.config.sampling_rate
    wav = make_speech(0.6, rate, seed=3)
    found = []
    for coded in (codec.encode(wav[None]), search_codes(codec, wav[None], steps=6)):
        decoded = codec.decode(coded.audio_codes, num_samples=wav.shape[-1]).audio_values[0]
        found.append(mel_distance(wav, decoded, rate))
    assert found[1] < found[0]


def test_never_worse_than_the_encoder(tiny_codec: AudioCodec, make_speech: Speech) -> None:
    generator = torch.Generator().manual_seed(5)
    sounds = [
        make_speech(0.3),
        torch.zeros(1, 2000),
        0.3 * torch.randn(1, 3000, generator=generator),
        torch.ones(1, 1),
    ]
    for wav in sounds:
        for n_q in (1, 4):
            plain = tiny_codec.encode(wav[None], n_q=n_q).audio_codes
            optimised = search_codes(tiny_codec, wav[None], n_q=n_q, steps=2).audio_codes
            assert optimised.shape == plain.shape and optimised.dtype == torch.int64
            assert distance(tiny_codec, wav[None], optimised) <= distance(tiny_codec, wav[None], plain) + 1e-5


@pytest.mark.usefixtures("short_windows")
def test_any_chunking_gives_the_same_codes(tiny_codec: AudioCodec, make_speech: Speech) -> None:
    wav = make_speech(0.63)[None]
    whole = in_pieces(SearchingEncoder(tiny_codec, 3, 2), [wav])
    assert whole.shape == (1, 3, 32)
    for cuts in ([1, 5000], list(range(1700, 10_000, 1700))):
        pieces = list(wav.tensor_split(cuts, dim=-1))
        assert torch.equal(in_pieces(SearchingEncoder(tiny_codec, 3, 2), pieces), whole)
    later = torch.cat([wav[..., :7_500], make_speech(0.2, seed=9)[None]], dim=-1)
    # A window waits only for the frames measured with it: 20 + 3 frames of 320 samples end before 7,500.
    assert torch.equal(in_pieces(SearchingEncoder(tiny_codec, 3, 2), [later])[..., :20], whole[..., :20])


def test_items_do_not_depend_on_their_batch(tiny_codec: AudioCodec, make_speech: Speech) -> None:
    sounds = [make_speech(seconds, seed=seed) for seed, seconds in enumerate((0.3, 0.45, 0.011))]
    size = max(wav.shape[-1] for wav in sounds)
    batch = torch.stack(
        [torch.nn.functional.pad(wav, (0, size - wav.shape[-1]), value=0.1) for wav in sounds]
    )
    mask = torch.stack([torch.arange(size) < wav.shape[-1] for wav in sounds])
    out, plain = search_codes(tiny_codec, batch, mask, steps=2), tiny_codec.encode(batch, mask)
    assert torch.equal(out.audio_codes_mask, plain.audio_codes_mask)
    for row, wav in enumerate(sounds):
        alone = search_codes(tiny_codec, wav[None], steps=2).audio_codes[0]
        assert torch.equal(out.audio_codes[row, :, : alone.shape[-1]], alone)
        assert not out.audio_codes[row, :, alone.shape[-1] :].any()


def test_the_callers_mode_and_the_weights_stay(tiny_codec: AudioCodec, wav: Tensor) -> None:
    trained = [weight.requires_grad for weight in tiny_codec.parameters()]
    codes = search_codes(tiny_codec, wav[None], steps=2).audio_codes
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(search_codes(tiny_codec, wav[None], steps=2).audio_codes, codes)
            assert not torch.is_grad_enabled()
    assert trained == [weight.requires_grad for weight in tiny_codec.parameters()]
    assert all(weight.grad is None for weight in tiny_codec.parameters())


def test_search_errors(tiny_codec: AudioCodec, wav: Tensor) -> None:
    for steps, error in ((0, ValueError), (-1, ValueError), (2.0, TypeError)):
        with pytest.raises(error, match="step"):
            search_codes(tiny_codec, wav[None], steps=steps)
    for codec, sound, n_q, name in (
        (tiny_codec, wav[None], 5, "n_q"),
        (tiny_codec, wav, None, "input_values"),
        (torch.nn.Linear(1, 1), wav[None], None, "Linear"),
    ):
        with pytest.raises(ValueError, match=name):
            search_codes(codec, sound, n_q=n_q)
    session = SearchingEncoder(tiny_codec, steps=1)
    for bad in (torch.zeros(2, 1, 320), torch.full((1, 1, 320), torch.nan)):
        with pytest.raises(ValueError):
            session.push(bad)
    assert session.push(wav[None]).shape == (1, 4, 0)  # a refused call leaves no state
    assert session.flush().shape == (1, 4, 51)
    with pytest.raises(RuntimeError, match="flushed"):
        session.push(wav[None])
    assert SearchingEncoder(tiny_codec, steps=1).flush().shape == (1, 4, 0)


def test_encode_search(tiny_codec_dir: Path, make_speech: Speech, tmp_path: Path) -> None:
    save_audio(tmp_path / "in.wav", make_speech(0.5), 16_000)
    codec, wav = load_codec(tiny_codec_dir), load_audio(tmp_path / "in.wav")[0]
    options = ["--codec", str(tiny_codec_dir), "--n-q", "2", "--search", "2"]
    assert main(["encode", str(tmp_path / "in.wav"), str(tmp_path / "out.atok"), *options]) == 0
    optimised = search_codes(codec, wav[None], n_q=2, steps=2).audio_codes[0]
    with open_atok(tmp_path / "out.atok") as file:
        assert torch.equal(file.read().codes, optimised)


def test_eval_scores_the_search_beside_the_encoder(
    tiny_codec: AudioCodec, make_speech: Speech, tmp_path: Path
) -> None:
    save_audio(tmp_path / "a.wav", make_speech(0.5), 16_000)
    rows = [Row(tmp_path / "a.wav", "", "")]
    report = evaluate_codec(tiny_codec, rows, [4], search=3, metrics=("mel_distance_db",), workers=0)
    assert [line.kind for line in report.conditions] == ["codec", "search"]
    codes = search_codes(tiny_codec, load_audio(tmp_path / "a.wav")[0][None], steps=3).audio_codes
    decoded = tiny_codec.decode(codes, num_samples=8_000).audio_values[0]
    assert report.conditions[1].averages["mel_distance_db"].mean == pytest.approx(
        mel_distance(load_audio(tmp_path / "a.wav")[0], decoded, 16_000), abs=1e-4
    )
