"""Voices (control token, code prompt and card), their files, and voice cloning."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from audiotok import resample, write_aside, write_json

from .folder import read_json

CARDS: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("voice_cards.json").read_text(encoding="utf-8")
)
"""Cards of the known voices: source, license and consent."""
VOICES: dict[str, int] = {name: card.pop("index") for name, card in CARDS.items()}
"""Their control tokens."""
DEFAULT_VOICE = "slt"
OTHER_VOICE = 15
"""Control token of all other speakers."""
NOT_STATED = "not stated"
LEVEL_DB = -21.0
"""Level of all output, and of a clip before it is encoded: see :func:`speech_level_db`."""
PROMPT_SECONDS = 2.5
"""Length of the prompts that the NAR model is trained with."""
CLIP_SECONDS = (1.0, 8.0)
"""Shortest and longest clip that can be cloned, without its silent ends; 3 to 5 s are best."""
_MAX_SPEAKERS = 16  # of a corpus without known voices
_SPEAKERS = {"arctic_slt": "slt", "arctic_bdl": "bdl", "ljspeech": "lj"}
_SILENT_DB = -40.0  # the ends of a clip, relative to its loudest 20 ms
_ACTIVE_DB = -25.0  # frames that count as speech, relative to the loudest
_MS_PER_SYMBOL = (30.0, 300.0)  # the fastest and the slowest speech
_PITCH_HZ = (70, 400)
_PERIODICITY = 0.6  # autocorrelation of a voiced frame at its pitch
_VOICED_SHARE = 0.3  # 0.41 is the least of 135 clips of nine corpora, 0.21 the most of six colours of noise
_LEVEL_RANGE_DB = 6.0  # between the 10th and 90th percentile of frames: 16 in those clips, 0 in a tone or hum


@dataclass(frozen=True, eq=False)
class Voice:
    """A voice: a control token for the AR model and a code prompt for the NAR model."""

    name: str
    index: int
    """0..15, the control token."""
    codes: Tensor
    """[K, P] int64, at most 8 s."""
    card: dict[str, Any] = field(default_factory=dict)
    """Description, license, attribution, consent, clip."""
    prompt_text: str = ""
    """Transcript of the codes, for a voice without a control token of its own. The AR model continues its codes."""


def voice_index(speaker: str) -> int:
    """The control token 0..15 of a corpus speaker."""
    return VOICES.get(voice_name(speaker), OTHER_VOICE)


def voice_name(speaker: str) -> str:
    """The voice of a corpus speaker: a known voice, or the speaker's name in a form that suits a file name."""
    name = re.sub(r"[^a-z0-9]+", "_", speaker.lower()).strip("_") or "speaker"
    return _SPEAKERS.get(name, name)


def clone_voice(
    wav: Tensor, sampling_rate: int, text: str, symbols: int, codec: Any, name: str = "clip"
) -> Voice:
    """Make a voice from a clip (VALL-E, arXiv:2301.02111, section 4.3).

    Args:
        wav: [N] or [1, N] float32 in [-1, 1], 1 to 8 s without its silent ends, at any level.
        sampling_rate: sampling rate of ``wav`` in Hz.
        text: exact transcript of the clip.
        symbols: number of phonemes or letters in the transcript, by the front end of the model.
        codec: the codec of the TTS model.
        name: name of the voice.

    Raises:
        ValueError: the clip is too short, too long, silent or not speech, or the text cannot be its transcript.
    """
    if wav.ndim > 2 or (wav.ndim == 2 and wav.shape[0] != 1) or not wav.numel():
        raise ValueError(
            f"expected the clip as wav [N] or [1, N], got {list(wav.shape)}; average its channels"
        )
    rate = codec.config.sampling_rate
    wav = _trim(resample(wav.detach().float().reshape(1, -1), sampling_rate, rate), rate)
    seconds = wav.shape[-1] / rate
    if not CLIP_SECONDS[0] <= seconds <= CLIP_SECONDS[1]:
        raise ValueError(
            f"expected {CLIP_SECONDS[0]:g} to {CLIP_SECONDS[1]:g} s of speech in the clip, got {seconds:.1f} s without "
            "its silent ends; cut the clip and its text"
        )
    if not _is_speech(wav[0], rate):
        raise ValueError("the clip is not voiced speech (noise, a tone or a whisper); use another clip")
    pace = 1000 * seconds / max(1, symbols)
    if not _MS_PER_SYMBOL[0] <= pace <= _MS_PER_SYMBOL[1]:
        raise ValueError(
            f"the text is not the transcript of the clip ({pace:.0f} ms a phoneme, speech has 30 to 300); "
            "write down its exact words"
        )
    gain = 10 ** ((LEVEL_DB - speech_level_db(wav[0], rate)) / 20)
    wav = wav * min(gain, 0.99 / float(wav.abs().max()))
    device = next(codec.parameters()).device
    with torch.inference_mode():
        codes = codec.encode(wav[None].to(device)).audio_codes[0].cpu()
    card = {"description": "speaker of a clip", "text": text} | _unstated()
    return Voice(name, OTHER_VOICE, codes.clone(), card, text)


