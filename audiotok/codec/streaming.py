"""Sessions over a codec's weights: sound or codes in pieces, the same result as in one go.

The streaming law: any chunking, down to one sample or one frame, gives the codes of the whole and audio within 1e-5.
Where frames are missing, the decoder carries on by itself (conceal.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .conceal import carry_on, fade
from .decoder import Decoder, DecoderState
from .inputs import check_codes, check_count, check_wav_form, check_wav_range
from .layers import StreamState
from .quantizer import ResidualVectorQuantizer


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
