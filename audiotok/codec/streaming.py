"""What a live decoder plays where packets are missing: the latents carried on, and a fade to silence.

Knows nothing of networks, codes or packets, so it serves any decoder that turns latents into sound. The law it keeps:
a loss told in one piece or in several sounds the same.

A long sound as segments that overlap a little, and back. Knows nothing of codecs.

The law kept: where segments come back as they went, so does the sound.

Source: EnCodec (arXiv:2210.13438), section 3.1: 48 kHz music in segments of 1 s with 1 % of overlap.

Sessions over a codec's weights: sound or codes in pieces, the same result as in one go.

The streaming law: any chunking, down to one sample or one frame, gives the codes of the whole and audio within 1e-5.
Where frames are missing, the decoder carries on by itself (conceal.py).

Sessions of other codecs than ours: of those that stream, and of those that must wait for the end.

They take and give what the sessions of streaming.py do, so whoever writes files need not know which it is. The law
kept: any chunking gives the result of one go.

A codec whose packets get lost, for measuring: which are lost, and what a listener then hears.

Knows nothing of networks between machines; losses are a mask over frames. The law it keeps: without a loss the sound
is that of ``codec.decode`` within 1e-5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Codec, SingleCodec, check_codes, check_count, check_wav_form, check_wav_range
from .decoder import Decoder, DecoderState
from .layers import StreamState
from .quantizer import ResidualVectorQuantizer

HOLD_S = 0.02
"""How long the last sound is carried on in full. One lost packet of 20 ms passes almost unheard."""

FADE_S = 0.14
"""How long it then takes to fall silent: what goes on longer than a vowel's rest begins to sound like a buzzer."""


def carry_on(last: Tensor, frames: int, following: Tensor | None = None) -> Tensor:
    """Latents for frames that did not come.

    Args:
        last: [B, D, 1] float32, the latest before the gap.
        frames: length of the gap, at least 1.
        following: [B, D, 1] float32, the first after the gap if it is known; None repeats ``last``.

    Returns:
        [B, D, frames] float32: ``last``, or a straight way from it to ``following``.
    """
    if following is None:
        return last.expand(-1, -1, frames)
    way = torch.arange(1, frames + 1, dtype=last.dtype, device=last.device) / (frames + 1)
    return torch.lerp(last, following, way)


def fade(before_s: float, windows: int, window_s: float, until_s: float | None = None) -> Tensor:
    """Gains of synthesis windows inside a gap.

    Args:
        before_s: how much of the gap lies before the first of these windows.
        windows: how many are asked for.
        window_s: time from one to the next.
        until_s: time from the first of these windows to the end of the gap, where the sound comes back; None: unknown.

    Returns:
        [windows] float32 in [0, 1].
    """
    at_s = torch.arange(windows, dtype=torch.float64) * window_s
    gains = _gain(before_s + at_s)
    if until_s is not None:
        gains = torch.maximum(gains, _gain(until_s - window_s - at_s))
    return gains.float()


def _gain(gone_s: Tensor) -> Tensor:
    """1 for :data:`HOLD_S`, then a cosine's half turn to 0 within :data:`FADE_S`."""
    share = ((gone_s - HOLD_S) / FADE_S).clamp(0.0, 1.0)
    return 0.5 + 0.5 * torch.cos(torch.pi * share)


def segment_starts(num_samples: int, stride: int | None) -> list[int]:
    """Where segments begin, in samples; one that holds all where ``stride`` is None."""
    return list(range(0, num_samples, stride)) if stride else [0]


def fade_weights(size: int, device: torch.device | str = "cpu") -> Tensor:
    """How much each sample of a segment of ``size`` counts where segments overlap: a triangle, [size] float32."""
    return 0.5 - (torch.linspace(0, 1, size + 2, device=device)[1:-1] - 0.5).abs()