def speech_level_db(wav: Tensor, sampling_rate: int) -> float:
    """Level of the speech in a wav [N]: mean power of its 20 ms frames, without pauses, in dB of full scale."""
    power = _frame_power(wav, sampling_rate)
    active = power[power >= power.max() * 10 ** (_ACTIVE_DB / 10)]
    return 10 * float(torch.log10(active.mean().clamp_min(1e-12)))


def voice_gain(voice: Voice, codec: Any) -> float:
    """The factor that brings speech in a voice to :data:`LEVEL_DB`, from the level of its prompt; at most 20 dB."""
    device = next(codec.parameters()).device
    with torch.inference_mode():
        prompt = codec.decode(voice.codes[None].to(device)).audio_values[0, 0].float().cpu()
    gain_db = LEVEL_DB - speech_level_db(prompt, codec.config.sampling_rate)
    return 10 ** (max(-20.0, min(20.0, gain_db)) / 20)


def _frame_power(wav: Tensor, sampling_rate: int) -> Tensor:
    step = max(1, sampling_rate // 50)
    return torch.nn.functional.pad(wav, (0, -wav.shape[-1] % step)).reshape(-1, step).square().mean(1)


def _trim(wav: Tensor, sampling_rate: int) -> Tensor:
    """Cut the silent ends of a wav [1, N]. Raises ValueError if it is silent throughout."""
    power, step = _frame_power(wav[0], sampling_rate), max(1, sampling_rate // 50)
    if not float(power.max()) > 0:
        raise ValueError("the clip is silent; use another clip")
    loud = torch.nonzero(power > power.max() * 10 ** (_SILENT_DB / 10))[:, 0]
    return wav[:, int(loud[0]) * step : (int(loud[-1]) + 1) * step]


def _is_speech(wav: Tensor, sampling_rate: int) -> bool:
    """Whether enough frames of a wav [N] have a pitch (autocorrelation), and its level varies as in syllables."""
    size, hop = sampling_rate // 25, sampling_rate // 50
    frames = wav.double().unfold(0, size, hop)
    power = frames.square().mean(1)
    level = 10 * torch.log10(power.clamp_min(1e-12))
    low, high = torch.quantile(level, torch.tensor([0.1, 0.9], dtype=level.dtype)).tolist()
    spectrum = torch.fft.rfft(frames - frames.mean(1, keepdim=True), 2 * size).abs().square()
    hz = torch.fft.rfftfreq(2 * size, 1 / sampling_rate)
    spectrum[:, (hz < 60) | (hz > 1500)] = 0
    correlation = torch.fft.irfft(spectrum)[:, :size]
    correlation = correlation / correlation[:, :1].clamp_min(1e-20) * (size / (size - torch.arange(size)))
    lags = slice(sampling_rate // _PITCH_HZ[1], sampling_rate // _PITCH_HZ[0])
    voiced = correlation[:, lags].max(1).values > _PERIODICITY
    loud = power > power.max() * 1e-3
    return high - low >= _LEVEL_RANGE_DB and float(voiced[loud].double().mean()) >= _VOICED_SHARE


def save_voices(voices: Iterable[Voice], folder: str | Path) -> None:
    """Write ``NAME.safetensors`` (codes) and ``NAME.json`` (card) of each voice. Replaces the voices in the folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.json"):
        if {"name", "index"} <= set(read_json(path)):
            remove_voice(path.stem, folder)
    for voice in voices:
        add_voice(voice, folder)


def add_voice(voice: Voice, folder: str | Path) -> None:
    """Write one voice. The card is written last and makes the voice complete.

    Raises:
        FileExistsError: the folder has a voice of this name.
    """
    card = Path(folder) / f"{voice.name}.json"
    codes = card.with_suffix(".safetensors")
    if card.exists():
        raise FileExistsError(f"{card}: exists already; give the voice another name, or remove it first")
    facts: dict[str, Any] = {"name": voice.name, "index": voice.index}
    if voice.prompt_text:
        facts["prompt_text"] = voice.prompt_text
    try:
        with write_aside(codes) as aside:
            save_file({"codes": voice.codes.contiguous()}, aside)
    except SafetensorError as error:  # the disk is full
        raise OSError(f"{codes}: {error}") from None
    write_json(card, facts | voice.card)


def remove_voice(name: str, folder: str | Path) -> None:
    """Remove the files of a voice, its card first."""
    for suffix in (".json", ".safetensors"):
        Path(folder, name + suffix).unlink(missing_ok=True)


def load_voices(
    folder: str | Path, n_q: int | None = None, codebook_size: int | None = None
) -> dict[str, Voice]:
    """Read all voices of a folder, the default voice first, then by control token.

    Args:
        folder: folder written by :func:`save_voices`.
        n_q: expected number of codebooks K; None accepts any.
        codebook_size: codebook size V, which bounds the codes; None accepts any.

    Raises:
        FileNotFoundError: a card has no codes.
        ValueError: a card or its codes are damaged or belong to another codec.
    """
    cards = [path for path in sorted(Path(folder).glob("*.json")) if not path.name.startswith(".")]
    found = [_load_voice(path, n_q, codebook_size) for path in cards]
    found.sort(key=lambda voice: (voice.name != DEFAULT_VOICE, voice.index))
    return {voice.name: voice for voice in found}


def _load_voice(path: Path, n_q: int | None, codebook_size: int | None) -> Voice:
    card = read_json(path)
    name, index = card.pop("name", None), card.pop("index", None)
    if not isinstance(name, str) or not isinstance(index, int) or not 0 <= index <= OTHER_VOICE:
        raise ValueError(f"{path}: expected a voice's card with 'name' and 'index'; bundle the model again")
    weights = path.with_suffix(".safetensors")
    if not weights.is_file():
        raise FileNotFoundError(f"{weights}: the codes of voice {name} are missing; bundle the model again")
    try:
        codes = load_file(weights)["codes"].long()
    except (SafetensorError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{weights}: damaged codes of a voice ({reason}); bundle the model again") from None
    fits = codes.ndim == 2 and codes.shape[0] == (n_q or codes.shape[0]) and codes.numel() > 0
    if not fits or int(codes.min()) < 0 or int(codes.max()) >= (codebook_size or 1 << 31):
        raise ValueError(
            f"{weights}: the codes {list(codes.shape)} are damaged or belong to another codec; bundle the model again"
        )
    return Voice(name, index, codes, card, str(card.pop("prompt_text", "")))


def find_voice(voices: Mapping[str, Voice], name: str) -> Voice | None:
    """The voice of this name in any case, or None."""
    return voices.get(name) or {known.lower(): voice for known, voice in voices.items()}.get(name.lower())


def choose_voices(
    rows: Iterable[dict[str, Any]], frame_rate: float, names: Collection[str] | None = None
) -> list[Voice]:
    """Cut a code prompt for speakers of a prepared corpus.

    Args:
        rows: rows of ``PreparedCorpus``. Only the split ``train`` is used.
        frame_rate: frame rate in Hz.
        names: names from :func:`voice_name`; None takes the known voices in the corpus or, if there are none, the 16
            speakers with the most rows.

    Returns:
        A voice for each speaker, ordered by control token. Its prompt is the clip whose length is nearest to
        ``PROMPT_SECONDS`` from above, cut to that length. Cards of unknown speakers have no license and consent.

    Raises:
        ValueError: there are no rows, or one of the names has none. The message lists the speakers.
    """
    wanted = int(PROMPT_SECONDS * frame_rate)

    def fitness(row: dict[str, Any]) -> tuple[bool, int, str]:
        return row["frames"] < wanted, abs(row["frames"] - wanted), row["id"]

    best: dict[str, dict[str, Any]] = {}
    counts: Counter[str] = Counter()
    for row in rows:
        if row["split"] == "train":
            name = voice_name(row["speaker"])
            counts[name] += 1
            best[name] = min(best.get(name, row), row, key=fitness)
    common = [name for name, _ in counts.most_common(_MAX_SPEAKERS)]
    chosen = list(names) if names is not None else [name for name in best if name in VOICES] or common
    if not chosen or set(chosen) - set(best):
        missing = ", ".join(sorted(set(chosen) - set(best))) or "any"
        raise ValueError(
            f"expected rows of split train by {missing} in the corpora; found the speakers "
            f"{', '.join(common) or 'none'}"
        )
    voices = []
    for name in dict.fromkeys(chosen):
        row = best[name]
        unknown = {"description": f"speaker {row['speaker'] or 'unnamed'} of the corpus"} | _unstated()
        card = CARDS.get(name, unknown) | {"clip": row["id"], "text": row["text"]}
        codes = row["codes"][:, :wanted].clone()
        voices.append(Voice(name, VOICES.get(name, OTHER_VOICE), codes, card))
    return sorted(voices, key=lambda voice: voice.index)


def _unstated() -> dict[str, str]:
    return dict.fromkeys(("license", "attribution", "consent"), NOT_STATED)
