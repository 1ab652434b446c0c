"""Text front end: normalisation, sentences, pronunciation and the prompt of the AR model."""

from .english import SOUNDS, pronounce, pronounce_text, write_sounds
from .normalize import ALPHABET, LETTERS, MAX_SENTENCE_LETTERS, PUNCTUATION, normalise, plain, split_sentences
from .phonemes import PHONEMES, phonemes, split_phonemes
from .prompt import MAX_PROMPTED_LETTERS, TEXT_START, build_prompt, character_ids, spoken_sentences

__all__ = [
    "ALPHABET",
    "LETTERS",
    "MAX_PROMPTED_LETTERS",
    "MAX_SENTENCE_LETTERS",
    "PHONEMES",
    "PUNCTUATION",
    "SOUNDS",
    "TEXT_START",
    "build_prompt",
    "character_ids",
    "normalise",
    "phonemes",
    "plain",
    "pronounce",
    "pronounce_text",
    "split_phonemes",
    "spoken_sentences",
    "split_sentences",
    "write_sounds",
]
