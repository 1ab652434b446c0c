"""Devices and threads of this machine. Imports torch when it is called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def check_device(name: str | torch.device) -> None:
    """Raise ValueError unless this machine has the device ``name``: "cpu", "cuda:1", "mps"... ("meta" is refused)."""
    import torch

    try:
        pretends = torch.empty(0, device=torch.device(name)).is_meta
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = " ".join(str(error).split()).split(". ")[0]
        raise ValueError(
            f"expected a device of this machine, got {str(name)!r} ({reason}); try cpu, or --device auto"
        ) from None
    if pretends:
        raise ValueError(f"expected a device that computes, got {str(name)!r}; try cpu, or --device auto")


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use ``count`` threads, at least 1, in this context.

    One thread is fastest for models of this size. More threads do not help on an idle machine, and they wait for
    each other when another program uses a core.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
