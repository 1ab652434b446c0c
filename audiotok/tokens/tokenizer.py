"""One vocabulary for text and sound, as a Hugging Face fast tokenizer.

Ids: ``[text | 64 reserved control ids | audio k * V + code, level-major]``. Text ids are sentencepiece's own,
audio ids are arithmetic. Knows nothing of waveforms or models. The law it keeps: no text, however it comes
in, yields an audio id or a control id.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ..codec.pretrained import checkpoint_dir, load_codec
from ..files import write_aside, write_json
from .layout import Layout, flatten, unflatten
from .text_vocab import SPACE, open_text_vocab

N_CONTROL = 64
ROW_MULTIPLE = 64
N_VOICES = 16
TEXT_MODEL_FILE = "tokenizer.model"
# A text model and what is built from it must agree on these; each betrays a setting that is not copied.
_PROBES = "a| a|a  b |\tA\r\n|\u2460\ufb01|e\u0301\u00e9|\u0000|<0x41><s></s><unk>|\u2581".split("|")


def _control_tokens() -> dict[str, str]:
    """Name -> token for the 64 reserved ids, in the order of their ids. A slot that is taken never moves."""
    tokens = {
        "pad": "<pad>",
        "bos": "<bos>",
        "eos": "<eos>",
        "text_start": "<text>",
        "text_end": "</text>",
        "audio_start": "<audio>",
        "audio_end": "</audio>",
    }
    tokens |= {f"voice_{i:02}": f"<voice_{i:02}>" for i in range(N_VOICES)}
    return tokens | {f"reserved_{i:02}": f"<reserved_{i:02}>" for i in range(len(tokens), N_CONTROL)}


CONTROL_TOKENS = _control_tokens()
_CONTROL_INDEX = {name: index for index, name in enumerate(CONTROL_TOKENS)}


def audio_token(codebook: int, code: int) -> str:
    """The vocabulary's string for a code: ``<|a0_17|>`` is code 17 of codebook 0. Typed, it is plain text."""
    return f"<|a{codebook}_{code}|>"


