"""``tts-lm say``: a text, or a file of them, to sound files."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path

from .common import add_model_options, add_speaking_options, one_line, pick_device

_GROUP = 16  # lines of a file that are spoken at once


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "say",
        help="text -> a wav file",
        description="Speak a text into a file, or every line of a file into a folder: 0001.wav, 0002.wav...",
        allow_abbrev=False,
    )
    parser.add_argument("text", nargs="?", metavar="TEXT", help="what to say")
    parser.add_argument("-o", "--output", metavar="OUT", help="the sound file; its suffix decides the format")
    parser.add_argument("--file", metavar="LINES", help="say every line of this text file instead")
    parser.add_argument("--out", metavar="DIR", help="with --file: the folder to write into")
    add_speaking_options(parser)
    parser.add_argument("--temperature", type=float, metavar="X", help="0 = always the likeliest code")
    parser.add_argument("--top-p", type=float, metavar="X", help="probability mass to choose from, up to 1")
    add_model_options(parser)
    parser.set_defaults(parser=parser)


def run(args: argparse.Namespace) -> int:
    """Speak; paths of what was written go to stdout."""
    single = args.text is not None and args.output is not None and args.file is None and args.out is None
    many = args.file is not None and args.out is not None and args.text is None and args.output is None
    if not single and not many:
        args.parser.error("expected TEXT -o OUT, or --file LINES.txt --out DIR")
    if single and not Path(args.output).parent.is_dir():
        raise FileNotFoundError(f"cannot write {args.output}: the folder {Path(args.output).parent} does not exist")
    texts = [args.text] if single else _lines(Path(args.file))
    targets = [Path(args.output)] if single else _targets(Path(args.out), len(texts))
    warnings.showwarning = _show_warning
    return _speak(args, texts, targets)


def _speak(args: argparse.Namespace, texts: list[str], targets: list[Path]) -> int:
    from transformers.utils import logging

    from audiotok import save_audio

    from ..synthesizer import Synthesizer
    from ..text import normalise

    logging.disable_progress_bar()
    good, failed = [], 0
    for text, target in zip(texts, targets, strict=True):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                normalise(text)
            good.append((text, target))
        except ValueError as error:
            failed += 1
            where = "" if args.file is None else f"{args.file}, for {target.name}: "
            print(f"tts-lm: error: {where}{one_line(error)}", file=sys.stderr)
    if not good:
        return 1
    synthesizer = Synthesizer.from_pretrained(args.model, pick_device(args.device), args.dtype)
    settings = {"temperature": args.temperature, "top_p": args.top_p}
    settings = {name: value for name, value in settings.items() if value is not None}
    for start in range(0, len(good), _GROUP):
        group = good[start : start + _GROUP]
        began = time.monotonic()
        speeches = synthesizer.say_batch([text for text, _ in group], args.voice, args.seed, **settings)
        took = time.monotonic() - began
        for (_, target), speech in zip(group, speeches, strict=True):
            save_audio(target, speech.wav, speech.sampling_rate)
            print(target, flush=True)
            if speech.finish_reason != "eos":
                note = f"{target.name}: ended by {speech.finish_reason}, not by itself; another --seed may do better"
                print(f"tts-lm: {note}", file=sys.stderr)
        seconds = sum(speech.seconds for speech in speeches)
        print(f"tts-lm: {seconds:.1f} s of speech in {took:.1f} s", file=sys.stderr)
    return 1 if failed else 0


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; expected a text file with one sentence a line")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text, got byte {error.object[error.start]:#x} at {error.start}") from None
    if not lines:
        raise ValueError(f"{path}: expected one sentence a line, the file is empty")
    return lines


def _targets(folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    return [folder / f"{number:04}.wav" for number in range(1, count + 1)]


def _show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    if issubclass(category, UserWarning):
        print(f"tts-lm: {message}", file=sys.stderr)
