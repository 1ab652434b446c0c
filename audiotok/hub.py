"""Hugging Face conventions: Auto classes, hub ids, an unreachable hub, and quiet loading."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from logging import ERROR
from pathlib import Path
from types import ModuleType
from typing import Any

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
_TIMEOUT_S = 3.0
_AUTO = "transformers.models.auto."
# Modules of audiotok that register classes, with the modules of transformers that define the Auto classes.
_REGISTERS = {
    "audiotok.codec.pretrained": ("configuration_auto", "modeling_auto", "feature_extraction_auto"),
    "audiotok.tokens.processor": ("processing_auto",),
}
_registered: set[str] = set()


def register_auto_classes() -> None:
    """Register audiotok's classes with the Auto classes of transformers that are loaded.

    :class:`_AutoClassFinder` calls this again when another Auto class is loaded.
    """
    for name, autos in _REGISTERS.items():
        if name in _registered or not any(_AUTO + auto in sys.modules for auto in autos):
            continue
        try:
            import_module(name)  # registers its classes when it is imported
        except ImportError:
            continue  # transformers is still being imported or lacks torch; the next import tries again
        _registered.add(name)


class _AutoClassFinder(MetaPathFinder):
    """Calls :func:`register_auto_classes` after transformers has imported a module with Auto classes.

    This keeps ``import audiotok`` cheap, because it imports neither transformers nor torch.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in {_AUTO + auto for autos in _REGISTERS.values() for auto in autos}:
            return None
        spec = PathFinder.find_spec(fullname, path)
        loader: Any = spec.loader if spec else None
        if loader is None:
            return None
        execute = loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            register_auto_classes()

        loader.exec_module = execute_and_register
        return spec


def watch_auto_classes() -> None:
    """Register audiotok's classes with the Auto classes, now or as soon as transformers is imported."""
    sys.meta_path.insert(0, _AutoClassFinder())
    register_auto_classes()


def is_hub_id(name: str) -> bool:
    """Whether a name can be a hub id ``OWNER/NAME``. OWNER must not be a local folder."""
    return _ID.fullmatch(name) is not None and not Path(name.split("/")[0]).is_dir()


def hub_answers() -> bool:
    """Whether the hub can be reached now; False if ``HF_HUB_OFFLINE`` is set."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    answers: list[object] = []

    def ask() -> None:
        try:
            answers.append(get_session().head(constants.ENDPOINT, timeout=_TIMEOUT_S))
        except Exception:  # the type depends on the client's version and on proxies
            return

    # In a thread, because resolving a host name has no timeout.
    asking = threading.Thread(target=ask, daemon=True)
    if not constants.HF_HUB_OFFLINE:
        asking.start()
        asking.join(_TIMEOUT_S)
    return bool(answers)


@contextmanager
def without_network() -> Iterator[None]:
    """Make the hub client use only its local cache."""
    from datasets import config
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE = before


@contextmanager
def quiet_loading(level: int = ERROR) -> Iterator[None]:
    """Load without transformers' progress bars and reports on stderr.

    Args:
        level: minimum level of the messages that are shown, as in :mod:`logging`.
    """
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity(level)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
