"""docs/how-to/add-speech-to-an-llm.md runs unchanged and overfits two clips in both directions."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pages import ROOT, read_blocks, run_block, write_base_model
from transformers import AutoModelForCausalLM, AutoProcessor

from audiotok import prepare, save_audio


@pytest.mark.slow
def test_the_page_learns_a_clip_by_heart(
    make_speech: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: list
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my-speech"
    folder.mkdir()
    texts = ["The garden is quiet this morning.", "Nobody knew what to say."]
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["file_name", "transcription"])
        for index, text in enumerate(texts):
            save_audio(folder / f"{index}.wav", make_speech(1.0 + 0.2 * index, seed=index), 16_000)
            rows.writerow([f"{index}.wav", text])
    prepare(folder, tmp_path / "tokens")
    write_base_model(tmp_path, texts, hidden_size=128, intermediate_size=256, num_hidden_layers=2)
    page: dict = {}
    for block in read_blocks(ROOT / "docs/how-to/add-speech-to-an-llm.md"):
        run_block(block, page)
    expected = page["row"]["codes"][:2]
    (part,) = page["processor"].parse(page["answer"])
    frames = min(part.codes.shape[1], expected.shape[1])
    share = float((part.codes[:, :frames] == expected[:, :frames]).sum()) / expected.numel()
    print(f"{share:.3f} of {expected.numel()} codes; heard {page['text']!r}")
    assert share >= 0.9 and page["text"] == page["row"]["text"]
    assert (tmp_path / "said.wav").stat().st_size > 10_000
    again = AutoProcessor.from_pretrained(tmp_path / "my-model")
    assert again(page["row"]["text"])["input_ids"] == page["processor"](page["row"]["text"])["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "my-model")
    assert torch.equal(model.get_input_embeddings().weight, page["model"].get_input_embeddings().weight)
    assert not no_network
