"""Calls spread over the workers of a Ray cluster, answered in order.

Knows nothing of what is computed. The law it keeps is the pool's: the same answers whatever becomes of a worker on the
way. Ray starts a lost worker again, elsewhere if need be, and gives it its calls again.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any

from .pool import DEATHS, Call


class RayPool:
    """Servers, one an actor, that answer calls. A context manager.

    Args:
        build: makes a server; importable on every node.
        arguments: its arguments.
        workers: actors; 0 takes one for each free core of the cluster (each free GPU, if ``device`` is one).
        address: of the cluster (``auto``, ``HOST:PORT``, ``ray://HOST:PORT``), or ``local`` for one on this machine,
            which ends with this pool.
        device: where the servers compute.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ConnectionError: there is no such cluster.
    """

    def __init__(
        self,
        build: Callable[..., Any],
        arguments: tuple[Any, ...],
        workers: int,
        address: str = "auto",
        device: str = "cpu",
    ) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                'the engine ray needs the extra "ray": pip install "audiotok[ray]"'
            ) from None
        if workers < 0:
            raise ValueError(f"expected at least one worker, or 0 for all of the cluster, got {workers}")
        self._ray: Any = ray
        self._owns = not ray.is_initialized()
        on_gpu = device.startswith("cuda")
        if self._owns:
            local: dict[str, Any] = {"num_cpus": workers or None, "include_dashboard": False}
            if address == "local":
                # Else Ray's workers give way to everything (nice 15): on a busy machine they hardly run.
                os.environ.setdefault("RAY_worker_niceness", "0")
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **(local if address == "local" else {}),
            )
        free = int(ray.available_resources().get("GPU" if on_gpu else "CPU", 0))
        self.workers = workers or max(1, free)
        # Sent with every call, as a reference: an actor that was started again has to begin again.
        self._start = [ray.put((build, arguments))]
        actor = ray.remote(_Actor).options(
            num_cpus=1, num_gpus=1 if on_gpu else 0, max_restarts=-1, max_task_retries=DEATHS
        )
        self._actors: list[Any] = [actor.remote() for _ in range(self.workers)]
        self._under_way: dict[Any, int] = {}  # answer -> number of the actor that works on it

    def __enter__(self) -> RayPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        if self._owns:
            self._ray.shutdown()

    def submit(self, method: str, item: Any) -> Call:
        """Begin a call of ``server.method(item)`` where the fewest are under way."""
        call = Call(method, item)
        refs = list(self._under_way)
        for ref in self._ray.wait(refs, num_returns=len(refs), timeout=0)[0] if refs else ():
            del self._under_way[ref]
        load = Counter(self._under_way.values())
        least = min(range(self.workers), key=lambda number: load[number])
        call.future = self._actors[least].call.remote(self._start, method, item)
        self._under_way[call.future] = least
        return call

    def result(self, call: Call) -> Any:
        """The answer of a call, waited for.

        Raises:
            ChildProcessError: its worker died again and again.
        """
        try:
            return self._ray.get(call.future)
        except self._ray.exceptions.RayActorError as error:
            ids = ", ".join(str(getattr(row, "id", row)) for row in call.item)
            raise ChildProcessError(
                f"Ray lost the worker of the rows {ids} {DEATHS} times ({str(error).splitlines()[0]}); what is "
                "finished is kept: run the same again"
            ) from None


class _Actor:
    """A server behind Ray, with one thread."""

    def __init__(self) -> None:
        self._server: Any = None

    def call(self, start: list[Any], method: str, item: Any) -> Any:
        """``server.method(item)`` of the server that ``start`` refers to: what makes it, and its arguments."""
        if self._server is None:
            import ray
            import torch

            torch.set_num_threads(1)
            build, arguments = ray.get(start[0])
            self._server = build(*arguments)
        return getattr(self._server, method)(item)
