"""Text front end: normalisation, sentences and pronunciation."""

from .english import SOUNDS, pronounce, pronounce_text, write_sounds
from .normalize import ALPHABET, LETTERS, MAX_SENTENCE_LETTERS, PUNCTUATION, normalise, split_sentences
from .phonemes import PHONEMES, phonemes, split_phonemes

__all__ = [
    "ALPHABET",
    "LETTERS",
    "MAX_SENTENCE_LETTERS",
    "PHONEMES",
    "PUNCTUATION",
    "SOUNDS",
    "normalise",
    "phonemes",
    "pronounce",
    "pronounce_text",
    "split_phonemes",
    "split_sentences",
    "write_sounds",
]
