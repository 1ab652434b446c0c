"""Names of what stands behind the text in one vocabulary: 64 control ids and the codes.

Knows nothing of tokenizers. Two spellings: the readable one of a vocabulary that is built here, where the
model matches single characters only; and the hidden one for somebody else's vocabulary, which holds a space
and therefore never equals a piece of text, because every pre-tokenizer that it is used with turns spaces
into something else. The law it keeps: a control slot that is taken never moves.
"""

from __future__ import annotations

N_CONTROL = 64
ROW_MULTIPLE = 64
N_VOICES = 16


def _control_tokens() -> dict[str, str]:
    """Name -> readable token for the 64 reserved ids, in the order of their ids."""
    tokens = {
        "pad": "<pad>",
        "bos": "<bos>",
        "eos": "<eos>",
        "text_start": "<text>",
        "text_end": "</text>",
        "audio_start": "<audio>",
        "audio_end": "</audio>",
    }
    tokens |= {f"voice_{i:02}": f"<voice_{i:02}>" for i in range(N_VOICES)}
    tokens |= {"fill": "<fill>"}  # the corners of the layout `delay`
    return tokens | {f"reserved_{i:02}": f"<reserved_{i:02}>" for i in range(len(tokens), N_CONTROL)}


CONTROL_TOKENS = _control_tokens()
CONTROL_INDEX = {name: index for index, name in enumerate(CONTROL_TOKENS)}


def audio_token(codebook: int, code: int) -> str:
    """The readable string of a code: ``<|a0_17|>`` is code 17 of codebook 0. Typed, it is plain text."""
    return f"<|a{codebook}_{code}|>"


def hidden_audio_token(codebook: int, code: int) -> str:
    """The hidden string of a code: ``<|a0 17|>``."""
    return f"<|a{codebook} {code}|>"


def hidden_control_token(name: str) -> str:
    """The hidden string of a control id: ``<|audiotok pad|>``."""
    return f"<|audiotok {name}|>"


def hidden_gap_token(index: int) -> str:
    """The hidden string of an id that the base vocabulary leaves out."""
    return f"<|audiotok gap {index}|>"
