"""One face for any codec: ours, an adapter with our methods, or an audio tokenizer of transformers as it is.

Knows nothing of ids. The law it keeps: one clip goes in at a time, so a clip's codes cannot depend on a
batch; and codes are those of the first ``n_q`` codebooks of the codec's full set.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..audio import load_audio, resample
from ..codec.base import Codec

Audio = str | Path | Tensor | np.ndarray | Sequence[float] | Mapping[str, Any]


class CodecFacts(NamedTuple):
    """What a vocabulary and a processor need to know of a codec.

    Attributes:
        n_q: K, all of its codebooks.
        codebook_size: V.
        sampling_rate: Hz.
        channels: C of the wav.
        codes_fingerprint: identity of what makes its codes.
    """

    n_q: int
    codebook_size: int
    sampling_rate: int
    channels: int
    codes_fingerprint: str


def codec_facts(codec: PreTrainedModel) -> CodecFacts:
    """Read the facts of a codec off its config.

    Args:
        codec: ours, or one of transformers (EnCodec, DAC, Mimi, XCodec...).

    Returns:
        Its facts.

    Raises:
        ValueError: it has no residual codebooks of one size, or codes segments with a scale of their own.
    """
    config = codec.config
    n_q = _first(config, "n_q", "num_quantizers", "n_codebooks")
    codebook_size = _first(config, "codebook_size")
    if not n_q or not codebook_size:
        raise ValueError(f"expected a codec with residual codebooks of one size, got {type(codec).__name__}")
    if getattr(config, "chunk_length_s", None) or getattr(config, "normalize", False):
        raise ValueError(
            f"{type(codec).__name__} codes segments with a scale each, which ids cannot carry; use one that does not"
        )
    channels = _first(config, "audio_channels") or 1
    return CodecFacts(
        n_q, codebook_size, _first(config, "sampling_rate", "sample_rate"), channels, _fingerprint(codec)
    )


def read_codes(
    audio: Audio, sampling_rate: int | None, codec: PreTrainedModel | None, feature_extractor: Any, n_q: int
) -> Tensor:
    """Codes of whatever stands for a clip.

    Args:
        audio: a file; a wav [N] or [C, N] of floats; ``{"array": ..., "sampling_rate": ...}`` or ``{"path":
            ...}`` as in ``datasets``; or codes [K, T] of integers.
        sampling_rate: of a wav, Hz; None means the codec's. Sound of another rate is resampled.
        codec: as for :func:`codec_facts`; may be None when codes come.
        feature_extractor: of the codec.
        n_q: codebooks to keep.

    Returns:
        [K, T] integers, K <= n_q.

    Raises:
        ValueError: the shape is another, there are no samples, or sound comes and there is no codec.
    """
    if isinstance(audio, Mapping):
        rate_of = audio.get("sampling_rate", sampling_rate)
        audio, sampling_rate = (
            (audio["array"], rate_of) if audio.get("array") is not None else (audio["path"], None)
        )
    if isinstance(audio, Tensor | np.ndarray) and not torch.is_floating_point(torch.as_tensor(audio)):
        return torch.as_tensor(audio)[:n_q]
    if codec is None:
        raise ValueError(
            "expected codes [K, T], got sound, and this processor has no codec; make it with one"
        )
    rate, channels = feature_extractor.sampling_rate, feature_extractor.feature_size
    if isinstance(audio, str | Path):
        wav = load_audio(audio, rate)[0]
    else:
        wav = torch.as_tensor(audio).float()
        wav = wav.unsqueeze(0) if wav.ndim == 1 else wav
        if wav.ndim != 2 or wav.shape[0] not in (1, channels) or wav.shape[1] < 1:
            raise ValueError(
                f"expected a wav [N] or [{channels}, N] with N >= 1, got shape {list(wav.shape)}"
            )
        wav = resample(wav, sampling_rate or rate, rate)
    wav = wav.expand(channels, -1)
    raw = wav.T.numpy() if channels > 1 else wav[0].numpy()
    values = feature_extractor(raw, sampling_rate=rate, return_tensors="pt")["input_values"]
    # One clip at a time: sums over a batch run in another order, and a nearest codeword could change.
    return encode_wav(codec, values.reshape(channels, -1), n_q)


@torch.no_grad()
def encode_wav(codec: PreTrainedModel, wav: Tensor, n_q: int) -> Tensor:
    """Codes of one clip.

    Args:
        codec: as for :func:`codec_facts`.
        wav: [C, N] float, N >= 1, at the codec's sampling rate.
        n_q: codebooks to keep.

    Returns:
        [K, T] int64 on the CPU.
    """
    values = wav[None].to(codec.device)
    if isinstance(codec, Codec):
        codes = codec.encode(values, n_q=n_q).audio_codes
        assert codes is not None
        return codes[0].cpu()
    codec_: Any = codec
    options: dict[str, Any] = {}
    if "bandwidth" in inspect.signature(codec_.encode).parameters:
        options["bandwidth"] = max(codec.config.target_bandwidths)  # kbit/s; the default is the lowest
    codes = codec_.encode(values, **options).audio_codes
    codes = codes[0] if codes.ndim == 4 else codes  # EnCodec's segments, one here
    return codes[0, :n_q].long().cpu()


@torch.no_grad()
def decode_codes(codec: PreTrainedModel, codes: Tensor) -> Tensor:
    """Sound of one clip.

    Args:
        codec: as for :func:`codec_facts`.
        codes: [K, T] int64, T >= 1, the first K codebooks.

    Returns:
        [C, N] float32 on the CPU.
    """
    codec_: Any = codec
    codes = codes[None].to(codec.device)
    if isinstance(codec, Codec):
        wav = codec.decode(codes).audio_values
        assert wav is not None
        return wav[0].float().cpu()
    parameters = inspect.signature(codec_.decode).parameters
    if "audio_scales" in parameters:
        out = codec_.decode(codes[None], [None])
    else:
        out = codec_.decode(audio_codes=codes)
    values = out.audio_values.float().cpu()
    return values.reshape(-1, values.shape[-1])


def _first(config: Any, *names: str) -> Any:
    return next((value for name in names if (value := getattr(config, name, None))), None)


def _fingerprint(codec: Any) -> str:
    """The codec's own, or 16 hex digits over its numbers and all weights but the decoder's."""
    if hasattr(codec, "codes_fingerprint"):
        return codec.codes_fingerprint
    # Here and not above: it brings the modelling code that only such a codec has loaded already.
    from ..codec.adapters import foreign_fingerprint

    return foreign_fingerprint(codec)
