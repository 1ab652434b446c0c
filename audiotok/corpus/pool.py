"""Calls spread over processes, answered in order.

Knows nothing of what is computed. The law it keeps: the same answers in the same order, whether one process
works or many; one thread each; never more than a few calls under way; and no worker outlives its parent,
however that ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any

import torch

_server: Any = None


def _start(build: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Runs once in each worker process."""
    global _server
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _server = build(*arguments)


def _die_with_parent() -> None:
    # A killed parent leaves its workers waiting on a queue for ever; the queue alone would never tell them.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(method: str, item: Any) -> Any:
    return getattr(_server, method)(item)


class Pool:
    """Servers, one a process, that answer calls. A context manager.

    Args:
        build: makes a server; picklable when ``workers`` > 1.
        arguments: its arguments, picklable likewise.
        workers: processes; 1 works in this one.
    """

    def __init__(self, build: Callable[..., Any], arguments: tuple[Any, ...], workers: int) -> None:
        if workers < 1:
            raise ValueError(f"expected at least one worker, got {workers}")
        self._workers = workers
        self._executor: ProcessPoolExecutor | None = None
        self._threads = torch.get_num_threads()
        if workers == 1:
            self._server = build(*arguments)
        else:
            # "spawn", not "fork": a forked copy of a process that has used OpenMP or CUDA can hang.
            self._executor = ProcessPoolExecutor(
                workers, multiprocessing.get_context("spawn"), initializer=_start, initargs=(build, arguments)
            )

    def __enter__(self) -> Pool:
        torch.set_num_threads(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        torch.set_num_threads(self._threads)
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def map(self, method: str, items: Iterable[Any]) -> Iterator[Any]:
        """The answers of ``server.method(item)`` in the order of ``items``, which are taken as they are
        needed.

        Raises:
            ChildProcessError: a worker died (killed, or out of memory).
        """
        if self._executor is None:
            yield from (getattr(self._server, method)(item) for item in items)
            return
        under_way: deque[Future[Any]] = deque()
        try:
            for item in items:
                under_way.append(self._executor.submit(_call, method, item))
                if len(under_way) > 3 * self._workers:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        except BrokenProcessPool:
            raise ChildProcessError(
                "a worker process died (out of memory?); what is finished is kept: run the same again, "
                "with fewer workers if memory is short"
            ) from None
