"""Optimised codes: analysis by synthesis through the decoder (CELP, Schroeder and Atal, ICASSP 1985).

Gradient steps with a straight-through estimator (arXiv:1308.3432) minimise the distance between decoded audio and the
recording, which is that of the decoder's training. Optimised codes are decoded like any others. Their entropy is higher
than that of the encoder's codes, so compare them at coded bitrates. They are meant for storage and transmission;
language models were not trained on them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .codec.base import Codec, CodecEncoderOutput
from .codec.checks import check_count, check_wav_form
from .codec.decoder import PitchFeatures, PitchState
from .codec.model import AudioCodec
from .training.losses import SpectralLoss, pitch_loss
from .training.perceptual import Disturbance, Unintelligibility

WINDOW_FRAMES = 400
"""Frames whose codes are optimised together; a stream's codes come this much later."""
_AHEAD_FRAMES = 10  # measured with a window, optimised again with the next one
_MARGIN_FRAMES = 4  # past frames that are measured again, because spectra span the boundary of windows
_LEAST_SAMPLES = 8192  # shorter audio is padded with silence

# (n_fft, n_mels) of the decoder's training, and a longer window (recipes/LOG.md).
_RESOLUTIONS = ((2048, 80), (1024, 80), (512, 64), (256, 32))
# Weights of the decoder's training. The pitch needs its own loss, because the distance has no gradient for it.
_DISTURBANCE, _UNINTELLIGIBILITY, _PITCH, _VOICING = 0.05, 0.5, 0.1, 0.1
# Adam, tuned on 12 LibriSpeech validation clips (recipes/LOG.md); the rate is in standard deviations of the latents.
_RATE, _BETAS, _LAST_RATE = 0.1, (0.5, 0.9), 0.1


class _Distance(nn.Module):
    """Distance of decoded audio from the recording: spectra, and the perceptual losses that the rate allows."""

    def __init__(self, sampling_rate: int) -> None:
        super().__init__()
        self.spectral = SpectralLoss(sampling_rate, _RESOLUTIONS)
        self.disturbance = Disturbance(sampling_rate) if sampling_rate >= 16_000 else None
        self.unintelligibility = Unintelligibility(sampling_rate) if sampling_rate >= 10_000 else None

    def forward(self, wav: Tensor, target: Tensor) -> Tensor:
        """Two wavs [1, 1, N] float32 -> scalar."""
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
    """The last c settled frames, as many as the decoder's receptive field: the recording [1, 1, c * hop_length], the
    latents of its codes [1, D, c], its decoded pitch [1, c], and the state of the preceding pulses.
    """

    wav: Tensor
    latents: Tensor
    f0_hz: Tensor
    voiced: Tensor
    state: PitchState | None = None


