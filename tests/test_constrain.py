"""Constrained generation: the output can be decoded for any logits."""

from __future__ import annotations

from contextlib import suppress
from copy import copy

import pytest
import torch
from tokenizer_families import build_family
from transformers import LlamaConfig, LlamaForCausalLM

from audiotok import AudioConstraint, AudioTextTokenizer, LayoutError, extend_tokenizer

LAYOUTS = ("first", "flat", "delay", "coarse")
each_layout = pytest.mark.parametrize("layout", LAYOUTS)


@pytest.fixture(scope="module")
def tok() -> AudioTextTokenizer:
    return extend_tokenizer(build_family("gpt2", 1_000), n_q=3, codebook_size=8, codes_fingerprint="0" * 16)


@pytest.fixture(scope="module")
def model(tok: AudioTextTokenizer) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=tok.padded_vocab_size, bos_token_id=None, eos_token_id=None, **sizes)
    return LlamaForCausalLM(config).eval()


def blocks(tok: AudioTextTokenizer, ids: list[int]) -> list[list[int]]:
    """The audio ids between the markers, each block closed."""
    start, end = tok.control_id("audio_start"), tok.control_id("audio_end")
    found = []
    while start in ids:
        ids = ids[ids.index(start) + 1 :]
        assert end in ids
        found.append(ids[: ids.index(end)])
        assert start not in found[-1]
        ids = ids[ids.index(end) + 1 :]
    return found


def sample(
    model: LlamaForCausalLM, constraint: AudioConstraint, prompt: torch.Tensor, **options: object
) -> torch.Tensor:
    ends = {"eos_token_id": 999, "pad_token_id": 999, "max_length": constraint.max_length}
    options = {"do_sample": True} | ends | options
    mask = torch.ones_like(prompt)
    return model.generate(prompt, attention_mask=mask, logits_processor=[constraint], **options)


@each_layout
def test_random_sequences_decode(tok: AudioTextTokenizer, model: LlamaForCausalLM, layout: str) -> None:
    """``max_length`` at every position of a frame; a block ends by itself or by the limit."""
    torch.manual_seed(1)
    lengths = set()
    for max_length in range(20, 26):
        prompt = torch.tensor([[5, 6, tok.control_id("audio_start")]]).repeat(12, 1)
        constraint = AudioConstraint(tok, max_length, layout, min_frames=2)
        for row in sample(model, constraint, prompt).tolist():
            (block,) = blocks(tok, row)
            codes = tok.decode_audio(block, layout)
            lengths.add(codes.shape[1])
            assert codes.shape[1] >= 2 and len(row) <= max_length
            rest = row[3 + len(block) + 1 :]
            assert rest and set(rest) <= {tok.eos_token_id, 999}
    assert len(lengths) > 2
    prompt = torch.tensor([[tok.control_id("audio_start")]]).repeat(10, 1)
    for least, most in ((4, 6), (5, 5)):
        constraint = AudioConstraint(tok, 200, layout, min_frames=least, max_frames=most)
        for row in sample(model, constraint, prompt).tolist():
            assert least <= tok.decode_audio(blocks(tok, row)[0], layout).shape[1] <= most


@each_layout
def test_with_text_around(tok: AudioTextTokenizer, model: LlamaForCausalLM, layout: str) -> None:
    """Rows of different lengths, padded on the left, that open and close blocks at any position."""
    torch.manual_seed(3)
    eager = {tok.control_id("audio_start"): 9.0, tok.eos_token_id: -9.0}

    def push(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        for index, bias in eager.items():
            scores[:, index] += bias
        return scores

    prompt = torch.tensor([[0, 0, 7, 8], [4, 5, 6, 7]])
    constraint = AudioConstraint(tok, 60, layout, max_frames=3, text=True)
    counts = []
    for _ in range(2):
        out = model.generate(
            prompt, attention_mask=(prompt > 0).long(), logits_processor=[push, constraint], do_sample=True,
            max_length=60, eos_token_id=tok.eos_token_id, pad_token_id=0,
        )  # fmt: skip
        for row in out.tolist():
            found = blocks(tok, row)
            counts.append(len(found))
            for block in found:
                assert tok.decode_audio(block, layout).shape[1] <= 3
            outside = [i for i in row if tok.control_offset <= i < len(tok)]
            inside = sum(map(len, found)) + 2 * len(found)
            assert len(outside) == inside
    assert max(counts) > 1


@each_layout
def test_beams_and_audio_prompts(tok: AudioTextTokenizer, model: LlamaForCausalLM, layout: str) -> None:
    prompt = torch.tensor([[5, tok.control_id("audio_start")], [6, tok.control_id("audio_start")]])
    constraint = AudioConstraint(tok, 40, layout, min_frames=3, max_frames=6)
    out = sample(model, constraint, prompt, do_sample=False, num_beams=4, num_return_sequences=4)
    for row in out.tolist():
        tok.decode_audio(blocks(tok, row)[0], layout)
    again = sample(model, constraint, prompt, do_sample=False, num_beams=4, num_return_sequences=4)
    assert torch.equal(out, again)  # no state is left from the previous call
    # An audio prompt is continued.
    codes = torch.randint(8, (3, 4))
    whole = tok.encode_audio(codes, layout)
    prompt = torch.tensor([[5, tok.control_id("audio_start"), *whole[:5]]])
    (row,) = sample(model, AudioConstraint(tok, 60, layout, max_frames=9), prompt).tolist()
    made = tok.decode_audio(blocks(tok, row)[0], layout)
    assert made[0, : min(2, made.shape[1])].tolist() == codes[0, : min(2, made.shape[1])].tolist()
    broken = torch.tensor([[tok.control_id("audio_start"), *whole[:2], 5]])
    with pytest.raises(LayoutError, match="position 2"):
        sample(model, AudioConstraint(tok, 60, layout), broken)


@each_layout
def test_allowed_ids_equal_the_cursor(tok: AudioTextTokenizer, layout: str) -> None:
    """The allowed ids equal the cursor's after every prefix of a sequence."""
    codes = torch.randint(8, (3, 3))
    block = tok.encode_audio(codes, layout)
    scores = torch.randn(1, tok.padded_vocab_size)
    constraint = AudioConstraint(tok, 1000, layout, min_frames=0)
    for size in range(len(block) + 1):
        ids = torch.tensor([[tok.control_id("audio_start"), *block[:size]]])
        masked = constraint(ids, scores)
        allowed = {i for i in range(scores.shape[1]) if masked[0, i] > -torch.inf}
        assert torch.equal(masked[0, sorted(allowed)], scores[0, sorted(allowed)])
        cursor, expected = tok.audio_cursor(layout), set()
        for symbol in block[:size]:
            cursor.push(symbol)
        for index in (*range(tok.audio_offset, tok.audio_offset + 24), tok.control_id("fill")):
            with suppress(LayoutError):
                copy(cursor).push(index)
                expected.add(index)
        assert allowed == expected | ({tok.control_id("audio_end")} if cursor.may_end else set())


def test_bad_arguments(tok: AudioTextTokenizer) -> None:
    for make in (
        lambda: AudioConstraint(tok, 0),
        lambda: AudioConstraint(tok, 9, min_frames=-1),
        lambda: AudioConstraint(tok, 9, min_frames=3, max_frames=2),
        lambda: AudioConstraint(tok, 9, layout="steep"),
        lambda: AudioConstraint(tok, 9, n_q=4),
        lambda: AudioConstraint(tok, 9)(torch.tensor([[1]]), torch.zeros(1, tok.audio_offset)),  # too few
    ):
        with pytest.raises(ValueError):
            make()
