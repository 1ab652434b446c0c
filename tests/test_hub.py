"""Hugging Face conventions: Auto classes, missing paths and an unreachable hub."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from audiotok import AudioTextProcessor, build_tokenizer, checkpoint_dir, hub, load_codec
from audiotok.cli.main import main
from audiotok.corpus import open_source

QUICK_S = 6.0  # the hub's own client takes 28


@pytest.mark.parametrize(
    "name", ["missing", "./foo/bar", "/foo/bar", "a/b/c", "foo/", "~/foo", "here/foo", "a b/c"]
)
def test_missing_paths_are_not_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def ask() -> bool:
        raise AssertionError("looked on the network")

    for module in ("audiotok.codec.pretrained", "audiotok.corpus.sources"):
        monkeypatch.setattr(f"{module}.hub_answers", ask)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    for missing in (open_source, load_codec):
        with pytest.raises(FileNotFoundError):
            missing(name)
    assert hub.is_hub_id("a/b-c_d.2") and not hub.is_hub_id("here/mimi")


def test_missing_data_fails_fast_offline(
    no_network: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "tiny", "--data", "nope", "--out", str(tmp_path / "run")]) == 1
    assert "nope: no such folder or file" in capsys.readouterr().err and no_network == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for words in (
        ["info", "nobody/no-codec"],
        ["prepare", "nobody/no-data:config", "--out", str(tmp_path / "out"), "--dry-run"],
    ):
        began = time.monotonic()
        assert main(words) == 1
        assert time.monotonic() - began < QUICK_S
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("audiotok: error")]
        assert len(errors) == 1 and "the hub does not answer" in errors[0] and "nobody/no-" in errors[0]
    assert constants.HF_HUB_OFFLINE is False


def test_importing_audiotok_makes_the_auto_classes_work(tiny_codec, tmp_path: Path) -> None:
    """In another process that imports audiotok first, which imports neither torch nor transformers."""
    tokenizer = build_tokenizer(
        checkpoint_dir("text-en") / "tokenizer.model", 4, 64, codes_fingerprint=tiny_codec.codes_fingerprint
    )
    AudioTextProcessor.from_codec(tokenizer, tiny_codec).save_pretrained(tmp_path)
    program = """if True:
        import sys
        import audiotok
        assert not {"torch", "transformers", "numpy"} & set(sys.modules), "import audiotok is not cheap"
        from transformers import AutoFeatureExtractor, AutoModel, AutoProcessor, AutoTokenizer
        folder = sys.argv[1]
        found = AutoProcessor.from_pretrained(folder), AutoModel.from_pretrained(folder + "/audio_tokenizer")
        print([type(one).__name__ for one in found], AutoFeatureExtractor.from_pretrained(folder).sampling_rate)
        assert AutoTokenizer.from_pretrained(folder).init_kwargs["n_q"] == 4
    """
    command = [sys.executable, "-W", "ignore", "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == "['AudioTextProcessor', 'AudioCodec'] 16000", done.stderr
