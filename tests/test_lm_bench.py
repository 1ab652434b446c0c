"""The verb bench compares the same speech and gives the distance in dB."""

from __future__ import annotations

import json

import pytest
import torch
from lm_toys import toy_synthesizer

from tts_lm.bench import mel_distance_db, seam_error_db
from tts_lm.cli.main import main


def test_it_reports_every_figure(tiny_codec, tmp_path, capsys):
    toy_synthesizer(tiny_codec).save_pretrained(tmp_path / "model")
    command = ["bench", "--model", str(tmp_path / "model"), "--rounds", "1", "--text", "Hello there."]
    threads = torch.get_num_threads()
    try:
        assert main([*command, "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert main(command) == 0
    finally:
        torch.set_num_threads(threads)
    assert {
        "loop/over_generate",
        "loop/over_static",
        "speech/first_audio_ms",
        "speech/rtf_cpu",
        "speech/batch_speedup",
    } <= set(report)
    assert all(value > 0 for name, value in report.items() if name.startswith(("loop/", "speech/")))
    table = capsys.readouterr().out
    assert "loop/fast" in table and "CPU time" in table
    assert main(["bench", "--rounds", "0"]) == 1
    assert "expected --rounds of at least 1, got 0" in capsys.readouterr().err


def test_the_distance_of_two_sounds_is_in_db(make_speech):
    wav = make_speech(1.0)[0]
    assert mel_distance_db(wav, wav, 16000) == 0
    assert mel_distance_db(wav, 0.5 * wav, 16000) == pytest.approx(6.02, abs=0.2)
    with pytest.raises(ValueError, match="length"):
        mel_distance_db(wav, wav[1:], 16000)


def test_the_seams_of_a_stream_that_is_filled_as_the_whole_cost_nothing(tiny_codec):
    synthesizer = toy_synthesizer(tiny_codec)
    plain = type(synthesizer)(
        synthesizer.ar, synthesizer.nar, tiny_codec, synthesizer.tokenizer, synthesizer.voices
    )
    inner = plain._decoder._logits

    def ends_after_a_while(normed):  # so that no second attempt is made
        logits = inner(normed)
        steps[0] += 1
        logits[:, -1] = 50.0 if steps[0] % 30 == 0 else -torch.inf
        return logits

    steps = [0]
    plain._decoder._logits = ends_after_a_while  # type: ignore[method-assign]
    spread = seam_error_db(plain, "Hello there.", None, [0, 1])
    assert spread is not None and 0 <= spread < 60
    plain._filler.fill = lambda first, *_, **__: first[:, None].expand(-1, tiny_codec.config.n_q, -1)  # type: ignore
    steps[0] = 0
    assert seam_error_db(plain, "Hello there.", None, [0, 1]) == pytest.approx(0, abs=1e-3)
