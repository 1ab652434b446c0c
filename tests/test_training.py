"""Training of the codec: the loss falls, resuming gives the same losses, and packs keep the data."""

from __future__ import annotations

import copy
import dataclasses
import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers.models.auto.modeling_auto import AutoModelForAudioTokenization

from audiotok import AudioCodec
from audiotok.codec.pretrained import load_codec
from audiotok.state import load_state, save_state
from audiotok.training.codec import CodecTrainer
from audiotok.training.gather import check_apart, gather
from audiotok.training.losses import pitch_loss
from audiotok.training.packed import Draw, PackedClips, write_packed
from audiotok.training.perceptual import Disturbance, Unintelligibility
from audiotok.training.recipe import CodecRecipe, load_training_recipe
from audiotok.training.release import blend_decoder, release
from audiotok.training.semantic import plan_windows
from audiotok.training.trainer import NonFiniteError


@pytest.fixture
def pack(tmp_path: Path, make_speech: Callable[..., torch.Tensor]) -> PackedClips:
    clips = [({"id": f"clip{i}"}, make_speech(1.2 + 0.1 * i, seed=i)[0].numpy()) for i in range(6)]
    write_packed(tmp_path / "pack", clips)
    return PackedClips(tmp_path / "pack", 320)


def tiny_recipe(**changes: object) -> CodecRecipe:
    recipe = load_training_recipe("tiny")
    assert isinstance(recipe, CodecRecipe)
    return dataclasses.replace(recipe, log_every=1, eval_every=1000, save_every_s=0.0, **changes)


def losses_of(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["spectral/log_l1"] for line in lines if "spectral/log_l1" in line]


def test_training_lowers_the_loss_and_resumes_to_the_same_losses(pack: PackedClips, tmp_path: Path) -> None:
    stages = {"quantize_from": 8, "own_pitch_from": 10, "adversarial_from": 12, "kmeans_crops": 32}
    whole = tiny_recipe(steps=20, **stages)
    CodecTrainer(whole, pack, pack, tmp_path / "whole").run()
    undisturbed = losses_of(tmp_path / "whole")
    assert np.mean(undisturbed[-3:]) < 0.95 * np.mean(undisturbed[:3])

    trainer = CodecTrainer(whole, pack, pack, tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        _stop_at(trainer, step=14)
    resumed = CodecTrainer(whole, pack, pack, tmp_path / "cut")
    assert resumed.step == 14
    resumed.run()
    np.testing.assert_allclose(losses_of(tmp_path / "cut"), undisturbed, atol=1e-4)

    codec = load_codec(tmp_path / "whole" / "codec")
    assert codec.codes_fingerprint == load_codec(tmp_path / "cut" / "codec").codes_fingerprint


def _stop_at(trainer: CodecTrainer, step: int) -> None:
    """Run until the checkpoint of this step is written, then fail like a killed process."""
    save = trainer.save

    def save_and_stop() -> None:
        save()
        if trainer.step == step:
            raise KeyboardInterrupt

    trainer.save = save_and_stop  # type: ignore[method-assign]
    trainer.run()


def test_frozen_codes_stay(pack: PackedClips, tmp_path: Path) -> None:
    CodecTrainer(tiny_recipe(steps=4, quantize_from=1, kmeans_crops=32), pack, pack, tmp_path / "a").run()
    before = load_codec(tmp_path / "a" / "codec")
    recipe = tiny_recipe(steps=4, freeze_codes=True, adversarial_from=0)
    CodecTrainer(recipe, pack, pack, tmp_path / "b", init=load_codec(tmp_path / "a" / "codec")).run()
    after = load_codec(tmp_path / "b" / "codec")
    assert after.codes_fingerprint == before.codes_fingerprint
    assert after.weights_fingerprint != before.weights_fingerprint


def test_discriminators_warm_up_before_they_reach_the_codec(pack: PackedClips, tmp_path: Path) -> None:
    stages = {"quantize_from": 1, "kmeans_crops": 32, "adversarial_from": 2, "discriminator_warmup": 2}
    CodecTrainer(tiny_recipe(steps=6, **stages), pack, pack, tmp_path / "run").run()
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "adv/discriminator" in line] == [3, 4, 5, 6]
    assert [line["step"] for line in lines if "adv/gen" in line] == [5, 6]


def test_crops_are_a_function_of_seed_and_step(pack: PackedClips) -> None:
    first, again, other = (pack.crops(0, step, 4, 25, Draw(6.0)) for step in (3, 3, 4))
    assert torch.equal(first.wav, again.wav) and not torch.equal(first.wav, other.wav)
    assert first.wav.shape == (4, 1, 25 * 320) and float(first.wav.abs().max()) <= 1.0


