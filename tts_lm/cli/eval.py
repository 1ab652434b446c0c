"""``tts-lm eval``: word errors of what the model says, beside recordings of the same voice.

Knows nothing of how errors are counted. Its law: the ceiling is measured in the same run, with the same ears.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from .common import (
    add_model_options,
    add_sampling_options,
    add_speaking_options,
    pick_device,
    sampling_settings,
)

if TYPE_CHECKING:
    from ..evaluate import Outcome, Rate


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb ``eval``."""
    parser = subparsers.add_parser(
        "eval",
        help="word error rate of the speech, with a recogniser",
        allow_abbrev=False,
        description="Read lines aloud, transcribe them with pocketsphinx, report word and letter errors.",
    )
    add_speaking_options(parser)
    parser.add_argument(
        "--lines", required=True, metavar="FILE", help="sentences, one a line (TSV: last column)"
    )
    parser.add_argument(
        "--limit", type=int, default=100, help="read the first so many (default: %(default)s)"
    )
    parser.add_argument("--lowercase", action="store_true", help="read them in lower case, unpunctuated, too")
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
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the table, write the JSON."""
    from audiotok import write_json

    from ..evaluate import (
        careless_form,
        difference,
        evaluate_lines,
        evaluate_recordings,
        read_lines,
        read_recordings,
    )
    from ..synthesizer import Synthesizer

    lines = read_lines(args.lines, args.limit)
    recordings = read_recordings(args.ceiling, args.ceiling_source) if args.ceiling else []
    synthesizer = Synthesizer.from_pretrained(args.model, device=pick_device(args.device), dtype=args.dtype)
    if changed := sampling_settings(args):
        synthesizer.sampling = replace(synthesizer.sampling, **changed)
    forms = {"as written": lines}
    if args.lowercase:
        forms["careless"] = [careless_form(line) for line in lines]
    options = {"workers": args.workers}
    outcomes = [
        evaluate_lines(
            synthesizer,
            form,
            name=name,
            voice=args.voice,
            seed=args.seed,
            progress=_progress(name),
            **options,
        )
        for name, form in forms.items()
    ]
    codecs = {"ceiling: through codec": synthesizer.codec, "recordings": None} if recordings else {}
    outcomes += [
        evaluate_recordings(recordings, codec, name=name, progress=_progress(name), **options)
        for name, codec in codecs.items()
    ]
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
        "recogniser": "pocketsphinx en-us",
        "outcomes": [outcome.as_dict() for outcome in outcomes],
        "wer_differences": {name: vars(gap) for name, gap in gaps.items()},
    }
    if args.json == "-":
        print(json.dumps(report))
        return 0
    print_table(outcomes, gaps)
    if args.json:
        write_json(args.json, report)
        print(f"wrote {args.json}", file=sys.stderr)
    return 0


def print_table(outcomes: Sequence[Outcome], gaps: Mapping[str, Rate]) -> None:
    """Print outcomes, and differences of word error rates, on stdout; rates in percent."""
    print(
        "rates in % with 95 % bootstrap intervals over lines; recogniser: pocketsphinx, its own en-us models"
    )
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
