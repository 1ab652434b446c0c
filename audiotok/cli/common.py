"""Options, inputs and outputs that several verbs share."""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ..program import KNOWN_ERRORS as KNOWN_ERRORS
from ..program import add_model_options as add_model_options
from ..program import add_overwrite_option as add_overwrite_option
from ..program import check_reports as check_reports
from ..program import duration as duration
from ..program import number as number
from ..program import one_line as one_line
from ..program import pick_device
from ..program import write_report as write_report

if TYPE_CHECKING:
    from ..bitstream import EntropyModel
    from ..codec.base import Codec
    from ..codec.model import AudioCodec

PIPE = "-"

PROVENANCE = "Generated speech, not a recording"
"""Beginning of the provenance tag that ``tts-lm`` stores as the comment of generated speech."""


def add_codec_option(parser: argparse.ArgumentParser, default: str | None = "default") -> None:
    """Add --codec. With ``default=None`` the verb selects the codec."""
    shown = "the one the file names" if default is None else default
    parser.add_argument(
        "--codec",
        default=default,
        type=codec_name,
        metavar="NAME",
        help=f"a shipped codec, a folder or a hub id (default: {shown})",
    )


def codec_name(text: str) -> str:
    """The argparse type of a codec name. An unset shell variable gives an empty name, which is refused."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a codec's name, got an empty one; leave out --codec")
    return text


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Add --out and --overwrite for verbs that convert files."""
    parser.add_argument("--out", metavar="DIR", help="write one file per input into this folder")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")


