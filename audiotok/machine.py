"""The machine that models run on: whether it has a device, and how many threads are used on it.

Knows no model, and imports torch when it is called. The law it keeps: a device that is not here is an ordinary error,
and the number of threads is what it was before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def check_device(name: str | torch.device) -> None:
    """Find out whether something can be computed on a device.

    Args:
        name: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``...

    Raises:
        ValueError: this machine has no such device, or it only pretends to compute, as ``"meta"`` does.
    """
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
    """Let torch use ``count`` threads, at least 1, for as long as the context lasts.

    One is best for models of this size: more gain nothing on a quiet machine, and wait for each other a hundred
    times as long as they compute where another program has one of the cores.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