def overlap_add(segments: Sequence[Tensor], stride: int) -> Tensor:
    """Segments -> sound; where two overlap, the sound goes over from one to the other.

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
        size, at = segment.shape[-1], number * stride
        size = min(size, total - at)
        sound[..., at : at + size] += weights[:size] * segment[..., :size]
        weight[at : at + size] += weights[:size]
    return sound / weight


class StreamingEncoder:
    """Encodes a batch of streams that advance together.

    Args:
        encoder: of a codec, whatever turns a wav [B, 1, n] and a stream's state into latents; shared, never changed.
        quantizer: the same codec's.
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
        self._encoder = encoder
        self._quantizer = quantizer
        self._hop = hop_length
        self._n_q = n_q
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
            TypeError: wav is no tensor.
            ValueError: wav is not [B, 1, n] of floats, its B changed, or it holds NaN, infinity or samples far beyond
                full scale.
            RuntimeError: the session was flushed.
        """
        if self._done:
            raise _flushed("encoder")
        check_wav_form("wav", wav, 0)
        check_wav_range(wav)
        wav = wav.float()
        if self._rest is not None:
            if wav.shape[0] != self._rest.shape[0]:
                raise ValueError(f"expected a batch of {self._rest.shape[0]} as before, got {wav.shape[0]}")
            wav = torch.cat([self._rest, wav], dim=-1)
        frames = wav.shape[-1] // self._hop
        self._rest = wav[..., frames * self._hop :].clone()  # the caller may use its buffer again
        if frames == 0:
            return torch.zeros(wav.shape[0], self._n_q, 0, dtype=torch.int64, device=wav.device)
        with torch.inference_mode():
            latents = self._encoder(wav[..., : frames * self._hop], self._state)
            codes = self._quantizer.encode(latents, self._n_q, self._squares)
        return codes.clone()  # outside inference mode: a tensor like any other

    def flush(self) -> Tensor:
        """Pad the last, incomplete frame with zeros and return it: [B, K, 1] int64, or [B, K, 0] if there is none.

        Raises:
            RuntimeError: the session was flushed already.
        """
        rest = self._rest
        if rest is None or rest.shape[-1] == 0:
            batch = 1 if rest is None else rest.shape[0]
            self._done = True
            return torch.zeros(batch, self._n_q, 0, dtype=torch.int64, device=self._squares.device)
        codes = self.push(rest.new_zeros(rest.shape[0], 1, self._hop - rest.shape[-1]))
        self._done = True
        return codes


class StreamingDecoder:
    """Decodes a batch of streams that advance together; sound comes half a synthesis window late.

    Args:
        decoder, quantizer: of a codec; shared, never changed.
    """

    def __init__(self, decoder: Decoder, quantizer: ResidualVectorQuantizer) -> None:
        self._decoder = decoder
        self._quantizer = quantizer
        self._device = quantizer.codebooks.device
        self._state = DecoderState()
        self._given = 0
        self._done = False
        self._last: Tensor | None = None
        self._batch: int | None = None
        self._gone_s = (
            math.inf
        )  # how long nothing has come; before the first frame there is nothing to carry on

    def push(self, audio_codes: Tensor) -> Tensor:
        """Take the next frames, return the sound that is complete.

        Args:
            audio_codes: [B, K, t] int64 in [0, V), the first K codebooks, any t >= 0; B as in every call.

        Returns:
            [B, 1, n] float32.

        Raises:
            TypeError: audio_codes is no tensor.
            ValueError: audio_codes is not [B, K, t] of integers in range, or its B changed.
            RuntimeError: the session was flushed.
        """
        audio_codes = self._check("audio_codes", audio_codes)
        batch = audio_codes.shape[0]
        if audio_codes.shape[-1] == 0:
            return torch.zeros(batch, 1, 0, device=audio_codes.device)
        with torch.inference_mode():
            latents = self._quantizer.decode(audio_codes)
            wav = self._decoder(latents, self._state)
            self._given += wav.shape[-1]
            self._last, self._gone_s = latents[..., -1:], 0.0
        return wav.clone()  # outside inference mode: a tensor like any other

    def conceal(self, frames: int, following: Tensor | None = None, silent: bool = False) -> Tensor:
        """Play on although the next frames are lost: hold sound and pitch for a moment, then fade to silence.

        The next :meth:`push` goes on from there. Told in pieces, a gap sounds the same as told at once.

        Args:
            frames: how many frames are missing, at least 1.
            following: [B, K, t] int64, t >= 1, the codes after the gap if they have come already: the sound then glides
                to them. They must still be pushed.
            silent: no carrying on, silence at once.

        Returns:
            [B, 1, n] float32.

        Raises:
            TypeError: frames is no int, or following no tensor.
            ValueError: frames is below 1, following is not [B, K, t] of codes with t >= 1, or its B is another.
            RuntimeError: the session was flushed.
        """
        check_count("frames", frames)
        if frames < 1:
            raise ValueError(f"expected at least one lost frame, got {frames}")
        batch = self._batch or 1
        if following is not None:
            following = self._check("following", following)
            batch = following.shape[0]
            if following.shape[-1] == 0:
                raise ValueError("expected at least one frame in following, got none; leave it out")
        elif self._done:
            raise _flushed("decoder")
        head = self._decoder.head
        hop_s = head.synthesis_hop / head.sampling_rate
        gap_s = frames * head.hops * hop_s
        with torch.inference_mode():
            goal = None if following is None else self._quantizer.decode(following[..., :1])
            last = self._last
            if last is None:
                # Any latents will do: the gain is zero until the sound glides to what follows.
                last = self._quantizer.decode(
                    torch.zeros(batch, 1, 1, dtype=torch.int64, device=self._device)
                )
            latents = carry_on(last, frames, goal)
            gains = fade(self._gone_s, frames * head.hops, hop_s, None if goal is None else gap_s)
            wav = self._decoder(latents, self._state, gains.to(latents.device) * (not silent))
            self._given += wav.shape[-1]
            self._last, self._gone_s = latents[..., -1:], self._gone_s + gap_s
        return wav.clone()

    def flush(self, num_samples: int | None = None) -> Tensor:
        """Return the last half window, which fades out, and close the session.

        Args:
            num_samples: length of the whole stream; cuts what the last frame has beyond it.

        Returns:
            [B, 1, n] float32.

        Raises:
            TypeError: ``num_samples`` is no int.
            ValueError: more than ``num_samples`` were given out already, or fewer exist.
        """
        if num_samples is not None:
            check_count("num_samples", num_samples)
        self._done = True
        overlap = self._state.overlap
        rest = torch.zeros(self._batch or 1, 0, device=self._device) if overlap is None else overlap.clone()
        if num_samples is not None:
            wanted = num_samples - self._given
            if not 0 <= wanted <= rest.shape[-1]:
                raise ValueError(
                    f"expected num_samples in [{self._given}, {self._given + rest.shape[-1]}], got {num_samples}"
                )
            rest = rest[..., :wanted]
        return rest[:, None]

    def _check(self, name: str, codes: Tensor) -> Tensor:
        """Refuse codes that are none, or of another batch than this session's; returns them as int64."""
        if self._done:
            raise _flushed("decoder")
        codes = check_codes(name, codes, self._quantizer.n_q, self._quantizer.codebook_size, least=0)
        if self._batch not in (None, codes.shape[0]):
            raise ValueError(f"expected a batch of {self._batch} as before, got {codes.shape[0]}")
        self._batch = codes.shape[0]
        return codes