def add_rate_options(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """Add --n-q and --bitrate, which select the number of codebooks."""
    group = parser.add_mutually_exclusive_group(required=required)
    group.add_argument("--n-q", type=number(int), metavar="K", help="codebooks to keep (default: all)")
    group.add_argument(
        "--bitrate",
        type=number(float),
        metavar="KBPS",
        help="keep as many codebooks as fit, before entropy coding",
    )


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add --json for machine-readable results."""
    parser.add_argument("--json", action="store_true", help="print JSON, one object per line")


def load_chosen_codec(name: str | None, args: argparse.Namespace) -> AudioCodec:
    """The codec called ``name`` on the device and in the dtype of ``args``, ready for inference."""
    from ..codec.pretrained import load_codec

    return load_codec(name, device=pick_device(args.device), dtype=args.dtype)


def load_timed_codec(name: str | None, args: argparse.Namespace) -> AudioCodec:
    """As :func:`load_chosen_codec`; prints the time that it took on stderr."""
    started = time.perf_counter()
    codec = load_chosen_codec(name, args)
    took = time.perf_counter() - started
    print(f"audiotok: loaded {codec.config.codec_name} in {took:.1f} s", file=sys.stderr)
    return codec


def model_of(codec: Codec, codes_fingerprint: str) -> EntropyModel | None:
    """The codec's entropy model, from its own folder or the shipped ones; None if there is none."""
    from ..bitstream import find_model

    folder = Path(str(codec.name_or_path))
    return find_model(codes_fingerprint, folder if folder.is_dir() else None)


def chosen_n_q(
    args: argparse.Namespace, codebook_sizes: Sequence[int], frame_rate: float, name: object
) -> int:
    """The number of codebooks that --n-q or --bitrate select of the codec or file ``name`` with codebooks of these
    sizes. ValueError: they select less than one, or more than there are.
    """
    from ..bitstream.format import raw_bits

    bits = [raw_bits(size) * frame_rate for size in codebook_sizes]
    if args.bitrate is not None:
        fits = [n for n in range(1, len(bits) + 1) if sum(bits[:n]) <= args.bitrate * 1000 + 1e-6]
        if not fits:
            raise ValueError(
                f"expected --bitrate of at least {bits[0] / 1000:g} for {name}, got {args.bitrate:g}"
            )
        return fits[-1]
    n_q = len(bits) if args.n_q is None else args.n_q
    if not 1 <= n_q <= len(bits):
        raise ValueError(f"expected --n-q in 1..{len(bits)} for {name}, got {n_q}")
    return n_q


def binary_input() -> BinaryIO:
    """Standard input as bytes. ValueError: it is a terminal."""
    if sys.stdin.isatty():
        raise ValueError(
            "expected standard input to be a pipe or a file, got a terminal; add '... |' or '< FILE'"
        )
    return sys.stdin.buffer


def binary_output() -> BinaryIO:
    """Standard output as bytes, flushed after every write; it cannot seek. ValueError: it is a terminal."""
    if sys.stdout.isatty():
        raise ValueError(
            "expected standard output to be a pipe or a file, got a terminal; add '> FILE' or '| ...'"
        )
    stream: Any = _Output()
    return stream


class _Output(io.RawIOBase):
    def write(self, data: Any) -> int:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return len(data)


def plan_outputs(
    paths: Sequence[str], out: str | None, suffix: str, parser: argparse.ArgumentParser
) -> list[tuple[Path, Path]]:
    """Pair inputs with outputs: ``IN OUT`` (one may be ``-``), or ``IN... --out DIR`` with ``DIR/stem + suffix``. Makes
    DIR. Leaves through ``parser.error`` (exit 2) when the arguments do not name an output.
    """
    if PIPE in paths and (len(paths) != 2 or out is not None):
        parser.error("expected IN OUT where one of them is -; for many inputs pass files and --out DIR")
    if out is None:
        if len(paths) != 2:
            parser.error(f"expected IN OUT, got {len(paths)} names; for many inputs pass --out DIR")
        return [(Path(paths[0]), Path(paths[1]))]
    Path(out).mkdir(parents=True, exist_ok=True)
    return [(Path(path), Path(out) / f"{Path(path).stem}{suffix}") for path in paths]


def check_output(
    source: Path, target: Path, overwrite: bool, taken: Mapping[Path, Path], suffix: str | None = None
) -> None:
    """Check that writing ``target`` destroys no data.

    Args:
        source, target: input and output.
        overwrite: whether a file may be replaced.
        taken: outputs of this run and their inputs.
        suffix: required suffix of the output, so that two names of a glob are not taken for IN and OUT.

    Raises:
        ValueError, OSError: it has another suffix, may not be replaced, is an input, or cannot be written.
    """
    from ..files import writable_target

    if suffix is not None and target.suffix.lower() != suffix:
        raise ValueError(
            f"{target}: expected an output that ends in {suffix}; for several inputs pass --out DIR"
        )
    if target in taken:
        raise FileExistsError(f"{source}: would write {target}, as {taken[target]} did; rename one of them")
    if target.exists() and source.exists() and target.samefile(source):
        raise FileExistsError(f"{target}: expected an output that is not the input; choose another name")
    writable_target(target)
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target}: exists already; pass --overwrite to replace it")


def each(
    pairs: Iterable[tuple[Path, Path]],
    work: Callable[[Path, Path], None],
    overwrite: bool,
    suffix: str | None = None,
) -> int:
    """Run ``work(source, target)`` for every pair and print each failure on stderr; 1 if one failed, else 0."""
    failed = 0
    taken: dict[Path, Path] = {}
    for source, target in pairs:
        try:
            if str(target) != PIPE:
                check_output(source, target, overwrite, taken, suffix)
            taken[target] = source
            work(source, target)
        except BrokenPipeError:
            raise
        except KNOWN_ERRORS as error:
            failed += 1
            print(f"audiotok: error: {one_line(error)}", file=sys.stderr)
    return 1 if failed else 0


def cost(seconds: float, started: float) -> str:
    """ ", coded in 0.12 s (80x real time), peak memory 500 MiB": cost of sound since ``started`` (perf_counter)."""
    took = max(time.perf_counter() - started, 1e-9)
    text = f", coded in {took:.3g} s ({seconds / took:.3g}x real time)"
    try:
        import resource
    except ImportError:  # Windows
        return text
    # Linux counts in KiB, macOS in bytes.
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return f"{text}, peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit} MiB"


def warn(path: object, damage: Iterable[str]) -> None:
    """Print warnings about a file that could be read on stderr."""
    for words in damage:
        print(f"audiotok: warning: {path}: {words}", file=sys.stderr)
