"""``tts-lm say``: text to speech, one text or a file of them."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiotok import program, threads

from . import common

if TYPE_CHECKING:
    from ..synthesizer import Speech, Synthesizer
    from ..voices import Voice

_GROUP = 16  # lines of a file that are synthesized at once
_PIPE = "-"
_CLIPS = (".wav", ".flac", ".ogg", ".opus", ".mp3")
_PACKET_FRAMES = 50


@dataclass(frozen=True)
class _Line:
    text: str
    target: Path
    origin: str = ""
    """Prefix of an error about the line."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the description and the options."""
    parser.description = (
        "Synthesize a text to a file, as a stream to standard output (-o -), or every line of a file to a "
        "folder: 0001.wav, 0002.wav... The text and the lines may come from standard input (-). A comment in the files "
        "marks them as generated."
    )
    add = parser.add_argument
    add("text", nargs="?", metavar="TEXT", help="the text, or - for standard input")
    add(
        "-o",
        "--out",
        "--output",
        metavar="OUT",
        help="the file; its suffix decides the format: .wav, .flac, .ogg, .opus, or .atok for the codes; - streams wav "
        "(default where TEXT is - and the output a pipe); with --file the folder",
    )
    add("--file", metavar="LINES", help="synthesize every line of this text file, or of standard input (-)")
    add("--overwrite", action="store_true", help="replace existing files")
    common.add_speaking_options(parser)
    clip_text = "with --voice CLIP.wav: the exact transcript of the clip (3 to 5 s)"
    add("--voice-text", metavar="TEXT", help=clip_text)
    common.add_sampling_options(parser)
    program.add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Synthesize, and print the paths of the files."""
    if args.text in common.STDIN and args.out is None and not sys.stdout.isatty():
        args.out = _PIPE
    if args.out is None or (args.text is None) == (args.file is None):
        args.parser.error("expected TEXT -o OUT, or --file LINES.txt --out DIR")
    with common.show_warnings(), threads(1):
        if args.text in common.STDIN:
            args.text = common.read_stdin()
        if args.file is not None:
            return _write_files(args, _lines_of(args.file, Path(str(args.out))))
        if args.out == _PIPE:
            return _stream(args)
        return _write_files(args, [_Line(args.text, _check_target(Path(str(args.out))))])


def _check_target(target: Path) -> Path:
    from audiotok import SOUND_SUFFIXES

    known = (*SOUND_SUFFIXES, ".atok")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {target}: the folder {target.parent} does not exist")
    if target.is_dir():
        raise IsADirectoryError(f"cannot write {target}: it is a folder; name a file in it")
    if target.suffix.lower() not in known:
        found = target.suffix or "no suffix"
        raise ValueError(f"cannot write {target}: expected a name ending in {', '.join(known)}, got {found}")
    return target


def _lines_of(name: str, folder: Path) -> list[_Line]:
    """The lines of a file; 0007.wav is line 7, and blank lines count."""
    text = common.read_stdin() if name in common.STDIN else common.decode(Path(name).read_bytes(), name)
    lines = [
        _Line(text, folder / f"{number:04}.wav", f"{name}, line {number}: ")
        for number, text in enumerate(text.split("\n"), start=1)
        if text.strip()
    ]
    if not lines:
        raise ValueError(f"{name}: expected one sentence a line, the file is empty")
    folder.mkdir(parents=True, exist_ok=True)
    return lines


def _load(args: argparse.Namespace) -> tuple[Synthesizer, Voice, dict[str, Any]]:
    """The synthesizer, the voice and the settings of the provenance tag."""
    began = time.monotonic()
    from audiotok import load_audio

    from ..decoding.engine import Sampling
    from ..synthesizer import Synthesizer

    Sampling(**common.sampling_settings(args))  # raises for bad settings before anything is loaded
    is_clip = bool(args.voice) and Path(args.voice).suffix.lower() in _CLIPS
    if is_clip and args.voice_text is None:
        raise ValueError(f"expected the transcript of the clip {args.voice}; add --voice-text")
    if args.voice_text is not None and not args.voice:
        raise ValueError("expected a clip for --voice-text; add --voice CLIP.wav")
    synthesizer = Synthesizer.from_pretrained(args.model, program.pick_device(args.device), args.dtype)
    if args.voice_text is None:
        voice = synthesizer.voice(args.voice)
    else:
        clip = Path(args.voice)
        voice = synthesizer.clone_voice(*load_audio(clip), args.voice_text, clip.stem)
        print(
            f"tts-lm: cloning the voice of {clip}; make sure that its speaker agrees. "
            "Expect a similar voice, not the same one",
            file=sys.stderr,
        )
    synthesizer.plan("a", voice)  # loads the dictionary
    print(f"tts-lm: loaded in {time.monotonic() - began:.1f} s", file=sys.stderr)
    settings = {"model": args.model, "seed": args.seed, "dtype": args.dtype, "voice_text": args.voice_text}
    return synthesizer, voice, settings | common.sampling_settings(args)


def _write_files(args: argparse.Namespace, lines: list[_Line]) -> int:
    from audiotok import read_comment

    from ..synthesizer import provenance_tag

    synthesizer, voice, settings = _load(args)
    todo, failed = [], 0
    for line in lines:
        tag = provenance_tag(line.text, voice.name, settings)
        try:
            with warnings.catch_warnings(action="ignore"):
                synthesizer.plan(line.text, voice)  # raises for a text that cannot be spoken
            if args.overwrite or not line.target.exists():
                todo.append((line, tag))
            elif read_comment(line.target) == tag:  # made by the same command
                print(line.target)
            else:
                raise FileExistsError(f"{line.target}: exists already; pass --overwrite to replace it")
        except (ValueError, FileExistsError) as error:
            failed += 1
            print(f"tts-lm: error: {line.origin}{program.one_line(error)}", file=sys.stderr)
    for start in range(0, len(todo), _GROUP):
        group, began = todo[start : start + _GROUP], time.monotonic()
        texts = [line.text for line, _ in group]
        with common.progress_bar("sentences") as progress:
            changed = common.sampling_settings(args)
            speeches = synthesizer.say_batch(texts, voice, args.seed, progress, **changed)
        seconds = sum(speech.seconds for speech in speeches)
        print(f"tts-lm: {_pace(seconds, began)}", file=sys.stderr)
        for (line, tag), speech in zip(group, speeches, strict=True):
            _write(line, speech, synthesizer, tag)
            print(line.target, flush=True)
            if speech.finish_reason != "eos":
                note = f"ended by {speech.finish_reason}, not by eos; another --seed may do better"
                print(f"tts-lm: {line.target.name}: {note}", file=sys.stderr)
    return 1 if failed else 0


def _write(line: _Line, speech: Speech, synthesizer: Synthesizer, tag: str) -> None:
    """Write a speech, or its codes, with its provenance tag."""
    from audiotok import AtokHeader, save_atok, save_audio

    if line.target.suffix.lower() != ".atok":
        save_audio(line.target, speech.wav, speech.sampling_rate, tag)
        return
    config, (n_q, frames) = synthesizer.codec.config, speech.codes.shape
    header = AtokHeader(
        codec=config.codec_name,
        codes_fingerprint=synthesizer.codec.codes_fingerprint,
        sampling_rate=config.sampling_rate,
        hop_length=config.hop_length,
        codebook_sizes=(config.codebook_size,) * n_q,
        packet_frames=_PACKET_FRAMES,
        num_samples=frames * config.hop_length,
        metadata={"generated": tag, "transcript": line.text},
    )
    save_atok(line.target, speech.codes, header)


def _stream(args: argparse.Namespace) -> int:
    """Stream to standard output."""
    from audiotok import pcm_bytes, wav_head

    from ..synthesizer import provenance_tag

    if sys.stdout.isatty():
        raise ValueError(
            "expected standard output to be a pipe or a file, got a terminal; add '| aplay' or '> OUT'"
        )
    synthesizer, voice, settings = _load(args)
    out, began, samples, latency = sys.stdout.buffer, time.monotonic(), 0, 0.0
    rate = synthesizer.codec.config.sampling_rate
    head = wav_head(rate, provenance_tag(args.text, voice.name, settings))
    for chunk in synthesizer.stream(args.text, voice, args.seed, **common.sampling_settings(args)):
        if len(chunk.wav):
            out.write(head + pcm_bytes(chunk.wav))
            out.flush()
            head, samples, latency = b"", samples + len(chunk.wav), latency or time.monotonic() - began
    print(f"tts-lm: {_pace(samples / rate, began)}, the first after {1000 * latency:.0f} ms", file=sys.stderr)
    return 0


def _pace(seconds: float, began: float) -> str:
    took = max(time.monotonic() - began, 1e-3)
    return f"{seconds:.1f} s of speech in {took:.1f} s ({seconds / took:.2g}x real time)"
