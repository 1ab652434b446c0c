"""Entry of ``audiotok``. A new verb is a module beside this one and a line in :data:`VERBS`."""

from __future__ import annotations

import sys

from .. import __version__
from ..program import Program

# verb, which is also its module, -> help, in the order of the help
VERBS = {
    "encode": "sound files -> code files",
    "decode": "code files -> sound files",
    "info": "describe sound files, code files or codecs",
    "truncate": "code files -> smaller code files, without encoding again",
    "verify": "check code files and prepared corpora",
    "prepare": "a speech data set -> token shards",
    "listen": "a page with random rows of a prepared corpus",
    "train": "train a codec, or continue training one",
    "export": "a codec as ONNX files",
    "plot": "a picture of a clip, before and after, with its codes",
    "eval": "measure a codec's quality, beside Opus",
}
PROGRAM = Program("audiotok", "Speech in, token ids out, and back.", __version__, "audiotok.cli", VERBS)
build_parser = PROGRAM.build_parser
main = PROGRAM.main


if __name__ == "__main__":
    sys.exit(main())
