"""Training of SoundStream and EnCodec: quantiser, balancer, noise and the trainer."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from audiotok.cli.main import main
from audiotok.codec.pretrained import load_codec
from audiotok.codec.quantizer import ResidualVectorQuantizer
from audiotok.codec.seanet import PRESETS, SeanetCodec
from audiotok.training.noise import NOISES, at_snr, make_noise, noisy_batch
from audiotok.training.packed import PackedClips, write_packed
from audiotok.training.recipe import CodecRecipe, EntropyRecipe, SeanetRecipe, load_training_recipe
from audiotok.training.seanet import Balancer, SeanetLosses, SeanetTrainer, SeanetTrainingModel

SMALL = ["model.sampling_rate=8000", "model.filters=4", "model.n_q=4", "model.codebook_size=32"]
SMALL += ["model.codebook_dim=16", "batch=3", "crop_frames=20", "kmeans_crops=16", "log_every=1"]
SMALL += ["discriminator_channels=2", "warmup_steps=5", "eval_every=1000", "lr=1e-3"]
SEGMENT = ["model.segment_samples=3200"]


def small_recipe(name: str, *overrides: str) -> SeanetRecipe:
    segment = SEGMENT if name == "encodec-48k" else []
    return load_seanet_recipe(name, [*SMALL, *segment, *overrides])


def load_seanet_recipe(name: str, overrides: list[str]) -> SeanetRecipe:
    recipe = load_training_recipe(name, overrides)
    assert isinstance(recipe, SeanetRecipe)
    return recipe


@pytest.fixture
def pack(tmp_path: Path, make_speech: Callable[..., Tensor]) -> PackedClips:
    clips = [({"id": str(i)}, make_speech(1.0 + 0.1 * i, 8_000, seed=i)[0].numpy()) for i in range(5)]
    write_packed(tmp_path / "pack", clips)
    return PackedClips(tmp_path / "pack", 320)


def logged(folder: Path, key: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


def test_unused_codes_are_reinitialised() -> None:
    """With 32 of 64 codewords far from every latent, all of them are in use after 100 steps."""
    torch.manual_seed(0)
    quantizer = ResidualVectorQuantizer(2, 64, 8)
    quantizer.init_from(torch.randn(2_000, 8))
    quantizer.codebooks[:, :32] = 1e3
    quantizer.start_averages(512 * 0.75)
    quantizer.usage[:, :32] = 0.0
    quantizer.sums[:, :32] = 0.0
    quantizer.train()
    for _ in range(100):
        quantizer(torch.randn(4, 8, 128), torch.tensor([2, 2, 2, 1]))
    quantizer.eval()
    codes = quantizer.encode(torch.randn(1, 8, 20_000))
    for k in range(2):
        counts = torch.bincount(codes[0, k], minlength=64)
        assert int((counts[:32] == 0).sum()) == 0 and quantizer.codebooks[k, :32].norm(dim=1).max() < 10


def test_the_commitment_loss_reaches_the_latents_from_every_level() -> None:
    torch.manual_seed(0)
    quantizer = ResidualVectorQuantizer(6, 32, 8).eval()
    quantizer.init_from(torch.randn(1_000, 8))
    latents = torch.randn(2, 8, 50, requires_grad=True)
    lengths = []
    for k in range(6):
        # Contribution of level k: the loss with k + 1 levels minus the loss with k.
        with_it, without = (quantizer(latents, torch.full((2,), n)).commitment for n in (k + 1, k))
        (gradient,) = torch.autograd.grad(with_it - without, latents)
        lengths.append(float(gradient.norm()))
    assert min(lengths) > 0.1 * max(lengths) > 0


def test_the_balancer_gives_each_loss_its_share() -> None:
    """The shares of the gradient equal the weights for losses of any size."""
    torch.manual_seed(0)
    weights = {"a": 1.0, "b": 3.0, "c": 0.0}
    balancer = Balancer(weights, decay=0.9)
    shares: dict[str, list[float]] = {"a": [], "b": []}
    for step in range(200):
        wav = torch.randn(2, 1, 100, requires_grad=True)
        scale = 1e3 * (1 + 0.5 * np.sin(step / 30))
        losses = {"a": scale * (wav - 1).abs().mean(), "b": 1e-3 * wav.square().mean(), "c": wav.sum()}
        gradient = balancer.gradient(losses, wav)
        for name, share in balancer.shares.items():
            shares[name].append(share)
    assert abs(np.mean(shares["a"]) / 0.25 - 1) < 0.05 and abs(np.mean(shares["b"]) / 0.75 - 1) < 0.05
    assert gradient.shape == wav.shape and 0.3 < float(gradient.flatten(1).norm(dim=1).mean()) < 1.1
    plain = Balancer(weights, balance=False).gradient(losses, wav)
    (expected,) = torch.autograd.grad(losses["a"] + 3 * losses["b"], wav)
    torch.testing.assert_close(plain, expected)
    again = Balancer(weights, decay=0.9)
    again.load_state_dict(balancer.state_dict())
    after = [each.gradient({"b": wav.square().mean()}, wav) for each in (again, balancer)]
    torch.testing.assert_close(*after)


@pytest.mark.parametrize("kind", NOISES)
def test_noise_has_the_requested_ratio(kind: str, make_speech: Callable[..., Tensor]) -> None:
    speech = make_speech(1.0, 8_000)[0].numpy()
    voices = np.stack([make_speech(1.0, 8_000, seed=s)[0].numpy() for s in range(1, 4)])
    noise, same, other = (make_noise(kind, voices, 8_000, np.random.default_rng(s)) for s in (0, 0, 1))
    assert np.array_equal(noise, same) and not np.array_equal(noise, other) and noise.dtype == np.float32
    mix = at_snr(0.1 * speech, noise, 5.0)
    left = mix - 0.1 * speech
    ratio = 10 * np.log10(np.mean((0.1 * speech) ** 2) / np.mean(left**2))
    assert abs(ratio - 5.0) < 0.1 or np.abs(mix).max() > 0.98


def test_targets_are_clean_in_flagged_frames(make_speech: Callable[..., Tensor]) -> None:
    clean = torch.stack([make_speech(0.8, 8_000, seed=s) for s in range(24)])
    batch = noisy_batch(clean, clean[:4], 320, 8_000, seed=1, step=2)
    keep = batch.wanted.repeat_interleave(320, dim=1)
    assert torch.equal(torch.where(keep, clean[:, 0], batch.wav[:, 0]), batch.target[:, 0])
    rows = {tuple(sorted(set(row.tolist()))) for row in batch.wanted}
    assert rows == {(False,), (True,), (False, True)}  # all three ways
    assert 0 < sum(torch.equal(a, b) for a, b in zip(batch.wav, clean, strict=True)) < 24
    again, other = (noisy_batch(clean, clean[:4], 320, 8_000, seed=1, step=step).wav for step in (2, 3))
    assert torch.equal(again, batch.wav) and not torch.equal(other, batch.wav)
    none, most = (
        noisy_batch(clean, clean[:4], 320, 8_000, 1, 2, wanted_share=share).wanted.all(1).float().mean()
        for share in (0.0, 0.8)
    )
    assert none < 0.1 and most > 0.6
    with pytest.raises(ValueError, match="denoise_share"):
        load_seanet_recipe("soundstream", ["denoise_share=0.9"])


def test_quantizer_dropout_follows_the_recipe() -> None:
    recipe = small_recipe("encodec-24k")
    model = SeanetTrainingModel(SeanetCodec(recipe.config()), recipe)
    assert set(torch.cat([model.levels(8, step) for step in range(50)]).tolist()) == {2, 4}
    assert torch.equal(model.levels(8, 3), model.levels(8, 3))


def test_a_run_that_is_killed_resumes_to_the_same_losses(pack: PackedClips, tmp_path: Path) -> None:
    recipe = small_recipe("encodec-48k", "steps=4", "quantize_from=1", "save_every_s=0")
    recipe = dataclasses.replace(recipe, adversarial_from=1, discriminator_warmup=1)
    SeanetTrainer(recipe, pack, pack, tmp_path / "whole", device="cpu").run()
    trainer = SeanetTrainer(recipe, pack, pack, tmp_path / "cut", device="cpu")
    save = trainer.save

    def save_and_stop() -> None:
        save()
        if trainer.step == 3:
            raise KeyboardInterrupt

    trainer.save = save_and_stop  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    resumed = SeanetTrainer(recipe, pack, pack, tmp_path / "cut", device="cpu")
    assert resumed.step == 3
    resumed.run()
    for key in ("spectral/multi_scale", "vq/commitment", "adv/gen"):
        whole, cut = (logged(tmp_path / folder, key) for folder in ("whole", "cut"))
        assert len(whole) >= 2
        np.testing.assert_allclose(cut, whole, rtol=2e-3, atol=1e-4)
    assert isinstance(load_codec(tmp_path / "cut" / "codec"), SeanetCodec)
    assert logged(tmp_path / "whole", "eval/si_sdr_db")


def test_perceptual_losses_reach_every_channel(make_speech: Callable[..., Tensor]) -> None:
    recipe = load_seanet_recipe("encodec-48k", ["disturbance=0.1", "unintelligibility=1"])
    target = torch.stack([make_speech(1.0, seed=side)[0] for side in (0, 1)])[None]
    wav = (target + 0.03 * torch.randn(target.shape)).requires_grad_()
    losses = SeanetLosses(recipe, 16_000)(wav, target, None)
    weights = SeanetLosses.weights(recipe)
    perceptual = [key for key in losses if key.startswith("perceptual/")]
    assert len(perceptual) == 2 and all(weights[key] > 0 for key in perceptual)
    for key in perceptual:
        (gradient,) = torch.autograd.grad(losses[key], wav, retain_graph=True)
        assert torch.isfinite(gradient).all() and float(gradient.abs().amax(-1).min()) > 0


def test_kinds_of_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    for name in PRESETS:
        assert load_seanet_recipe(name, []).config().codec_name == name
    assert isinstance(load_training_recipe("tiny"), CodecRecipe)
    assert isinstance(load_training_recipe("entropy"), EntropyRecipe)
    with pytest.raises(FileNotFoundError):
        load_training_recipe("no-such")
    assert load_seanet_recipe("soundstream-small", []).config().sampling_rate == 16_000
    with pytest.raises(ValueError, match="filters"):
        load_training_recipe("encodec-24k", ["model.filter=3"])
    assert main(["train", "encodec-48k", "--data", "x", "--out", "y", "--print-config"]) == 0
    assert json.loads(capsys.readouterr().out)["balance"] is True


def test_audiotok_train_takes_a_papers_recipe(tmp_path: Path, make_speech: Callable[..., Tensor]) -> None:
    import soundfile

    for index, folder in enumerate(["in", "in", "held"]):
        (tmp_path / folder).mkdir(exist_ok=True)
        soundfile.write(tmp_path / folder / f"{index}.wav", make_speech(0.9, seed=index)[0].numpy(), 16_000)
    overrides = [*SMALL, "steps=2", "noise=false"]
    flags = [part for text in overrides for part in ("--set", text)]
    data = ["--data", str(tmp_path / "in"), "--validation", str(tmp_path / "held"), "--device", "cpu"]
    assert main(["train", "soundstream", *data, "--out", str(tmp_path / "run"), *flags]) == 0
    codec = load_codec(tmp_path / "run" / "codec")
    assert codec.config.sampling_rate == 8_000 and codec.config.codec_name == "soundstream"


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PRESETS))
def test_a_preset_overfits_one_clip(name: str, tmp_path: Path, make_speech: Callable[..., Tensor]) -> None:
    """The configurations of the papers at an eighth of the width; a minute or two each."""
    overrides = [
        "model.filters=8", "model.n_q=8", "model.codebook_size=64", "batch=1", "crop_frames=45", "max_gain_db=0",
        "quantize_from=100", "kmeans_crops=48", "lr=2e-3", "warmup_steps=20", "full_levels_share=1.0",
        "adversarial_from=100000", "discriminator_channels=2", "noise=false", "steps=400", "eval_every=200",
        f"wave={100 if name == 'soundstream' else 1}",
    ]  # fmt: skip
    recipe = load_seanet_recipe(name, overrides)
    config = recipe.config()
    wav = make_speech(1.0 if config.segment_samples else 0.6, config.sampling_rate)[0].numpy()
    write_packed(tmp_path / "p", [({"id": "a"}, wav)])
    clip = PackedClips(tmp_path / "p", config.hop_length)
    SeanetTrainer(recipe, clip, clip, tmp_path / "run", device="cpu").run()
    found = logged(tmp_path / "run", "eval/si_sdr_db")
    print(f"{name}: SI-SDR {found} dB")
    assert found[-1] >= 10.0