class AudioTextTokenizer(PreTrainedTokenizerFast):
    """A fast tokenizer that reads text and carries codes; made by :func:`build_tokenizer` or a saved folder.

    All that :class:`transformers.PreTrainedTokenizerFast` does works: batches, padding, pairs, truncation,
    offsets. No template adds ids of its own. A saved folder opens with ``AutoTokenizer`` where audiotok is
    not installed. A program that passes ``split_special_tokens=False`` asks for control tokens to be read
    from its text; audio tokens are not read even then.

    Attributes:
        n_q: K, the codebooks that have ids.
        codebook_size: V, entries per codebook.
        codes_fingerprint: the codec whose codes the audio ids stand for.
        control_offset: id of the first control token, which is also the number of text ids.
        audio_offset: id of code 0 of codebook 0.
    """

    # No __init__: transformers rebuilds the backend of a subclass that has one, and loses its byte fallback.
    # The numbers are stored as init arguments instead, which a plain PreTrainedTokenizerFast keeps as well.
    _text_model: bytes | None = None

    @property
    def n_q(self) -> int:
        return self._stored("n_q")

    @property
    def codebook_size(self) -> int:
        return self._stored("codebook_size")

    @property
    def codes_fingerprint(self) -> str:
        return self._stored("codes_fingerprint")

    @property
    def control_offset(self) -> int:
        return self._stored("control_offset")

    @property
    def audio_offset(self) -> int:
        return self._stored("audio_offset")

    @property
    def padded_vocab_size(self) -> int:
        """Rows that a model's embedding should have: the vocabulary, rounded up to a multiple of 64."""
        return -(-len(self) // ROW_MULTIPLE) * ROW_MULTIPLE

    def control_id(self, name: str) -> int:
        """The id of a control token by its name.

        Args:
            name: ``pad``, ``bos``, ``eos``, ``text_start``, ``text_end``, ``audio_start``, ``audio_end``,
                ``voice_00`` to ``voice_15``, or ``reserved_23`` to ``reserved_63``.

        Returns:
            The id, in [control_offset, audio_offset).

        Raises:
            ValueError: no control token has this name; the message lists those that exist.
        """
        if name not in _CONTROL_INDEX:
            raise ValueError(f"expected a control token of {', '.join(_CONTROL_INDEX)}; got {name!r}")
        return self.control_offset + _CONTROL_INDEX[name]

    def encode_text(self, text: str) -> list[int]:
        """Turn text into text ids and nothing else: whatever it spells, no control or audio id is in them.

        Args:
            text: any string, of any length.

        Returns:
            Ids in [0, control_offset); :meth:`decode` gives the text back.

        Raises:
            TypeError: ``text`` is not a string.
            ValueError: it holds half a surrogate pair, or tokens added to this tokenizer by hand.
        """
        if not isinstance(text, str):
            raise TypeError(f"expected text as a str, got {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"expected Unicode text, got half a surrogate pair at character {error.start}"
            ) from None
        ids = self.encode(text, add_special_tokens=False, split_special_tokens=True)
        if ids and max(ids) >= self.control_offset:
            raise ValueError(
                "the text holds a token that add_tokens() put into this tokenizer; leave that out"
            )
        return ids

    def encode_audio(self, codes: Tensor, layout: Layout = "flat") -> list[int]:
        """Turn codes into ids.

        Args:
            codes: [K, T] integers in [0, V), 1 <= K <= n_q.
            layout: ``flat`` (all K codebooks, frame by frame) or ``first`` (codebook 0 only).

        Returns:
            Ids in [audio_offset, len(self)); K * T of them for ``flat``, T for ``first``.

        Raises:
            TypeError: ``codes`` is not a tensor of integers.
            ValueError: the shape or a code is out of range, or the layout is unknown.
        """
        if isinstance(codes, Tensor) and codes.ndim == 2 and codes.shape[0] > self.n_q:
            raise ValueError(
                f"expected at most n_q = {self.n_q} codebooks, got {codes.shape[0]}; pass codes[:n_q]"
            )
        return flatten(codes, self.codebook_size, layout, self.audio_offset).tolist()

    def decode_audio(
        self, ids: Sequence[int] | Tensor, layout: Layout = "flat", n_q: int | None = None
    ) -> Tensor:
        """Turn audio ids back into codes: the strict inverse of :meth:`encode_audio`.

        Args:
            ids: [S] audio ids only; cut the markers around them off first.
            layout: the layout that they were made with.
            n_q: K, the codebooks in them; None means all of the tokenizer's. ``first`` always holds one.

        Returns:
            [K, T] int64 codes.

        Raises:
            TypeError: ``ids`` are not integers.
            ValueError: ``n_q`` is out of range, or the layout is unknown.
            LayoutError: the ids do not form whole frames; names the first bad position, the range expected
                there and what came.
        """
        n_q = self.n_q if n_q is None else n_q
        if not 1 <= n_q <= self.n_q:
            raise ValueError(f"expected n_q in [1, {self.n_q}], got {n_q}")
        return unflatten(ids, n_q, self.codebook_size, layout, self.audio_offset)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> AudioTextTokenizer:
        """Open a saved tokenizer as ``PreTrainedTokenizerFast.from_pretrained`` does, and check it.

        Raises:
            OSError: there is no such folder or hub id.
            ValueError: it holds a tokenizer without audio ids, or one whose ids do not lie where it says.
        """
        tokenizer = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        tokenizer._check()
        # Kept as bytes, so that a copy in another process or on another machine can still save itself whole.
        file = getattr(tokenizer, "vocab_file", None)
        tokenizer._text_model = Path(file).read_bytes() if file and Path(file).is_file() else None
        return tokenizer

    def _save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        file_names: tuple[str, ...],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
    ) -> tuple[str, ...]:
        names = super()._save_pretrained(save_directory, file_names, legacy_format, filename_prefix)
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        # Our class's name would send AutoTokenizer looking for a class that only audiotok has; the plain one
        # opens everywhere, transformers 4 included.
        config_file = Path(save_directory) / f"{prefix}tokenizer_config.json"
        config = json.loads(config_file.read_text(encoding="utf-8"))
        for key in ("is_local", "local_files_only"):  # about how this one was opened, not about the tokenizer
            config.pop(key, None)
        write_json(config_file, config | {"tokenizer_class": "PreTrainedTokenizerFast"})
        if self._text_model is None:
            return names
        model_file = Path(save_directory) / f"{prefix}{TEXT_MODEL_FILE}"
        with write_aside(model_file) as aside:
            aside.write_bytes(self._text_model)
        return (*names, str(model_file))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # The Rust backend forgets this switch when it is pickled or copied.
        self.backend_tokenizer.encode_special_tokens = self.split_special_tokens

    def _stored(self, name: str) -> Any:
        if name not in self.init_kwargs:
            raise ValueError(
                f"expected a tokenizer with audio ids, but its tokenizer_config.json has no {name!r}; "
                "make one with audiotok.build_tokenizer()"
            )
        return self.init_kwargs[name]

    def _check(self) -> None:
        expected = {
            next(iter(CONTROL_TOKENS.values())): self.control_offset,
            audio_token(0, 0): self.audio_offset,
            audio_token(self.n_q - 1, self.codebook_size - 1): self.audio_offset
            + self.n_q * self.codebook_size
            - 1,
        }
        for token, where in expected.items():
            if (got := self.backend_tokenizer.token_to_id(token)) != where:
                raise ValueError(
                    f"damaged tokenizer: expected {token} at id {where}, got {got}; build it anew"
                )
        if not self.split_special_tokens:
            raise ValueError(
                "damaged tokenizer: expected split_special_tokens true in tokenizer_config.json, got false; "
                "typed control tokens would become control ids; build it anew"
            )


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
    tokenizer._text_model = proto
    tokenizer._check()
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
    # Audio tokens stand in the vocabulary itself, where no merge leads to them: they cannot be typed. Control
    # tokens are special as well, for skip_special_tokens; split_special_tokens keeps those from being typed.
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", SPACE)
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    backend.add_special_tokens([AddedToken(token, special=True) for token in CONTROL_TOKENS.values()])
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
