"""Training of the codec: the loss falls, resuming gives the same losses, and packs keep the data."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers.models.auto.modeling_auto import AutoModelForAudioTokenization

from audiotok import AudioCodec, save_audio
from audiotok.codec.pretrained import load_codec
from audiotok.state import load_state, save_state
from audiotok.training.codec import CodecTrainer
from audiotok.training.packed import Draw, PackedClips, check_apart, gather, speaker_weights, write_packed
from audiotok.training.perceptual import Disturbance, Unintelligibility
from audiotok.training.recipe import CodecRecipe, load_training_recipe
from audiotok.training.release import release
from audiotok.training.semantic import plan_windows
from audiotok.training.trainer import NonFiniteError

Speech = Callable[..., torch.Tensor]


@pytest.fixture
def pack(tmp_path: Path, make_speech: Speech) -> PackedClips:
    clips = [({"id": f"clip{i}"}, make_speech(1.2 + 0.1 * i, seed=i)[0].numpy()) for i in range(4)]
    write_packed(tmp_path / "pack", clips)
    return PackedClips(tmp_path / "pack", 320)


def tiny_recipe(**changes: object) -> CodecRecipe:
    recipe = load_training_recipe("tiny")
    assert isinstance(recipe, CodecRecipe)
    quick = {"log_every": 1, "eval_every": 1000, "eval_clips": 1, "kmeans_crops": 32}
    return dataclasses.replace(recipe, **{**quick, **changes})


def logged(folder: Path, key: str) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line[key] for line in lines if key in line}


def test_training_lowers_the_loss_and_resumes_to_the_same_losses(pack: PackedClips, tmp_path: Path) -> None:
    stages = {"quantize_from": 5, "own_pitch_from": 6, "adversarial_from": 7, "discriminator_warmup": 2}
    recipe = tiny_recipe(steps=14, **stages)
    CodecTrainer(recipe, pack, pack, tmp_path / "whole").run()
    losses = logged(tmp_path / "whole", "spectral/log_l1")
    assert losses[14] < 0.95 * losses[1]
    # The discriminators learn before the codec uses them.
    assert list(logged(tmp_path / "whole", "adv/discriminator")) == list(range(8, 15))
    assert list(logged(tmp_path / "whole", "adv/gen")) == list(range(10, 15))

    trainer = CodecTrainer(recipe, pack, pack, tmp_path / "cut")
    step = trainer.train_step

    def killed() -> dict[str, object]:
        if trainer.step == 9:
            trainer.save()
            raise KeyboardInterrupt
        return step()

    trainer.train_step = killed  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    resumed = CodecTrainer(recipe, pack, pack, tmp_path / "cut")
    assert resumed.step == 9
    resumed.run()
    again = logged(tmp_path / "cut", "spectral/log_l1")
    assert list(again) == list(losses)
    np.testing.assert_allclose(list(again.values()), list(losses.values()), atol=1e-4)
    prints = {load_codec(tmp_path / name / "codec").codes_fingerprint for name in ("whole", "cut")}
    assert len(prints) == 1

    # A trained codec is a start; with frozen codes only the decoder learns.
    before = load_codec(tmp_path / "whole" / "codec")
    frozen = tiny_recipe(steps=2, freeze_codes=True, adversarial_from=0)
    init = load_codec(tmp_path / "whole" / "codec")
    CodecTrainer(frozen, pack, pack, tmp_path / "on", init=init).run()
    after = load_codec(tmp_path / "on" / "codec")
    assert after.codes_fingerprint == before.codes_fingerprint
    assert after.weights_fingerprint != before.weights_fingerprint


def test_a_value_that_is_not_finite_stops_the_run_and_keeps_the_last_state(
    pack: PackedClips, tmp_path: Path
) -> None:
    recipe = tiny_recipe(steps=9, quantize_from=1, save_every_s=0.0)
    trainer = CodecTrainer(recipe, pack, pack, tmp_path / "run")
    step = trainer.train_step

    def spoilt() -> dict[str, object]:
        if trainer.step == 2:
            with torch.no_grad():
                next(trainer.training_model.codec.decoder.parameters()).mul_(torch.nan)
        return step()

    trainer.train_step = spoilt  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError, match="step 2 is kept"):
        trainer.run()
    kept = load_state(tmp_path / "run" / "state.safetensors")
    assert kept["step"] == 2 and all(bool(value.isfinite().all()) for value in kept["model"].values())
    codec = load_codec(tmp_path / "run" / "codec")
    assert all(bool(value.isfinite().all()) for value in codec.parameters())


def test_a_pack_is_trained_on_without_audio_libraries(pack: PackedClips, tmp_path: Path) -> None:
    code = (
        "import sys\nfor name in 'soundfile soxr datasets av pesq pystoi'.split(): sys.modules[name] = None\n"
    )
    code += "from audiotok.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    words = ["train", "tiny", "--data", "pack", "--validation", "held", "--out", "run", "--device", "cpu"]
    words += [f"--set={change}" for change in ("steps=2", "quantize_from=1", "kmeans_crops=16", "batch=2")]
    write_packed(tmp_path / "held", [({"id": "held"}, pack.clip(0)[0].numpy())])
    path = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
    command = [sys.executable, "-c", path + code, *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert load_codec(tmp_path / "run" / "codec").config.codec_name == "tiny"


def test_crops_follow_seed_speakers_weights_and_bands(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 32_000)
    rows = [{"id": f"{name}/0", "speaker": speaker} for name, speaker in (("a", "x"), ("c", "x"), ("b", "y"))]
    write_packed(tmp_path / "pack", [(row, noise) for row in rows])
    pack = PackedClips(tmp_path / "pack", 320)
    first, again, other = (pack.crops(0, step, 4, 25, Draw(6.0)) for step in (3, 3, 4))
    assert torch.equal(first.wav, again.wav) and not torch.equal(first.wav, other.wav)
    assert first.wav.shape == (4, 1, 25 * 320) and float(first.wav.abs().max()) <= 1.0
    np.testing.assert_allclose(pack.chances(Draw(speaker_power=1.0)), [0.25, 0.25, 0.5])
    between = speaker_weights(np.array([100, 300, 500, 100]), ["a", "a", "b", None], 0.5)
    assert between[2] / between[3] == pytest.approx(5**0.5) and between[1] / between[0] == pytest.approx(3.0)
    np.testing.assert_allclose(pack.chances(Draw(draw_weights={"b": 2.0})), [0.25, 0.25, 0.5])
    wide, narrow = (pack.crops(0, 0, 8, 50, Draw(lowpass_share=share)).wav for share in (0.0, 1.0))
    top = [torch.fft.rfft(wav[:, 0])[:, -100:].abs().mean() for wav in (wide, narrow)]
    assert top[1] < 0.5 * top[0]
    plain, noisy = (pack.crops(0, 0, 1, 50, Draw(noise_share=share)).wav for share in (0.0, 1.0))
    assert 1e-5 < float((noisy - plain).square().mean() / plain.square().mean()) < 0.05


def test_codebook_0_learns_to_predict_features(tmp_path: Path, make_speech: Speech) -> None:
    clips = [({"id": str(n), "speaker": "x"}, make_speech(1.2, seed=n)[0].numpy()) for n in range(4)]
    write_packed(tmp_path / "pack", clips)
    frames = np.concatenate([wav[: len(wav) // 320 * 320].reshape(-1, 320) for _, wav in clips])
    loudness = np.abs(frames).mean(1)
    features = np.stack([loudness - loudness.mean(), np.full_like(loudness, 0.05)], axis=1)
    features = np.repeat(features, 64, axis=1).astype(np.float16)
    save_file({"features": features}, tmp_path / "pack.features.safetensors")
    pack = PackedClips(tmp_path / "pack", 320)
    recipe = tiny_recipe(steps=30, semantic=1.0, quantize_from=10)
    recipe = dataclasses.replace(recipe, model=recipe.model | {"semantic_dim": 8})
    CodecTrainer(recipe, pack, pack, tmp_path / "run").run()
    distances = logged(tmp_path / "run", "semantic/cosine")
    assert distances[30] < 0.8 * distances[1]
    codec = load_codec(tmp_path / "run" / "codec")
    codes = codec.encode(make_speech(1.0)[None]).audio_codes
    assert codes is not None and int(codes[:, 0].unique().numel()) > 4
    # Codes of codebook 0 depend on the semantic space only.
    with torch.no_grad():
        codec.encoder.latent.weight[: codec.config.codebook_dim] += 0.1
    again = codec.encode(make_speech(1.0)[None]).audio_codes
    assert torch.equal(again[:, 0], codes[:, 0]) and not torch.equal(again, codes)


def test_windows_hold_every_frame_once() -> None:
    lengths = [400, 1500, 3100, 20, 1, 900]
    held: list[set[int]] = [set() for _ in lengths]
    for pieces in plan_windows(lengths):
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


def test_state_round_trips_without_pickle(tmp_path: Path) -> None:
    tied = torch.randn(3)
    state = {"step": 3, "a": {0: {"x": tied, "y": tied}}, "list": [torch.arange(2), None, "s", 1.5, True]}
    save_state(tmp_path / "s.safetensors", state)
    back = load_state(tmp_path / "s.safetensors")
    assert back["step"] == 3 and back["list"][1:] == [None, "s", 1.5, True]
    assert torch.equal(back["a"][0]["y"], tied)
    with pytest.raises(TypeError, match="/f"):
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
    assert peak < 2_000_000 and len(pack) == 200  # of 6.4 MB
    torch.testing.assert_close(pack.clip(77), torch.full((1, 16_000), 77 / 256), atol=1e-4, rtol=0)
    held = load_file(tmp_path / "pack.safetensors")  # any reader of safetensors opens it
    assert held["offsets"].tolist() == [16_000 * i for i in range(201)]
    assert write_packed(tmp_path / "empty", iter([])) == 0 and not list(tmp_path.glob("empty*"))


def test_folders_are_packed_and_validation_clips_are_not_training_clips(
    tmp_path: Path, make_speech: Speech
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(4):
        save_audio(folder / f"{i}.flac", make_speech(0.5, seed=i), 16_000)
    (folder / "broken.wav").write_text("no sound")
    plain = gather(str(folder), tmp_path / "plain", 16_000, 320, None)
    assert [row["id"] for row in plain.rows] == ["0.flac", "1.flac", "2.flac", "3.flac"]
    assert plain.clip(1).shape == (1, 8000)
    with pytest.raises(ValueError, match="--validation"):  # a plain folder has no splits
        gather(str(folder), tmp_path / "none", 16_000, 320, "validation")

    splits = ["train", "validation", "test", ""]
    lines = ["file_name,split", *(f"{i}.flac,{split}" for i, split in enumerate(splits))]
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    train, validation = (
        gather(str(folder), tmp_path / split, 16_000, 320, split) for split in ("train", "validation")
    )
    assert [row["id"] for row in train.rows] == ["0.flac", "3.flac"]
    check_apart(train, validation)
    with pytest.raises(ValueError, match="1.flac"):
        check_apart(plain, validation)
    with pytest.raises(ValueError, match="train"):  # the pack is of another split
        gather(str(folder), tmp_path / "train", 16_000, 320, None)


def _noisy(clip: torch.Tensor, snr_db: float) -> torch.Tensor:
    noise = torch.randn(clip.shape, generator=torch.Generator().manual_seed(0))
    return clip + noise * clip.std() / noise.std() * 10 ** (-snr_db / 20)


@pytest.mark.parametrize("loss", [Disturbance, Unintelligibility])
def test_perceptual_losses_grow_with_noise_and_lead_to_the_recording(
    loss: type[torch.nn.Module], make_speech: Speech
) -> None:
    clip = make_speech(1.0)[None]
    metric = loss(16_000)
    costs = [float(metric(wav, clip)) for wav in (clip, _noisy(clip, 20), _noisy(clip, 10), _noisy(clip, 0))]
    assert costs[0] < 0.01
    assert costs == sorted(costs) and costs[3] > costs[1] + 0.1
    assert abs(float(metric(0.5 * clip, clip))) < 0.01  # quieter is not worse
    wav = _noisy(clip, 10).requires_grad_()
    cost = metric(wav, clip)
    (gradient,) = torch.autograd.grad(cost, wav)
    assert torch.isfinite(gradient).all()
    step = 0.003 * clip.std() * gradient / gradient.std()
    assert float(metric(wav.detach() - step, clip)) < float(cost.detach())
    with pytest.raises(ValueError):
        loss(8_000)


@pytest.mark.parametrize("rate", [16_000, 24_000])
def test_unintelligibility_is_one_less_stoi(rate: int, make_speech: Speech) -> None:
    pystoi = pytest.importorskip("pystoi")
    clip = make_speech(3.0, rate)[None]
    for snr_db in (15, 5):
        noisy = _noisy(clip, snr_db)
        wanted = 1.0 - pystoi.stoi(clip[0, 0].numpy(), noisy[0, 0].numpy(), rate)
        assert float(Unintelligibility(rate)(noisy, clip)) == pytest.approx(wanted, abs=0.03)
