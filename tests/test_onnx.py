"""ONNX: the bundle gives the codes and the sound of the codec, and the codes of the NAR half, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lm_toys
import numpy as np
import pytest
import torch
from pages import Reader, machinery, read_blocks
from torch import Tensor

import audiotok
import tts_lm
from audiotok import AudioCodec, load_onnx
from audiotok.cli.main import main
from audiotok.onnx.bundle import CARD

pytest.importorskip("onnx", reason="writing ONNX files needs the extra onnx")
pytest.importorskip("onnxruntime", reason="running ONNX files needs the extra onnx")

ROOT = Path(__file__).parents[1]
WITHOUT_TORCH = """
import sys
for name in ("torch", "transformers", "onnx", "safetensors", "soundfile"):
    sys.modules[name] = None  # importing it raises
import numpy as np
from audiotok import load_onnx
from tts_lm import load_onnx as load_nar

given = np.load("given.npz")
codec, nar = load_onnx("codec", threads=1), load_nar("nar", threads=1)
codes = codec.encode(given["wav"])
wav = codec.decode(codes, num_samples=given["wav"].shape[-1])
filled = nar.fill(given["first"], given["text_ids"], given["voice"], given["prompt_codes"])
np.savez("made.npz", codes=codes, wav=wav, filled=filled)
assert not any(name.startswith("torch") and module for name, module in sys.modules.items())
"""


@pytest.fixture
def bundle(tiny_codec: AudioCodec, tmp_path: Path) -> Path:
    audiotok.export_onnx(tiny_codec, tmp_path / "codec", license="CC0-1.0")
    return tmp_path / "codec"


def torch_codes(codec: AudioCodec, wav: Tensor, n_q: int | None = None) -> np.ndarray:
    codes = codec.encode(wav, n_q=n_q).audio_codes
    assert codes is not None
    return codes.numpy()


def torch_sound(codec: AudioCodec, codes: np.ndarray, num_samples: int | None = None) -> np.ndarray:
    wav = codec.decode(torch.from_numpy(codes), num_samples=num_samples).audio_values
    assert wav is not None
    return wav.numpy()


def failures(codec: AudioCodec, wav: Tensor, theirs: np.ndarray) -> int:
    """Frames whose codes differ though the two best distances do not tie: 1e-5 relative, as the laws have it."""
    encoder, quantizer = codec.coders()
    hop = codec.config.hop_length
    with torch.no_grad():
        padded = torch.nn.functional.pad(wav, (0, -wav.shape[-1] % hop))
        left = encoder(padded).transpose(1, 2)
    wrong = torch.zeros(left.shape[:2], dtype=torch.bool)
    settled = torch.zeros_like(wrong)  # after a tie the levels above go their own way
    for k, book in enumerate(quantizer.codebooks):
        distances = torch.cdist(left, book.expand(len(left), -1, -1)).square()
        best, index = distances.topk(2, largest=False)
        other = index[..., 0] != torch.from_numpy(theirs[:, k])
        tie = (best[..., 1] - best[..., 0]) / best[..., 1].clamp_min(1e-12) < 1e-5
        wrong |= other & ~tie & ~settled
        settled |= other
        left = left - book[index[..., 0]]
    return int(wrong.sum())


@pytest.mark.parametrize(("batch", "samples"), [(1, 1), (1, 320), (3, 16_123), (2, 7 * 320)])
def test_codes_are_those_of_torch(
    tiny_codec: AudioCodec, bundle: Path, make_speech: Callable[..., Tensor], batch: int, samples: int
) -> None:
    wav = torch.stack([make_speech(1.1, seed=seed)[:, :samples] for seed in range(batch)])
    codec = load_onnx(bundle, threads=1)
    codes = codec.encode(wav.numpy())
    expected = torch_codes(tiny_codec, wav)
    assert codes.dtype == np.int64 and codes.shape == expected.shape
    assert failures(tiny_codec, wav, codes) == 0
    assert (codes != expected).mean() < 0.01  # ties
    assert np.array_equal(codec.encode(wav.numpy(), n_q=2), codes[:, :2])


@pytest.mark.parametrize("n_q", [1, 2, 3, 4])
@pytest.mark.parametrize(("batch", "frames"), [(1, 1), (2, 150)])
def test_sound_is_that_of_torch(
    tiny_codec: AudioCodec, bundle: Path, n_q: int, batch: int, frames: int
) -> None:
    generator = torch.Generator().manual_seed(n_q)
    codes = torch.randint(64, (batch, n_q, frames), generator=generator).numpy()
    wav = load_onnx(bundle, threads=1).decode(codes)
    expected = torch_sound(tiny_codec, codes)
    assert wav.dtype == np.float32 and wav.shape == expected.shape == (batch, 1, frames * 320)
    assert np.abs(wav - expected).max() < 1e-4
    # The pitch was heard both ways, or the pulses' phase, which is its sum, was not tested.
    voiced = tiny_codec.decoder.pitch.choose(
        tiny_codec.decoder.pitch(tiny_codec.quantizer.decode(torch.from_numpy(codes)))
    )[1]
    assert frames == 1 or 0.02 < voiced.float().mean() < 0.98


def test_num_samples_is_respected_and_changes_nothing_else(bundle: Path) -> None:
    codec = load_onnx(bundle, threads=1)
    codes = np.random.default_rng(0).integers(0, 64, (1, 4, 20))
    whole = codec.decode(codes)
    assert np.array_equal(codec.decode(codes, num_samples=6001), whole[..., :6001])
    assert codec.decode(codes.astype(np.int16)).shape == whole.shape


def test_long_sound_does_not_drift(tiny_codec: AudioCodec, bundle: Path) -> None:
    """Phase is the running sum of pitch: a last bit of it that is another would be heard after a minute."""
    codes = np.random.default_rng(1).integers(0, 64, (1, 4, 3000))
    codes = np.repeat(codes[..., ::10], 10, axis=2)
    last = load_onnx(bundle, threads=1).decode(codes)[..., -16_000:]
    assert np.abs(last - torch_sound(tiny_codec, codes)[..., -16_000:]).max() < 1e-4


def test_levels_of_the_nar_half_are_those_of_torch(tmp_path: Path) -> None:
    _, nar = lm_toys.toy_halves("70ca1c0de5000000")
    tts_lm.export_onnx(nar, {"a": 3}, tmp_path / "nar")
    theirs = tts_lm.load_onnx(tmp_path / "nar", threads=1)
    assert theirs.characters == {"a": 3} and theirs.codes_fingerprint == "70ca1c0de5000000"
    generator = torch.Generator().manual_seed(0)

    def draw(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=generator)

    differ = total = 0
    for batch, frames, prompt in ((1, 40, 25), (3, 1, 0), (2, 30, 10)):
        given = [draw(64, batch, frames), draw(300, batch, 12), draw(16, batch), draw(64, batch, 4, prompt)]
        lengths = [torch.randint(1, size + 1, (batch, 1), generator=generator) for size in (12, frames)]
        text_mask, mask = (
            torch.arange(size) < length for size, length in zip((12, frames), lengths, strict=True)
        )
        prompt_mask = torch.ones(batch, prompt, dtype=torch.bool)
        masks = (text_mask, mask, prompt_mask)
        ours = nar.fill(*given, *masks).numpy()
        found = theirs.fill(*(value.numpy() for value in given), *(value.numpy() for value in masks))
        real = mask.numpy()[:, None].repeat(4, axis=1)
        differ, total = differ + int((found != ours)[real].sum()), total + int(real.sum())
        three = theirs.fill(*(value.numpy() for value in given), n_q=3)
        assert np.array_equal(three, theirs.fill(*(value.numpy() for value in given))[:, :3])
    assert total > 200 and differ <= 0.005 * total  # ties


def test_without_torch_it_is_the_same(
    tiny_codec: AudioCodec, bundle: Path, make_speech: Callable[..., Tensor], tmp_path: Path
) -> None:
    """In a process where torch cannot be imported: onnxruntime and numpy are enough."""
    _, nar = lm_toys.toy_halves(tiny_codec.codes_fingerprint)
    tts_lm.export_onnx(nar, {}, tmp_path / "nar")
    wav = make_speech(0.7)[None]
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(64, (1, 4, 30), generator=generator)
    text_ids, voice = torch.randint(300, (1, 9), generator=generator), torch.tensor([2])
    given = {
        "wav": wav,
        "first": codes[:, 0],
        "text_ids": text_ids,
        "voice": voice,
        "prompt_codes": codes[..., :9],
    }
    np.savez(tmp_path / "given.npz", **{name: value.numpy() for name, value in given.items()})
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = np.load(tmp_path / "made.npz")
    assert failures(tiny_codec, wav, made["codes"]) == 0
    assert np.abs(made["wav"] - torch_sound(tiny_codec, made["codes"], wav.shape[-1])).max() < 1e-4
    expected = nar.fill(codes[:, 0], text_ids, voice, codes[..., :9]).numpy()
    assert (made["filled"] != expected).mean() <= 0.005


def test_the_bundle_says_whose_codes_it_makes_and_under_which_terms(
    tiny_codec: AudioCodec, bundle: Path
) -> None:
    import onnx

    card = json.loads((bundle / CARD).read_text())
    assert card["codes_fingerprint"] == tiny_codec.codes_fingerprint == load_onnx(bundle).codes_fingerprint
    assert card["license"] == "CC0-1.0" and card["codec"] == "tiny"
    for name in ("encoder", "decoder"):
        inside = {prop.key: prop.value for prop in onnx.load(bundle / f"{name}.onnx").metadata_props}
        assert inside["codes_fingerprint"] == card["codes_fingerprint"] and inside["license"] == "CC0-1.0"


def test_nothing_but_a_bundle_is_replaced_and_none_is_half_written(
    tiny_codec: AudioCodec, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileExistsError, match="pass --overwrite"):
        audiotok.export_onnx(tiny_codec, bundle)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is no bundle"):
        audiotok.export_onnx(tiny_codec, tmp_path / "mine", overwrite=True)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        audiotok.export_onnx(tiny_codec, tmp_path / "none" / "here")
    before = sorted(path.name for path in tmp_path.iterdir())
    audiotok.export_onnx(tiny_codec, bundle, overwrite=True)
    assert json.loads((bundle / CARD).read_text())["license"] == "not stated"
    monkeypatch.setattr(json, "dumps", lambda *_, **__: 1 / 0)  # the card comes last
    with pytest.raises(ZeroDivisionError):
        audiotok.export_onnx(tiny_codec, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_file_that_was_not_exported_is_refused(bundle: Path) -> None:
    path = bundle / "decoder.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not the file that was exported"):
        load_onnx(bundle)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="beside its card"):
        load_onnx(bundle)
    with pytest.raises(FileNotFoundError, match="make one with"):
        load_onnx(bundle / "none")
    with pytest.raises(ValueError, match="expected a bundle of kind 'nar'"):
        tts_lm.load_onnx(bundle)


@pytest.mark.parametrize(
    ("wav", "message"),
    [
        (np.zeros((1, 2, 320), np.float32), "average the channels"),
        (np.zeros((1, 1, 320), np.int16), "divide 16-bit samples"),
        (np.full((1, 1, 320), np.nan, np.float32), "a peak of nan"),
        (np.full((1, 1, 320), 9.0), "scale the wav"),
        (np.zeros((1, 1, 0)), "N >= 1"),
    ],
)
def test_sound_that_cannot_be_encoded_is_refused(bundle: Path, wav: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_onnx(bundle, threads=1).encode(wav)


def test_codes_that_cannot_be_decoded_are_refused(bundle: Path) -> None:
    codec, codes = load_onnx(bundle, threads=1), np.zeros((1, 4, 2), np.int64)
    for wrong, message in (
        (codes + 64, "values from 64 to 64"),
        (codes - 1, "values from -1"),
        (codes[0], "expected integer codes"),
        (codes.astype(float), "expected integer codes"),
        (np.zeros((1, 5, 2), np.int64), "K <= 4"),
    ):
        with pytest.raises(ValueError, match=message):
            codec.decode(wrong)
    with pytest.raises(ValueError, match="num_samples in"):
        codec.decode(codes, num_samples=641)
    with pytest.raises(ValueError, match=r"n_q in \[1, 4\]"):
        codec.encode(np.zeros((1, 1, 320)), n_q=5)


def test_the_verb_exports_and_compares(
    tiny_codec_dir: Path,
    make_speech: Callable[..., Tensor],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    audiotok.save_audio(tmp_path / "clip.wav", make_speech(0.5), 16_000)
    words = ["export", str(tiny_codec_dir), "--out", str(tmp_path / "out")]
    assert main([*words, "--check", str(tmp_path / "clip.wav")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["codes"] == 100 and found["codes_differ"] == 0 and found["audio_difference"] < 1e-4
    assert set(found["times_real_time"]) == {"encode_onnx", "encode_torch", "decode_onnx", "decode_torch"}
    assert main(words) == 1
    assert "pass --overwrite" in capsys.readouterr().err


def test_a_codec_of_another_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="expected a codec of our own family"):
        audiotok.export_onnx(torch.nn.Linear(1, 1), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_package_names_the_extra(
    bundle: Path, tiny_codec: AudioCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match="onnxruntime"):
        load_onnx(bundle)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError, match=r"audiotok\[onnx\]"):
        audiotok.export_onnx(tiny_codec, bundle.parent / "out")


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/onnx.md, with the shipped weights."""
    environment = machinery(tmp_path / "bin")
    (tmp_path / "desk").mkdir()
    monkeypatch.chdir(tmp_path / "desk")
    reader = Reader(environment)
    for block in read_blocks(ROOT / "docs" / "onnx.md"):
        reader.work_through(block)
    cards = [Path(name, "README.md").read_text() for name in ("codec-onnx", "nar-onnx")]
    assert all("Licence" in card or "licence" in card or "CC" in card for card in cards)


@pytest.mark.slow
def test_it_decodes_at_least_as_fast_as_torch(
    make_speech: Callable[..., Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shipped codec, one thread, CPU time of both in one run."""
    audiotok.save_audio(tmp_path / "clip.wav", make_speech(6.0), 16_000)
    assert main(["export", "--out", str(tmp_path / "out"), "--check", str(tmp_path / "clip.wav")]) == 0
    speeds = json.loads(capsys.readouterr().out)["times_real_time"]
    assert speeds["decode_onnx"] >= speeds["decode_torch"]
