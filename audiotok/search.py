"""Codes that are sought by listening: analysis by synthesis, slower than the encoder and better at the same bitrate.

The encoder describes a sound and never hears what the decoder makes of it. Here codes are moved, a gradient step at a
time, towards those whose decoded sound is nearest to the recording; any decoder plays them as it plays the encoder's.
For sound to keep or to send: entropy coding finds them less predictable, and whether a language model learns from
them as well was not tried.

The laws kept: what is returned never measures worse than the encoder's codes, by the measure that is searched with; a
sound pushed in any pieces, or beside any others in a batch, gets the codes it gets alone; memory does not grow.

Sources: analysis by synthesis (CELP, Schroeder and Atal, ICASSP 1985); the straight-through step over the quantiser
(arXiv:1308.3432); what is measured is what trained the decoder (:mod:`.training.losses`, :mod:`.training.perceptual`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .codec.base import CodecEncoderOutput, check_count, check_wav_form
from .codec.decoder import PitchFeatures, PitchState
from .codec.model import AudioCodec
from .training.losses import SpectralLoss, pitch_loss
from .training.perceptual import Disturbance, Unintelligibility

if TYPE_CHECKING:
    from .codec.base import Codec

WINDOW_FRAMES = 400
"""Frames whose codes are sought together; a stream's codes come this much later."""
_AHEAD_FRAMES = 10  # heard with a window but sought again with the next: what its last frames lead to
_MARGIN_FRAMES = 4  # of the past that are heard again: spectra reach over the seam
_LEAST_SAMPLES = 8192  # shorter sound is measured with silence behind it

# (n_fft, n_mels): what trained the decoder, and a longer window (recipes/LOG.md).
_RESOLUTIONS = ((2048, 80), (1024, 80), (512, 64), (256, 32))
# The decoder's training weighed its losses so; pitch must stay, because nothing tells the search that it moved.
_DISTURBANCE, _UNINTELLIGIBILITY, _PITCH, _VOICING = 0.05, 0.5, 0.1, 0.1
# Of Adam, found on 12 LibriSpeech validation clips (recipes/LOG.md); the rate is in standard deviations of the latents.
_RATE, _BETAS, _LAST_RATE = 0.1, (0.5, 0.9), 0.1


class _Distance(nn.Module):
    """How far a decoded sound is from the recording: spectra, and where the rate allows loudness and envelopes."""

    def __init__(self, sampling_rate: int) -> None:
        super().__init__()
        self.spectral = SpectralLoss(sampling_rate, _RESOLUTIONS)
        self.disturbance = Disturbance(sampling_rate) if sampling_rate == 16_000 else None
        self.unintelligibility = Unintelligibility(sampling_rate) if sampling_rate >= 10_000 else None

    def forward(self, wav: Tensor, target: Tensor) -> Tensor:
        """[1, 1, N] float32 twice -> scalar."""
        missing = max(0, _LEAST_SAMPLES - wav.shape[-1])
        wav, target = F.pad(wav, (0, missing)), F.pad(target, (0, missing))
        distance = self.spectral(wav, target)
        if self.disturbance is not None:
            distance = distance + _DISTURBANCE * self.disturbance(wav, target)
        if self.unintelligibility is not None:
            distance = distance + _UNINTELLIGIBILITY * self.unintelligibility(wav, target)
        return distance


@dataclass
class _Past:
    """The end of what is decided: as much of it as the decoder still sees.

    Attributes:
        wav: [1, 1, c * hop_length], the recording.
        latents: [1, D, c], what was chosen for it.
        f0_hz, voiced: [1, c], the pitch that the decoder reads off them.
        state: where the pulses stand before it; None at the beginning.
    """

    wav: Tensor
    latents: Tensor
    f0_hz: Tensor
    voiced: Tensor
    state: PitchState | None


