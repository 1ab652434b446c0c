"""Train the text half of the vocabulary: a sentencepiece model of single characters.

Knows nothing of audio. The law it keeps: any string has ids, because what is not in the alphabet falls back
to its UTF-8 bytes, and the same sentences give the same file. Letters rather than words, since a small
language model on few hours of speech meets every letter thousands of times and most words never.

``python -m audiotok.tokens.text_vocab --help`` trains one from files.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import sentencepiece

from ..files import write_aside

SPACE = "\u2581"  # how sentencepiece writes a space
ASCII_CHARACTERS = "".join(map(chr, range(33, 127)))
_BYTES = 256


def train_text_vocab(sentences: Iterable[str], out: str | Path, characters: str = ASCII_CHARACTERS) -> int:
    """Train a character vocabulary with byte fallback and write it as a sentencepiece model.

    The pieces are ``<unk>`` (never produced), the 256 bytes, the space and ``characters``, the last two by
    falling frequency. Text is left as it is (no Unicode normalisation, no added or removed spaces), so that
    decoding gives the very string back; only U+2581, sentencepiece's sign for a space, comes back as a space.

    Args:
        sentences: text, one sentence an item; they decide the order of the pieces, nothing else.
        out: the ``.model`` file to write.
        characters: the characters that get a piece of their own beside the space; others cost one id a byte.

    Returns:
        The number of pieces.

    Raises:
        ValueError: there is no sentence with a character of the alphabet in it.
        FileNotFoundError: the folder of ``out`` does not exist.
    """
    alphabet = set(characters) - {" ", SPACE}
    # The trainer would otherwise let a frequent character from outside push a rare one of the alphabet out.
    kept = ("".join(c for c in sentence if c in alphabet or c == " ") for sentence in sentences)
    lines = [line for line in kept if line.strip()]
    if not lines:
        raise ValueError("expected at least one sentence with a character of the alphabet, got none")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="char",
        vocab_size=1 + _BYTES + 1 + len(alphabet),
        character_coverage=1.0,
        required_chars="".join(sorted(alphabet)),
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        # Control ids live in the unified vocabulary's reserve, not in the text's part of it.
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    with write_aside(out) as aside:
        aside.write_bytes(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).get_piece_size()


def open_text_vocab(path: str | Path) -> tuple[sentencepiece.SentencePieceProcessor, bytes]:
    """Open a character vocabulary such as :func:`train_text_vocab` writes.

    Args:
        path: a sentencepiece ``.model`` file.

    Returns:
        The opened model and the file's bytes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no sentencepiece model, has pieces longer than a character, or lacks byte fallback.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected a sentencepiece model at {path}, found no file")
    proto = path.read_bytes()
    try:
        text = sentencepiece.SentencePieceProcessor(model_proto=proto)
    except RuntimeError as error:
        raise ValueError(f"expected a sentencepiece model in {path}; it does not open: {error}") from error
    for i in range(text.get_piece_size()):
        piece = text.id_to_piece(i)
        if len(piece) > 1 and not (text.is_byte(i) or text.is_control(i) or text.is_unknown(i)):
            raise ValueError(f"expected a text model of single characters, got the piece {piece!r} in {path}")
    if sum(map(text.is_byte, range(text.get_piece_size()))) != _BYTES:
        raise ValueError(f"expected byte fallback, got none in {path}; train one with train_text_vocab()")
    return text, proto


def read_sentences(path: str | Path, language: str | None = None) -> Iterator[str]:
    """Read the sentences of a text file, a table or an audio folder's metadata.

    Args:
        path: ``.csv`` with a ``transcription`` column (rows of a ``split`` other than ``train`` are skipped),
            ``.tsv`` (the last column), or plain text, one sentence a line. UTF-8.
        language: keep only ``.csv`` rows whose ``language`` begins with this.

    Yields:
        Sentences that are not empty.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a ``.csv`` file has no ``transcription`` column.
    """
    path = Path(path)
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix != ".csv":
            for line in file:
                sentence = line.rpartition("\t")[2] if path.suffix == ".tsv" else line
                if sentence.strip():
                    yield sentence.strip()
            return
        rows = csv.DictReader(file)
        if "transcription" not in (rows.fieldnames or []):
            raise ValueError(f"expected a column 'transcription' in {path}, got {rows.fieldnames}")
        for row in rows:
            spoken = language is None or (row.get("language") or "").startswith(language)
            if row["transcription"] and spoken and (row.get("split") or "train") == "train":
                yield row["transcription"]


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m audiotok.tokens.text_vocab")
    parser.description = "Train a character vocabulary and write it as a sentencepiece model."
    parser.add_argument("sources", nargs="+", type=Path, help="text: .txt, .tsv (last column), metadata .csv")
    parser.add_argument("-o", "--out", required=True, type=Path, help="the .model file to write")
    parser.add_argument("--language", help="keep only metadata rows whose language begins with this")
    parser.add_argument("--characters", default="", help="characters to have a piece beside ASCII's")
    args = parser.parse_args(argv)
    try:
        sentences = [line for source in args.sources for line in read_sentences(source, args.language)]
        pieces = train_text_vocab(sentences, args.out, ASCII_CHARACTERS + args.characters)
    except (ValueError, OSError) as error:
        print(f"text_vocab: error: {error}", file=sys.stderr)
        return 1
    digest = hashlib.sha256(args.out.read_bytes()).hexdigest()
    print(f"{args.out}: {pieces} pieces from {len(sentences)} sentences, sha256 {digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
