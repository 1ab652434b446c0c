"""What several verbs share: options, inputs and outputs, and the codec that options name.

Knows no verb, and imports nothing heavy at module level. Its law: an option means the same in every verb.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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
    from ..codec.model import AudioCodec


def add_codec_option(parser: argparse.ArgumentParser, default: str | None = "default") -> None:
    """--codec: which codec. ``default=None`` leaves the choice to the verb."""
    shown = "the one the file names" if default is None else default
    parser.add_argument(
        "--codec",
        default=default,
        type=codec_name,
        metavar="NAME",
        help=f"a shipped codec, a folder or a hub id (default: {shown})",
    )


def codec_name(text: str) -> str:
    """The argparse type of a codec's name: not empty, as the variable of a shell script may be."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a codec's name, got an empty one; leave out --codec")
    return text


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """--out and --overwrite of the verbs that turn files into files."""
    parser.add_argument("--out", metavar="DIR", help="write one file per input into this folder")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """--json: results for programs instead of people."""
    parser.add_argument("--json", action="store_true", help="print JSON, one object per line")


def add_report_option(parser: argparse.ArgumentParser) -> None:
    """--json FILE: the table's figures for programs, beside the table; --overwrite."""
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    add_overwrite_option(parser, "what --json names")


def load_chosen_codec(name: str | None, args: argparse.Namespace) -> AudioCodec:
    """The codec called ``name`` on the device and in the dtype of ``args``, ready for inference."""
    from ..codec.pretrained import load_codec

    return load_codec(name, device=pick_device(args.device), dtype=args.dtype)


def load_timed_codec(name: str | None, args: argparse.Namespace, started: float) -> AudioCodec:
    """As :func:`load_chosen_codec`; says on stderr what it took since ``started``, so that coding is timed alone."""
    codec = load_chosen_codec(name, args)
    print(
        f"audiotok: loaded {codec.config.codec_name} in {time.perf_counter() - started:.1f} s",
        file=sys.stderr,
    )
    return codec


def plan_outputs(
    paths: Sequence[str], out: str | None, suffix: str, parser: argparse.ArgumentParser
) -> list[tuple[Path, Path]]:
    """Pair inputs with outputs: ``IN OUT``, or ``IN... --out DIR`` with ``DIR/stem + suffix``. Makes DIR.

    Leaves through ``parser.error`` (exit 2) when the arguments do not say where to write.
    """
    if out is None:
        if len(paths) != 2:
            parser.error(f"expected IN OUT, got {len(paths)} names; for many inputs pass --out DIR")
        return [(Path(paths[0]), Path(paths[1]))]
    Path(out).mkdir(parents=True, exist_ok=True)
    return [(Path(path), Path(out) / f"{Path(path).stem}{suffix}") for path in paths]


def check_output(source: Path, target: Path, overwrite: bool, taken: Mapping[Path, Path]) -> None:
    """Refuse to write where it would destroy something. ``taken``: outputs of this run and their inputs.

    Raises:
        FileExistsError: ``target`` is there and may not be replaced, is the input itself, or was written in
            this run for another input.
        OSError: ``target`` is a folder, a device or a pipe, or its folder cannot be written.
    """
    from ..files import writable_target

    if target in taken:
        raise FileExistsError(f"{source}: would write {target}, as {taken[target]} did; rename one of them")
    if target.exists() and source.exists() and target.samefile(source):
        raise FileExistsError(f"{target}: expected an output that is not the input; choose another name")
    writable_target(target)
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target}: exists already; pass --overwrite to replace it")


def each(
    pairs: Iterable[tuple[Path, Path]], work: Callable[[Path, Path], None], overwrite: bool, program: str
) -> int:
    """Do ``work(source, target)`` for every pair, also when one fails; say each failure on stderr.

    Returns:
        0 when all were done, else 1.
    """
    failed = 0
    taken: dict[Path, Path] = {}
    for source, target in pairs:
        try:
            check_output(source, target, overwrite, taken)
            taken[target] = source
            work(source, target)
        except KNOWN_ERRORS as error:
            failed += 1
            print(f"{program}: error: {one_line(error)}", file=sys.stderr)
    return 1 if failed else 0


def cost(seconds: float, started: float) -> str:
    """ ", coded in 0.12 s (80x real time), peak memory 500 MiB": what sound cost since ``started`` (perf_counter)."""
    took = max(time.perf_counter() - started, 1e-9)
    text = f", coded in {took:.3g} s ({seconds / took:.3g}x real time)"
    try:
        import resource
    except ImportError:  # Windows
        return text
    # Linux counts in KiB, macOS in bytes.
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return f"{text}, peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit} MiB"
