"""Whether codes are a function of the audio alone: one sound coded in different company, compared frame by frame.

Knows nothing of files or of why codes may differ. The law it keeps: a difference is a *tie* only in float arithmetic
and only where the two codewords are equally near within 1e-5; every other difference is a failure.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..machine import threads
from .model import AudioCodec

TIE = 1e-5
"""Relative difference of two squared distances below which float arithmetic may choose either codeword."""

LAWS: tuple[str, ...] = ("batch", "padding", "threads", "chunks")


@dataclass(frozen=True)
class Agreement:
    """How far two codings of the same sounds agree.

    Attributes:
        cases: codings compared.
        frames: frames compared.
        ties: frames that differ, first where two codewords are equally near.
        failures: frames that differ otherwise, and codings of another length.
    """

    cases: int = 0
    frames: int = 0
    ties: int = 0
    failures: int = 0

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(
            self.cases + other.cases,
            self.frames + other.frames,
            self.ties + other.ties,
            self.failures + other.failures,
        )


@torch.no_grad()
def compare(codec: AudioCodec, wav: Tensor, ours: Tensor, theirs: Tensor) -> Agreement:
    """Compare two codings of one sound; where a frame differs, only its first level that does is judged.

    Args:
        codec: the codec that made them.
        wav: [1, 1, N] float32, what was coded.
        ours, theirs: [1, K, T] int64.

    Returns:
        The agreement, of one case.
    """
    if ours.shape != theirs.shape:
        return Agreement(1, max(ours.shape[-1], theirs.shape[-1]), 0, 1)
    frames = [int(t) for t in (ours != theirs).any(dim=1)[0].nonzero()]
    ties = sum(_are_tied(codec, wav, ours[0, :, t], theirs[0, :, t], t) for t in frames) if frames else 0
    return Agreement(1, ours.shape[-1], ties, len(frames) - ties)


def _are_tied(codec: AudioCodec, wav: Tensor, ours: Tensor, theirs: Tensor, frame: int) -> bool:
    """Whether two codings [K] of a frame part at two codewords equally near."""
    if codec.is_exact:
        return False
    hop = codec.config.hop_length
    encoder, quantizer = codec.coders()
    latents = encoder(F.pad(wav, (0, -wav.shape[-1] % hop)))
    level = int((ours != theirs).nonzero()[0])
    books = quantizer.codebooks.double()
    target = latents[0, :, frame].double() - sum(books[k, ours[k]] for k in range(level))
    pair = torch.stack([books[level, ours[level]], books[level, theirs[level]]])
    near, far = (pair - target).square().sum(-1).sort().values.tolist()
    return far - near < TIE * far


@torch.no_grad()
def check_case(codec: AudioCodec, wavs: Sequence[Tensor], seed: int) -> dict[str, Agreement]:
    """Code random pieces of sounds alone and in company.

    Args:
        codec: in evaluation mode.
        wavs: [1, n] float32 each, at the codec's rate; on any device.
        seed: of the pieces, their levels, their company, the number of threads and the chunks.

    Returns:
        The agreement of each of :data:`LAWS`.
    """
    rng = random.Random(seed)
    pieces = [_piece(rng.choice(wavs), rng).to(codec.device) for _ in range(rng.randint(2, 4))]
    alone = [_codes(codec, piece) for piece in pieces]
    first = pieces[0]
    found = dict.fromkeys(LAWS, Agreement())

    row = rng.randrange(len(pieces))
    company = [F.pad(piece, (0, first.shape[-1]))[..., : first.shape[-1]] for piece in pieces[1:]]
    company.insert(row, first)
    found["batch"] += compare(codec, first, alone[0], _codes(codec, torch.cat(company))[row : row + 1])

    longest = max(piece.shape[-1] for piece in pieces) + rng.randrange(2 * codec.config.hop_length)
    padded = torch.full((len(pieces), 1, longest), rng.uniform(-1, 1), device=codec.device)
    mask = torch.zeros(len(pieces), longest, dtype=torch.bool, device=codec.device)
    for i, piece in enumerate(pieces):
        padded[i, :, : piece.shape[-1]] = piece[0]
        mask[i, : piece.shape[-1]] = True
    together = codec.encode(padded, padding_mask=mask)
    assert together.audio_codes is not None and together.audio_codes_mask is not None
    for i, piece in enumerate(pieces):
        frames = int(together.audio_codes_mask[i].sum())
        found["padding"] += compare(codec, piece, alone[i], together.audio_codes[i : i + 1, :, :frames])

    with threads(rng.randint(2, 8)):
        found["threads"] += compare(codec, first, alone[0], _codes(codec, first))
    found["chunks"] += compare(codec, first, alone[0], _in_chunks(codec, first, rng))
    return found


def _piece(wav: Tensor, rng: random.Random) -> Tensor:
    """[1, n] -> [1, 1, m]: up to half a second from anywhere, at up to twice the level and down to -40 dB."""
    size = min(wav.shape[-1], rng.randint(1, 8_000))
    start = rng.randint(0, wav.shape[-1] - size)
    return wav[None, :, start : start + size] * 10.0 ** rng.uniform(-2.0, 0.3)


def _codes(codec: AudioCodec, wav: Tensor) -> Tensor:
    codes = codec.encode(wav).audio_codes
    assert codes is not None
    return codes


def _in_chunks(codec: AudioCodec, wav: Tensor, rng: random.Random) -> Tensor:
    """Codes [1, K, T] of a wav that arrives in chunks, from none to a few frames long."""
    session, hop = codec.streaming_encoder(), codec.config.hop_length
    found, at = [], 0
    while at < wav.shape[-1]:
        size = rng.choice((0, 1, hop // 3, hop - 1, hop, hop + 1, rng.randint(1, 8 * hop)))
        found.append(session.push(wav[..., at : at + size]))
        at += size
    found.append(session.flush().to(wav.device))
    return torch.cat(found, dim=-1)
