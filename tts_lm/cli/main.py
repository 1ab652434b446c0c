"""The entry of ``tts-lm``: its verbs. Knows nothing of any verb but its name, its module and one line of help."""

from __future__ import annotations

import sys

from audiotok import __version__, program

# verb -> (module beside this one, help). Order is the order of the help.
VERBS = {
    "say": ("say", "text -> a wav file"),
    "phonemes": ("phonemes", "text -> phonemes"),
    "voices": ("voices", "who can speak"),
    "demo": ("demo", "a page to speak with, and to look into the codec"),
    "train": ("train", "train a half of the language model, or continue training one"),
    "bundle": ("bundle", "two trained halves, a codec and voices -> one folder that speaks"),
    "serve": ("serve", "a server that OpenAI's clients speak to"),
    "eval": ("eval", "measure how well the speech is understood"),
    "bench": ("bench", "measure how fast it speaks"),
}
PROGRAM = program.Program(
    "tts-lm",
    "Text in, speech out: a language model over audio tokens.",
    __version__,
    "tts_lm.cli",
    VERBS,
)
build_parser = PROGRAM.build_parser
main = PROGRAM.main


if __name__ == "__main__":
    sys.exit(main())
