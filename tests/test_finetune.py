"""The pages about fine-tuning run as they stand: a model learns two clips, and LoRA keeps the rows that it trains."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pages import ROOT, Block, read_blocks, run_block, write_base_model
from transformers import AutoModelForCausalLM, AutoProcessor

from audiotok import prepare, save_audio

TEXTS = ["The garden is quiet this morning.", "Nobody knew what to say."]


@pytest.fixture
def run_page(
    make_speech: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: list
) -> Callable:
    """Run a page beside two prepared clips and a base model; returns its variables."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-speech").mkdir()
    with (tmp_path / "my-speech" / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [[f"{index}.wav", text] for index, text in enumerate(TEXTS)]
        csv.writer(file).writerows([["file_name", "transcription"], *rows])

    def run(name: str, seconds: float, changes: dict[str, str], **sizes: object) -> dict:
        for index in range(2):
            wav = make_speech(seconds + 0.2 * index, seed=index)
            save_audio(tmp_path / "my-speech" / f"{index}.wav", wav, 16_000)
        prepare(tmp_path / "my-speech", tmp_path / "tokens")
        write_base_model(tmp_path, TEXTS, **sizes)
        page: dict = {}
        for block in read_blocks(ROOT / "docs/how-to" / name):
            text = block.text
            for old, new in changes.items():
                text = text.replace(old, new)
            run_block(Block(block.page, block.line, block.language, text), page)
        assert not no_network
        return page

    return run


@pytest.mark.slow
def test_the_page_learns_a_clip_by_heart(run_page: Callable) -> None:
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
    page = run_page("add-speech-to-an-llm.md", 1.0, {}, **sizes)
    expected = page["row"]["codes"][:2]
    (part,) = page["processor"].parse(page["answer"])
    frames = min(part.codes.shape[1], expected.shape[1])
    share = float((part.codes[:, :frames] == expected[:, :frames]).sum()) / expected.numel()
    assert share >= 0.9 and page["text"] == page["row"]["text"]
    assert Path("said.wav").stat().st_size > 10_000
    again, text = AutoProcessor.from_pretrained("my-model"), page["row"]["text"]
    assert again(text)["input_ids"] == page["processor"](text)["input_ids"]
    model = AutoModelForCausalLM.from_pretrained("my-model")
    assert torch.equal(model.get_input_embeddings().weight, page["model"].get_input_embeddings().weight)


@pytest.mark.parametrize("tied", [False, True], ids=["own-head", "tied"])
def test_lora_keeps_what_it_learns(tied: bool, run_page: Callable) -> None:
    pytest.importorskip("peft", reason="pip install 'audiotok[lora]'")
    page = run_page("fine-tune-with-lora.md", 0.4, {"max_steps=20": "max_steps=2"}, tie_word_embeddings=tied)
    trained, ids = page["model"].eval(), page["prompt"]["input_ids"]
    whole, start = page["whole"], AutoModelForCausalLM.from_pretrained("extended")
    assert (whole.lm_head.weight is whole.get_input_embeddings().weight) == tied
    with torch.no_grad():
        assert (whole(ids).logits - trained(ids).logits).abs().max() < 1e-4
    text = page["processor"].tokenizer.control_offset
    for part in ("get_input_embeddings", "get_output_embeddings"):
        before, after = (getattr(model, part)().weight for model in (start, whole))
        assert torch.equal(before[:text], after[:text]) and not torch.equal(before[text:], after[text:])
    merged = AutoModelForCausalLM.from_pretrained("merged")
    assert merged.config.vocab_size == start.config.vocab_size
    sizes = [
        sum(p.stat().st_size for p in Path(name).glob("*.safetensors")) for name in ("adapter", "merged")
    ]
    assert sizes[0] < sizes[1]
