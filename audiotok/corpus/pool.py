"""Calls spread over processes of this machine, answered in order.

Knows nothing of what is computed. The law it keeps: the same answers whether one process works or many, and whatever
becomes of a process on the way; one thread each; and no worker outlives its parent, however that ends.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import ModuleType, TracebackType
from typing import Any, Protocol

import torch

# Times in a row that the oldest unanswered call may lose its worker before it is taken to be the cause.
DEATHS = 3
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_server: Any = None


class Call:
    """A call under way: a method of a server and its argument."""

    def __init__(self, method: str, item: Any) -> None:
        self.method = method
        self.item = item
        self.future: Any = None


class Engine(Protocol):
    """What spreads calls: processes of this machine, or of a cluster. A context manager.

    Attributes:
        workers: how many calls are worked on at a time.
    """

    workers: int

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def submit(self, method: str, item: Any) -> Call:
        """Begin a call of ``server.method(item)``."""
        ...

    def result(self, call: Call) -> Any:
        """Its answer, waited for."""
        ...


class Pool:
    """Servers, one a process, that answer calls. A context manager.

    Args:
        build: makes a server; picklable when ``workers`` > 1.
        arguments: its arguments, picklable likewise.
        workers: processes; 1 works in this one.

    Raises:
        ValueError: there is no worker.
    """

    def __init__(self, build: Callable[..., Any], arguments: tuple[Any, ...], workers: int) -> None:
        if workers < 1:
            raise ValueError(f"expected at least one worker, got {workers}")
        self.workers = workers
        self._start_with = (build, arguments)
        self._threads = torch.get_num_threads()
        self._open: dict[int, Call] = {}
        self._deaths = 0
        self._server = build(*arguments) if workers == 1 else None
        self._executor = self._start() if workers > 1 else None

    def __enter__(self) -> Pool:
        torch.set_num_threads(1)
        if self._executor is not None:
            with _without_main():  # starts all processes: they load while the caller still reads its source
                self._executor.submit(os.getpid)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        torch.set_num_threads(self._threads)
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def submit(self, method: str, item: Any) -> Call:
        """Begin a call of ``server.method(item)``; without processes it is done when its answer is asked for."""
        call = Call(method, item)
        if self._executor is not None:
            self._open[id(call)] = call
            self._send(call)
        return call

    def result(self, call: Call) -> Any:
        """The answer of a call, waited for.

        Raises:
            ChildProcessError: its worker died again and again (killed, or out of memory).
        """
        if self._executor is None:
            return getattr(self._server, call.method)(call.item)
        while True:
            try:
                answer = call.future.result()
                break
            except BrokenProcessPool:
                self._restart()
        del self._open[id(call)]
        self._deaths = 0
        return answer

    def _start(self, method: str | None = None) -> ProcessPoolExecutor:
        context = multiprocessing.get_context(method or start_method())
        return ProcessPoolExecutor(self.workers, context, initializer=_start, initargs=self._start_with)

    def _send(self, call: Call) -> None:
        assert self._executor is not None
        try:
            with _without_main():
                call.future = self._executor.submit(_call, call.method, call.item)
        except BrokenProcessPool as error:
            call.future = Future()
            call.future.set_exception(error)

    def _restart(self) -> None:
        """New processes for all calls under way, after one of the old ones died."""
        self._deaths += 1
        lost = [call for call in self._open.values() if not call.future.done() or call.future.exception()]
        if self._deaths >= DEATHS:
            ids = ", ".join(str(getattr(row, "id", row)) for row in lost[0].item)
            raise ChildProcessError(
                f"a worker process died {DEATHS} times over the rows {ids} (out of memory?); what is finished is "
                "kept: run the same again, with fewer workers or a smaller batch if memory is short"
            )
        assert self._executor is not None
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._executor = self._start("spawn")  # the old one's threads may still hold locks
        for call in lost:
            self._send(call)


def start_method() -> str:
    """How worker processes come to be: "fork" where it is safe, for that saves seconds of imports; else "spawn".

    A forked copy of a process that has used CUDA, or one that goes on to use several OpenMP threads, can hang. Ours use
    one thread, as the workers of torch's DataLoader do.
    """
    return "fork" if sys.platform == "linux" and not torch.cuda.is_initialized() else "spawn"


def _start(build: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Runs once in each worker process."""
    global _server
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # what the parent does about it, it inherited when forked
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _keep_memory()
    _server = build(*arguments)


def _keep_memory() -> None:
    """Have glibc keep what was freed: batches of ever new sizes would else be given back and fetched page by page.

    Such a process works a tenth faster. Elsewhere (macOS, Windows, musl) nothing is changed.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def _die_with_parent() -> None:
    # A killed parent leaves its workers waiting on a queue for ever; the queue alone would never tell them.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(method: str, item: Any) -> Any:
    return getattr(_server, method)(item)


@contextmanager
def _without_main() -> Iterator[None]:
    """Start processes as if this one had no main module.

    A spawned process runs the parent's main module again. Ours need nothing of it, and it may not be there (code from
    stdin or a notebook) or start a preparation of its own (a script without the usual guard).
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
