"""The Hugging Face libraries' manners: names that are not here, a hub that does not answer, bars while something loads.

Knows nothing of what is fetched. The law it keeps: what can only be a path is never looked for on the network, and a
network that is not there costs seconds: the hub's own client tries again for half a minute.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR
from pathlib import Path

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
_PATIENCE_S = 3.0


def is_hub_id(name: str) -> bool:
    """Whether a name that is no file here can be ``OWNER/NAME`` of the hub: not if OWNER is a folder here."""
    return _ID.fullmatch(name) is not None and not Path(name.split("/")[0]).is_dir()


def hub_answers() -> bool:
    """Whether the hub can be reached now; False too where ``HF_HUB_OFFLINE`` is set."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    answers: list[object] = []

    def ask() -> None:
        try:
            answers.append(get_session().head(constants.ENDPOINT, timeout=_PATIENCE_S))
        except Exception:  # what the client raises depends on its version and its proxies; any of it means no
            return

    # A thread, because looking up a name has no time limit of its own.
    asking = threading.Thread(target=ask, daemon=True)
    if not constants.HF_HUB_OFFLINE:
        asking.start()
        asking.join(_PATIENCE_S)
    return bool(answers)


@contextmanager
def without_network() -> Iterator[None]:
    """Let the hub's clients look only at what is kept on this machine, and not ask the network first."""
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
    """Without transformers' bars and reports on stderr: what is wrong with weights is said as an error.

    Args:
        level: of its messages that are still shown, as of :mod:`logging`.
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
