"""ONNX export: the graphs equal torch for any batch, length and number of codebooks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pages import ROOT, read_blocks

from audiotok import AudioCodec, export_onnx
from audiotok.cli.main import main

pytest.importorskip("onnxscript", reason="export needs the extra onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="export needs the extra onnx")


@pytest.mark.slow
def test_graphs_equal_torch(
    tiny_codec: AudioCodec,
    tiny_codec_dir: Path,
    tmp_path: Path,
    make_speech,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(["export", str(tiny_codec_dir), "--out", str(tmp_path / "codec-onnx")]) == 0
    facts = json.loads((tmp_path / "codec-onnx" / "codec.json").read_text())
    assert facts["codes_fingerprint"] == tiny_codec.codes_fingerprint and facts["n_q"] == 4
    encoder, decoder = (
        onnxruntime.InferenceSession(tmp_path / "codec-onnx" / f"{name}.onnx")
        for name in ("encoder", "decoder")
    )
    for batch, frames, n_q in ((1, 1, 4), (3, 50, 2), (1, 300, 1)):
        wav = torch.stack([make_speech(frames * 0.02, seed=seed) for seed in range(batch)])
        codes = tiny_codec.encode(wav).audio_codes
        theirs = torch.as_tensor(encoder.run(None, {"wav": wav.numpy()})[0])
        assert theirs.shape == codes.shape and (theirs != codes).float().mean() < 0.01  # ties
        sound = torch.as_tensor(decoder.run(None, {"codes": codes[:, :n_q].numpy()})[0])
        torch.testing.assert_close(sound, tiny_codec.decode(codes[:, :n_q]).audio_values, atol=1e-4, rtol=0)
    monkeypatch.chdir(tmp_path)
    (block,) = (
        block for block in read_blocks(ROOT / "docs/how-to/export-to-onnx.md") if block.language == "python"
    )
    exec(block.text, {})


def test_other_families_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Linear"):
        export_onnx(torch.nn.Linear(1, 1), tmp_path)  # type: ignore[arg-type]
