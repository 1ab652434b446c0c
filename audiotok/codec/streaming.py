"""Streaming sessions and packet-loss concealment.

Streaming output equals the output of one pass: codes are equal except for ties, audio within 1e-5.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from .checks import check_codes, check_count, check_wav_form, check_wav_range
from .layers import StreamState, no_autocast

HOLD_S, FADE_S = 0.02, 0.14
"""In a gap, audio continues for ``HOLD_S`` and fades to silence within ``FADE_S``, in seconds."""


class StreamingEncoder:
    """Encodes a batch of streams that advance together. ``options`` are passed to the codec's encoder."""

    def __init__(self, codec: Any, n_q: int, **options: Any) -> None:
        self._encoder, self._quantizer = functools.partial(codec.encoder, **options), codec.quantizer
        self._hop, self._n_q, self._device = codec.config.hop_length, n_q, codec.device
        self._state = StreamState()
        self._rest: Tensor | None = None
        self._done = False

    def push(self, wav: Tensor) -> Tensor:
        """Take the next samples [B, 1, n] float, any n >= 0, B as before; return the frames that they complete,
        [B, K, t] int64, t >= 0.

        Raises:
            TypeError, ValueError: as :meth:`.base.Codec.encode`; the session goes on.
            RuntimeError: the session was flushed.
        """
        if self._done:
            raise _flushed("encoder")
        check_wav_form("wav", wav, 0)
        check_wav_range(wav)
        wav = wav.to(self._device, torch.float32)
        if self._rest is not None:
            if wav.shape[0] != self._rest.shape[0]:
                raise ValueError(f"expected a batch of {self._rest.shape[0]} as before, got {wav.shape[0]}")
            wav = torch.cat([self._rest, wav], dim=-1)
        size = wav.shape[-1] // self._hop * self._hop
        self._rest = wav[..., size:].clone()  # the caller may reuse its buffer
        if size == 0:
            return self._nothing(wav.shape[0])
        with torch.inference_mode():
            latents = self._encoder(wav[..., :size], self._state)
            codes = self._quantizer.encode(latents, self._n_q)
        return codes.clone()  # outside inference mode, so that it can be used in training

    def flush(self) -> Tensor:
        """Pad the last, incomplete frame with zeros and return it: [B, K, 1] int64, or [B, K, 0] if there is none."""
        rest, codes = self._rest, self._nothing(1 if self._rest is None else len(self._rest))
        if rest is not None and rest.shape[-1]:
            codes = self.push(rest.new_zeros(rest.shape[0], 1, self._hop - rest.shape[-1]))
        self._done = True
        return codes

    def _nothing(self, batch: int) -> Tensor:
        return torch.zeros(batch, self._n_q, 0, dtype=torch.int64, device=self._device)


