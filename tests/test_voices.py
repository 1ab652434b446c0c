"""Voices: cloning from speech at any level, but not from noise or silence, and their files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import speech_like
from lm_toys import PhonemeTokenizer, toy_synthesizer, toy_voice

from tts_lm.server.voices import VoiceStore
from tts_lm.voices import add_voice, clone_voice, load_voices

WORDS = "what the clip says"
N = 2 * 16_000
_RNG = np.random.default_rng(0)
_TIME = np.arange(N) / 16_000
_WHITE = _RNG.standard_normal(N)


def coloured(slope: float) -> np.ndarray:
    spectrum = np.fft.rfft(_WHITE)
    return np.fft.irfft(spectrum * (1.0 + np.arange(len(spectrum))) ** slope)


NO_SPEECH = (
    np.zeros(N),
    _WHITE,
    coloured(-0.5),  # pink noise
    coloured(-1.0),  # brown noise
    _WHITE * np.clip(np.sin(2 * np.pi * 2 * _TIME) + 0.4, 0, 1),  # bursts
    _WHITE * np.exp(-_TIME),
    np.sin(2 * np.pi * 50 * _TIME) + 0.3 * np.sin(2 * np.pi * 150 * _TIME),  # hum
    np.sin(2 * np.pi * 100 * _TIME) + 0.3 * _WHITE,
    np.sin(2 * np.pi * 440 * _TIME),
    (_RNG.random(N) < 5e-4).astype(float),  # clicks
)


def test_a_clip_without_speech_is_no_voice(tiny_codec):
    for samples in NO_SPEECH:
        for level in (0.5, 1e-3):
            wav = torch.from_numpy(level * samples / max(1e-9, np.abs(samples).max())).float()
            with pytest.raises(ValueError):
                clone_voice(wav, 16_000, WORDS, len(WORDS), tiny_codec)


def test_quiet_loud_and_noisy_clips_are_cloned_alike(tiny_codec):
    wav = speech_like(2.0, seed=0)
    loud = clone_voice(wav, 16_000, WORDS, len(WORDS), tiny_codec)
    for gain_db in (-40, 6):
        quiet = clone_voice(wav * 10 ** (gain_db / 20), 16_000, WORDS, len(WORDS), tiny_codec)
        assert float((quiet.codes == loud.codes).float().mean()) > 0.99
    noise = torch.from_numpy(_WHITE).float() * wav.std() * 10 ** (-10 / 20)
    assert clone_voice(wav + noise, 16_000, WORDS, len(WORDS), tiny_codec).prompt_text == WORDS


def test_the_front_end_of_the_model_reads_the_transcript(tiny_codec):
    wav, text = speech_like(2.0, seed=0), "今天天气很好。"
    mandarin = toy_synthesizer(tiny_codec, PhonemeTokenizer(tiny_codec.codes_fingerprint))
    assert mandarin.clone_voice(wav, 16_000, text).prompt_text == text
    for synthesizer, wrong in ((toy_synthesizer(tiny_codec), text), (mandarin, "好"), (mandarin, text * 9)):
        with pytest.raises(ValueError):
            synthesizer.clone_voice(wav, 16_000, wrong)


def test_a_voice_exists_once_its_card_does(tmp_path: Path):
    """Files of a process that was killed while writing are ignored and can be replaced."""
    voice = toy_voice("bdl")
    (tmp_path / "bdl.safetensors").write_bytes(b"half of it")
    (tmp_path / ".anna.x1y2.json").write_text("")
    (tmp_path / "lost+found").mkdir()
    store = VoiceStore({}, 4, tmp_path, 4, 64)
    assert store.all() == []
    store.add(voice)
    assert torch.equal(load_voices(tmp_path)["bdl"].codes, voice.codes)
    assert [v.name for v in VoiceStore({}, 4, tmp_path, 4, 64).all()] == ["bdl"]
    with pytest.raises(FileExistsError):
        add_voice(voice, tmp_path)
    assert store.remove("bdl") and not store.remove("bdl")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".anna.x1y2.json", "lost+found"]


def test_a_store_has_a_limit_and_keeps_the_models_voices(tmp_path: Path):
    own = {"kathleen": toy_voice("kathleen")}
    store = VoiceStore(own, 1, None, 4, 64)
    with pytest.raises(FileExistsError):
        store.add(toy_voice("kathleen"))
    store.add(toy_voice("bdl"))
    with pytest.raises(ValueError):
        store.add(replace(toy_voice("bdl"), name="anna"))
    assert not store.remove("kathleen") and [voice.name for voice in store.all()] == ["kathleen", "bdl"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        VoiceStore({}, 1, tmp_path / "file", 4, 64)
