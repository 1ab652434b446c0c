"""Runs tasks in this process, in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

from ..machine import threads

ENGINES = ("local", "ray")
# Consecutive deaths of processes without a finished task, after which the task is taken to be the cause.
DEATHS = 3
_worker: Callable[[Any], Any] | None = None
_ray_worker: tuple[Any, Callable[[Any], Any]] | None = None
Make = Callable[[Any], Callable[[Any], Any]]


def run_tasks(
    make: Make,
    job: Any,
    tasks: Iterable[Any],
    *,
    workers: int,
    engine: str = "local",
    address: str = "auto",
    device: str = "cpu",
) -> Iterator[tuple[Any, Any]]:
    """Run ``make(job)(task)`` for every task, a few at a time. A task whose process dies is run again.

    Args:
        make: makes the function that runs tasks, once in each process; importable there. ``job`` is its argument.
        job, tasks: picklable; tasks are taken as they are needed.
        workers: processes, one thread each. For Ray 0 takes one for each free core of the cluster (each free GPU, if
            ``device`` is one).
        engine: one of :data:`ENGINES`.
        address: of the Ray cluster (``auto``, ``HOST:PORT``, ``ray://HOST:PORT``), or ``local`` for one on this
            machine, which ends with the run.
        device: device of the tasks.

    Yields:
        each task and its result, in the order in which they are done. ChildProcessError if processes died again and
        again (killed, or out of memory).
    """
    if engine not in ENGINES:
        raise ValueError(f"expected an engine of {', '.join(ENGINES)}, got {engine!r}")
    if workers < (engine == "local"):
        raise ValueError(f"expected at least one worker (on Ray also 0, for all of it), got {workers}")
    if engine == "ray":
        yield from _on_ray(make, job, tasks, workers, address, device)
    elif workers > 1:
        yield from _in_processes(make, job, tasks, workers)
    else:
        with threads(1):
            work = make(job)
            yield from ((task, work(task)) for task in tasks)


def _in_processes(make: Make, job: Any, tasks: Iterable[Any], workers: int) -> Iterator[tuple[Any, Any]]:
    # A forked copy of a process that has used CUDA can hang. Elsewhere fork saves seconds of imports.
    method = "fork" if sys.platform == "linux" and not torch.cuda.is_initialized() else "spawn"
    context = multiprocessing.get_context(method)
    start_pool = partial(ProcessPoolExecutor, workers, context, initializer=_start, initargs=(make, job))
    waiting, remaining = deque[Any](), iter(tasks)
    under_way: dict[Future[Any], Any] = {}
    deaths = 0
    with threads(1):
        pool = start_pool()
        try:
            while True:
                try:
                    while len(under_way) <= workers and (waiting or (task := next(remaining, None))):
                        if not waiting:
                            waiting.append(task)
                        with _without_main():
                            future = pool.submit(_run, waiting[0])  # fails where a process died
                        under_way[future] = waiting.popleft()
                    if not under_way:
                        return
                    for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                        result = future.result()
                        deaths = 0
                        yield under_way.pop(future), result
                except BrokenProcessPool:
                    deaths += 1
                    waiting.extendleft(reversed(under_way.values()))
                    under_way.clear()
                    if deaths >= DEATHS:
                        raise ChildProcessError(
                            f"worker processes died {DEATHS} times (out of memory?), the last time over {waiting[0]}; "
                            "finished shards are kept; run the command again, with fewer workers if memory is short"
                        ) from None
                    pool.shutdown(cancel_futures=True)
                    pool = start_pool()
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide the main module from new processes.

    A spawned process imports it again, and a script without the usual guard would start the preparation again.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _start(make: Make, job: Any) -> None:
    """Runs once in each process."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _worker = make(job)


def _die_with_parent() -> None:
    # Readers of the queue are not notified when the parent is killed.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(task: Any) -> Any:
    assert _worker is not None
    return _worker(task)


def _on_ray(
    make: Make, job: Any, tasks: Iterable[Any], workers: int, address: str, device: str
) -> Iterator[tuple[Any, Any]]:
    try:
        ray: Any = import_module("ray")
    except ModuleNotFoundError:
        raise ModuleNotFoundError('the engine ray needs the extra: pip install "audiotok[ray]"') from None
    owns, gpus = not ray.is_initialized(), int(device.startswith("cuda"))
    if owns:
        local: dict[str, Any] = {}
        if address == "local":
            # Ray runs workers at nice 15 by default, which leaves them little time on a busy machine.
            os.environ.setdefault("RAY_worker_niceness", "0")
            local = {"num_cpus": workers or None, "include_dashboard": False}
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
    try:
        count = workers or max(1, int(ray.available_resources().get("GPU" if gpus else "CPU", 0)))
        run: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=DEATHS)(_run_on_ray)
        setup = [ray.put((make, job))]  # in a list: the reference is passed on, and fetched once a process
        remaining, under_way = iter(tasks), dict[Any, Any]()
        while True:
            while len(under_way) <= count and (task := next(remaining, None)):
                under_way[run.remote(setup, task)] = task
            if not under_way:
                return
            for ref in ray.wait(list(under_way))[0]:
                task = under_way.pop(ref)
                try:
                    result = ray.get(ref)
                except ray.exceptions.RayTaskError:  # an error of the task
                    raise
                except ray.exceptions.RayError as error:
                    raise ChildProcessError(
                        f"Ray lost the process of {task} {DEATHS} times ({str(error).splitlines()[0]}); finished "
                        "shards are kept; run the command again"
                    ) from None
                yield task, result
    finally:
        if owns:
            ray.shutdown()


def _run_on_ray(setup: list[Any], task: Any) -> Any:
    global _ray_worker
    if _ray_worker is None or _ray_worker[0] != setup[0]:
        import ray

        torch.set_num_threads(1)
        make, job = ray.get(setup[0])
        _ray_worker = setup[0], make(job)
    return _ray_worker[1](task)
