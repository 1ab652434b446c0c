"""Sessions of other codecs than ours: of those that stream, and of those that must wait for the end.

They take and give what the sessions of streaming.py do, so whoever writes files need not know which it is. The law
kept: any chunking gives the result of one go.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import SingleCodec
from .conceal import carry_on, fade
from .inputs import check_wav_form, check_wav_range
from .layers import StreamState
from .quantizer import ResidualVectorQuantizer
from .seanet import SEANetDecoder
from .segments import fade_weights

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
        self, decoder: SEANetDecoder, quantizer: ResidualVectorQuantizer, hop_length: int, frame_rate: float
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
