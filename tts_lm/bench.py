"""Speed of the TTS model: decoding loops, time to first audio, real-time factor, and the error of streaming.

Alternatives are timed in turn in each round, and a ratio is the median over the rounds, so that other load on the
machine cancels.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import StaticCache

from audiotok import load_audio

from .decoding.engine import ArDecoder
from .decoding.sampling import FrameLimits, Sampling

if TYPE_CHECKING:
    from .synthesizer import Synthesizer
    from .voices import Voice

SENTENCE = "The garden is quiet this morning and the gate is wide open."
_BANDS = 80
_WINDOW = 1024


@dataclass(frozen=True)
class Loops:
    """Tokens per second of three loops over the same weights, medians over the rounds."""

    fast: float
    """:class:`~tts_lm.decoding.engine.ArDecoder`."""
    generate: float
    """``generate()`` of transformers."""
    static: float
    """The stock model's forward pass with a ``StaticCache`` and an argmax."""
    over_generate: float
    """Median of fast / generate over the rounds."""
    over_static: float


def time_loops(ar: Any, prompt: Sequence[int], tokens: int = 100, rounds: int = 5) -> Loops:
    """Measure the AR model alone.

    Args:
        ar: the stock Llama.
        prompt: output of :func:`~tts_lm.text.build_prompt`.
        tokens: tokens per round.
        rounds: measured rounds, after one warm-up round.
    """
    decoder = ArDecoder(ar)
    ids = torch.tensor([list(prompt)], device=ar.device)
    limits, drawn = FrameLimits(tokens, tokens), Sampling(temperature=1.0, top_p=1.0)

    def fast_loop() -> int:
        # Sampled, because greedy decoding falls into loops, which stop this decoder early.
        return len(decoder.generate([prompt], [limits], [(0, 0)], drawn)[0].codes)

    def generate_loop() -> int:
        mask, exactly = torch.ones_like(ids), {"min_new_tokens": tokens, "max_new_tokens": tokens}
        return ar.generate(ids, attention_mask=mask, do_sample=False, **exactly).shape[1] - ids.shape[1]

    loops: list[Callable[[], int]] = [fast_loop, generate_loop, lambda: _static_loop(ar, ids, tokens)]
    speeds: list[list[float]] = [[], [], []]
    with torch.inference_mode():
        for turn in range(rounds + 1):
            for loop, found in zip(loops, speeds, strict=True):
                began = time.perf_counter()
                said = loop()
                if turn:
                    found.append(said / (time.perf_counter() - began))
    fast, generate, static = speeds
    ratios = [
        statistics.median(mine / theirs for mine, theirs in zip(fast, others, strict=True))
        for others in (generate, static)
    ]
    middle = statistics.median
    return Loops(middle(fast), middle(generate), middle(static), ratios[0], ratios[1])


def time_speech(
    synthesizer: Synthesizer, text: str, voice: str | Voice | None, rounds: int = 5
) -> dict[str, float]:
    """Measure the whole pipeline.

    Args:
        synthesizer: the pipeline.
        text: one sentence.
        voice: the voice; None is the default voice.
        rounds: measured rounds, after one warm-up round. Each has its own seed.

    Returns:
        ``first_audio_ms`` (median) and ``first_audio_ms_worst`` of the stream, and real-time factors (seconds of
        computing per second of speech): ``rtf`` of ``say()`` with default settings, ``rtf_single`` with one candidate,
        ``rtf_stream``. Keys with ``_cpu`` are the same in CPU time of this process.
    """
    found: dict[str, list[float]] = {}
    for seed in range(rounds + 1):
        row: dict[str, float] = {}
        ways: dict[str, dict[str, Any] | None] = {"rtf": {}, "rtf_single": {"best_of": 1}, "rtf_stream": None}
        for name, settings in ways.items():
            first, seconds, start = None, 0.0, _clocks()
            if settings is None:
                for chunk in synthesizer.stream(text, voice, seed):
                    first = first or _since(start)
                    seconds += len(chunk.wav) / chunk.sampling_rate
            else:
                seconds = synthesizer.say(text, voice, seed, **settings).seconds
            for suffix, took in _since(start).items():
                row[name + suffix] = took / seconds
            for suffix, took in (first or {}).items():
                row["first_audio_ms" + suffix] = 1000 * took
        if seed:
            for name, value in row.items():
                found.setdefault(name, []).append(value)
    out = {name: statistics.median(values) for name, values in found.items()}
    return out | {"first_audio_ms_worst": max(found["first_audio_ms"])}