class SearchingEncoder:
    """Encodes one stream as :class:`~audiotok.codec.streaming.StreamingEncoder` does, searching window by window.

    Args:
        codec: whose codes are sought.
        n_q: codebooks, 1 <= n_q <= config.n_q; None takes all. Codes are sought for so many: decoded with fewer they
            are still better than the encoder's, but not as good as if they had been sought for fewer.
        steps: gradient steps for each window, at least 1; each costs about as much as decoding twice.

    Raises:
        TypeError: n_q or steps is no int.
        ValueError: the codec is of another family, n_q is out of range, or steps is below 1.
    """

    def __init__(self, codec: Codec, n_q: int | None = None, steps: int = 20) -> None:
        if not isinstance(codec, AudioCodec):
            raise ValueError(
                f"expected a codec of the family of 'default' to search with, got {type(codec).__name__}; "
                "encode without a search"
            )
        check_count("steps", steps)
        if steps < 1:
            raise ValueError(f"expected at least 1 step of the search, got {steps}; encode() makes none")
        self._session = codec.streaming_encoder(n_q)
        self._codec, self._steps = codec, steps
        config = codec.config
        sees = (config.decoder_kernel - 1) * (config.decoder_layers + 1)
        self._past_frames = sees + _MARGIN_FRAMES
        # Gradients are taken through its tables, whatever mode the caller is in.
        with torch.inference_mode(False):
            self._distance = _Distance(config.sampling_rate).to(codec.device, torch.float32)
        self._wav: Tensor | None = None  # not decided yet, with its codes as far as there are any
        self._codes: Tensor | None = None
        self._past: _Past | None = None

    def push(self, wav: Tensor) -> Tensor:
        """Take the next samples, return the frames of the windows they complete.

        Args:
            wav: [1, 1, n] float, any n >= 0, values in [-1, 1].

        Returns:
            [1, K, t] int64; t may be 0.

        Raises:
            TypeError: wav is no tensor.
            ValueError: wav is not [1, 1, n] of floats, or holds NaN, infinity or samples far beyond full scale.
            RuntimeError: the session was flushed.
        """
        check_wav_form("wav", wav, 0)
        if wav.shape[0] != 1:
            raise ValueError(
                f"expected one stream, [1, 1, n], got {list(wav.shape)}; search_codes takes batches"
            )
        codes = self._session.push(wav)
        with torch.inference_mode(False), torch.enable_grad():
            wav = wav.detach().clone().float()
            self._wav = wav if self._wav is None else torch.cat([self._wav, wav], dim=-1)
            self._codes = codes.clone() if self._codes is None else torch.cat([self._codes, codes], dim=-1)
            found = [self._codes[..., :0]]
            while self._codes.shape[-1] >= WINDOW_FRAMES + _AHEAD_FRAMES:
                found.append(self._decide(WINDOW_FRAMES + _AHEAD_FRAMES, WINDOW_FRAMES))
        return torch.cat(found, dim=-1)

    def flush(self) -> Tensor:
        """Pad the last, incomplete frame with zeros and return what is left: [1, K, t] int64.

        Raises:
            RuntimeError: the session was flushed already.
        """
        last = self._session.flush()
        if self._wav is None or self._codes is None:
            return last
        with torch.inference_mode(False), torch.enable_grad():
            self._codes = torch.cat([self._codes, last.to(self._codes.device)], dim=-1)
            frames = self._codes.shape[-1]
            if frames == 0:
                return self._codes
            hop = self._codec.config.hop_length
            self._wav = F.pad(self._wav, (0, frames * hop - self._wav.shape[-1]))
            return self._decide(frames, frames)

    def _decide(self, frames: int, keep: int) -> Tensor:
        """Seek the codes of the next ``frames`` frames and settle the first ``keep`` of them: [1, K, keep]."""
        assert self._wav is not None and self._codes is not None
        hop = self._codec.config.hop_length
        past = self._past or self._beginning()
        wav = torch.cat([past.wav, self._wav[..., : frames * hop]], dim=-1)
        codes = self._seek(self._codes[..., :frames], wav, past)[..., :keep]
        self._past = self._after(past, codes, wav)
        self._wav, self._codes = self._wav[..., keep * hop :], self._codes[..., keep:]
        return codes

    def _seek(self, codes: Tensor, wav: Tensor, past: _Past) -> Tensor:
        """The nearest codes [1, K, t] found from ``codes`` on; ``wav`` is of the past and these frames."""
        quantizer, decoder = self._codec.quantizer, self._codec.decoder
        heard = slice(
            max(0, past.f0_hz.shape[1] - _MARGIN_FRAMES) * decoder.head.hop_length,
            wav.shape[-1] - decoder.head.synthesis_hop,  # half of the last window is still to come
        )
        n_q, start = codes.shape[1], quantizer.decode(codes)
        with torch.no_grad():
            goal = decoder.pitch.choose(self._pitch(start, past))
        latents = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([latents], betas=_BETAS)
        rate = _RATE * float(start.std())
        best, least = codes, torch.inf
        for step in range(self._steps + 1):
            if step:  # quantising a sum of codewords need not give those codewords
                codes = quantizer.encode(latents.detach(), n_q)
            words = latents + (quantizer.decode(codes) - latents).detach()
            decoded, pitch = self._render(words, past)
            distance = self._distance(decoded[..., heard], wav[..., heard])
            if float(distance.detach()) < least:
                best, least = codes, float(distance.detach())
            if step == self._steps:
                break
            moved = pitch_loss(
                pitch.f0_logits.float(), pitch.voiced_logit.float(), decoder.pitch.grid_hz, *goal
            )
            (latents.grad,) = torch.autograd.grad(
                distance + _PITCH * moved[0] + _VOICING * moved[1], [latents]
            )
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 - (1 - _LAST_RATE) * (step + 1) / self._steps)
            optimizer.step()
        return best

    def _pitch(self, latents: Tensor, past: _Past) -> PitchFeatures:
        """What the pitch head says of ``latents`` [1, D, t] behind the past."""
        pitch = self._codec.decoder.pitch(torch.cat([past.latents, latents], dim=-1))
        before = past.f0_hz.shape[1]
        return PitchFeatures(pitch.f0_logits[:, before:], pitch.voiced_logit[:, before:])

    def _render(self, latents: Tensor, past: _Past) -> tuple[Tensor, PitchFeatures]:
        """Sound [1, 1, (c + t) * hop_length] of the past and ``latents`` [1, D, t], and the pitch of the latter."""
        decoder = self._codec.decoder
        features = decoder.features(torch.cat([past.latents, latents], dim=-1))
        pitch = self._pitch(latents, past)
        with torch.no_grad():
            f0_hz, voiced = _behind(past, *decoder.pitch.choose(pitch))
            pulses, noise, _ = decoder.excite(f0_hz, voiced, past.state)
        return decoder.render(features, pulses, noise), pitch

    def _beginning(self) -> _Past:
        """Before the first frame there is nothing."""
        codebooks = self._codec.quantizer.codebooks
        return _Past(
            wav=codebooks.new_zeros(1, 1, 0),
            latents=codebooks.new_zeros(1, codebooks.shape[-1], 0),
            f0_hz=codebooks.new_zeros(1, 0),
            voiced=codebooks.new_zeros(1, 0, dtype=torch.bool),
            state=None,
        )

    @torch.no_grad()
    def _after(self, past: _Past, codes: Tensor, wav: Tensor) -> _Past:
        """The past when ``codes`` [1, K, t] are settled; ``wav`` begins where ``past`` does."""
        decoder = self._codec.decoder
        latents = self._codec.quantizer.decode(codes)
        f0_hz, voiced = _behind(past, *decoder.pitch.choose(self._pitch(latents, past)))
        latents = torch.cat([past.latents, latents], dim=-1)
        gone, state = max(0, latents.shape[-1] - self._past_frames), past.state
        if gone:
            state = decoder.excite(f0_hz[:, :gone], voiced[:, :gone], state)[2]
        hop = decoder.head.hop_length
        wav = wav[..., gone * hop : latents.shape[-1] * hop]
        return _Past(wav, latents[..., gone:], f0_hz[:, gone:], voiced[:, gone:], state)


