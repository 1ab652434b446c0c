"""Who can speak: the names of the voices and their control tokens.

Knows nothing of models. The law it keeps: a name means the same ``<voice_k>`` token in training and in speaking.
"""

from __future__ import annotations

VOICES = {"kathleen": 0, "slt": 1, "bdl": 2, "lj": 3, "flite_slt": 4, "flite_rms": 5, "flite_awb": 6}
DEFAULT_VOICE = "kathleen"
OTHER_VOICE = 15
_SPEAKERS = {"arctic_slt": "slt", "arctic_bdl": "bdl", "ljspeech": "lj", "slt": "slt", "bdl": "bdl"}


def voice_index(speaker: str) -> int:
    """The control token 0..15 of a corpus speaker; speakers without a voice of their own share the last one."""
    name = speaker.lower().replace("-", "_")
    return VOICES.get(_SPEAKERS.get(name, name), OTHER_VOICE)
