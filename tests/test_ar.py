"""Decoding of the AR model: results do not depend on cache, batch or loop, and every generation ends."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_toys import FINGERPRINT, FRAME_RATE, SIZE, loud, toy_tokenizer
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaForCausalLM,
    LogitsProcessor,
    LogitsProcessorList,
)

from tts_lm.decoding.engine import Answer, ArDecoder, FrameLimits, Sampling, build_prompt
from tts_lm.models.ar import build_ar, character_ids, save_ar

GREEDY = Sampling(temperature=0)
TEXTS = ["hello there", "a", "the quick brown fox, the lazy dog", "why? no.", "mm", "seventeen kind words"]
STEPS = 40


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return toy_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    torch.manual_seed(1)
    return loud(build_ar(tokenizer, FRAME_RATE, hidden_size=32, layers=2, heads=4, intermediate_size=48))


@pytest.fixture(scope="module")
def prompts(tokenizer: Any) -> list[list[int]]:
    ids = character_ids(tokenizer)
    return [build_prompt(tokenizer, [ids[c] for c in text], voice) for voice, text in enumerate(TEXTS)]


class Spy:
    """Keeps the logits [B, V + 1] of every step of a decoder, by row."""

    def __init__(self, decoder: ArDecoder) -> None:
        self.steps: list[Tensor] = []
        inner = decoder._logits
        decoder._logits = lambda hidden: self._keep(inner(hidden))  # type: ignore[method-assign]

    def _keep(self, logits: Tensor) -> Tensor:
        self.steps.append(logits.clone())
        return logits


class OnlySpeech(LogitsProcessor):
    """What the fast loop allows: codes of codebook 0, and the end from the second frame on."""

    def __init__(self, model: Any, prompt: int) -> None:
        self.low, self.prompt = model.config.audio["audio_offset"], prompt
        self.end = model.config.eos_token_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        allowed = torch.full_like(scores, -torch.inf)
        allowed[:, self.low : self.low + SIZE] = 0
        if input_ids.shape[1] > self.prompt:
            allowed[:, self.end] = 0
        return scores + allowed


def ask(
    model: Any, prompts: list[list[int]], sampling: Sampling = GREEDY, steps: int = STEPS
) -> list[Answer]:
    limits = [FrameLimits(1, steps)] * len(prompts)
    return ArDecoder(model).generate(prompts, limits, [(7, row) for row in range(len(prompts))], sampling)


def stock_logits(model: Any, prompt: list[int], codes: Tensor) -> Tensor:
    """Uncached logits [T + 1, V + 1] of a stock forward pass over the prompt and the codes [T]."""
    low, end = model.config.audio["audio_offset"], ArDecoder(model).end
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *(codes + low).tolist()]]), use_cache=False).logits[0]
    logits = logits[len(prompt) - 1 :]
    return torch.cat((logits[:, low : low + SIZE], logits[:, end : end + 1]), dim=1)


def few_heads(model: Any) -> Any:
    """A stock Llama with fewer key heads than heads."""
    config = copy.deepcopy(model.config)
    config.num_key_value_heads, config.max_position_embeddings = 2, 256
    torch.manual_seed(3)
    return loud(LlamaForCausalLM(config))


@pytest.mark.parametrize("fast", [True, False], ids=["numpy", "torch"])
@pytest.mark.parametrize("shared_keys", [False, True])
def test_cached_is_uncached(model, prompts, shared_keys, fast):
    """Also for rows of any length, and for a Llama with fewer key heads than heads."""
    model = few_heads(model) if shared_keys else model
    decoder = ArDecoder(model)
    assert decoder.fast  # on a CPU, in float32
    decoder.fast = fast
    spy, limits = Spy(decoder), [FrameLimits(STEPS, STEPS)] * len(prompts)
    answers = decoder.generate(prompts, limits, [(7, row) for row in range(len(prompts))], GREEDY)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        wanted = stock_logits(model, prompt, answer.codes)[: len(spy.steps)]
        steps = [logits for logits in spy.steps if len(logits) == len(prompts)]  # while all rows are alive
        found = torch.stack([logits[row] for logits in steps])[: len(wanted)]
        assert len(found) >= 9 and (found - wanted)[:, :-1].abs().max() < 1e-4


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.0)], ids=["greedy", "sampled"])
def test_a_batch_and_a_stream_answer_as_each_alone(model, prompts, sampling):
    together = ask(model, prompts, sampling)
    for row, (prompt, answer) in enumerate(zip(prompts, together, strict=True)):
        limits = FrameLimits(1, STEPS)
        [alone] = ArDecoder(model).generate([prompt], [limits], [(7, row)], sampling)
        stream, streamed = ArDecoder(model).stream(prompt, limits, (7, row), sampling), []
        with pytest.raises(StopIteration) as stopped:
            while True:
                streamed.append(next(stream))
        for other in (alone, stopped.value.value):
            assert torch.equal(answer.codes, other.codes) and answer.finish_reason == other.finish_reason
        assert streamed[: len(answer.codes)] == answer.codes.tolist()[: len(streamed)]
    assert len({tuple(answer.codes.tolist()) for answer in together}) == len(prompts)


def test_the_fast_loop_is_generate(model, prompts):
    """Greedy ids are equal but where the two best logits are closer than 1e-4: a tie, which is counted."""
    compared = ties = 0
    for prompt, answer in zip(prompts, ask(model, prompts), strict=True):
        out = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=STEPS,
            logits_processor=LogitsProcessorList([OnlySpeech(model, len(prompt))]),
        )
        ids = [i - model.config.audio["audio_offset"] for i in out[0, len(prompt) :].tolist()]
        ended = out[0, -1].item() == model.config.eos_token_id
        stock = ids[:-1] if ended else ids
        fast = answer.codes.tolist()
        assert len(fast) == len(stock) or answer.finish_reason == "loop"
        best = stock_logits(model, prompt, answer.codes).topk(2).values
        for step, (mine, theirs) in enumerate(zip(fast, stock, strict=False)):
            compared += 1
            if mine != theirs:
                assert best[step, 0] - best[step, 1] < 1e-4
                ties += 1
                break
    assert compared >= 30 and ties / compared <= 0.01


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_it_always_ends_with_a_reason(model, prompts, data):
    rows = data.draw(st.integers(1, 4))
    longest = data.draw(st.lists(st.integers(1, 90), min_size=rows, max_size=rows))
    kind = data.draw(st.sampled_from(["noise", "constant", "end"]))
    seed = data.draw(st.integers(0, 2**16))
    generator = torch.Generator().manual_seed(seed)
    decoder = ArDecoder(model)

    def logits(hidden: Tensor) -> Tensor:
        out = torch.randn(len(hidden), SIZE + 1, generator=generator)
        out[:, 5] += 50.0 * (kind == "constant")
        out[:, -1] += 50.0 * (kind == "end")
        return out

    decoder._logits = logits  # type: ignore[method-assign]
    silent = data.draw(st.sampled_from([(), (5,), range(SIZE)]))
    limits = [FrameLimits(min(3, most), most) for most in longest]
    keys = [(seed, row) for row in range(rows)]
    answers = decoder.generate(prompts[:rows], limits, keys, Sampling(), silent)
    assert len(answers) == rows
    for answer, limit in zip(answers, limits, strict=True):
        assert answer.finish_reason in ("eos", "length", "loop", "silence")
        assert 1 <= len(answer.codes) <= limit.longest
        assert answer.codes.min() >= 0 and answer.codes.max() < SIZE
        assert answer.finish_reason != "length" or len(answer.codes) == limit.longest
        assert answer.finish_reason != "eos" or len(answer.codes) >= limit.shortest
        assert answer.finish_reason == "eos" or kind != "end" or limit.longest <= 3


@pytest.mark.parametrize(("silent", "reason"), [((), "loop"), ((9,), "loop"), ((9, 10, 11), "silence")])
def test_loops_and_silence_end_an_answer(model, prompts, silent, reason):
    decoder, steps = ArDecoder(model), iter(range(1000))

    def logits(hidden: Tensor) -> Tensor:
        step = next(steps)
        # silence: codes 9, 10, 11 in an order that never repeats itself
        code = 9 + (step * step // 7) % 3 if reason == "silence" else 9
        return torch.nn.functional.one_hot(torch.full((len(hidden),), code), SIZE + 1).float()

    decoder._logits = logits  # type: ignore[method-assign]
    [answer] = decoder.generate(prompts[:1], [FrameLimits(1, 400)], [(0, 0)], GREEDY, silent)
    assert answer.finish_reason == reason and 1 <= len(answer.codes) < 100


def test_the_room_ends_an_answer_and_long_prompts_are_refused(model, tokenizer, prompts):
    model = few_heads(model)
    decoder = ArDecoder(model)
    long = [prompts[0][0]] * 250
    [answer] = decoder.generate(
        [long], [FrameLimits(50, 400)], [(0, 0)], Sampling(temperature=2.0, top_p=1.0)
    )
    assert (len(answer.codes), answer.finish_reason) == (6, "length")
    for wrong in ([], [1] * 256):
        with pytest.raises(ValueError, match="255"):
            decoder.generate([wrong], [FrameLimits(1, 4)], [(0, 0)], GREEDY)
    with pytest.raises(ValueError, match="30 and 4"):
        build_ar(tokenizer, FRAME_RATE, 30, 1, 4, 8)
    del model.config.audio
    with pytest.raises(ValueError, match="audio"):
        ArDecoder(model)


def test_it_opens_as_a_stock_llama(model, tokenizer, prompts, tmp_path: Path, no_network):
    save_ar(model, tmp_path)
    files = {"config.json", "generation_config.json", "model.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == files
    opened = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(opened) is LlamaForCausalLM and no_network == []
    ids = torch.tensor(prompts[:1])
    with torch.no_grad():
        assert torch.equal(opened(ids).logits, model(ids).logits)
    ends = tokenizer.control_id("audio_end")
    assert opened.generation_config.eos_token_id == opened.config.eos_token_id == ends
    assert opened.config.audio["codes_fingerprint"] == FINGERPRINT
