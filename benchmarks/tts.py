"""Speed of the TTS model: decoding loop, time to first audio, real-time factor and batching."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import TYPE_CHECKING, Any

from audiotok import program, threads

if TYPE_CHECKING:
    from tts_lm import Synthesizer

SENTENCE = "The garden is quiet this morning and the gate is wide open."
_TOKENS, _BATCH = 100, 8
_MEANING = {
    "loop": "tokens/s of the decoding loop",
    "generate": "tokens/s of generate() of transformers",
    "loop_over_generate": "times generate()",
    "first_audio_ms": "ms to the first audio of a stream",
    "rtf": "real-time factor (s of computing per s of speech), default settings",
    "rtf_single": "the same with one candidate per sentence",
    "rtf_stream": "the same, streamed",
    "batch_speedup": "times faster: a batch of eight against eight single calls",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the description and the options."""
    parser.description = (
        "Time text-to-speech and its decoding loop, which is compared with generate() of transformers. The "
        "alternatives take turns, and figures are medians over the rounds."
    )
    add, whole = parser.add_argument, program.number(int, 1)
    add("--model", metavar="NAME", help="a shipped model or a folder (default: the shipped default)")
    add("--voice", metavar="V", help="a voice of `tts-lm voices` (default: the first)")
    add("--text", default=SENTENCE, metavar="TEXT", help="one sentence (default: %(default)r)")
    add("--threads", type=whole, default=1, metavar="N", help="CPU threads (default: %(default)s)")
    add("--rounds", type=whole, default=5, metavar="N", help="measured rounds (default: %(default)s)")
    add("--json", metavar="FILE", help="write the figures to FILE")
    program.add_overwrite_option(parser, "the file of --json")
    program.add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from tts_lm import Synthesizer

    program.check_reports([args.json], args.overwrite)
    with threads(args.threads):
        synthesizer = Synthesizer.from_pretrained(args.model, program.pick_device(args.device), args.dtype)
        figures = measure(synthesizer, args.text, args.voice, args.rounds)
    for name, meaning in _MEANING.items():
        print(f"{name:<20}{figures[name]:>9.3g}  {meaning}")
    print(f"{args.threads} thread(s), medians of {args.rounds} rounds", file=sys.stderr)
    if args.json:
        program.write_report(args.json, {"threads": args.threads, "text": args.text} | figures)
    return 0


def measure(synthesizer: Synthesizer, text: str, voice: str | None, rounds: int) -> dict[str, float]:
    """Time one sentence.

    Args:
        synthesizer: the pipeline.
        text: the sentence.
        voice: the voice; None is the default voice.
        rounds: measured rounds, after one warm-up round. Each has its own seed.

    Returns:
        The figures that the command prints, by name.
    """
    rows = [dict(_round(synthesizer, text, voice, seed)) for seed in range(rounds + 1)][1:]
    return {name: median(row[name] for row in rows) for name in _MEANING}


def _round(synthesizer: Synthesizer, text: str, voice: str | None, seed: int) -> Iterator[tuple[str, float]]:
    loop, generate = _loops(synthesizer, synthesizer.plan(text, voice, seed)[0].prompt)
    yield from {"loop": loop, "generate": generate, "loop_over_generate": loop / generate}.items()
    ways: dict[str, dict[str, Any]] = {"rtf": {}, "rtf_single": {"best_of": 1}}
    for name, settings in ways.items():
        took, speech = _timed(lambda settings=settings: synthesizer.say(text, voice, seed, **settings))
        yield name, took / speech.seconds
    began, first, samples = time.perf_counter(), 0.0, 0
    for chunk in synthesizer.stream(text, voice, seed):
        first = first or time.perf_counter() - began
        samples += len(chunk.wav)
    yield "first_audio_ms", 1000 * first
    yield "rtf_stream", (time.perf_counter() - began) * synthesizer.codec.config.sampling_rate / samples
    seeds = [_BATCH * seed + row for row in range(_BATCH)]
    single, _ = _timed(lambda: [synthesizer.say(text, voice, one, best_of=1) for one in seeds])
    batched, _ = _timed(lambda: synthesizer.say_batch([text] * _BATCH, voice, seeds, best_of=1))
    yield "batch_speedup", single / batched


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def _loops(synthesizer: Synthesizer, prompt: list[int]) -> tuple[float, float]:
    """Tokens per second of this project's decoding loop, and of ``generate()`` with the same weights."""
    import torch

    from tts_lm.decoding.engine import ArDecoder, FrameLimits, Sampling

    ar, decoder = synthesizer.ar, ArDecoder(synthesizer.ar)
    ids = torch.tensor([prompt], device=ar.device)
    # Sampled, because greedy decoding falls into loops, which stop this decoder early.
    limits, drawn = [FrameLimits(_TOKENS, _TOKENS)], Sampling(temperature=1.0, top_p=1.0)
    exactly = {"min_new_tokens": _TOKENS, "max_new_tokens": _TOKENS, "do_sample": False}
    with torch.inference_mode():
        took, answers = _timed(lambda: decoder.generate([prompt], limits, [(0, 0)], drawn))
        other, made = _timed(lambda: ar.generate(ids, attention_mask=torch.ones_like(ids), **exactly))
    return len(answers[0].codes) / took, (made.shape[1] - ids.shape[1]) / other