def _behind(past: _Past, f0_hz: Tensor, voiced: Tensor) -> tuple[Tensor, Tensor]:
    """Pitch [1, t] and voicing [1, t] with those of the past before them."""
    return torch.cat([past.f0_hz, f0_hz], dim=1), torch.cat([past.voiced, voiced], dim=1)


def search_codes(
    codec: Codec,
    input_values: Tensor,
    padding_mask: Tensor | None = None,
    n_q: int | None = None,
    steps: int = 20,
) -> CodecEncoderOutput:
    """Turn a waveform into residual codes as ``codec.encode`` does, and better ones.

    Args:
        codec: of the family of ``default``.
        input_values: wav, [B, 1, N] float, at ``config.sampling_rate`` Hz, values in [-1, 1]. Any N >= 1.
        padding_mask: [B, N] bool or int, false where a sample is padding on the right; None means no padding.
        n_q: codebooks to keep, 1 <= n_q <= config.n_q; None keeps all. The search is for so many.
        steps: gradient steps, at least 1; 20 is where more bring little.

    Returns:
        ``audio_codes`` [B, n_q, T] int64 in [0, V) and ``audio_codes_mask`` [B, T] bool, as ``codec.encode``.

    Raises:
        TypeError: input_values or padding_mask is no tensor, or n_q or steps no int.
        ValueError: as ``codec.encode``; or the codec is of another family, or steps is below 1.
    """
    SearchingEncoder(codec, n_q, steps)  # what is wrong with these is known before any work
    out = codec.encode(input_values, padding_mask, n_q)
    assert out.audio_codes is not None and out.audio_codes_mask is not None
    codes = out.audio_codes.clone()
    for row, wav in enumerate(input_values):
        size = wav.shape[-1] if padding_mask is None else int(padding_mask[row].bool().sum())
        if size:
            session = SearchingEncoder(codec, n_q, steps)
            wav = wav[None, :, :size].to(codec.device)
            found = torch.cat([session.push(wav), session.flush()], dim=-1)
            codes[row, :, : found.shape[-1]] = found[0]
    return CodecEncoderOutput(audio_codes=codes, audio_codes_mask=out.audio_codes_mask)
