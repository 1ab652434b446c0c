"""Recordings to a voice: the shipped model is fine-tuned, bundled and synthesizes in the new voice."""

from __future__ import annotations

from pathlib import Path

import pytest
from lm_toys import CODEC_SIZE as V
from lm_toys import toy_synthesizer, write_corpus

from tts_lm import Synthesizer
from tts_lm.cli.main import main
from tts_lm.folder import find_part

TINY = "max_steps=2 max_minutes=0 data.batch_tokens=400 dtype=float32 optim.warmup=0 attention.layers=[0]".split()


def test_a_model_goes_on_from_a_whole_one_and_gets_a_named_voice(tiny_codec, tmp_path: Path, capsys):
    model, fingerprint = tmp_path / "model", tiny_codec.codes_fingerprint
    toy_synthesizer(tiny_codec).save_pretrained(model)
    write_corpus(tmp_path / "mine", rows=6, speaker="Anna K.", fingerprint=fingerprint, size=V)
    sets = [word for setting in TINY for word in ("--set", setting)]
    for part in ("ar", "nar"):
        command = ["train", part, "--init", str(model), "--data", str(tmp_path / "mine"), *sets]
        assert main([*command, "--out", str(tmp_path / part), "--device", "cpu"]) == 0
    before = Synthesizer.from_pretrained(model)
    command = ["bundle", "--ar", str(tmp_path / "ar" / "model"), "--nar", str(tmp_path / "nar" / "model")]
    command += ["--codec", str(model / "codec"), "--data", str(tmp_path / "mine"), "--voices", "Anna K."]
    command += ["--license", "CC0", "--attribution", "Anna K.", "--consent", "my own voice"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert "voices: anna_k" in capsys.readouterr().err
    after = Synthesizer.from_pretrained(tmp_path / "out")
    for part in ("ar", "nar"):
        old, new = (getattr(one, part).state_dict() for one in (before, after))
        # Rows of ids that no clip holds share one row in training; what computes tells.
        moves = [
            (old[name] - new[name]).abs().max() for name in new if "layers." in name or "blocks." in name
        ]
        assert len(moves) > 5 and 1e-4 < max(moves) < 0.1, part  # it continued from the weights
    assert after.voices["anna_k"].card["consent"] == "my own voice"
    said = ["say", "Hello.", "-o", str(tmp_path / "a.wav"), "--voice", "anna_k"]
    assert main([*said, "--model", str(tmp_path / "out")]) == 0


def test_the_shipped_model_has_the_parts_to_go_on_from():
    for part in ("ar", "nar", "reranker"):
        assert find_part("default", part).name == part
    with pytest.raises(FileNotFoundError, match="config.json"):
        find_part(Path(__file__).parent, "ar")
