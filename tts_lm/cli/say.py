"""``tts-lm say``: a text, or a file of them, to sound files."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

from .common import (
    add_model_options,
    add_sampling_options,
    add_speaking_options,
    one_line,
    pick_device,
    sampling_settings,
)

_GROUP = 16  # lines of a file that are spoken at once


@dataclass(frozen=True)
class _Line:
    text: str
    target: Path
    origin: str
    """What an error about it begins with."""


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
    add_sampling_options(parser)
    add_model_options(parser)
    parser.set_defaults(parser=parser)


def run(args: argparse.Namespace) -> int:
    """Speak; paths of what was written go to stdout."""
    if (args.text is None) != (args.output is None) or (args.file is None) != (args.out is None):
        args.parser.error("expected TEXT -o OUT, or --file LINES.txt --out DIR")
    if (args.text is None) == (args.file is None):
        args.parser.error("expected either TEXT -o OUT or --file LINES.txt --out DIR")
    lines = (
        _one(args.text, Path(args.output)) if args.file is None else _many(Path(args.file), Path(args.out))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = _show_warning
        return _speak(args, lines)


def _speak(args: argparse.Namespace, lines: list[_Line]) -> int:
    from transformers.utils import logging

    from audiotok import save_audio

    from ..synthesizer import Synthesizer

    good = _speakable(lines)
    if not good:
        return 1
    logging.disable_progress_bar()
    synthesizer = Synthesizer.from_pretrained(args.model, pick_device(args.device), args.dtype)
    settings = sampling_settings(args)
    for start in range(0, len(good), _GROUP):
        group = good[start : start + _GROUP]
        began = time.monotonic()
        speeches = synthesizer.say_batch([line.text for line in group], args.voice, args.seed, **settings)
        took = time.monotonic() - began
        for line, speech in zip(group, speeches, strict=True):
            save_audio(line.target, speech.wav, speech.sampling_rate)
            print(line.target, flush=True)
            if speech.finish_reason != "eos":
                note = f"ended by {speech.finish_reason}, not by itself; another --seed may do better"
                print(f"tts-lm: {line.target.name}: {note}", file=sys.stderr)
        seconds = sum(speech.seconds for speech in speeches)
        print(f"tts-lm: {seconds:.1f} s of speech in {took:.1f} s", file=sys.stderr)
    return 0 if len(good) == len(lines) else 1


def _speakable(lines: list[_Line]) -> list[_Line]:
    """The lines that say something; a line on stderr for each that does not."""
    from ..text import normalise

    good = []
    for line in lines:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                normalise(line.text)
        except ValueError as error:
            print(f"tts-lm: error: {line.origin}{one_line(error)}", file=sys.stderr)
        else:
            good.append(line)
    return good


def _one(text: str, target: Path) -> list[_Line]:
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {target}: the folder {target.parent} does not exist")
    if target.is_dir():
        raise IsADirectoryError(f"cannot write {target}: it is a folder; name a file in it")
    return [_Line(text, target, "")]


def _many(path: Path, folder: Path) -> list[_Line]:
    """A line of the file is a number, so that sound 0007.wav is line 7; blank lines keep theirs."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; expected a text file with one sentence a line")
    try:
        texts = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(f"{path}: expected UTF-8 text, got byte {byte:#x} at {error.start}") from None
    lines = [
        _Line(text, folder / f"{number:04}.wav", f"{path}, line {number}: ")
        for number, text in enumerate(texts, start=1)
        if text.strip()
    ]
    if not lines:
        raise ValueError(f"{path}: expected one sentence a line, the file is empty")
    folder.mkdir(parents=True, exist_ok=True)
    return lines


def _show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    if issubclass(category, UserWarning):
        print(f"tts-lm: {message}", file=sys.stderr)
