"""``tts-lm eval``: error rate, naturalness, speaker similarity and speed of a model, beside recordings."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .common import (
    add_model_options,
    add_overwrite_option,
    add_sampling_options,
    add_speaking_options,
    check_reports,
    pick_device,
    sampling_settings,
    write_report,
)

if TYPE_CHECKING:
    from ..evaluate import Metric, Outcome, Rate
    from ..voices import Voice


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "eval",
        help="error rate, naturalness and speed of the speech",
        allow_abbrev=False,
        description="Generate speech for lines and score it with Whisper, DNSMOS and a speaker encoder.",
    )
    add_speaking_options(parser)
    parser.add_argument(
        "--lines",
        required=True,
        metavar="FILE",
        help="sentences, one a line (TSV: last column), or a .lst in the format of seed-tts-eval "
        "(name|prompt text|prompt file|text), which clones each prompt",
    )
    parser.add_argument("--limit", type=int, default=100, help="lines to read (default: %(default)s)")
    parser.add_argument(
        "--language", default="en", help="language of the lines: en, zh... (default: %(default)s)"
    )
    parser.add_argument(
        "--asr",
        metavar="NAME",
        help="Whisper model for the error rate: a CTranslate2 folder, or a name such as base",
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        default=[],
        choices=("dnsmos", "similarity"),
        help="DNSMOS P.808, or speaker similarity to --recordings or to the prompts of a .lst",
    )
    parser.add_argument("--voices", nargs="+", metavar="V", help="score each of these voices, or 'all'")
    parser.add_argument(
        "--lowercase", action="store_true", help="also score the lines in lower case without punctuation"
    )
    parser.add_argument(
        "--recordings", metavar="DIR", help="recordings to score too: a folder with metadata.csv, split test"
    )
    parser.add_argument("--source", metavar="S", help="only recordings whose source begins with this")
    add_sampling_options(parser)
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="print JSON instead of the table, or write FILE too",
    )
    add_overwrite_option(parser, "the file of --json")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from audiotok import load_audio

    from ..evaluate import (
        Whisper,
        evaluate_lines,
        evaluate_recordings,
        read_lines,
        read_prompted_lines,
        read_recordings,
        unpunctuated,
    )
    from ..synthesizer import Synthesizer

    check_reports([args.json], args.overwrite)
    listed = read_prompted_lines(args.lines, args.limit) if args.lines.endswith(".lst") else []
    if args.voices and (listed or args.voice):
        raise ValueError("--voices, --voice and a .lst exclude each other; give one of them")
    lines = [line.text for line in listed] or read_lines(args.lines, args.limit)
    recordings = read_recordings(args.recordings, args.source) if args.recordings else []
    metrics, own = _metrics(
        args.metrics, [line.prompt for line in listed], [path for path, _ in recordings], args.voices
    )
    asr = Whisper(args.asr, args.language) if args.asr else None
    synthesizer = Synthesizer.from_pretrained(args.model, device=pick_device(args.device), dtype=args.dtype)
    voices = list(synthesizer.voices) if args.voices == ["all"] else args.voices or [args.voice]
    for voice in voices:
        synthesizer.voice(voice)  # raises for an unknown name before anything is generated
    if changed := sampling_settings(args):
        synthesizer.sampling = replace(synthesizer.sampling, **changed)

    def cloned(index: int) -> Voice:
        line = listed[index]
        return synthesizer.clone_voice(*load_audio(line.prompt), line.prompt_text, line.prompt.stem)

    forms = {"as written": lines} | (
        {"lower case": [unpunctuated(line) for line in lines]} if args.lowercase else {}
    )
    outcomes = [
        evaluate_lines(
            synthesizer,
            form,
            name=f"{name}, {voice}" if args.voices else name,
            voice=cloned if listed else voice,
            language=args.language,
            seed=args.seed,
            recogniser=asr,
            metrics=metrics,
            progress=_progress(name),
        )
        for voice in voices
        for name, form in forms.items()
    ]
    for name, codec in {"through codec": synthesizer.codec, "recordings": None}.items() if recordings else ():
        outcomes.append(
            evaluate_recordings(
                recordings,
                codec,
                name=name,
                language=args.language,
                recogniser=asr,
                metrics=own,
                progress=_progress(name),
            )
        )
    _report(args, outcomes, changed)
    return 0


def _metrics(
    names: Sequence[str], prompts: Sequence[Path], recordings: Sequence[Path], voices: Sequence[str] | None
) -> tuple[dict[str, Metric], dict[str, Metric]]:
    """Metrics of the generated speech and of the recordings."""
    from ..evaluate import DNSMOS, SpeakerEncoder, SpeakerSimilarity

    metrics: dict[str, Metric] = {}
    own: dict[str, Metric] = {}
    if "similarity" in names:
        if voices or not (prompts or recordings):
            raise ValueError(
                "similarity needs recordings of one voice; add --recordings DIR --source S, or a .lst"
            )
        encoder = SpeakerEncoder()
        metrics["similarity"] = SpeakerSimilarity(encoder, prompts or recordings, one_each=bool(prompts))
        if recordings:
            own["similarity"] = SpeakerSimilarity(encoder, recordings, leave_out=True)
    if "dnsmos" in names:
        metrics["dnsmos"] = own["dnsmos"] = DNSMOS()
    return metrics, own


def _report(args: argparse.Namespace, outcomes: Sequence[Outcome], changed: Mapping[str, float]) -> None:
    from ..evaluate import difference

    rated = [outcome for outcome in outcomes if outcome.error_rate is not None]
    gaps = {
        f"{first.name} - {second.name}": difference(first, second)
        for index, first in enumerate(rated)
        for second in rated[index + 1 :]
    }
    report = {
        "model": args.model or "default",
        "voice": args.voice,
        "language": args.language,
        "seed": args.seed,
        "sampling_changed": changed,
        "asr": args.asr,
        "outcomes": [outcome.as_dict() for outcome in outcomes],
        "error_rate_differences": {name: vars(gap) for name, gap in gaps.items()},
    }
    if args.json == "-":
        print(json.dumps(report, ensure_ascii=False))
        return
    print_table(outcomes, gaps, "CER" if args.language == "zh" else "WER")
    if args.json:
        write_report(args.json, report)


def print_table(outcomes: Sequence[Outcome], gaps: Mapping[str, Rate], unit: str) -> None:
    """Print outcomes with 95 % bootstrap intervals over lines, and differences of error rates in points."""
    metrics = list(dict.fromkeys(what for outcome in outcomes for what in outcome.scores))
    columns = "".join(f"{what:>22}" for what in metrics)
    print(f"{'':<24}{'lines':>6}{f'{unit} %':>22}{columns}{'x real time':>13}  finished by")
    for outcome in outcomes:
        scores = [outcome.scores.get(what) for what in metrics]
        cells = "".join(f"{_interval(score, 1, 2):>22}" for score in scores)
        speed = "" if outcome.times_real_time is None else f"{outcome.times_real_time:.1f}"
        reasons = ", ".join(f"{why} {n}" for why, n in outcome.finish_reasons.items())
        print(
            f"{outcome.name:<24}{outcome.lines:>6}{_interval(outcome.error_rate, 100, 1):>22}{cells}"
            f"{speed:>13}  {reasons}"
        )
    for name, gap in gaps.items():
        print(f"{unit} of {name}: {_interval(gap, 100, 1)} points")


def _interval(rate: Rate | None, factor: float, digits: int) -> str:
    if rate is None:
        return ""
    mean, low, high = (f"{factor * value:.{digits}f}" for value in (rate.rate, rate.low, rate.high))
    return f"{mean} [{low}, {high}]"


def _progress(name: str) -> Callable[[int, int], None]:
    """A counter on stderr: every line on a terminal, every 20th in a log."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty() or done % 20 == 0 or done == total:
            print(f"\r{name}: {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show
