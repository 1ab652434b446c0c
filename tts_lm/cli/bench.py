"""``tts-lm bench``: decoding speed, time to first audio, real-time factor, and the error of streaming."""

from __future__ import annotations

import argparse
import json
import sys

from .common import add_model_options, pick_device, progress_bar


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "bench",
        help="measure speed and latency",
        description="Compare the decoding loop with generate() and a bare forward loop with a static cache. Measure "
        "the time to first audio, the real-time factor, and the difference between streamed and whole speech.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model", metavar="NAME", help="a shipped model or a folder (default: the shipped default)"
    )
    parser.add_argument("--voice", metavar="V", help="a voice of `tts-lm voices` (default: the first)")
    parser.add_argument(
        "--text", metavar="TEXT", help="the sentence to synthesize (default: one of 59 letters)"
    )
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="CPU threads (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="measured rounds (default: %(default)s)"
    )
    parser.add_argument(
        "--recordings",
        metavar="DIR",
        help="a folder with metadata.csv, to compare with the error of the codec",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    for name in ("threads", "rounds"):
        if getattr(args, name) < 1:
            raise ValueError(f"expected --{name} of at least 1, got {getattr(args, name)}")
    import torch

    from ..bench import SENTENCE, codec_error_db, seam_error_db, time_batch, time_loops, time_speech
    from ..evaluate import read_recordings
    from ..sentences import plan_sentences
    from ..synthesizer import Synthesizer
    from ..text import character_ids

    recordings = read_recordings(args.recordings, limit=20) if args.recordings else []
    torch.set_num_threads(args.threads)
    synthesizer = Synthesizer.from_pretrained(args.model, pick_device(args.device), args.dtype)
    text, voice = args.text or SENTENCE, synthesizer.voice(args.voice)
    tokenizer = synthesizer.tokenizer
    [sentence, *_] = plan_sentences(
        text, voice, 0, tokenizer, character_ids(tokenizer), synthesizer.frame_rate
    )
    with progress_bar("parts") as counter:
        loops = time_loops(synthesizer.ar, sentence.prompt, rounds=args.rounds)
        counter(1, 4)
        report = {f"loop/{name}": value for name, value in vars(loops).items()}
        report |= {
            f"speech/{name}": v for name, v in time_speech(synthesizer, text, voice, args.rounds).items()
        }
        counter(2, 4)
        report["speech/batch_speedup"] = time_batch(synthesizer, text, voice, args.rounds)
        counter(3, 4)
        seam = seam_error_db(synthesizer, text, voice, range(args.rounds))
    report |= {} if seam is None else {"seam/error_db": seam}
    if recordings:
        report["seam/codec_error_db"] = codec_error_db(synthesizer.codec, recordings)
    if args.json:
        print(
            json.dumps({"threads": args.threads, "text": text} | {k: round(v, 4) for k, v in report.items()})
        )
        return 0
    for name, meaning in _MEANING.items():
        if name in report:
            cpu = f"({report[name + '_cpu']:.3g} in CPU time)" if name + "_cpu" in report else ""
            print(f"{name:<28}{report[name]:>9.3g}  {meaning} {cpu}")
    print(f"tts-lm: {args.threads} thread(s), medians of {args.rounds} rounds", file=sys.stderr)
    return 0


_MEANING = {
    "loop/fast": "tokens/s of this project's loop",
    "loop/generate": "tokens/s of generate() of transformers",
    "loop/static": "tokens/s of the bare forward pass with a StaticCache",
    "loop/over_generate": "times generate()",
    "loop/over_static": "times the bare forward pass",
    "speech/first_audio_ms": "ms to the first audio of a stream",
    "speech/first_audio_ms_worst": "ms, the worst round",
    "speech/rtf": "real-time factor (s of computing per s of speech), default settings",
    "speech/rtf_single": "the same with one candidate per sentence",
    "speech/rtf_stream": "the same, streamed",
    "speech/batch_speedup": "times faster: a batch of eight against eight single calls",
    "seam/error_db": "dB of mel distance between streamed and whole speech, same codes of codebook 0",
    "seam/codec_error_db": "dB of mel distance between recordings and their reconstruction by the codec",
}
