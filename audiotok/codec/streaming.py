"""Sessions over a codec's weights: sound or codes in pieces, the same result as in one go.

The streaming law: any chunking, down to one sample or one frame, gives the codes of the whole and audio within 1e-5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .decoder import Decoder
from .encoder import Encoder
from .excitation import PitchState
from .layers import StreamState
from .quantizer import ResidualVectorQuantizer


class StreamingEncoder:
    """Encodes a batch of streams that advance together.

    Args:
        encoder, quantizer: of a codec; shared, never changed.
        hop_length: samples per frame.
        n_q: codebooks to keep.
    """

    def __init__(
        self, encoder: Encoder, quantizer: ResidualVectorQuantizer, hop_length: int, n_q: int
    ) -> None:
        self._encoder = encoder
        self._quantizer = quantizer
        self._hop = hop_length
        self._n_q = n_q
        self._state = StreamState()
        self._rest: Tensor | None = None
        self._done = False

    @torch.no_grad()
    def push(self, wav: Tensor) -> Tensor:
        """Take the next samples, return the frames they complete.

        Args:
            wav: [B, 1, n] float32, any n >= 0; B is the same in every call.

        Returns:
            [B, K, t] int64; t may be 0.

        Raises:
            ValueError: wav is not [B, 1, n], its B changed, or it holds NaN or infinity.
            RuntimeError: the session was flushed.
        """
        if self._done:
            raise RuntimeError("this session was flushed; open another with codec.streaming_encoder()")
        if wav.ndim != 3 or wav.shape[1] != 1:
            raise ValueError(f"expected wav [B, 1, n], got {list(wav.shape)}")
        if not bool(torch.isfinite(wav).all()):
            raise ValueError("expected finite samples, got NaN or infinity; repair the wav first")
        if self._rest is not None:
            if wav.shape[0] != self._rest.shape[0]:
                raise ValueError(f"expected a batch of {self._rest.shape[0]} as before, got {wav.shape[0]}")
            wav = torch.cat([self._rest, wav], dim=-1)
        frames = wav.shape[-1] // self._hop
        self._rest = wav[..., frames * self._hop :]
        if frames == 0:
            return torch.zeros(wav.shape[0], self._n_q, 0, dtype=torch.int64, device=wav.device)
        latents = self._encoder(wav[..., : frames * self._hop], self._state)
        return self._quantizer.encode(latents, self._n_q)

    def flush(self) -> Tensor:
        """Pad the last, incomplete frame with zeros and return it: [B, K, 1] int64, or [B, K, 0] if there is none.

        Raises:
            RuntimeError: the session was flushed already.
        """
        rest = self._rest
        if rest is None or rest.shape[-1] == 0:
            batch = 1 if rest is None else rest.shape[0]
            self._done = True
            return torch.zeros(batch, self._n_q, 0, dtype=torch.int64)
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
        self._state = StreamState()
        self._pitch: PitchState | None = None
        self._excitation: Tensor | None = None
        self._overlap: Tensor | None = None
        self._skip = decoder.head.synthesis_hop
        self._given = 0
        self._done = False

    @torch.no_grad()
    def push(self, audio_codes: Tensor) -> Tensor:
        """Take the next frames, return the sound that is complete.

        Args:
            audio_codes: [B, K, t] int64 in [0, V), any t >= 0; B and K as in every call.

        Returns:
            [B, 1, n] float32.

        Raises:
            ValueError: audio_codes is not [B, K, t], or its B changed.
            RuntimeError: the session was flushed.
        """
        if self._done:
            raise RuntimeError("this session was flushed; open another with codec.streaming_decoder()")
        if audio_codes.ndim != 3:
            raise ValueError(f"expected audio_codes [B, K, t], got {list(audio_codes.shape)}")
        batch, hop = audio_codes.shape[0], self._decoder.head.synthesis_hop
        if self._overlap is not None and self._overlap.shape[0] != batch:
            raise ValueError(f"expected a batch of {self._overlap.shape[0]} as before, got {batch}")
        latents = self._quantizer.decode(audio_codes)
        if audio_codes.shape[-1] == 0:
            return latents.new_zeros(batch, 1, 0)
        decoder = self._decoder
        features = decoder.features(latents, self._state)
        pitch = decoder.pitch.choose(decoder.pitch(latents, self._state))
        pulses, noise, self._pitch = decoder.excite(*pitch, self._pitch)
        fresh = torch.stack([pulses, noise])
        past = fresh.new_zeros(2, batch, hop) if self._excitation is None else self._excitation
        joined = torch.cat([past, fresh], dim=-1)
        self._excitation = joined[..., joined.shape[-1] - hop :]
        windows = decoder.head.synthesize(features, joined[0], joined[1])
        return self._emit(windows)[:, None]

    def flush(self, num_samples: int | None = None) -> Tensor:
        """Return the last half window, which fades out, and close the session.

        Args:
            num_samples: length of the whole stream; cuts what the last frame has beyond it.

        Returns:
            [B, 1, n] float32.

        Raises:
            ValueError: more than ``num_samples`` were given out already, or fewer exist.
        """
        self._done = True
        rest = torch.zeros(1, 0) if self._overlap is None else self._overlap
        if num_samples is not None:
            wanted = num_samples - self._given
            if not 0 <= wanted <= rest.shape[-1]:
                raise ValueError(
                    f"expected num_samples in [{self._given}, {self._given + rest.shape[-1]}], got {num_samples}"
                )
            rest = rest[..., :wanted]
        return rest[:, None]

    def _emit(self, windows: Tensor) -> Tensor:
        """Add windows onto the open overlap; return what no later window touches."""
        hop = self._decoder.head.synthesis_hop
        left, right = windows[..., :hop], windows[..., hop:]
        tail = torch.zeros_like(left[:, 0]) if self._overlap is None else self._overlap
        done = left + torch.cat([tail[:, None], right[:, :-1]], dim=1)
        self._overlap = right[:, -1]
        wav = done.flatten(1)[:, self._skip :]
        self._skip = 0
        self._given += wav.shape[-1]
        return wav
