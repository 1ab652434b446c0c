"""docs/how-to/fine-tune-with-lora.md runs as it stands: new rows are trained and kept, text rows stay bit for bit."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pages import ROOT, Block, read_blocks, run_block, write_base_model
from transformers import AutoModelForCausalLM

from audiotok import prepare, save_audio


@pytest.mark.parametrize("tied", [False, True], ids=["own-head", "tied"])
def test_the_page_keeps_what_it_learns(
    tied: bool, make_speech: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: list
) -> None:
    pytest.importorskip("peft", reason="pip install 'audiotok[lora]'")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-speech").mkdir()
    with (tmp_path / "my-speech" / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [["file_name", "transcription"], ["0.wav", "Hello."], ["1.wav", "Who is there?"]]
        )
    for index in range(2):
        save_audio(tmp_path / "my-speech" / f"{index}.wav", make_speech(0.6, seed=index), 16_000)
    prepare(tmp_path / "my-speech", tmp_path / "tokens")
    write_base_model(tmp_path, ["Hello.", "Who is there?"], tie_word_embeddings=tied)
    page: dict = {}
    for block in read_blocks(ROOT / "docs/how-to/fine-tune-with-lora.md"):
        text = block.text.replace("max_steps=20", "max_steps=3")
        run_block(Block(block.page, block.line, block.language, text), page)

    trained, ids = page["model"].eval(), page["prompt"]["input_ids"]
    whole, start = page["whole"], AutoModelForCausalLM.from_pretrained(tmp_path / "extended")
    assert (whole.lm_head.weight is whole.get_input_embeddings().weight) == tied
    with torch.no_grad():
        assert (whole(ids).logits - trained(ids).logits).abs().max() < 1e-4
    text = page["processor"].tokenizer.control_offset
    for part in ("get_input_embeddings", "get_output_embeddings"):
        before, after = (getattr(model, part)().weight for model in (start, whole))
        assert torch.equal(before[:text], after[:text]) and not torch.equal(before[text:], after[text:])
    saved = sum(path.stat().st_size for path in (tmp_path / "adapter").glob("*.safetensors"))
    assert saved < sum(path.stat().st_size for path in (tmp_path / "merged").glob("*.safetensors"))
    assert (
        AutoModelForCausalLM.from_pretrained(tmp_path / "merged").config.vocab_size == start.config.vocab_size
    )
    assert not no_network
