"""``tts-lm eval``: word errors of what the model says, beside recordings of the same voice.

Knows nothing of how errors are counted. Its law: the ceiling is measured in the same run, with the same ears.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    from ..evaluate import Outcome, PromptedLine, Rate
    from ..quality import Judge
    from ..synthesizer import Synthesizer
    from ..voices import Voice


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb ``eval``."""
    parser = subparsers.add_parser(
        "eval",
        help="word error rate of the speech, with a recogniser",
        allow_abbrev=False,
        description="Read lines aloud, transcribe them, report word and letter errors, and what judges say.",
    )
    add_speaking_options(parser)
    parser.add_argument(
        "--lines",
        required=True,
        metavar="FILE",
        help="sentences, one a line (TSV: last column); a .lst in the style of seed-tts-eval "
        "(name|prompt text|prompt file|text) is said in the voices of its prompts",
    )
    parser.add_argument(
        "--limit", type=int, default=100, help="read the first so many (default: %(default)s)"
    )
    parser.add_argument(
        "--lower", "--lowercase", action="store_true", help="read them in lower case, unpunctuated, too"
    )
    parser.add_argument(
        "--voices", nargs="+", metavar="V", help="read them in each of these voices, or in all, a row each"
    )
    parser.add_argument(
        "--recogniser",
        default="pocketsphinx",
        metavar="R",
        help="pocketsphinx, or module:factory of one's own (default: %(default)s)",
    )
    parser.add_argument(
        "--judge",
        nargs="+",
        default=[],
        choices=("similarity", "dnsmos"),
        help="score each clip, too: likeness to the voice's own recordings (--ceiling) or prompts, DNSMOS",
    )
    parser.add_argument(
        "--ceiling", metavar="DIR", help="recordings to compare with: a folder with metadata.csv"
    )
    parser.add_argument("--ceiling-source", metavar="S", help="only rows whose source begins with this")
    add_sampling_options(parser)
    parser.add_argument(
        "--workers", type=int, default=2, help="processes that transcribe (default: %(default)s)"
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="print JSON, line by line, instead of the table, or write it to FILE too",
    )
    add_overwrite_option(parser, "what --json names")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the table, write the JSON."""
    from ..evaluate import (
        evaluate_lines,
        evaluate_recordings,
        read_lines,
        read_prompted_lines,
        read_recordings,
    )
    from ..recognise import find_recogniser
    from ..synthesizer import Synthesizer

    check_reports([args.json], args.overwrite)
    if args.lines.endswith(".lst") and args.voices or args.voices and args.voice:
        raise ValueError("expected --voice, --voices or a .lst with voices of its own, got two of them")
    listed = read_prompted_lines(args.lines, args.limit) if args.lines.endswith(".lst") else []
    lines = [line.text for line in listed] or read_lines(args.lines, args.limit)
    recordings = read_recordings(args.ceiling, args.ceiling_source) if args.ceiling else []
    ears = find_recogniser(args.recogniser)
    judges, own_judges = _judges(
        args.judge, [line.prompt for line in listed], [path for path, _ in recordings], args.voices
    )
    synthesizer = Synthesizer.from_pretrained(args.model, device=pick_device(args.device), dtype=args.dtype)
    for voice in [] if args.voices == ["all"] else args.voices or [args.voice]:
        synthesizer.voice(voice)  # one that is not there is no error of the model
    if changed := sampling_settings(args):
        synthesizer.sampling = replace(synthesizer.sampling, **changed)
    outcomes = []
    for name, form, voice in _readings(args, synthesizer, lines, listed):
        outcome = evaluate_lines(
            synthesizer,
            form,
            name=name,
            voice=voice,
            seed=args.seed,
            progress=_progress(name),
            judges=judges,
            recogniser=ears,
            workers=args.workers,
        )
        outcomes.append(outcome)
    options = {"workers": args.workers, "recogniser": ears}
    codecs = {"ceiling: through codec": synthesizer.codec, "recordings": None} if recordings else {}
    outcomes += [
        evaluate_recordings(
            recordings, codec, name=name, progress=_progress(name), judges=own_judges, **options
        )
        for name, codec in codecs.items()
    ]
    _report(args, outcomes, changed)
    return 0


def _readings(
    args: argparse.Namespace,
    synthesizer: Synthesizer,
    lines: list[str],
    listed: Sequence[PromptedLine],
) -> Iterator[tuple[str, list[str], str | Callable[[int], Voice] | None]]:
    """What is read, row by row: its name, its lines and its voice."""
    from audiotok import load_audio

    from ..evaluate import careless_form

    def prompted(index: int) -> Voice:
        line = listed[index]
        return synthesizer.clone_voice(*load_audio(line.prompt), line.prompt_text, line.prompt.stem)

    forms = {"as written": lines}
    if args.lower:
        forms["careless"] = [careless_form(line) for line in lines]
    voices = list(synthesizer.voices) if args.voices == ["all"] else args.voices
    for voice in voices or [None]:
        for name, form in forms.items():
            row = f"{name}, {voice}" if voice else name
            yield row, form, prompted if listed else voice or args.voice


def _report(args: argparse.Namespace, outcomes: Sequence[Outcome], changed: Mapping[str, float]) -> None:
    """Print the table or the JSON, and write the JSON where that is asked for."""
    from ..evaluate import difference

    gaps = {
        f"{first.name} - {second.name}": difference(first, second)
        for index, first in enumerate(outcomes)
        for second in outcomes[index + 1 :]
    }
    report = {
        "model": args.model or "default",
        "voice": args.voice,
        "seed": args.seed,
        "sampling_changed": changed,
        "recogniser": args.recogniser,
        "outcomes": [outcome.as_dict() for outcome in outcomes],
        "wer_differences": {name: vars(gap) for name, gap in gaps.items()},
    }
    if args.json == "-":
        print(json.dumps(report))
        return
    print_table(outcomes, gaps, args.recogniser)
    if args.json:
        write_report(args.json, report)


def _judges(
    names: Sequence[str], prompts: Sequence[Path], recordings: Sequence[Path], voices: Sequence[str] | None
) -> tuple[dict[str, Judge], dict[str, Judge]]:
    """Metrics of the generated speech and of the recordings."""
    from ..quality import Cleanness, Likeness, PromptLikeness, SpeakerEar

    judges: dict[str, Judge] = {}
    own: dict[str, Judge] = {}
    if "similarity" in names:
        if not prompts and not recordings or voices:
            raise ValueError(
                "expected recordings of the voice to be like; add --ceiling DIR --ceiling-source S, and no --voices"
            )
        ear = SpeakerEar()
        judges["similarity"] = PromptLikeness(ear, prompts) if prompts else Likeness(ear, recordings)
        if recordings:
            own["similarity"] = Likeness(ear, recordings, leave_out=True)
    if "dnsmos" in names:
        judges["dnsmos"] = own["dnsmos"] = Cleanness()
    return judges, own


def print_table(
    outcomes: Sequence[Outcome], gaps: Mapping[str, Rate], recogniser: str = "pocketsphinx"
) -> None:
    """Print outcomes, and differences of word error rates, on stdout; rates in percent."""
    print(f"rates in % with 95 % bootstrap intervals over lines; recogniser: {recogniser}")
    print(f"{'':<24}{'lines':>6}{'WER':>22}{'CER':>22}{'ms/letter':>11}{'x real time':>13}  finished by")
    for outcome in outcomes:
        pace = "" if outcome.ms_per_letter is None else f"{outcome.ms_per_letter:.0f}"
        speed = "" if outcome.times_real_time is None else f"{outcome.times_real_time:.2f}"
        reasons = ", ".join(
            f"{why} {100 * n / outcome.lines:.0f} %" for why, n in outcome.finish_reasons.items()
        )
        print(
            f"{outcome.name:<24}{outcome.lines:>6}{_percent(outcome.wer):>22}{_percent(outcome.cer):>22}"
            f"{pace:>11}{speed:>13}  {reasons}"
        )
    for outcome in outcomes:
        for what, score in outcome.scores.items():
            print(f"{what} of {outcome.name}: {score.rate:.3f} [{score.low:.3f}, {score.high:.3f}]")
    for name, gap in gaps.items():
        print(f"WER of {name}: {_percent(gap)} points")


def _percent(rate: Rate) -> str:
    return f"{100 * rate.rate:.1f} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def _progress(name: str) -> Callable[[int, int], None]:
    """A counter on stderr: every line on a terminal, every 20th in a log."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty() or done % 20 == 0 or done == total:
            print(f"\r{name}: {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show
