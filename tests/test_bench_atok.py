"""``audiotok bench-atok``: its figures are of whole files that come back, and it says what it cannot measure."""

from __future__ import annotations

import math

import atok_toys
import pytest
import soundfile

from audiotok.bitstream.format import LEARNT, RAW
from audiotok.cli.bench_atok import _codes, measure
from audiotok.cli.main import main
from audiotok.corpus import open_source


@pytest.mark.parametrize("coding", [RAW, LEARNT])
def test_sizes_and_times_are_of_whole_files(tmp_path, coding):
    model = atok_toys.toy_model() if coding == LEARNT else None
    clips = [atok_toys.toy_codes(atok_toys.toy_model(), 60, 20, seed) for seed in range(2)]
    header = atok_toys.toy_header(model)
    figures = measure(clips, header, model, tmp_path, turns=1, seeks=3, hour_s=12.0)
    sizes = [(tmp_path / f"{i}.atok").stat().st_size for i in range(2)]
    assert figures["seconds"] == 2.4 and figures["clips"] == 2
    assert figures["saved"] == pytest.approx(1 - sum(sizes) / (2 * 60 * 3 * 5 / 8))
    assert 0 < figures["framing"] < 1 and figures["encode"]["clock"] > 0 < figures["decode"]["work"]
    seek = figures["seek"]
    assert 0 < seek["clock"]["median"] <= seek["clock"]["worst"] and ("model" in seek["clock"]) == (
        coding == LEARNT
    )
    assert 0 <= seek["read"] < 64 * 1024


def test_the_codes_are_those_of_long_enough_clips(tmp_path, tiny_codec, tiny_codec_dir, make_speech, capsys):
    rate = tiny_codec.config.sampling_rate
    for name, seconds in {"a": 1.5, "b": 0.5, "c": 1.25}.items():
        soundfile.write(tmp_path / f"{name}.flac", make_speech(seconds)[0].numpy(), rate)
    (tmp_path / "metadata.csv").write_text("file_name,transcription\na.flac,x\nb.flac,y\nc.flac,z\n")
    found = list(_codes(tiny_codec, open_source(tmp_path), 40, 1.0))
    frames = math.ceil(rate / tiny_codec.config.hop_length)
    assert [tuple(codes.shape) for codes in found] == [(tiny_codec.config.n_q, frames)] * 2
    assert main(["bench-atok", str(tmp_path), "--codec", str(tiny_codec_dir), "--seconds", "20"]) == 1
    assert "expected clips of at least 20 s, got none" in capsys.readouterr().err
