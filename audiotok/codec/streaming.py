"""Streaming sessions, packet-loss concealment and overlapping segments.

Streaming output equals the output of one pass: codes are equal except for ties, audio within 1e-5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Codec, SingleCodec, check_codes, check_count, check_wav_form, check_wav_range
from .layers import StreamState, no_autocast
from .quantizer import ResidualVectorQuantizer

HOLD_S, FADE_S = 0.02, 0.14
"""In a gap, audio continues for ``HOLD_S`` and fades to silence within ``FADE_S``, in seconds."""

MISSING_SCALE = 0.1
"""Scale that is assumed if none is given: the RMS of speech at a typical level."""


class StreamingEncoder:
    """Encodes a batch of streams that advance together.

    Args:
        encoder: turns a wav [B, 1, n] and the stream's state into latents.
        quantizer: quantizer of the same codec.
        hop_length: samples per frame.
        n_q: codebooks to keep.
    """

    def __init__(
        self,
        encoder: Callable[[Tensor, StreamState], Tensor],
        quantizer: ResidualVectorQuantizer,
        hop_length: int,
        n_q: int,
    ) -> None:
        self._encoder, self._quantizer = encoder, quantizer
        self._hop, self._n_q = hop_length, n_q
        self._squares = quantizer.squares()
        self._state = StreamState()
        self._rest: Tensor | None = None
        self._done = False

    def push(self, wav: Tensor) -> Tensor:
        """Take the next samples, return the frames they complete.

        Args:
            wav: [B, 1, n] float, any n >= 0, values in [-1, 1]; B is the same in every call.

        Returns:
            [B, K, t] int64; t may be 0.

        Raises:
            TypeError: wav is not a tensor.
            ValueError: wav is not [B, 1, n] of floats, its B changed, or it holds NaN, infinity or samples far beyond
                full scale.
            RuntimeError: the session was flushed.
        """
        if self._done:
            raise _flushed("encoder")
        check_wav_form("wav", wav, 0)
        check_wav_range(wav)
        wav = wav.to(self._squares.device, torch.float32)
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
            codes = self._quantizer.encode(latents, self._n_q, self._squares)
        return codes.clone()  # outside inference mode, so that it can be used in training

    def flush(self) -> Tensor:
        """Pad the last, incomplete frame with zeros and return it: [B, K, 1] int64, or [B, K, 0] if there is none.

        Raises:
            RuntimeError: the session was flushed already.
        """
        rest, codes = self._rest, self._nothing(1 if self._rest is None else len(self._rest))
        if rest is not None and rest.shape[-1]:
            codes = self.push(rest.new_zeros(rest.shape[0], 1, self._hop - rest.shape[-1]))
        self._done = True
        return codes

    def _nothing(self, batch: int) -> Tensor:
        return torch.zeros(batch, self._n_q, 0, dtype=torch.int64, device=self._squares.device)


class StreamingDecoder:
    """Decodes a batch of mono streams that advance together.

    Args:
        decoder: turns latents, its own state and gains into audio; has ``new_state()`` and ``gain_hop``.
        quantizer: quantizer of the same codec.
        hop_length: samples per frame.
        sampling_rate: Hz.
    """

    def __init__(
        self, decoder: Any, quantizer: ResidualVectorQuantizer, hop_length: int, sampling_rate: int
    ) -> None:
        self._decoder, self._quantizer = decoder, quantizer
        self._hop, self._rate = hop_length, sampling_rate
        self._device = quantizer.codebooks.device
        self._state = decoder.new_state()
        self._given = 0
        self._done = False
        self._last: Tensor | None = None
        self._batch: int | None = None
        self._lost_s = math.inf  # time since the last frame; infinite before the first one

    def push(self, audio_codes: Tensor) -> Tensor:
        """Take the next frames, return the audio that is complete.

        Args:
            audio_codes: [B, K, t] int64 in [0, V), the first K codebooks, any t >= 0; B as in every call.

        Returns:
            [B, 1, n] float32.

        Raises:
            TypeError: audio_codes is not a tensor.
            ValueError: audio_codes is not [B, K, t] of integers in range, or its B changed.
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
            [B, 1, n] float32.

        Raises:
            TypeError: frames is not an int, or following is not a tensor.
            ValueError: frames is below 1, following is not [B, K, t] of codes with t >= 1, or its B is another.
            RuntimeError: the session was flushed.
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
        gap_s, step = frames * self._hop / self._rate, self._decoder.gain_hop
        gains = fade(
            self._lost_s, frames * self._hop // step, step / self._rate, None if goal is None else gap_s
        )
        wav = self._decode(carry_on(last, frames, goal), gains.to(self._device) * (not silent))
        self._lost_s += gap_s
        return wav

    def flush(self, num_samples: int | None = None) -> Tensor:
        """Return the rest of the audio and close the session.

        Args:
            num_samples: length of the whole stream; the rest of the last frame is cut.

        Returns:
            [B, 1, n] float32.

        Raises:
            TypeError: ``num_samples`` is not an int.
            ValueError: more than ``num_samples`` were returned already, or fewer exist.
        """
        if num_samples is not None:
            check_count("num_samples", num_samples)
        self._done = True
        overlap = getattr(self._state, "overlap", None)
        rest = self._nothing() if overlap is None else overlap[:, None].clone()
        if num_samples is not None:
            wanted = num_samples - self._given
            if not 0 <= wanted <= rest.shape[-1]:
                raise ValueError(
                    f"expected num_samples in [{self._given}, {self._given + rest.shape[-1]}], got {num_samples}"
                )
            rest = rest[..., :wanted]
        return rest

    def _decode(self, latents: Tensor, gains: Tensor | None = None) -> Tensor:
        with torch.inference_mode():
            wav = no_autocast(self._decoder)(latents, self._state, gains)
        self._last, self._given = latents[..., -1:], self._given + wav.shape[-1]
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


