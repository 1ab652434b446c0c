"""Code files: one recording's codes on disk, with the name of the codec that can read them.

An interim format (a container with entropy coding will replace it): one safetensors file with the tensor
``codes`` and a header in the metadata. Knows nothing of sound or networks. The law it keeps: codes come back
bit for bit or not at all; a damaged file, another version or another codec's file is refused with the reason.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .files import write_aside

FORMAT = "audiotok-codes"
FORMAT_VERSION = 1
SUFFIX = ".codes"


class CodeFileError(ValueError):
    """A code file that cannot be read or written; the text names it, what was expected, and what to do."""


@dataclass(frozen=True)
class CodeHeader:
    """What a code file says of its codes.

    Attributes:
        codec: name of the codec, as ``load_codec`` takes it.
        codes_fingerprint: identity of its encoder and quantiser; who has another must not read the codes.
        sampling_rate: of the sound, in Hz.
        hop_length: samples per frame.
        num_samples: length N of the sound; T = ceil(N / hop_length).
        n_q: codebooks K in the file.
        codebook_size: V; every code is in [0, V).
    """

    codec: str
    codes_fingerprint: str
    sampling_rate: int
    hop_length: int
    num_samples: int
    n_q: int
    codebook_size: int

    @property
    def frames(self) -> int:
        """Frames T of the file."""
        return -(-self.num_samples // self.hop_length)

    def check_codec(self, path: str | Path, codec: str, codes_fingerprint: str) -> None:
        """Refuse to hand these codes to another codec.

        Raises:
            CodeFileError: ``codes_fingerprint`` is not the one of the codec that wrote the file.
        """
        if codes_fingerprint != self.codes_fingerprint:
            raise CodeFileError(
                f"{path}: expected codes of the codec {codec!r} (fingerprint {codes_fingerprint}), got "
                f"codes of {self.codec!r} (fingerprint {self.codes_fingerprint}); pass --codec and "
                f"the codec that made them"
            )


def save_codes(path: str | Path, codes: Tensor, header: CodeHeader) -> None:
    """Write codes to a file that is whole or absent.

    Args:
        path: where to.
        codes: [K, T] of any integer type, values in [0, V), K = header.n_q, T = header.frames.
        header: what they are.

    Raises:
        CodeFileError: codes and header disagree.
        OSError: the folder does not exist or cannot be written.
    """
    _check_codes(path, codes, header)
    small = codes.detach().to("cpu", torch.int16 if header.codebook_size <= 1 << 15 else torch.int32)
    metadata = {"format": FORMAT, "format_version": str(FORMAT_VERSION), "header": json.dumps(asdict(header))}
    with write_aside(path) as aside:
        save_file({"codes": small.contiguous()}, aside, metadata)


def is_code_file(path: str | Path) -> bool:
    """Whether the file at ``path`` begins as a code file does; says nothing of damage."""
    with open(path, "rb") as file:
        start = file.read(8 + 4096)
    return start[8:9] == b"{" and FORMAT.encode() in start


def read_header(path: str | Path) -> CodeHeader:
    """Read what a code file says of its codes, without the codes.

    Raises:
        FileNotFoundError: there is no such file.
        CodeFileError: it is not a code file, is damaged, or is of another version.
    """
    return _read(path, with_codes=False)[0]


def load_codes(path: str | Path) -> tuple[Tensor, CodeHeader]:
    """Read a code file.

    Returns:
        codes [K, T] int64 in [0, V), and the header. Pass the codec to ``header.check_codec`` before
        decoding.

    Raises:
        FileNotFoundError: there is no such file.
        CodeFileError: it is not a code file, is damaged, is of another version, or holds codes out of range.
    """
    header, codes = _read(path, with_codes=True)
    assert codes is not None
    _check_codes(path, codes, header)
    return codes.to(torch.int64), header


def _read(path: str | Path, with_codes: bool) -> tuple[CodeHeader, Tensor | None]:
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.is_dir():
        raise CodeFileError(f"{path}: expected a code file, got a folder; name the files in it")
    if not is_code_file(path):
        raise CodeFileError(
            f"{path}: expected a code file, got something else; make one with 'audiotok encode'"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            codes = file.get_tensor("codes") if with_codes else None
    except SafetensorError as error:
        raise CodeFileError(f"{path}: damaged ({error}); copy it again") from None
    if metadata.get("format_version") != str(FORMAT_VERSION):
        raise CodeFileError(
            f"{path}: expected version {FORMAT_VERSION} of the code file format, got "
            f"{metadata.get('format_version')}; read it with the version of audiotok that wrote it"
        )
    return _parse_header(path, metadata.get("header", "")), codes


def _parse_header(path: Path, text: str) -> CodeHeader:
    try:
        values = json.loads(text)
        header = CodeHeader(**values)
    except (TypeError, ValueError) as error:
        raise CodeFileError(f"{path}: damaged header ({error}); copy it again") from None
    for field in fields(header):
        value = getattr(header, field.name)
        if field.type == "int" and (not isinstance(value, int) or value < 1):
            raise CodeFileError(
                f"{path}: damaged header ({field.name} is {value!r}, expected an integer >= 1)"
            )
        if field.type == "str" and not isinstance(value, str):
            raise CodeFileError(f"{path}: damaged header ({field.name} is {value!r}, expected text)")
    return header


def _check_codes(path: str | Path, codes: Tensor, header: CodeHeader) -> None:
    expected = [header.n_q, header.frames]
    if list(codes.shape) != expected or codes.is_floating_point():
        raise CodeFileError(
            f"{path}: expected integer codes [K, T] = {expected} for {header.num_samples} samples, "
            f"got {list(codes.shape)} {codes.dtype}"
        )
    bad = (codes < 0) | (codes >= header.codebook_size)
    if bad.any():
        k, t = (int(i) for i in bad.nonzero()[0])
        raise CodeFileError(
            f"{path}: expected codes in [0, {header.codebook_size}), got {int(codes[k, t])} in codebook "
            f"{k}, frame {t}"
        )
