"""The entry of ``audiotok``: its verbs. Knows nothing of any verb but its name, its module and one line of help."""

from __future__ import annotations

import sys

from .. import __version__
from ..program import Program

# verb -> (module beside this one, help). Order is the order of the help.
VERBS = {
    "encode": ("encode", "sound files -> code files"),
    "decode": ("decode", "code files -> sound files"),
    "info": ("info", "what a sound file, a code file or a codec is"),
    "truncate": ("truncate", "code files -> smaller code files, without encoding again"),
    "verify": ("verify", "whether code files and prepared corpora are whole"),
    "prepare": ("prepare", "a speech data set -> token shards"),
    "merge": ("merge", "parts of a preparation -> the whole"),
    "listen": ("listen", "a page to hear random rows of a prepared corpus"),
    "train": ("train", "train a codec, or continue training one"),
    "export": ("export", "a codec as ONNX files"),
    "plot": ("plot", "a picture of a clip, before and after, with its codes"),
    "eval": ("eval", "measure a codec's quality, beside Opus"),
    "bench": ("bench", "measure a codec's speed"),
    "bench-prepare": ("bench_prepare", "time preparation, beside the codec alone"),
    "bench-atok": ("bench_atok", "size of .atok files, speed of coding and seeking"),
}
PROGRAM = Program("audiotok", "Speech in, token ids out, and back.", __version__, "audiotok.cli", VERBS)
build_parser = PROGRAM.build_parser
main = PROGRAM.main


if __name__ == "__main__":
    sys.exit(main())