def carry_on(last: Tensor, frames: int, following: Tensor | None = None) -> Tensor:
    """Latents of lost frames.

    Args:
        last: [B, D, 1] float32, the latest before the gap.
        frames: length of the gap, at least 1.
        following: [B, D, 1] float32, the first after the gap if it is known.

    Returns:
        [B, D, frames] float32: ``last`` repeated, or a straight line from it to ``following``.
    """
    if following is None:
        return last.expand(-1, -1, frames)
    way = torch.arange(1, frames + 1, dtype=last.dtype, device=last.device) / (frames + 1)
    return torch.lerp(last, following, way)


def fade(before_s: float, count: int, step_s: float, until_s: float | None = None) -> Tensor:
    """Gains inside a gap: 1 for :data:`HOLD_S`, then a raised cosine to 0 within :data:`FADE_S`.

    Args:
        before_s: seconds of the gap before the first gain.
        count: number of gains.
        step_s: seconds between gains.
        until_s: seconds from the first gain to the end of the gap, where the audio fades in again; None if unknown.

    Returns:
        [count] float32 in [0, 1].
    """
    at_s = torch.arange(count, dtype=torch.float64) * step_s

    def gain(lost_s: Tensor) -> Tensor:
        return 0.5 + 0.5 * torch.cos(torch.pi * ((lost_s - HOLD_S) / FADE_S).clamp(0.0, 1.0))

    gains = gain(before_s + at_s)
    if until_s is not None:
        gains = torch.maximum(gains, gain(until_s - step_s - at_s))
    return gains.float()