def _flushed(kind: str) -> RuntimeError:
    return RuntimeError(f"this session was flushed; open another with codec.streaming_{kind}()")


MISSING_SCALE = 0.1
"""RMS that stands in for a scale that is not known, of a codec that has scales: a usual level of speech."""


class WholeEncoder:
    """Encodes one stream of a codec that hears all of it: a segment as soon as it is there, else all at the end.

    Args:
        codec: any codec whose items are coded one by one.
        n_q: codebooks to keep.
    """

    def __init__(self, codec: SingleCodec, n_q: int) -> None:
        self._codec, self._n_q = codec, n_q
        self._held: list[Tensor] = []
        self._size = 0
        self._scales: list[float] = []
        self._done = False

    def push(self, wav: Tensor) -> Tensor:
        """Take the next samples, return the frames of the segments that they complete.

        Args:
            wav: [1, C, n] float32, any n >= 0.

        Returns:
            [1, K, t] int64; t may be 0.

        Raises:
            TypeError: wav is no tensor.
            ValueError: wav is not [1, C, n] of floats, or holds NaN, infinity or samples far beyond full scale.
            RuntimeError: the session was flushed.
        """
        if self._done:
            raise RuntimeError("this session was flushed; open another with codec.streaming_encoder()")
        check_wav_form("wav", wav, 0, self._codec.config.audio_channels)
        check_wav_range(wav)
        self._held.append(wav.clone())  # the caller may use its buffer again
        self._size += wav.shape[-1]
        segment, found = self._codec.segment_samples, []
        if segment is not None and self._size >= segment:
            stride, held = self._codec.config.segment_stride, torch.cat(self._held, dim=-1)
            while held.shape[-1] >= segment:
                found.append(self._encode(held[..., :segment], once=True))
                held = held[..., stride:]
            self._held, self._size = [held], held.shape[-1]
        return torch.cat(found, dim=-1) if found else self._nothing()

    def flush(self) -> Tensor:
        """Encode what is left, and close the session: [1, K, t] int64."""
        self._done = True
        if not self._size:
            return self._nothing()
        return self._encode(torch.cat(self._held, dim=-1), once=False)

    def take_scales(self) -> list[float]:
        """The scales of the segments encoded since the last call."""
        taken, self._scales = self._scales, []
        return taken

    def _encode(self, wav: Tensor, once: bool) -> Tensor:
        with torch.no_grad():
            code = self._codec.encode_segment if once else self._codec.encode_item
            codes, scales = code(wav, self._n_q)
        self._scales += [] if scales is None else scales.flatten().tolist()
        return codes

    def _nothing(self) -> Tensor:
        return torch.zeros(1, self._n_q, 0, dtype=torch.int64, device=self._codec.device)