def time_batch(synthesizer: Synthesizer, text: str, voice: str | Voice | None, rounds: int = 5) -> float:
    """Speed-up of a batch of eight over eight single calls, with one candidate per sentence.

    Args:
        synthesizer: the pipeline.
        text: one sentence, synthesized with eight seeds.
        voice: the voice; None is the default voice.
        rounds: measured rounds, after one warm-up round.

    Returns:
        The median of the ratios of the rounds.
    """
    ratios = []
    for turn in range(rounds + 1):
        seeds = [8 * turn + row for row in range(8)]
        began = time.perf_counter()
        for seed in seeds:
            synthesizer.say(text, voice, seed, best_of=1)
        between = time.perf_counter()
        synthesizer.say_batch([text] * 8, voice, seeds, best_of=1)
        ratios.append((between - began) / (time.perf_counter() - between))
    return statistics.median(ratios[1:])


def _clocks() -> dict[str, float]:
    return {"": time.perf_counter(), "_cpu": time.process_time()}


def _since(start: dict[str, float]) -> dict[str, float]:
    return {name: now - start[name] for name, now in _clocks().items()}


def seam_error_db(
    synthesizer: Synthesizer, text: str, voice: str | Voice | None, seeds: Sequence[int]
) -> float | None:
    """Distance between streamed and whole speech with the same codes of codebook 0.

    Returns:
        Mean :func:`mel_distance_db` over the seeds with equal codes of codebook 0; None if there are none.
    """
    found = []
    for seed in seeds:
        whole = synthesizer.say(text, voice, seed, best_of=1)
        chunks = list(synthesizer.stream(text, voice, seed))
        codes = torch.cat([chunk.codes for chunk in chunks if chunk.codes.numel()], dim=1)
        # The trimmed length may differ by a frame.
        frames = min(codes.shape[1], whole.codes.shape[1])
        if torch.equal(codes[0, :frames], whole.codes[0, :frames]):
            streamed = torch.cat([chunk.wav for chunk in chunks])
            samples = min(len(streamed), len(whole.wav))
            found.append(mel_distance_db(streamed[:samples], whole.wav[:samples], whole.sampling_rate))
    return statistics.mean(found) if found else None


def codec_error_db(codec: Any, recordings: Sequence[tuple[Path, str]]) -> float:
    """Mean :func:`mel_distance_db` between recordings and their reconstruction by the codec."""
    found = []
    for path, _ in recordings:
        wav, rate = load_audio(path, codec.config.sampling_rate)
        with torch.inference_mode():
            coded = codec(wav[None].to(codec.device)).audio_values[0].float().cpu()
        found.append(mel_distance_db(coded[0], wav[0], rate))
    return statistics.mean(found)


def mel_distance_db(first: Tensor, second: Tensor, sampling_rate: int) -> float:
    """Mean absolute difference of two mel spectrograms in dB, where either is above -60 dB of the peak.

    Args:
        first: [N] float32.
        second: [N] float32.
        sampling_rate: sampling rate in Hz.

    Raises:
        ValueError: the lengths differ.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"expected wavs of one length, got {list(first.shape)} and {list(second.shape)} samples"
        )
    levels = [_mel_db(wav, sampling_rate) for wav in (first, second)]
    floor = max(float(level.max()) for level in levels) - 60.0
    one, other = (level.clamp_min(floor) for level in levels)
    audible = (one > floor) | (other > floor)
    return float((one - other).abs()[audible].mean()) if bool(audible.any()) else 0.0


def _mel_db(wav: Tensor, sampling_rate: int) -> Tensor:
    wav = F.pad(wav.float(), (0, max(0, _WINDOW - len(wav))))
    window = torch.hann_window(_WINDOW)
    power = torch.stft(wav, _WINDOW, _WINDOW // 4, window=window, return_complex=True).abs().square()
    return 10 * torch.log10(_mel_bands(sampling_rate) @ power + 1e-10)


def _mel_bands(sampling_rate: int) -> Tensor:
    """Triangular filters on the mel scale (O'Shaughnessy, 1987), [80, 513]."""
    top = 2595 * torch.log10(torch.tensor(1 + sampling_rate / 2 / 700))
    edges = 700 * (10 ** (torch.linspace(0, float(top), _BANDS + 2) / 2595) - 1)
    hz = torch.linspace(0, sampling_rate / 2, _WINDOW // 2 + 1)
    rise = (hz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - hz) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rise, fall).clamp_min(0)


def _static_loop(ar: Any, ids: Tensor, tokens: int) -> int:
    cache = StaticCache(config=ar.config, max_cache_len=ids.shape[1] + tokens)
    for _ in range(tokens):
        ids = ar(ids, past_key_values=cache, use_cache=True).logits[:, -1].argmax(-1, keepdim=True)
    return tokens
