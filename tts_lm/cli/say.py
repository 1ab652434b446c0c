"""``tts-lm say``: text to speech, one text or a file of them."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiotok import threads

from .common import (
    add_model_options,
    add_sampling_options,
    add_speaking_options,
    one_line,
    pick_device,
    progress_bar,
    sampling_settings,
)

if TYPE_CHECKING:
    from ..synthesizer import Speech, Synthesizer
    from ..voices import Voice

_GROUP = 16  # lines of a file that are synthesized at once
_PIPE = "-"
STDIN = ("-", "/dev/stdin")
_CLIPS = (".wav", ".flac", ".ogg", ".opus", ".mp3")
_PACKET_FRAMES = 50


@dataclass(frozen=True)
class _Line:
    text: str
    target: Path
    origin: str
    """Prefix of an error about the line."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "say",
        help="text -> a wav file",
        description="Synthesize a text to a file, as a stream to standard output (-o -), or every line of a file to a "
        "folder: 0001.wav, 0002.wav... The text and the lines may come from standard input (-). A comment in the files "
        "marks them as generated.",
        allow_abbrev=False,
    )
    parser.add_argument("text", nargs="?", metavar="TEXT", help="the text, or - for standard input")
    parser.add_argument(
        "-o",
        "--out",
        "--output",
        metavar="OUT",
        help="the file; its suffix decides the format: .wav, .flac, .ogg, .opus, or .atok for the codes; - streams wav "
        "(default where TEXT is - and the output a pipe); with --file the folder",
    )
    parser.add_argument(
        "--file", metavar="LINES", help="synthesize every line of this text file, or of standard input (-)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    add_speaking_options(parser)
    parser.add_argument(
        "--voice-text",
        metavar="TEXT",
        help="with --voice CLIP.wav: the exact transcript of the clip (3 to 5 s)",
    )
    add_sampling_options(parser)
    add_model_options(parser)
    parser.set_defaults(parser=parser)


def run(args: argparse.Namespace) -> int:
    """Synthesize, and print the paths of the files."""
    if args.text in STDIN and args.out is None and not sys.stdout.isatty():
        args.out = _PIPE
    if args.out is None or (args.text is None) == (args.file is None):
        args.parser.error("expected TEXT -o OUT, or --file LINES.txt --out DIR")
    out = str(args.out)
    with show_warnings():
        if args.text in STDIN:
            args.text = read_stdin()
        with threads(1):
            if args.file is None and out == _PIPE:
                return _stream(args)
            lines = _one(args.text, Path(out)) if args.file is None else _many(Path(args.file), Path(out))
            return _speak(args, lines)


def _load(args: argparse.Namespace, started: float) -> tuple[Synthesizer, Voice, dict[str, Any]]:
    """The synthesizer, the voice and the settings of the provenance tag; prints the time since ``started``."""
    from audiotok import load_audio

    from ..decoding.sampling import Sampling
    from ..synthesizer import Synthesizer

    Sampling(**sampling_settings(args))  # raises for bad settings before anything is loaded
    words: str | None = args.voice_text
    clip = Path(args.voice) if args.voice and words is not None else None
    if clip is None and args.voice and Path(args.voice).suffix.lower() in _CLIPS:
        raise ValueError(f"expected the transcript of the clip {args.voice}; add --voice-text")
    if clip is None and words is not None:
        raise ValueError("expected a clip for --voice-text; add --voice CLIP.wav")
    synthesizer = Synthesizer.from_pretrained(args.model, pick_device(args.device), args.dtype)
    if clip is None or words is None:
        voice = synthesizer.voice(args.voice)
    else:
        voice = synthesizer.clone_voice(*load_audio(clip), words, clip.stem)
        print(
            f"tts-lm: cloning the voice of {clip}; make sure that its speaker agrees. "
            "Expect a similar voice, not the same one",
            file=sys.stderr,
        )
    synthesizer.plan(
        "a", voice
    )  # loads the dictionary, so that it does not count as time of the first sentence
    print(f"tts-lm: loaded in {time.monotonic() - started:.1f} s", file=sys.stderr)
    settings = {"model": args.model, "seed": args.seed, "dtype": args.dtype, "voice_text": args.voice_text}
    return synthesizer, voice, settings | sampling_settings(args)


def _speak(args: argparse.Namespace, lines: list[_Line]) -> int:
    started = time.monotonic()
    from ..speech import provenance_tag

    good = _speakable(lines)
    if not good:
        return 1
    synthesizer, voice, settings = _load(args, started)
    marks = {line.target: provenance_tag(line.text, voice.name, settings) for line in good}
    free = [line for line in good if _is_free(line.target, marks[line.target], args.overwrite)]
    failed = len(lines) - len(free)
    for start in range(0, len(free), _GROUP):
        group = free[start : start + _GROUP]
        began = time.monotonic()
        with progress_bar("sentences") as progress:
            speeches = synthesizer.say_batch(
                [line.text for line in group], voice, args.seed, progress, **sampling_settings(args)
            )
        took = time.monotonic() - began
        for line, speech in zip(group, speeches, strict=True):
            if not _write(line, speech, synthesizer, marks[line.target], args.overwrite):
                failed += 1
                continue
            print(line.target, flush=True)
            if speech.finish_reason != "eos":
                note = f"ended by {speech.finish_reason}, not by eos; another --seed may do better"
                print(f"tts-lm: {line.target.name}: {note}", file=sys.stderr)
        seconds = sum(speech.seconds for speech in speeches)
        print(f"tts-lm: {seconds:.1f} s of speech in {took:.1f} s{_pace(seconds, took)}", file=sys.stderr)
    return 1 if failed else 0


def _stream(args: argparse.Namespace) -> int:
    """Stream to standard output."""
    started = time.monotonic()
    from audiotok import wav_head

    from ..speech import pcm16, provenance_tag
    from ..text import normalise

    if sys.stdout.isatty():
        raise ValueError(
            "expected standard output to be a pipe or a file, got a terminal; add '| aplay' or '> OUT'"
        )
    normalise(args.text)  # raises for a text without speech before anything is loaded
    synthesizer, voice, settings = _load(args, started)
    out, began, samples, latency = sys.stdout.buffer, time.monotonic(), 0, 0.0
    head = wav_head(synthesizer.codec.config.sampling_rate, provenance_tag(args.text, voice.name, settings))
    for chunk in synthesizer.stream(args.text, voice, args.seed, **sampling_settings(args)):
        if not len(chunk.wav):
            continue
        out.write(head + pcm16(chunk.wav))
        out.flush()
        if head:
            latency = time.monotonic() - began
        head, samples = b"", samples + len(chunk.wav)
    seconds = samples / synthesizer.codec.config.sampling_rate
    took = time.monotonic() - began
    print(
        f"tts-lm: {seconds:.1f} s of speech in {took:.1f} s{_pace(seconds, took)}, "
        f"the first after {1000 * latency:.0f} ms",
        file=sys.stderr,
    )
    return 0


def _pace(seconds: float, took: float) -> str:
    """The speed, such as " (5x real time)"; empty if no time passed."""
    return f" ({seconds / took:.2g}x real time)" if took else ""


def _is_free(target: Path, mark: str, overwrite: bool) -> bool:
    """Whether a file may be written (new, of the same request, or ``overwrite``); reports it if not."""
    from audiotok import read_comment

    exact = target.suffix.lower() in (".wav", ".flac")
    if overwrite or not target.exists() or (exact and read_comment(target) == mark):
        return True
    print(f"tts-lm: error: {target}: exists already; pass --overwrite to replace it", file=sys.stderr)
    return False


def _write(line: _Line, speech: Speech, synthesizer: Synthesizer, mark: str, overwrite: bool) -> bool:
    """Write a speech with its provenance tag. Keeps a changed file of the same request and returns False."""
    import torch

    from audiotok import AtokHeader, load_audio, save_atok, save_audio

    if line.target.exists() and not overwrite:
        former, _ = load_audio(line.target)
        if former.shape[-1] == len(speech.wav) and bool(
            torch.isclose(former[0], speech.wav, atol=1e-4).all()
        ):
            return True
        print(
            f"tts-lm: error: {line.target}: exists already and was changed since; pass --overwrite to replace it",
            file=sys.stderr,
        )
        return False
    if line.target.suffix.lower() != ".atok":
        save_audio(line.target, speech.wav, speech.sampling_rate, mark)
        return True
    config, (n_q, frames) = synthesizer.codec.config, speech.codes.shape
    header = AtokHeader(
        codec=config.codec_name,
        codes_fingerprint=synthesizer.codec.codes_fingerprint,
        sampling_rate=config.sampling_rate,
        hop_length=config.hop_length,
        codebook_sizes=(config.codebook_size,) * n_q,
        packet_frames=_PACKET_FRAMES,
        num_samples=frames * config.hop_length,
        metadata={"generated": mark, "transcript": line.text},
    )
    save_atok(line.target, speech.codes, header)
    return True


def _speakable(lines: list[_Line]) -> list[_Line]:
    """The lines that can be spoken. Each of the others is reported on stderr."""
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
    from audiotok import SOUND_SUFFIXES

    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {target}: the folder {target.parent} does not exist")
    if target.is_dir():
        raise IsADirectoryError(f"cannot write {target}: it is a folder; name a file in it")
    known = (*SOUND_SUFFIXES, ".atok")
    if target.suffix.lower() not in known:
        raise ValueError(
            f"cannot write {target}: expected a name ending in {', '.join(known)}, got {target.suffix or 'no suffix'}"
        )
    return [_Line(text, target, "")]


def _many(path: Path, folder: Path) -> list[_Line]:
    """The lines of a file; 0007.wav is line 7, and blank lines count."""
    if str(path) in STDIN:
        texts = read_stdin().split("\n")
    elif not path.exists() or path.is_dir():
        raise FileNotFoundError(f"no file {path}; expected a text file with one sentence a line")
    else:
        texts = _decode(path.read_bytes(), path).split("\n")
    lines = [
        _Line(text, folder / f"{number:04}.wav", f"{path}, line {number}: ")
        for number, text in enumerate(texts, start=1)
        if text.strip()
    ]
    if not lines:
        raise ValueError(f"{path}: expected one sentence a line, the file is empty")
    folder.mkdir(parents=True, exist_ok=True)
    return lines


def read_stdin() -> str:
    """Read standard input as text. Raises ValueError if it is not UTF-8."""
    if sys.stdin.isatty():
        print("tts-lm: reading the text from the terminal; end it with Ctrl-D", file=sys.stderr)
    return _decode(sys.stdin.buffer.read(), "standard input")


def _decode(data: bytes, name: object) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name}: expected UTF-8 text, got byte {data[error.start]:#x} at {error.start}; save it as UTF-8"
        ) from None


@contextlib.contextmanager
def show_warnings() -> Iterator[None]:
    """Print every UserWarning as one line on stderr."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = _show_warning
        yield


def _show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    if issubclass(category, UserWarning):
        print(f"tts-lm: {message}", file=sys.stderr)