def random_losses(frames: int, rate: float, seed: int, packet_frames: int = 1) -> Tensor:
    """Draw lost packets at random; their share is ``rate``, rounded to whole packets.

    Args:
        frames: T of the recording.
        rate: share of the packets to lose, 0 to 1.
        seed: seed of the draw.
        packet_frames: frames of a packet.

    Returns:
        [T] bool, True where a frame is lost.

    Raises:
        ValueError: rate is not in [0, 1], or packet_frames is below 1.
    """
    if not 0.0 <= rate <= 1.0 or packet_frames < 1:
        raise ValueError(
            f"expected a rate in [0, 1] and packet_frames >= 1, got {rate:g} and {packet_frames}"
        )
    packets = -(-frames // packet_frames)
    lost = torch.zeros(packets, dtype=torch.bool)
    order = torch.randperm(packets, generator=torch.Generator().manual_seed(seed))
    lost[order[: round(rate * packets)]] = True
    return lost.repeat_interleave(packet_frames)[:frames]


def decode_with_losses(
    codec: Codec, codes: Tensor, lost: Tensor, conceal: bool, glide: bool = False
) -> Tensor:
    """Decode a stream whose frames are partly lost.

    Args:
        codec: the codec of the codes.
        codes: [B, K, T] int64 in [0, V).
        lost: [T] bool, True where a frame is lost.
        conceal: conceal lost frames; otherwise they are silent.
        glide: wait for the frame after a gap, so that the audio can glide to it.

    Returns:
        [B, 1, T * hop_length] float32.

    Raises:
        ValueError: ``lost`` is not [T].
    """
    if lost.shape != codes.shape[-1:]:
        raise ValueError(f"expected lost [T] = {list(codes.shape[-1:])}, got {list(lost.shape)}")
    session = codec.streaming_decoder()
    pieces, at = [session.push(codes[..., :0])], 0  # sets B if the first frame is lost
    gone, counts = torch.unique_consecutive(lost.cpu(), return_counts=True)
    for missing, count in zip(gone.tolist(), counts.tolist(), strict=True):
        end = at + count
        if missing:
            following = codes[..., end : end + 1] if glide and conceal and end < codes.shape[-1] else None
            pieces.append(session.conceal(count, following, silent=not conceal))
        else:
            pieces.append(session.push(codes[..., at:end]))
        at = end
    return torch.cat([*pieces, session.flush()], dim=-1)


def segment_starts(num_samples: int, stride: int | None) -> list[int]:
    """Samples at which segments begin; one segment if ``stride`` is None."""
    return list(range(0, num_samples, stride)) if stride else [0]


def fade_weights(size: int, device: torch.device | str = "cpu") -> Tensor:
    """Triangular cross-fade weights of overlapping segments, [size] float32."""
    return 0.5 - (torch.linspace(0, 1, size + 2, device=device)[1:-1] - 0.5).abs()


def overlap_add(segments: Sequence[Tensor], stride: int) -> Tensor:
    """Join segments with a cross-fade where they overlap (EnCodec, arXiv:2210.13438, section 3.1).

    Args:
        segments: [B, C, n] float32 each, the first the longest.
        stride: samples from the start of one to that of the next, at most the length of the first.

    Returns:
        [B, C, N] float32.
    """
    first, last = segments[0], segments[-1]
    total = stride * (len(segments) - 1) + last.shape[-1]
    weights = fade_weights(first.shape[-1], first.device)
    sound, weight = first.new_zeros(*first.shape[:-1], total), first.new_zeros(total)
    for number, segment in enumerate(segments):
        at = number * stride
        size = min(segment.shape[-1], total - at)
        sound[..., at : at + size] += weights[:size] * segment[..., :size]
        weight[at : at + size] += weights[:size]
    return sound / weight


class WholeEncoder:
    """Encodes one stream of a codec that does not stream, segment by segment or all at the end.

    Args:
        codec: any codec whose items are coded one by one.
        n_q: codebooks to keep.
    """

    def __init__(self, codec: SingleCodec, n_q: int) -> None:
        self._codec, self._n_q = codec, n_q
        self._held: list[Tensor] = []
        self._scales: list[float] = []
        self._done = False

    def push(self, wav: Tensor) -> Tensor:
        """Take the next samples [1, C, n] float, any n >= 0; return the frames [1, K, t] int64 of the segments that
        they complete. Errors as of :meth:`StreamingEncoder.push`.
        """
        if self._done:
            raise _flushed("encoder")
        check_wav_form("wav", wav, 0, self._codec.config.audio_channels)
        check_wav_range(wav)
        self._held.append(wav.clone())  # the caller may reuse its buffer
        segment, found = self._codec.segment_samples, [self._nothing()]
        if segment is not None and sum(piece.shape[-1] for piece in self._held) >= segment:
            held = torch.cat(self._held, dim=-1)
            while held.shape[-1] >= segment:
                found.append(self._encode(held[..., :segment], self._codec.encode_segment))
                held = held[..., self._codec.config.segment_stride :]
            self._held = [held]
        return torch.cat(found, dim=-1)

    def flush(self) -> Tensor:
        """Encode what is left, and close the session: [1, K, t] int64."""
        self._done = True
        held = torch.cat(self._held, dim=-1) if self._held else torch.zeros(1, 1, 0)
        return self._encode(held, self._codec.encode_item) if held.shape[-1] else self._nothing()

    def take_scales(self) -> list[float]:
        """The scales of the segments encoded since the last call."""
        taken, self._scales = self._scales, []
        return taken

    def _encode(self, wav: Tensor, code: Callable[[Tensor, int], tuple[Tensor, Tensor | None]]) -> Tensor:
        with torch.no_grad():
            codes, scales = code(wav.to(self._codec.device, torch.float32), self._n_q)
        self._scales += [] if scales is None else scales.flatten().tolist()
        return codes

    def _nothing(self) -> Tensor:
        return torch.zeros(1, self._n_q, 0, dtype=torch.int64, device=self._codec.device)


class WholeDecoder:
    """Decodes one stream of a codec that does not stream, segment by segment or all at the end.
    Missing frames are silent.

    Args:
        codec: any codec whose items are coded one by one.
    """

    def __init__(self, codec: SingleCodec) -> None:
        self._codec = codec
        self._codes: list[Tensor] = []
        self._present: list[Tensor] = []
        self._scales: list[float] = []
        self._overlap: tuple[Tensor, Tensor] | None = (
            None  # weighted audio that was not returned yet, and its weights
        )

    def add_scales(self, scales: Tensor) -> None:
        """Take the scales [S] of the next segments."""
        self._scales += scales.tolist()

    def push(self, audio_codes: Tensor) -> Tensor:
        """Take the next frames [1, K, t] int64, return the audio that is complete: [1, C, n] float32."""
        return self._take(audio_codes, True)

    def conceal(self, frames: int, following: Tensor | None = None, silent: bool = False) -> Tensor:
        """Silence for lost frames: [1, C, n] float32. Arguments as of :meth:`StreamingDecoder.conceal`."""
        n_q = self._codes[-1].shape[1] if self._codes else 1 if following is None else following.shape[1]
        return self._take(torch.zeros(1, n_q, frames, dtype=torch.int64), False)

    def flush(self) -> Tensor:
        """The rest of the audio, [1, C, n] float32."""
        frames = sum(codes.shape[-1] for codes in self._codes)
        overlap, self._overlap = self._overlap, self._overlap if frames else None
        if frames:
            return self._emit(*self._decode(frames), last=True)
        return self._nothing() if overlap is None else overlap[0] / overlap[1]

    def _take(self, codes: Tensor, present: bool) -> Tensor:
        self._codes.append(codes.to(self._codec.device, copy=True))
        self._present.append(torch.full(codes.shape[-1:], present, device=self._codec.device))
        size = (self._codec.segment_samples or 0) // self._codec.config.hop_length
        done = [self._nothing()]
        while size and sum(codes.shape[-1] for codes in self._codes) >= size:
            done.append(self._emit(*self._decode(size), last=False))
        return torch.cat(done, dim=-1)

    def _nothing(self) -> Tensor:
        return torch.zeros(1, self._codec.config.audio_channels, 0, device=self._codec.device)

    def _decode(self, frames: int) -> tuple[Tensor, Tensor]:
        """Weighted audio of the next frames, and its weights."""
        codes, present = torch.cat(self._codes, dim=-1), torch.cat(self._present)
        self._codes, self._present = [codes[..., frames:]], [present[frames:]]
        options: dict[str, Any] = {}
        if self._codec.has_scale:
            scale = self._scales.pop(0) if self._scales else MISSING_SCALE
            options["audio_scales"] = torch.tensor([[scale]])
        wav = self._codec.decode(codes[..., :frames], **options).audio_values
        assert wav is not None
        audible = present[:frames].repeat_interleave(self._codec.config.hop_length)
        segment = self._codec.segment_samples
        weights = torch.ones_like(wav[0, 0])
        if segment:
            weights = fade_weights(segment, wav.device)[: wav.shape[-1]]
        return wav * audible * weights, weights

    def _emit(self, sound: Tensor, weight: Tensor, last: bool) -> Tensor:
        """Add the open overlap and return the samples that are final."""
        if self._overlap is not None:
            before, weight_before = self._overlap
            size = max(before.shape[-1], sound.shape[-1])
            sound, before = (F.pad(x, (0, size - x.shape[-1])) for x in (sound, before))
            weight, weight_before = (F.pad(x, (0, size - x.shape[-1])) for x in (weight, weight_before))
            sound, weight = sound + before, weight + weight_before
        stride = sound.shape[-1] if last else self._codec.config.segment_stride
        self._overlap = None if last else (sound[..., stride:], weight[stride:])
        return sound[..., :stride] / weight[:stride]
