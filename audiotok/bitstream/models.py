"""Which entropy model belongs to which codes, and the coder that a header asks for.

Knows nothing of sound. The law it keeps is binding: a model codes the codes of its own codec only, and a file names the
model that it needs.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from .entropy import FILE_NAME, EntropyModel
from .header import AtokError, AtokHeader
from .layers import LEARNT, LayerCoder


def find_model(codes_fingerprint: str, folder: str | Path | None = None) -> EntropyModel | None:
    """The entropy model for a codec's codes, or None.

    Args:
        codes_fingerprint: of the codec.
        folder: a codec's folder to look in too, before the shipped ones.

    Raises:
        EntropyModelError: a model file is damaged.
    """
    shipped = Path(str(files("audiotok") / "checkpoints"))
    places = [Path(folder)] if folder is not None else []
    places += sorted(path for path in shipped.glob("*") if path.is_dir()) if shipped.is_dir() else []
    for place in places:
        path = place / FILE_NAME
        if path.is_file():
            model = _load(str(path), path.stat().st_mtime_ns)
            if model.codes_fingerprint == codes_fingerprint:
                return model
    return None


def coder_of(header: AtokHeader, model: EntropyModel | None = None, path: str = "atok") -> LayerCoder:
    """The coder for a file's layers.

    Args:
        header: of the file.
        model: for learnt coding; None looks among the shipped ones.
        path: names the file in errors.

    Raises:
        AtokError: the model that the header names is not here.
    """
    if header.coding != LEARNT:
        return LayerCoder(header.book_sizes, header.coding)
    model = find_model(header.codes_fingerprint) if model is None else model
    have = "none" if model is None else f"{model.fingerprint} of codes {model.codes_fingerprint}"
    if model is None or (model.fingerprint, model.codes_fingerprint) != (
        header.model_fingerprint, header.codes_fingerprint,
    ):  # fmt: skip
        raise AtokError(
            f"{path}: coded with the entropy model {header.model_fingerprint} of the codec {header.codec!r} (codes "
            f"{header.codes_fingerprint}), got {have}; pass --codec and the folder of that codec"
        )
    try:
        return LayerCoder(header.book_sizes, LEARNT, model)
    except ValueError as error:
        raise AtokError(f"{path}: {error}") from None


@lru_cache(maxsize=4)
def _load(path: str, changed: int) -> EntropyModel:
    """A model file, read once as long as it does not change."""
    return EntropyModel.load(path)