class WholeDecoder:
    """Decodes one stream of a codec that needs all of it, or all of a segment. Frames that are missing are silent.

    Args:
        codec: any codec whose items are coded one by one.
    """

    def __init__(self, codec: SingleCodec) -> None:
        self._codec = codec
        self._codes: list[Tensor] = []
        self._present: list[Tensor] = []
        self._scales: list[float] = []
        self._frames = 0
        self._overlap: tuple[Tensor, Tensor] | None = (
            None  # weighted sound beyond what was given out, and the weights
        )

    def add_scales(self, scales: Tensor) -> None:
        """Take the scales [S] of the segments that come next."""
        self._scales += scales.tolist()

    def push(self, audio_codes: Tensor) -> Tensor:
        """Take the next frames [1, K, t] int64, return the sound that is complete: [1, C, n] float32."""
        return self._take(audio_codes, True)

    def conceal(self, frames: int, following: Tensor | None = None, silent: bool = False) -> Tensor:
        """Frames that are missing: silence in their place.

        Args:
            frames: how many.
            following: [B, K, t] codes after the gap; they and ``silent`` are for sessions that carry sound on.

        Returns:
            [1, C, n] float32, the sound that is complete.
        """
        n_q = self._codes[-1].shape[1] if self._codes else 1 if following is None else following.shape[1]
        return self._take(torch.zeros(1, n_q, frames, dtype=torch.int64, device=self._codec.device), False)

    def flush(self) -> Tensor:
        """The rest of the sound, [1, C, n] float32."""
        rest = []
        if self._frames:
            rest.append(self._emit(*self._decode(self._frames), last=True))
        elif self._overlap is not None:
            sound, weight = self._overlap
            rest.append(sound / weight)
        self._overlap = None
        return torch.cat(rest, dim=-1) if rest else self._nothing()

    def _take(self, codes: Tensor, present: bool) -> Tensor:
        codes = codes.to(self._codec.device, copy=True)
        self._codes.append(codes)
        self._present.append(torch.full(codes.shape[-1:], present, device=codes.device))
        self._frames += codes.shape[-1]
        size = (self._codec.segment_samples or 0) // self._codec.config.hop_length
        done = []
        while size and self._frames >= size:
            done.append(self._emit(*self._decode(size), last=False))
        return torch.cat(done, dim=-1) if done else self._nothing()

    def _nothing(self) -> Tensor:
        return torch.zeros(1, self._codec.config.audio_channels, 0, device=self._codec.device)

    def _decode(self, frames: int) -> tuple[Tensor, Tensor]:
        """The sound of the next frames, and how much each of its samples counts."""
        codes, present = torch.cat(self._codes, dim=-1), torch.cat(self._present)
        self._codes, self._present = [codes[..., frames:]], [present[frames:]]
        self._frames -= frames
        gains = None
        if self._codec.has_scale:
            gains = torch.tensor([[self._scales.pop(0) if self._scales else MISSING_SCALE]])
        options = {} if gains is None else {"audio_scales": gains}
        wav = self._codec.decode(codes[..., :frames], **options).audio_values
        assert wav is not None
        heard = present[:frames].repeat_interleave(self._codec.config.hop_length)
        segment = self._codec.segment_samples
        weights = (
            fade_weights(segment, wav.device)[: wav.shape[-1]] if segment else torch.ones_like(wav[0, 0])
        )
        return wav * heard * weights, weights

    def _emit(self, sound: Tensor, weight: Tensor, last: bool) -> Tensor:
        """Add the open overlap; give out what no later segment touches."""
        if self._overlap is not None:
            before, weight_before = self._overlap
            size = max(before.shape[-1], sound.shape[-1])
            sound, before = (F.pad(x, (0, size - x.shape[-1])) for x in (sound, before))
            weight, weight_before = (F.pad(x, (0, size - x.shape[-1])) for x in (weight, weight_before))
            sound, weight = sound + before, weight + weight_before
        stride = sound.shape[-1] if last else self._codec.config.segment_stride
        self._overlap = None if last else (sound[..., stride:], weight[stride:])
        return sound[..., :stride] / weight[:stride]


