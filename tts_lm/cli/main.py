"""Entry point of ``tts-lm`` and the table of its commands."""

from __future__ import annotations

import sys

from audiotok import __version__, program

# command, which is also its module, -> help, in the order of the help
VERBS = {
    "say": "text -> a wav file",
    "phonemes": "text -> phonemes",
    "voices": "list the voices of a model",
    "demo": "a page in the browser to try the TTS model and the codec",
    "train": "train a part of the TTS model, or continue training one",
    "bundle": "AR model, NAR model, codec and voices -> the folder of a TTS model",
    "serve": "an HTTP server for OpenAI's clients",
    "eval": "error rate, naturalness and speed of the speech",
}
DESCRIPTION = "Text-to-speech with a language model over audio tokens."
PROGRAM = program.Program("tts-lm", DESCRIPTION, __version__, "tts_lm.cli", VERBS)
build_parser = PROGRAM.build_parser
main = PROGRAM.main


if __name__ == "__main__":
    sys.exit(main())