class StreamingDecoder:
    """Decodes a batch of mono streams that advance together. The codec's decoder turns latents, its own state and gains
    into audio and has ``new_state()`` and ``gain_hop``.
    """

    def __init__(self, codec: Any) -> None:
        self._decoder, self._quantizer, self._device = codec.decoder, codec.quantizer, codec.device
        self._hop, self._rate = codec.config.hop_length, codec.config.sampling_rate
        self._state = codec.decoder.new_state()
        self._done = False
        self._last: Tensor | None = None
        self._batch: int | None = None
        self._lost_s = math.inf  # time since the last frame; infinite before the first one

    def push(self, audio_codes: Tensor) -> Tensor:
        """Take the next frames [B, K, t] int64, the first K codebooks, any t >= 0, B as before; return the audio that
        is complete, [B, 1, n] float32.

        Raises:
            TypeError, ValueError: as :meth:`.base.Codec.decode`; the session goes on.
            RuntimeError: the session was flushed.
        """
        codes = self._check("audio_codes", audio_codes)
        if codes.shape[-1] == 0:
            return self._nothing()
        wav = self._decode(self._quantizer.decode(codes))
        self._lost_s = 0.0
        return wav

    def conceal(self, frames: int, following: Tensor | None = None, silent: bool = False) -> Tensor:
        """Conceal lost frames: hold timbre and pitch, then fade to silence.

        The next :meth:`push` continues from there. A gap may be reported in several calls with the same result.

        Args:
            frames: lost frames, at least 1.
            following: [B, K, t] int64, t >= 1, the codes after the gap if they are known: the audio then glides to
                them. They must still be pushed.
            silent: return silence without a fade.

        Returns:
            [B, 1, n] float32. Errors as of :meth:`push`.
        """
        check_count("frames", frames)
        if frames < 1:
            raise ValueError(f"expected at least one lost frame, got {frames}")
        if self._done:
            raise _flushed("decoder")
        goal = None
        if following is not None:
            following = self._check("following", following)
            if following.shape[-1] == 0:
                raise ValueError("expected at least one frame in following, got none; leave it out")
            goal = self._quantizer.decode(following[..., :1])
        last = self._last
        if last is None:  # any latents, because the gain is zero until the next frame
            zeros = torch.zeros(self._batch or 1, 1, 1, dtype=torch.int64, device=self._device)
            last = self._quantizer.decode(zeros)
        latents = last.expand(-1, -1, frames)
        if goal is not None:
            way = torch.arange(1, frames + 1, dtype=last.dtype, device=last.device) / (frames + 1)
            latents = torch.lerp(last, goal, way)
        gap_s, step = frames * self._hop / self._rate, self._decoder.gain_hop
        gains = fade(
            self._lost_s, frames * self._hop // step, step / self._rate, None if goal is None else gap_s
        )
        wav = self._decode(latents, gains.to(self._device) * (not silent))
        self._lost_s += gap_s
        return wav

    def flush(self) -> Tensor:
        """Return the rest of the audio, [B, 1, n] float32, and close the session."""
        self._done = True
        overlap = getattr(self._state, "overlap", None)
        return self._nothing() if overlap is None else overlap[:, None].clone()

    def _decode(self, latents: Tensor, gains: Tensor | None = None) -> Tensor:
        with torch.inference_mode():
            wav = no_autocast(self._decoder)(latents, self._state, gains)
        self._last = latents[..., -1:]
        return wav.clone()  # outside inference mode, so that it can be used in training

    def _check(self, name: str, codes: Tensor) -> Tensor:
        if self._done:
            raise _flushed("decoder")
        codes = check_codes(name, codes, self._quantizer.n_q, self._quantizer.codebook_size, least=0)
        if self._batch not in (None, codes.shape[0]):
            raise ValueError(f"expected a batch of {self._batch} as before, got {codes.shape[0]}")
        self._batch = codes.shape[0]
        return codes.to(self._device)

    def _nothing(self) -> Tensor:
        return torch.zeros(self._batch or 1, 1, 0, device=self._device)


def _flushed(kind: str) -> RuntimeError:
    return RuntimeError(f"this session was flushed; open another with codec.streaming_{kind}()")


def fade(before_s: float, count: int, step_s: float, until_s: float | None = None) -> Tensor:
    """Gains [count] inside a gap, ``step_s`` apart: 1 for :data:`HOLD_S`, then a raised cosine to 0 in :data:`FADE_S`.
    The first is ``before_s`` after the start of the gap and, if known, ``until_s`` before its end.
    """
    at_s = torch.arange(count, dtype=torch.float64) * step_s

    def gain(lost_s: Tensor) -> Tensor:
        return 0.5 + 0.5 * torch.cos(torch.pi * ((lost_s - HOLD_S) / FADE_S).clamp(0.0, 1.0))

    gains = gain(before_s + at_s)
    if until_s is not None:
        gains = torch.maximum(gains, gain(until_s - step_s - at_s))
    return gains.float()


