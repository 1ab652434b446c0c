"""Somebody else's vocabulary, with a codec's ids behind it; and somebody else's model, with rows for them.

Knows nothing of waveforms. The laws it keeps: every text has the ids that it had; no text has an audio or a
control id; audio ids are contiguous and level-major. The new strings stand in the vocabulary of the base's
own model, which loads fast, and none of them can be matched by text: BPE without ``ignore_merges`` reaches no
string without a merge that leads to it, and the other models match whole pre-tokens, none of which holds the
space that each of the new strings holds (which is checked, not assumed).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from torch import Tensor, nn
from transformers import AddedToken, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..codec.pretrained import checkpoint_dir, load_codec
from ..files import write_aside
from .codecs import codec_facts
from .tokenizer import (
    CONTROL_TOKENS,
    N_CONTROL,
    TEXT_MODEL_FILE,
    AudioTextTokenizer,
    audio_token,
    hidden_audio_token,
    hidden_control_token,
    hidden_gap_token,
)

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


# A text model and what is built from it must agree on these; each betrays a setting that is not copied.
_TEXT_PROBES = "a| a|a  b |\tA\r\n|\u2460\ufb01|e\u0301\u00e9|\u0000|<0x41><s></s><unk>|\u2581".split("|")


def build_tokenizer(
    text_model: str | Path, n_q: int = 8, codebook_size: int = 1024, *, codes_fingerprint: str
) -> AudioTextTokenizer:
    """Put audio ids behind a sentencepiece text vocabulary.

    Args:
        text_model: a sentencepiece ``.model`` of single characters with byte fallback, as
            :func:`audiotok.tokens.text_vocab.train_text_vocab` writes it.
        n_q: K, codebooks that get ids.
        codebook_size: V, entries per codebook.
        codes_fingerprint: ``codec.codes_fingerprint`` of the codec whose codes the ids stand for.

    Returns:
        A tokenizer whose text ids are those of the text model.

    Raises:
        FileNotFoundError: there is no file ``text_model``.
        ValueError: it is not such a model, a size is below 1, or the fingerprint is empty.
    """
    if n_q < 1 or codebook_size < 1:
        raise ValueError(f"expected n_q >= 1 and codebook_size >= 1, got {n_q} and {codebook_size}")
    if not codes_fingerprint:
        raise ValueError(
            "expected codes_fingerprint to name the codec, got nothing; pass codec.codes_fingerprint"
        )
    text, proto = open_text_vocab(text_model)
    backend = _backend(text, n_q, codebook_size)
    _check_against(text, backend)
    tokenizer = AudioTextTokenizer(
        tokenizer_object=backend,
        pad_token=CONTROL_TOKENS["pad"],
        bos_token=CONTROL_TOKENS["bos"],
        eos_token=CONTROL_TOKENS["eos"],
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
        n_q=n_q,
        codebook_size=codebook_size,
        codes_fingerprint=codes_fingerprint,
        control_offset=text.get_piece_size(),
        audio_offset=text.get_piece_size() + N_CONTROL,
    )
    # Added here and in tokenizer_config.json, not in tokenizer.json: what reads that file alone has no switch
    # that would keep typed control names from being read as control ids.
    tokenizer.add_tokens(
        [AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS.values()]
    )
    tokenizer.keep_text_model(proto)
    tokenizer.check()
    return tokenizer


def load_tokenizer(name_or_path: str | Path | None = None) -> AudioTextTokenizer:
    """Load a tokenizer, ready to use.

    Args:
        name_or_path: the name of a shipped codec (None: the default one) gives the shipped English text
            vocabulary with that codec's ids behind it; a folder or a hub id ``owner/name`` the tokenizer
            that was saved there.

    Returns:
        The tokenizer.

    Raises:
        FileNotFoundError: there is no such shipped codec, or no tokenizer in the folder.
        OSError: the hub has none either.
        ValueError: what is there has no audio ids.
    """
    name = None if name_or_path is None else str(name_or_path)
    if name is None or ("/" not in name and not name.startswith((".", "~"))):
        codec = load_codec(name)
        return build_tokenizer(
            checkpoint_dir("text-en") / TEXT_MODEL_FILE,
            codec.config.n_q,
            codec.config.codebook_size,
            codes_fingerprint=codec.codes_fingerprint,
        )
    folder = Path(name).expanduser()
    if name.startswith((".", "/", "~")) or folder.is_dir():
        if not (folder / "tokenizer.json").is_file():
            raise FileNotFoundError(f"expected a saved tokenizer with tokenizer.json in {folder}, found none")
        name = str(folder)
    return AudioTextTokenizer.from_pretrained(name)


def _backend(text: sentencepiece.SentencePieceProcessor, n_q: int, codebook_size: int) -> Tokenizer:
    """The Rust tokenizer of a character model: BPE without merges, so text matches single characters only."""
    pieces = [text.id_to_piece(i) for i in range(text.get_piece_size())]
    strings = [
        *pieces,
        *CONTROL_TOKENS.values(),
        *(audio_token(k, code) for k in range(n_q) for code in range(codebook_size)),
    ]
    vocab = {string: i for i, string in enumerate(strings)}
    if len(vocab) != len(strings):
        taken = sorted(set(pieces) & set(strings[len(pieces) :]))
        raise ValueError(
            f"expected a text model without our control and audio tokens, got {', '.join(taken)}"
        )
    # All of them stand in the vocabulary itself, where no merge leads to them: they cannot be typed. To
    # transformers the control tokens are special as well; there split_special_tokens keeps them from being typed.
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", SPACE)
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return backend


def _check_against(text: sentencepiece.SentencePieceProcessor, backend: Tokenizer) -> None:
    backend.encode_special_tokens = True
    for probe in _TEXT_PROBES:
        expected, got = text.encode(probe), backend.encode(probe).ids
        if expected != got:
            raise ValueError(
                "expected a text model with identity normalisation, no dummy prefix and all spaces; this one "
                f"encodes {probe!r} as {expected}, not {got}; train it with train_text_vocab()"
            )


_KEPT = (
    "model_max_length padding_side truncation_side model_input_names clean_up_tokenization_spaces "
    "split_special_tokens chat_template"
).split()
_SPACES = "a b| a  b |\ta\u00a0b\u3000c|<|a0 0|> x|x<|audiotok pad|>|\u2003a \n b".split("|")
_PROBES = [
    "Hello there, 123 x\u00e9!",
    "  \u4f60\u597d \U0001f600\n\tdef f(x):\r\n",
    "",
    "\u0000\u2581 <|a0 0|>",
]


def extend_tokenizer(
    base: PreTrainedTokenizerBase | str | Path,
    codec: PreTrainedModel | None = None,
    *,
    n_q: int | None = None,
    codebook_size: int | None = None,
    codes_fingerprint: str | None = None,
) -> AudioTextTokenizer:
    """Put 64 control ids and a codec's audio ids behind any fast tokenizer.

    Args:
        base: a fast tokenizer, or a folder or hub id of one. It is not changed.
        codec: the codec whose codes get ids: ours, or an audio tokenizer of transformers.
        n_q: K, codebooks that get ids; None means all of the codec's.
        codebook_size: V; None means the codec's.
        codes_fingerprint: what the ids are bound to; None means the codec's.

    Returns:
        A tokenizer that reads every text as the base does, its special tokens, template, padding side and chat
        template among it. Where the base has no padding token, its end of sequence pads.

    Raises:
        TypeError: ``base`` is a slow tokenizer.
        ValueError: neither ``codec`` nor all three of the others are given, ``base`` has audio ids already,
            or it matches whole strings and leaves spaces in them, so that text could spell an audio id.
    """
    if isinstance(base, str | Path):
        base = AutoTokenizer.from_pretrained(base)
    if not isinstance(base, PreTrainedTokenizerBase) or not base.is_fast:
        raise TypeError(
            f"expected a fast tokenizer, got {type(base).__name__}; pass use_fast=True when loading it"
        )
    if "audio_offset" in base.init_kwargs:
        raise ValueError("this tokenizer has audio ids already; extend the one that it was made from")
    if codec is not None:
        facts = codec_facts(codec)
        n_q, codebook_size = n_q or facts.n_q, codebook_size or facts.codebook_size
        codes_fingerprint = codes_fingerprint or facts.codes_fingerprint
    if not (n_q and codebook_size and codes_fingerprint) or n_q < 1 or codebook_size < 1:
        raise ValueError(
            "expected a codec, or n_q >= 1, codebook_size >= 1 and codes_fingerprint, got "
            f"{n_q}, {codebook_size} and {codes_fingerprint!r}"
        )
    fast: Any = base
    source: Tokenizer = fast.backend_tokenizer
    backend, size = _extended(source, n_q, codebook_size)
    specials = {token.content: token for token in base.added_tokens_decoder.values()}
    named = {name: specials.get(str(token), token) for name, token in base.special_tokens_map.items()}
    named = {name: token for name, token in named.items() if name.endswith("_token")}
    if "pad_token" not in named and "eos_token" in named:
        named["pad_token"] = named["eos_token"]
    kept = {key: value for key in _KEPT if (value := getattr(base, key, None)) is not None}
    tokenizer = AudioTextTokenizer(
        tokenizer_object=backend,
        **named,
        **kept,
        n_q=n_q,
        codebook_size=codebook_size,
        codes_fingerprint=codes_fingerprint,
        control_offset=size,
        audio_offset=size + N_CONTROL,
    )
    # transformers writes a template of its own where it thinks there is none.
    tokenizer.backend_tokenizer.post_processor = source.post_processor
    tokenizer.check()
    for probe in _PROBES:
        if (got := tokenizer(probe)["input_ids"]) != (expected := base(probe)["input_ids"]):
            raise ValueError(
                f"this tokenizer cannot be extended: {probe!r} had ids {expected} and would have {got}"
            )
    return tokenizer


def _extended(source: Tokenizer, n_q: int, codebook_size: int) -> tuple[Tokenizer, int]:
    """The Rust tokenizer with more strings in its model, and the number of ids it had."""
    known = source.get_vocab(with_added_tokens=True)
    names = {index: token for token, index in known.items()}
    size = max(names) + 1
    # Tokens beside the model's vocabulary go into it: their ids are given out by its size when a file is read.
    strings = [names.get(index) or hidden_gap_token(index) for index in range(size)]
    strings += map(hidden_control_token, CONTROL_TOKENS)
    strings += (hidden_audio_token(k, code) for k in range(n_q) for code in range(codebook_size))
    content = json.loads(source.to_str())
    model = content["model"]
    if isinstance(
        model["vocab"], list
    ):  # Unigram: ids are places, and the score of an unknown is the lowest one's
        lowest = min(score for _, score in model["vocab"])
        model["vocab"] += [[string, lowest] for string in strings[len(model["vocab"]) :]]
    else:
        model["vocab"] = {string: index for index, string in enumerate(strings)}
    content["truncation"] = content["padding"] = None
    backend = Tokenizer.from_str(json.dumps(content))
    if backend.get_vocab_size(with_added_tokens=True) != len(strings):
        raise ValueError(
            "this tokenizer has two strings for one id, or ours among its own; it cannot be extended"
        )
    if model.get("type", "BPE") != "BPE" or model.get("ignore_merges"):
        _check_no_spaces(backend)
    return backend, size


def _check_no_spaces(backend: Tokenizer) -> None:
    """Refuse a tokenizer whose model is given text with a space in it: our strings hold one."""
    for probe in _SPACES:
        text = backend.normalizer.normalize_str(probe) if backend.normalizer else probe
        pieces = backend.pre_tokenizer.pre_tokenize_str(text) if backend.pre_tokenizer else [(text, ())]
        if any(" " in piece for piece, _ in pieces):
            raise ValueError(
                f"this tokenizer matches whole strings and leaves spaces in them ({probe!r} becomes "
                f"{[piece for piece, _ in pieces]}), so text could spell an audio id; give it a pre-tokenizer "
                "that splits at spaces or replaces them"
            )


def resize_embeddings(model: PreTrainedModel, tokenizer: AudioTextTokenizer, seed: int = 0) -> None:
    """Give a model rows for the control and audio ids of an extended tokenizer, in place.

    A row of the input starts as a draw from the normal distribution, width by width, of the rows that the
    text has; a row of the output at the mean of the text's rows and a tenth of that spread beside it, so that
    the new ids are neither impossible nor in the way. No two rows are equal.

    Args:
        model: any model with token embeddings; its text rows are not touched.
        tokenizer: from :func:`extend_tokenizer`; decides the rows.
        seed: of the draw.

    Raises:
        ValueError: the model has fewer rows than the base vocabulary had ids.
    """
    text_ids = tokenizer.control_offset
    given: Any = model.get_input_embeddings()
    old = given.weight.shape[0]
    if old < text_ids:
        raise ValueError(
            f"expected a model with rows for {text_ids} text ids, got {old}; is it another model's tokenizer?"
        )
    rows = max(old, tokenizer.padded_vocab_size)
    model.resize_token_embeddings(rows, mean_resizing=False)
    given = model.get_input_embeddings()
    output: Any = model.get_output_embeddings()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        _start_rows(given.weight, text_ids, 1.0, generator)
        if isinstance(output, nn.Linear) and output.weight is not given.weight:
            _start_rows(output.weight, text_ids, 0.1, generator)
        bias = getattr(output, "bias", None)
        if bias is not None:
            bias[text_ids:] = bias[:text_ids].mean()


def _start_rows(weight: Tensor, text_ids: int, spread: float, generator: torch.Generator) -> None:
    text = weight[:text_ids].float()
    new = torch.randn(weight.shape[0] - text_ids, weight.shape[1], generator=generator).to(weight.device)
    weight[text_ids:] = (text.mean(0) + spread * text.std(0) * new).to(weight.dtype)


if __name__ == "__main__":
    sys.exit(main())
