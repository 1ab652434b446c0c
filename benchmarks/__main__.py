"""Entry of ``python -m benchmarks``."""

import sys

from audiotok import __version__
from audiotok.program import Program

VERBS = {
    "codec": "speed of encoding, decoding and one streaming step, compared with other codecs",
    "tts": "speed and latency of text-to-speech",
}
PROGRAM = Program("benchmarks", "Speed, measured on this machine.", __version__, "benchmarks", VERBS)

if __name__ == "__main__":
    sys.exit(PROGRAM.main())