class SeanetStreamingDecoder:
    """Decodes a batch of streams that advance together, of a codec that ``streams``.

    Args:
        decoder, quantizer: of the codec; shared, never changed.
        hop_length: samples per frame.
        frame_rate: frames per second.
    """

    def __init__(
        self, decoder: Any, quantizer: ResidualVectorQuantizer, hop_length: int, frame_rate: float
    ) -> None:
        self._decoder, self._quantizer = decoder, quantizer
        self._hop, self._rate = hop_length, frame_rate * hop_length
        self._state = StreamState()
        self._last: Tensor | None = None
        self._gone_s = math.inf  # before the first frame there is nothing to carry on

    def push(self, audio_codes: Tensor) -> Tensor:
        """Take the next frames [B, K, t] int64, any t >= 0, return their sound [B, C, t * hop_length] float32."""
        if audio_codes.shape[-1] == 0:
            channels = self._decoder.last.conv.out_channels
            return torch.zeros(audio_codes.shape[0], channels, 0, device=audio_codes.device)
        with torch.inference_mode():
            latents = self._quantizer.decode(audio_codes)
            wav = self._sound(latents)
            self._last, self._gone_s = latents[..., -1:], 0.0
        return wav.clone()  # outside inference mode: a tensor like any other

    def conceal(self, frames: int, following: Tensor | None = None, silent: bool = False) -> Tensor:
        """Play on although frames are lost, as :meth:`~.streaming.StreamingDecoder.conceal`: [B, C, n] float32."""
        samples = frames * self._hop
        with torch.inference_mode():
            goal = None if following is None else self._quantizer.decode(following[..., :1])
            last = self._last
            if last is None:
                batch = 1 if following is None else following.shape[0]
                device = next(self._decoder.parameters()).device
                last = self._quantizer.decode(torch.zeros(batch, 1, 1, dtype=torch.int64, device=device))
            latents = carry_on(last, frames, goal)
            gap_s = samples / self._rate
            gains = fade(self._gone_s, samples, 1.0 / self._rate, None if goal is None else gap_s)
            wav = self._sound(latents) * (0.0 if silent else gains.to(latents.device))
            self._last, self._gone_s = latents[..., -1:], self._gone_s + gap_s
        return wav.clone()

    def flush(self) -> Tensor:
        """Nothing is held back: [B, C, 0]."""
        batch = 1 if self._last is None else len(self._last)
        weight = self._decoder.last.conv.weight
        return torch.zeros(batch, weight.shape[0], 0, device=weight.device)

    def _sound(self, latents: Tensor) -> Tensor:
        return self._decoder(latents.to(self._decoder.first.conv.weight.dtype), self._state).float()


def random_losses(frames: int, rate: float, seed: int, packet_frames: int = 1) -> Tensor:
    """Lose packets at random, ``rate`` of them to the nearest packet.

    Args:
        frames: T of the recording.
        rate: share of the packets to lose, 0 to 1.
        seed: the same seed loses the same packets.
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
    """What a live listener hears when frames are lost on the way.

    Args:
        codec: made the codes.
        codes: [B, K, T] int64 in [0, V).
        lost: [T] bool, True where a frame does not come.
        conceal: carry on where frames are missing; else silence stands in for them.
        glide: the listener waits for the frame after a gap, as a reader of a pipe does, so the sound can glide to it.

    Returns:
        [B, 1, T * hop_length] float32.

    Raises:
        ValueError: ``lost`` is not [T].
    """
    if lost.shape != codes.shape[-1:]:
        raise ValueError(f"expected lost [T] = {list(codes.shape[-1:])}, got {list(lost.shape)}")
    session = codec.streaming_decoder()
    pieces, at = [session.push(codes[..., :0])], 0  # tells B, should the first frame be lost
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
