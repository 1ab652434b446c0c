"""``tts-lm eval``: error rate, naturalness, speaker similarity and speed of a model, beside recordings."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from audiotok import program

from .common import add_sampling_options, add_speaking_options, progress_bar, sampling_settings

if TYPE_CHECKING:
    from ..evaluate import Metric, Outcome, Rate
    from ..voices import Voice


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the description and the options."""
    parser.description = "Generate speech for lines and score it with Whisper, DNSMOS and a speaker encoder."
    add_speaking_options(parser)
    add = parser.add_argument
    add(
        "--lines",
        required=True,
        metavar="FILE",
        help="sentences, one a line (TSV: last column), or a .lst in the format of seed-tts-eval "
        "(name|prompt text|prompt file|text), which clones each prompt",
    )
    add("--limit", type=int, default=100, help="lines to read (default: %(default)s)")
    add("--language", default="en", help="language of the lines: en, zh... (default: %(default)s)")
    whisper = "Whisper model for the error rate: a CTranslate2 folder, or a name such as base"
    add("--asr", metavar="NAME", help=whisper)
    add(
        "--metrics",
        nargs="+",
        default=[],
        choices=("dnsmos", "similarity"),
        help="DNSMOS P.808, or speaker similarity to --recordings or to the prompts of a .lst",
    )
    add("--voices", nargs="+", metavar="V", help="score each of these voices, or 'all'")
    folder = "recordings to score too: a folder with metadata.csv, split test"
    add("--recordings", metavar="DIR", help=folder)
    add("--source", metavar="S", help="only recordings whose source begins with this")
    add_sampling_options(parser)
    report = "print JSON instead of the table, or write FILE too"
    add("--json", nargs="?", const="-", metavar="FILE", help=report)
    program.add_overwrite_option(parser, "the file of --json")
    program.add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from audiotok import load_audio

    from .. import evaluate
    from ..synthesizer import Synthesizer

    program.check_reports([args.json], args.overwrite)
    is_list = args.lines.endswith(".lst")
    listed = evaluate.read_prompted_lines(args.lines, args.limit) if is_list else []
    if args.voices and (listed or args.voice):
        raise ValueError("--voices, --voice and a .lst exclude each other; give one of them")
    lines = [text for text, _, _ in listed] or evaluate.read_lines(args.lines, args.limit)
    recordings = evaluate.read_recordings(args.recordings, args.source) if args.recordings else []
    metrics: dict[str, Metric] = {}
    own: dict[str, Metric] = {}  # of the recordings
    if "similarity" in args.metrics:
        references = [prompt for _, prompt, _ in listed] or [path for path, _ in recordings]
        if args.voices or not references:
            raise ValueError(
                "similarity needs recordings of one voice; add --recordings DIR --source S, or a .lst"
            )
        encoder = evaluate.SpeakerEncoder()
        metrics["similarity"] = evaluate.SpeakerSimilarity(encoder, references, one_each=is_list)
        if recordings:
            paths = [path for path, _ in recordings]
            own["similarity"] = evaluate.SpeakerSimilarity(encoder, paths, leave_out=True)
    if "dnsmos" in args.metrics:
        metrics["dnsmos"] = own["dnsmos"] = evaluate.DNSMOS()
    asr = evaluate.Whisper(args.asr, args.language) if args.asr else None
    synthesizer = Synthesizer.from_pretrained(args.model, program.pick_device(args.device), args.dtype)
    voices = list(synthesizer.voices) if args.voices == ["all"] else args.voices or [args.voice]
    for voice in voices:
        synthesizer.voice(voice)  # raises for an unknown name before anything is generated
    if changed := sampling_settings(args):
        synthesizer.sampling = replace(synthesizer.sampling, **changed)

    def cloned(index: int) -> Voice:
        _, prompt, words = listed[index]
        return synthesizer.clone_voice(*load_audio(prompt), words, prompt.stem)

    outcomes = []
    with progress_bar("lines") as progress:
        scored = {"language": args.language, "recogniser": asr, "progress": progress}
        for voice in voices:
            name, speaker = str(voice) if args.voices else "model", cloned if listed else voice
            outcomes.append(
                evaluate.evaluate_lines(
                    synthesizer, lines, name=name, voice=speaker, seed=args.seed, metrics=metrics, **scored
                )
            )
        for name in ("through codec", "recordings") if recordings else ():
            codec = synthesizer.codec if name == "through codec" else None
            outcomes.append(evaluate.evaluate_recordings(recordings, codec, name=name, metrics=own, **scored))
    report = {name: getattr(args, name) for name in ("voice", "language", "seed", "asr")} | {
        "model": args.model or "default",
        "sampling_changed": changed,
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }
    if args.json == "-":
        print(json.dumps(report, ensure_ascii=False))
        return 0
    print_table(outcomes, "CER" if args.language == "zh" else "WER")
    if args.json:
        program.write_report(args.json, report)
    return 0


def print_table(outcomes: Sequence[Outcome], unit: str) -> None:
    """Print outcomes with 95 % bootstrap intervals over lines."""
    metrics = list(dict.fromkeys(what for outcome in outcomes for what in outcome.scores))
    columns = "".join(f"{what:>22}" for what in metrics)
    print(f"{'':<24}{'lines':>6}{f'{unit} %':>22}{columns}{'x real time':>13}  finished by")
    for outcome in outcomes:
        cells = "".join(f"{_interval(outcome.scores.get(what), 1, 2):>22}" for what in metrics)
        rate = _interval(outcome.error_rate, 100, 1)
        speed = "" if outcome.times_real_time is None else f"{outcome.times_real_time:.1f}"
        reasons = ", ".join(f"{why} {n}" for why, n in outcome.finish_reasons.items())
        print(f"{outcome.name:<24}{outcome.lines:>6}{rate:>22}{cells}{speed:>13}  {reasons}")


def _interval(rate: Rate | None, factor: float, digits: int) -> str:
    if rate is None:
        return ""
    mean, low, high = (f"{factor * value:.{digits}f}" for value in (rate.rate, rate.low, rate.high))
    return f"{mean} [{low}, {high}]"
