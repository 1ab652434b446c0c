"""Loading codecs by shipped name, folder or hub id, and their registration with the Auto classes of transformers."""

from __future__ import annotations

import inspect
from importlib.resources import files
from logging import CRITICAL
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    EncodecFeatureExtractor,
    PreTrainedConfig,
)
from transformers.models.auto.modeling_auto import AutoModelForAudioTokenization

from ..files import parse_json
from ..hub import hub_answers, is_hub_id, quiet_loading
from ..machine import check_device
from .base import Codec
from .config import CodecConfig
from .model import AudioCodec
from .seanet import SeanetCodec, SeanetConfig

DEFAULT_CODEC = "default"
_LOADING = ("missing_keys", "unexpected_keys", "mismatched_keys")
# The codec families by model_type. A new one is a module beside this one and an entry here.
_OURS: dict[str, Any] = {CodecConfig.model_type: AudioCodec, SeanetConfig.model_type: SeanetCodec}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def register() -> None:
    """Register the codecs with the Auto classes of transformers. Safe to call again."""
    for codec in _OURS.values():
        config: Any = codec.config_class
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, codec, exist_ok=True)
        AutoModelForAudioTokenization.register(config, codec, exist_ok=True)
        AutoFeatureExtractor.register(config, EncodecFeatureExtractor, exist_ok=True)


def shipped_checkpoints() -> list[str]:
    """Names of the codecs that are part of the package."""
    root = Path(str(files("audiotok") / "checkpoints"))
    found = root.glob("*/config.json") if root.is_dir() else []
    return sorted(path.parent.name for path in found if CodecConfig.model_type in path.read_text())


def checkpoint_dir(name: str) -> Path:
    """The folder of a shipped checkpoint, codec or text vocabulary.

    Raises:
        FileNotFoundError: no checkpoint has this name; the message lists those that exist.
    """
    folder = Path(str(files("audiotok") / "checkpoints" / name))
    if not name or "/" in name or name.startswith(".") or not folder.is_dir():
        raise FileNotFoundError(
            f"no checkpoint {name!r}; shipped: {', '.join(shipped_checkpoints()) or 'none'}. "
            f"For a local folder write './{name}'."
        )
    return folder


def load_codec(
    name_or_path: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
) -> Any:
    """Load a codec, ready to encode and decode.

    Args:
        name_or_path: a folder with ``config.json``, a shipped name (None: the default), or a hub id ``owner/name``: one
            of our codecs, or an EnCodec, DAC, Mimi or XCodec of transformers. A folder precedes a shipped name.
        device: "cpu", "cuda", "cuda:1"...
        dtype: compute precision of the decoder's trunk, float32 or bfloat16, by name or as a ``torch.dtype``. Encoder
            and quantiser stay in float32, because codes are defined there.

    Returns:
        The codec (:class:`~audiotok.codec.base.Codec`) in evaluation mode.

    Raises:
        FileNotFoundError: no such shipped name or folder.
        ValueError: the folder holds no codec, weights are damaged or missing, dtype is not supported, or the device
            does not exist.
    """
    chosen = _DTYPES.get(str(dtype).removeprefix("torch."))
    if chosen is None:
        raise ValueError(f"expected dtype in {sorted(_DTYPES)}, got {dtype!r}")
    check_device(device)
    name = DEFAULT_CODEC if name_or_path is None else str(name_or_path)
    local = Path(name).expanduser()
    online = False
    if name and name_or_path is not None and (local / "config.json").is_file():
        name = str(local)
    elif "/" not in name and not name.startswith((".", "~")):
        name = str(checkpoint_dir(name))
    elif local.is_dir() or not is_hub_id(name):
        raise FileNotFoundError(f"expected a codec folder with config.json at {name}, found none")
    else:
        online = hub_answers()
    codec = _open(name, online)
    move: Any = codec.to  # the annotations of transformers lose its type
    return move(torch.device(device), chosen).eval()


def _open(name: str, online: bool) -> Codec:
    """The codec of a folder or hub id, by the model_type of its config."""
    config = _config_of(name, online)
    kind = config.get("model_type")
    if kind in _OURS:
        _check_config(name, config, _OURS[kind].config_class)
        return _read(_OURS[kind], name, online)
    # Imported late: it imports modelling code of transformers, which our own codecs do not need.
    from .adapters import ADAPTED, adapt

    if kind not in ADAPTED:
        raise ValueError(f"{name}: expected a codec ({', '.join([*_OURS, *ADAPTED])}), got {kind!r}")
    return adapt(_read(getattr(transformers, ADAPTED[kind]), name, online))


def _config_of(name: str, online: bool) -> dict[str, Any]:
    """The values of ``config.json``."""
    try:
        config = PreTrainedConfig.get_config_dict(name, local_files_only=not online)[0]
        config.get("model_type")  # AttributeError if it is not a mapping
        return config
    except OSError as error:
        if online or Path(name).is_dir():
            raise
        raise FileNotFoundError(
            f"{name}: no such folder, not in the cache of this machine, and the hub does not answer; name a codec's "
            "folder, or go online"
        ) from error
    except (RecursionError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{name}: expected settings by name in config.json; fetch the codec again"
        ) from error


def _read(family: Any, name: str, online: bool) -> Any:
    """``from_pretrained``, with an error for weights that do not fit instead of random ones."""
    try:
        with quiet_loading(CRITICAL):  # its report becomes an error of one line
            pair: Any = family.from_pretrained(
                name, dtype=torch.float32, output_loading_info=True, local_files_only=not online
            )
        codec, loading = pair
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split()).split(" For details")[0]
        raise ValueError(f"{name}: the weights are damaged or belong to another codec ({reason})") from error
    wrong = [f"{len(loading[key])} {key.split('_')[0]}" for key in _LOADING if loading.get(key)]
    if wrong:
        raise ValueError(
            f"{name}: weights do not fit its config.json: {', '.join(wrong)}; fetch the codec again"
        )
    if not all(bool(torch.isfinite(value).all()) for value in codec.state_dict().values()):
        raise ValueError(f"{name}: weights hold NaN or infinity; fetch the codec again")
    stated = Path(name) / "provenance.json"
    if stated.is_file() and isinstance(codec, Codec):
        try:
            expected = parse_json(stated.read_bytes())["weights_fingerprint"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{stated}: expected the fingerprint of the weights, got none ({error}); fetch the codec again"
            ) from None
        if expected != codec.weights_fingerprint:
            raise ValueError(
                f"{name}: expected weights {expected} by its provenance.json, got {codec.weights_fingerprint}; they "
                "are damaged, or changed: then remove provenance.json"
            )
    return codec


def _check_config(name: str, config: dict[str, Any], family: type[PreTrainedConfig]) -> None:
    """Raise ValueError if a value in ``config.json`` has the wrong type."""
    usual = family()
    for field in inspect.signature(family).parameters:
        value, kind = config.get(field), type(getattr(usual, field, None))
        fits = isinstance(value, int | float if kind is float else kind)
        if field in config and kind is not type(None) and not fits:
            raise ValueError(f"{name}: expected {field} of config.json to be {kind.__name__}, got {value!r}")


register()