class SearchingEncoder:
    """Encodes one stream as :class:`~audiotok.codec.streaming.StreamingEncoder` does, optimising window by window.

    Args:
        codec: a codec of the default family.
        n_q: codebooks, 1 <= n_q <= config.n_q; None uses all. The codes are less good with fewer codebooks.
        steps: gradient steps for each window, at least 1; each costs about as much as decoding twice.

    Raises:
        TypeError: n_q or steps is not an int.
        ValueError: the codec is of another family, n_q is out of range, or steps is below 1.
    """

    def __init__(self, codec: Codec, n_q: int | None = None, steps: int = 20) -> None:
        if not isinstance(codec, AudioCodec):
            raise ValueError(
                f"expected a codec of the default family, got {type(codec).__name__}; encode without a search"
            )
        check_count("steps", steps)
        if steps < 1:
            raise ValueError(f"expected at least 1 step, got {steps}; encode() does not optimise codes")
        self._codec, self._steps = codec, steps
        config = codec.config
        self._past_frames = (config.decoder_kernel - 1) * (config.decoder_layers + 1) + _MARGIN_FRAMES
        with torch.inference_mode(False):  # gradients pass through these tensors
            self._distance = _Distance(config.sampling_rate).to(codec.device, torch.float32)
            # pending audio and its codes so far
            self._wav = torch.zeros(1, 1, 0, device=codec.device, dtype=torch.float32)
            self._codes = codec.streaming_encoder(n_q).flush()
            empty = self._wav[0]
            self._past = _Past(self._wav, empty.new_zeros(1, config.codebook_dim, 0), empty, empty.bool())
        self._session = codec.streaming_encoder(n_q)

    def push(self, wav: Tensor) -> Tensor:
        """Take the next samples [1, 1, n] float, any n >= 0; return the frames of the windows that they complete,
        [1, K, t] int64. Errors as of :meth:`~audiotok.codec.streaming.StreamingEncoder.push`.
        """
        check_wav_form("wav", wav, 0)
        if wav.shape[0] != 1:
            raise ValueError(f"expected one stream, [1, 1, n], got {list(wav.shape)}; see search_codes")
        codes = self._session.push(wav)
        with torch.inference_mode(False), torch.enable_grad():
            self._wav = torch.cat([self._wav, wav.detach().to(self._wav, copy=True)], dim=-1)
            self._codes = torch.cat([self._codes, codes], dim=-1)
            found = [self._codes[..., :0]]
            while self._codes.shape[-1] >= WINDOW_FRAMES + _AHEAD_FRAMES:
                found.append(self._decide(WINDOW_FRAMES + _AHEAD_FRAMES, WINDOW_FRAMES))
        return torch.cat(found, dim=-1)

    def flush(self) -> Tensor:
        """Pad the last, incomplete frame with zeros and return what is left: [1, K, t] int64."""
        last = self._session.flush()
        with torch.inference_mode(False), torch.enable_grad():
            self._codes = torch.cat([self._codes, last], dim=-1)
            frames = self._codes.shape[-1]
            missing = frames * self._codec.config.hop_length - self._wav.shape[-1]
            self._wav = F.pad(self._wav, (0, missing))
            return self._decide(frames, frames) if frames else self._codes

    def _decide(self, frames: int, keep: int) -> Tensor:
        """Optimise the codes of the next ``frames`` frames and settle the first ``keep`` of them: [1, K, keep]."""
        hop = self._codec.config.hop_length
        wav = torch.cat([self._past.wav, self._wav[..., : frames * hop]], dim=-1)
        codes = self._optimise(self._codes[..., :frames], wav)[..., :keep]
        self._settle(codes, wav)
        self._wav, self._codes = self._wav[..., keep * hop :], self._codes[..., keep:]
        return codes

    def _optimise(self, codes: Tensor, wav: Tensor) -> Tensor:
        """Optimise ``codes`` [1, K, t]; ``wav`` covers the past and these frames."""
        quantizer, decoder, past = self._codec.quantizer, self._codec.decoder, self._past
        measured = slice(
            max(0, past.f0_hz.shape[1] - _MARGIN_FRAMES) * decoder.head.hop_length,
            wav.shape[-1] - decoder.head.synthesis_hop,  # the last window ends with the next frame
        )
        n_q, start = codes.shape[1], quantizer.decode(codes)
        with torch.no_grad():
            goal = decoder.pitch.choose(self._pitch(start))
        latents = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([latents], betas=_BETAS)
        rate = _RATE * float(start.std())
        best, least = codes, torch.inf
        for step in range(self._steps + 1):
            if step:  # quantising a sum of codewords may give other codewords
                moved = latents.detach()
                if quantizer.semantic_codebook is not None:  # codes of a semantic codebook do not change
                    semantic = quantizer.semantic_codebook[codes[:, 0]].transpose(1, 2)
                    moved = torch.cat([moved, semantic], dim=1)
                codes = quantizer.encode(moved, n_q)
            words = latents + (quantizer.decode(codes) - latents).detach()
            pitch = self._pitch(words)
            features = decoder.features(torch.cat([past.latents, words], dim=-1))
            with torch.no_grad():
                f0_hz, voiced = self._behind(pitch)
                pulses, noise, _ = decoder.excite(f0_hz, voiced, past.state)
            decoded = decoder.render(features, pulses, noise)
            distance = self._distance(decoded[..., measured], wav[..., measured])
            if float(distance.detach()) < least:
                best, least = codes, float(distance.detach())
            if step == self._steps:
                break
            moved = pitch_loss(
                pitch.f0_logits.float(), pitch.voiced_logit.float(), decoder.pitch.grid_hz, *goal
            )
            loss = distance + _PITCH * moved[0] + _VOICING * moved[1]
            (latents.grad,) = torch.autograd.grad(loss, [latents])
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 - (1 - _LAST_RATE) * (step + 1) / self._steps)
            optimizer.step()
        return best

    def _pitch(self, latents: Tensor) -> PitchFeatures:
        """Pitch logits of ``latents`` [1, D, t] after the past."""
        pitch = self._codec.decoder.pitch(torch.cat([self._past.latents, latents], dim=-1))
        before = self._past.f0_hz.shape[1]
        return PitchFeatures(pitch.f0_logits[:, before:], pitch.voiced_logit[:, before:])

    def _behind(self, pitch: PitchFeatures) -> tuple[Tensor, Tensor]:
        """Pitch [1, c + t] and voicing [1, c + t] of the past and of ``pitch``."""
        f0_hz, voiced = self._codec.decoder.pitch.choose(pitch)
        return torch.cat([self._past.f0_hz, f0_hz], dim=1), torch.cat([self._past.voiced, voiced], dim=1)

    @torch.no_grad()
    def _settle(self, codes: Tensor, wav: Tensor) -> None:
        """Append ``codes`` [1, K, t] to the past; ``wav`` starts at the beginning of the past."""
        decoder, past = self._codec.decoder, self._past
        latents = self._codec.quantizer.decode(codes)
        f0_hz, voiced = self._behind(self._pitch(latents))
        latents = torch.cat([past.latents, latents], dim=-1)
        gone, state = max(0, latents.shape[-1] - self._past_frames), past.state
        if gone:
            state = decoder.excite(f0_hz[:, :gone], voiced[:, :gone], state)[2]
        hop = decoder.head.hop_length
        wav = wav[..., gone * hop : latents.shape[-1] * hop]
        self._past = _Past(wav, latents[..., gone:], f0_hz[:, gone:], voiced[:, gone:], state)


def search_codes(
    codec: Codec,
    input_values: Tensor,
    padding_mask: Tensor | None = None,
    n_q: int | None = None,
    steps: int = 20,
) -> CodecEncoderOutput:
    """Turn a waveform into optimised residual codes, whose distance is never larger than that of the encoder's codes.

    Args:
        codec: a codec of the default family.
        input_values, padding_mask, n_q: as in :meth:`~audiotok.codec.base.Codec.encode`; codes are optimised for n_q.
        steps: gradient steps, at least 1; more than 20 gain little.

    Returns:
        ``audio_codes`` [B, n_q, T] int64 in [0, V) and ``audio_codes_mask`` [B, T] bool, as in ``codec.encode``.

    Raises:
        TypeError, ValueError: as in ``codec.encode`` and :class:`SearchingEncoder`.
    """
    SearchingEncoder(codec, n_q, steps)  # checks the arguments first
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