def test_draws_follow_speakers_weights_and_bands(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 48_000)
    rows = [
        {"id": f"{folder}/{n}", "speaker": speaker}
        for folder, speaker, n in [("a", "x", 0), ("a", "x", 1), ("b", "y", 0)]
    ]
    write_packed(tmp_path / "pack", [(row, noise[:32_000]) for row in rows])
    pack = PackedClips(tmp_path / "pack", 320)
    np.testing.assert_allclose(pack.chances(Draw(speaker_power=1.0)), [0.25, 0.25, 0.5])
    np.testing.assert_allclose(pack.chances(Draw(weights={"b": 2.0})), [0.25, 0.25, 0.5])
    wide = pack.crops(0, 0, 8, 50, Draw()).wav
    narrow = pack.crops(0, 0, 8, 50, Draw(lowpass_share=1.0)).wav
    top = [torch.fft.rfft(wav[:, 0])[:, -100:].abs().mean() for wav in (wide, narrow)]
    assert top[1] < 0.5 * top[0]
    plain, noisy = (pack.crops(0, 0, 1, 50, Draw(noise_share=share)).wav for share in (0.0, 1.0))
    assert 1e-5 < float((noisy - plain).square().mean() / plain.square().mean()) < 0.05


def test_codebook_0_learns_to_predict_features(
    tmp_path: Path, make_speech: Callable[..., torch.Tensor]
) -> None:
    clips = [({"id": str(n), "speaker": "x"}, make_speech(1.2, seed=n)[0].numpy()) for n in range(6)]
    write_packed(tmp_path / "pack", clips)
    frames = PackedClips(tmp_path / "pack", 320).frames
    loudness = np.concatenate(
        [np.abs(wav[: len(wav) // 320 * 320]).reshape(-1, 320).mean(1) for _, wav in clips]
    )
    features = np.stack([loudness - loudness.mean(), np.full(frames, 0.05)], axis=1).astype(np.float16)
    save_file({"features": np.repeat(features, 64, axis=1)}, tmp_path / "pack.features.safetensors")
    pack = PackedClips(tmp_path / "pack", 320)
    recipe = tiny_recipe(steps=40, semantic=1.0, kmeans_crops=32, quantize_from=10)
    recipe = dataclasses.replace(recipe, model=recipe.model | {"semantic_dim": 8})
    CodecTrainer(recipe, pack, pack, tmp_path / "run").run()
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    distances = [line["semantic/cosine"] for line in log if "semantic/cosine" in line]
    assert distances[-1] < 0.7 * distances[0]
    codec = load_codec(tmp_path / "run" / "codec")
    codes = codec.encode(make_speech(1.0)[None]).audio_codes
    assert codes is not None and int(codes[:, 0].unique().numel()) > 4
    # Codes of codebook 0 depend on the semantic space only.
    other = copy.deepcopy(codec)
    with torch.no_grad():
        other.encoder.latent.weight[: codec.config.codebook_dim] += 0.1
    again = other.encode(make_speech(1.0)[None]).audio_codes
    assert again is not None and torch.equal(again[:, 0], codes[:, 0])
    assert not torch.equal(again, codes)
    assert codec.decode(codes[:, :1]).audio_values is not None


def test_windows_hold_every_frame_once() -> None:
    lengths = [400, 1500, 3100, 20, 1, 900]
    windows = plan_windows(lengths)
    held: list[set[int]] = [set() for _ in lengths]
    for pieces in windows:
        end = 0
        for clip, first, place in pieces:
            size = min(1500 - place, lengths[clip] - first)
            assert place >= end and place + size <= 1500
            end = place + size
            held[clip] |= set(range(first, first + size))
    assert [len(frames) for frames in held] == lengths


def test_release_halves_the_bytes_and_keeps_the_codes(
    tiny_codec: AudioCodec, wav: torch.Tensor, tmp_path: Path
) -> None:
    release(AudioCodec(tiny_codec.config), tmp_path / "released", {"device": "former"})
    released = release(tiny_codec, tmp_path / "released", {"device": "test"})  # in the place of a former one
    tiny_codec.save_pretrained(tmp_path / "full")
    size, full = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("released", "full"))
    assert size < 0.6 * full
    auto = AutoModelForAudioTokenization.from_pretrained(tmp_path / "released")  # not the stored dtype
    assert auto.dtype == torch.float32 and auto.codes_fingerprint == released.codes_fingerprint
    assert torch.equal(auto.encode(wav[None]).audio_codes, released.encode(wav[None]).audio_codes)
    assert json.loads((tmp_path / "released" / "provenance.json").read_text())["device"] == "test"


def test_blended_decoders_keep_the_codes(tiny_codec: AudioCodec) -> None:
    tuned, other = copy.deepcopy(tiny_codec), AudioCodec(tiny_codec.config)
    with torch.no_grad():
        for parameter in tuned.decoder.parameters():
            parameter.add_(1.0)
    blend_decoder(tuned, tiny_codec, 0.25)
    for ours, theirs in zip(tuned.decoder.parameters(), tiny_codec.decoder.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs + 0.75)
    assert tuned.codes_fingerprint == tiny_codec.codes_fingerprint
    with pytest.raises(ValueError, match="codes"):
        blend_decoder(tuned, other, 0.5)
    with pytest.raises(ValueError, match="0 to 1"):
        blend_decoder(tuned, tiny_codec, 1.5)


def test_gather_reads_a_plain_folder(tmp_path: Path, make_speech: Callable[..., torch.Tensor]) -> None:
    from audiotok.audio import save_audio

    (tmp_path / "in").mkdir()
    for i in range(3):
        save_audio(tmp_path / "in" / f"{i}.flac", make_speech(0.5, seed=i), 16_000)
    (tmp_path / "in" / "broken.wav").write_text("no sound")
    clips = gather(str(tmp_path / "in"), tmp_path / "pack", 16_000, 320, None)
    assert [row["id"] for row in clips.rows] == ["0.flac", "1.flac", "2.flac"]
    assert clips.clip(1).shape == (1, 8000)


def test_pitch_loss_is_least_at_the_tracked_pitch() -> None:
    grid = torch.exp(torch.linspace(4.0, 6.0, 40))
    f0_hz, voiced = grid[10].expand(1, 5), torch.ones(1, 5, dtype=torch.bool)
    at = [
        pitch_loss(torch.eye(40)[k].expand(1, 5, 40) * 9, torch.ones(1, 5), grid, f0_hz, voiced)[0]
        for k in (10, 20)
    ]
    assert at[0] < at[1]


@pytest.mark.parametrize(
    ("name", "override", "key"),
    [
        ("tiny", "step=3", "steps"),
        ("tiny", "model.n_qq=3", "model.n_q"),
        ("no-such", "lr=1", "tiny"),
        ("tiny", "seed.part=1", "seed"),
        ("tiny", "steps=0", "steps"),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(name: str, override: str, key: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=key):
        load_training_recipe(name, [override])


def test_state_round_trips_without_pickle(tmp_path: Path) -> None:
    tied = torch.randn(3)
    state = {"step": 3, "a": {0: {"x": tied, "y": tied}}, "list": [torch.arange(2), None, "s", 1.5, True]}
    save_state(tmp_path / "s.safetensors", state)
    back = load_state(tmp_path / "s.safetensors")
    assert (
        back["step"] == 3
        and torch.equal(back["a"][0]["y"], tied)
        and back["list"][1:] == [None, "s", 1.5, True]
    )
    with pytest.raises(TypeError, match="at /f"):
        save_state(tmp_path / "t.safetensors", {"f": {1, 2}})
    assert not list(tmp_path.glob("t.*")) and not list(tmp_path.glob(".t.*"))


def test_packing_streams_and_opening_maps(tmp_path: Path) -> None:
    """The corpus does not have to fit into memory."""

    def clips() -> Iterator[tuple[dict[str, str], np.ndarray]]:
        for index in range(200):
            yield {"id": str(index)}, np.full(16_000, index / 256, np.float32)

    write_packed(tmp_path / "warm", clips())
    tracemalloc.start()
    assert write_packed(tmp_path / "pack", clips()) == 200
    pack = PackedClips(tmp_path / "pack", 320)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000 < pack.pcm.nbytes == 6_400_000
    assert len(pack) == 200 and isinstance(pack.pcm, np.memmap)
    torch.testing.assert_close(pack.clip(77), torch.full((1, 16_000), 77 / 256), atol=1e-4, rtol=0)
    held = load_file(tmp_path / "pack.safetensors")  # any reader of safetensors opens it
    assert held["offsets"].tolist() == [16_000 * i for i in range(201)]
    assert write_packed(tmp_path / "empty", iter([])) == 0 and not list(tmp_path.glob("empty*"))


def test_a_value_that_is_not_finite_stops_the_run_and_keeps_the_last_state(
    pack: PackedClips, tmp_path: Path
) -> None:
    trainer = CodecTrainer(
        tiny_recipe(steps=9, quantize_from=2, kmeans_crops=32), pack, pack, tmp_path / "run"
    )
    step = trainer.train_step

    def spoilt() -> dict[str, object]:
        if trainer.step == 4:
            with torch.no_grad():
                next(trainer.training_model.codec.decoder.parameters()).mul_(torch.nan)
        return step()

    trainer.train_step = spoilt  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError, match="step 4 is kept"):
        trainer.run()
    kept = load_state(tmp_path / "run" / "state.safetensors")
    assert kept["step"] == 4 and all(bool(value.isfinite().all()) for value in kept["model"].values())
    codec = load_codec(tmp_path / "run" / "codec")
    assert all(bool(value.isfinite().all()) for value in codec.parameters())


def test_validation_clips_are_not_training_clips(
    tmp_path: Path, make_speech: Callable[..., torch.Tensor]
) -> None:
    from audiotok.audio import save_audio

    lines = ["file_name,split"]
    for i, split in enumerate(["train", "validation", "test", ""]):
        save_audio(tmp_path / f"{i}.flac", make_speech(0.5, seed=i), 16_000)
        lines.append(f"{i}.flac,{split}")
    (tmp_path / "metadata.csv").write_text("\n".join(lines) + "\n")
    packs = {}
    for split in ("train", "validation", None):
        packs[split] = gather(str(tmp_path), tmp_path / f"pack-{split}", 16_000, 320, split)
    assert [row["id"] for row in packs["train"].rows] == ["0.flac", "3.flac"]
    check_apart(packs["train"], packs["validation"])
    with pytest.raises(ValueError, match="1.flac"):
        check_apart(packs[None], packs["validation"])
    with pytest.raises(ValueError, match="was packed from"):
        gather(str(tmp_path), tmp_path / "pack-train", 16_000, 320, None)


def test_a_plain_folder_has_no_validation_split(
    tmp_path: Path, make_speech: Callable[..., torch.Tensor]
) -> None:
    from audiotok.audio import save_audio

    save_audio(tmp_path / "0.flac", make_speech(0.5, seed=0), 16_000)
    with pytest.raises(ValueError, match="--validation"):
        gather(str(tmp_path), tmp_path / "validation", 16_000, 320, "validation")


def _noisy(clip: torch.Tensor, snr_db: float) -> torch.Tensor:
    noise = torch.randn(clip.shape, generator=torch.Generator().manual_seed(0))
    return clip + noise * clip.std() / noise.std() * 10 ** (-snr_db / 20)


@pytest.mark.parametrize("loss", [Disturbance, Unintelligibility])
def test_perceptual_losses_are_zero_without_a_change_and_grow_with_noise(
    loss: type[torch.nn.Module], make_speech: Callable[..., torch.Tensor]
) -> None:
    clip = make_speech(2.0)[None]
    metric = loss(16_000)
    costs = [float(metric(wav, clip)) for wav in (clip, _noisy(clip, 20), _noisy(clip, 10), _noisy(clip, 0))]
    assert costs[0] < 0.01
    assert costs == sorted(costs) and costs[3] > costs[1] + 0.1
    assert abs(float(metric(0.5 * clip, clip))) < 0.01  # quieter is not worse


@pytest.mark.parametrize("rate", [16_000, 24_000])
def test_unintelligibility_is_one_less_stoi(rate: int, make_speech: Callable[..., torch.Tensor]) -> None:
    pystoi = pytest.importorskip(
        "pystoi", reason="the metric that the loss follows comes with audiotok[eval]"
    )
    clip = make_speech(3.0, rate)[None]
    for snr_db in (15, 5):
        heard = _noisy(clip, snr_db)
        wanted = 1.0 - pystoi.stoi(clip[0, 0].numpy(), heard[0, 0].numpy(), rate)
        assert float(Unintelligibility(rate)(heard, clip)) == pytest.approx(wanted, abs=0.03)


def test_perceptual_losses_lead_towards_the_recording(make_speech: Callable[..., torch.Tensor]) -> None:
    clip = make_speech(1.0)[None]
    for metric in (Disturbance(16_000), Unintelligibility(16_000)):
        wav = _noisy(clip, 10).requires_grad_()
        cost = metric(wav, clip)
        (gradient,) = torch.autograd.grad(cost, wav)
        assert torch.isfinite(gradient).all()
        step = 0.003 * clip.std() * gradient / gradient.std()
        assert float(metric(wav.detach() - step, clip)) < float(cost.detach())
    with pytest.raises(ValueError, match="16000"):
        Disturbance(8_000)