def random_losses(frames: int, rate: float, seed: int, packet_frames: int = 1) -> Tensor:
    """Draw lost packets at random, a share of ``rate``, rounded: [frames] bool, True where a frame is lost."""
    packets = -(-frames // packet_frames)
    lost = torch.zeros(packets, dtype=torch.bool)
    order = torch.randperm(packets, generator=torch.Generator().manual_seed(seed))
    lost[order[: round(rate * packets)]] = True
    return lost.repeat_interleave(packet_frames)[:frames]


def decode_with_losses(codec: Any, codes: Tensor, lost: Tensor, conceal: bool) -> Tensor:
    """Decode codes [B, K, T] of which frames ``lost`` [T] bool are missing: [B, 1, T * hop_length] float32. They are
    silent unless ``conceal`` is set.
    """
    session = codec.streaming_decoder()
    pieces, at = [session.push(codes[..., :0])], 0  # sets B if the first frame is lost
    gone, counts = torch.unique_consecutive(lost.cpu(), return_counts=True)
    for missing, count in zip(gone.tolist(), counts.tolist(), strict=True):
        if missing:
            pieces.append(session.conceal(count, silent=not conceal))
        else:
            pieces.append(session.push(codes[..., at : at + count]))
        at += count
    return torch.cat([*pieces, session.flush()], dim=-1)


class WholeEncoder:
    """Collects one stream of a codec that does not stream, and encodes it at the end."""

    def __init__(self, codec: Any, n_q: int) -> None:
        self._codec, self._n_q = codec, n_q
        self._held: list[Tensor] = []
        self._scales: list[float] = []
        self._done = False

    def push(self, wav: Tensor) -> Tensor:
        """Take the next samples [1, C, n] float, any n >= 0: [1, K, 0]. Errors as of :meth:`StreamingEncoder.push`."""
        if self._done:
            raise _flushed("encoder")
        check_wav_form("wav", wav, 0, self._codec.config.audio_channels)
        check_wav_range(wav)
        self._held.append(wav.to(self._codec.device, copy=True))  # the caller may reuse its buffer
        return torch.zeros(1, self._n_q, 0, dtype=torch.int64, device=self._codec.device)

    def flush(self) -> Tensor:
        """Encode everything, and close the session: [1, K, T] int64."""
        self._done = True
        if not sum(wav.shape[-1] for wav in self._held):
            return torch.zeros(1, self._n_q, 0, dtype=torch.int64, device=self._codec.device)
        out = self._codec.encode(torch.cat(self._held, dim=-1), n_q=self._n_q)
        assert out.audio_codes is not None
        self._scales = [] if out.audio_scales is None else out.audio_scales[0].tolist()
        return out.audio_codes

    def take_scales(self) -> list[float]:
        """The scales of the segments, once, after :meth:`flush`."""
        taken, self._scales = self._scales, []
        return taken


class WholeDecoder:
    """Collects one stream of a codec that does not stream, and decodes it at the end. Missing frames are silent."""

    def __init__(self, codec: Any) -> None:
        self._codec = codec
        self._codes: list[Tensor] = []
        self._present: list[Tensor] = []
        self._scales: list[float] = []

    def add_scales(self, scales: Tensor) -> None:
        """Take the scales [S] of the next segments."""
        self._scales += scales.tolist()

    def push(self, audio_codes: Tensor) -> Tensor:
        """Take the next frames [1, K, t] int64: [1, C, 0]."""
        return self._take(audio_codes, True)

    def conceal(self, frames: int, following: Tensor | None = None, silent: bool = False) -> Tensor:
        """Silence for lost frames: [1, C, 0]. Arguments as of :meth:`StreamingDecoder.conceal`."""
        n_q = self._codes[-1].shape[1] if self._codes else 1 if following is None else following.shape[1]
        return self._take(torch.zeros(1, n_q, frames, dtype=torch.int64), False)

    def flush(self) -> Tensor:
        """The audio, [1, C, N] float32."""
        if not sum(codes.shape[-1] for codes in self._codes):
            return self._nothing()
        codes = torch.cat(self._codes, dim=-1)
        scales = torch.tensor([self._scales]) if self._scales else None
        wav = self._codec.decode(codes, audio_scales=scales).audio_values
        assert wav is not None
        for frame in (~torch.cat(self._present)).nonzero()[:, 0].tolist():
            wav[..., self._codec.samples(frame) : self._codec.samples(frame + 1)] = 0
        return wav

    def _take(self, codes: Tensor, present: bool) -> Tensor:
        self._codes.append(codes.to(self._codec.device, copy=True))
        self._present.append(torch.full(codes.shape[-1:], present, device=self._codec.device))
        return self._nothing()

    def _nothing(self) -> Tensor:
        return torch.zeros(1, self._codec.config.audio_channels, 0, device=self._codec.device)
