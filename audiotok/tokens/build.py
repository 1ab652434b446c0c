"""Tokenizers from nothing: the shipped text vocabulary, or one like it, with a codec's ids behind it.

Knows nothing of waveforms or models. The law it keeps: text ids are those of the sentencepiece model.
"""

from __future__ import annotations

from pathlib import Path

import sentencepiece
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AddedToken

from ..codec.pretrained import checkpoint_dir, load_codec
from .text_vocab import SPACE, open_text_vocab
from .tokenizer import TEXT_MODEL_FILE, AudioTextTokenizer
from .vocabulary import CONTROL_TOKENS, N_CONTROL, audio_token

# A text model and what is built from it must agree on these; each betrays a setting that is not copied.
_PROBES = "a| a|a  b |\tA\r\n|\u2460\ufb01|e\u0301\u00e9|\u0000|<0x41><s></s><unk>|\u2581".split("|")


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
    for probe in _PROBES:
        expected, got = text.encode(probe), backend.encode(probe).ids
        if expected != got:
            raise ValueError(
                "expected a text model with identity normalisation, no dummy prefix and all spaces; this one "
                f"encodes {probe!r} as {expected}, not {got}; train it with train_text_vocab()"
            )
