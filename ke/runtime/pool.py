"""Processes for work that would block the event loop: parsing, chunking, embedding, entities."""

import asyncio
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, resource_tracker
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Final, ParamSpec, TypeVar

from ke.contracts.errors import WorkLost
from ke.niceness import give_way

P = ParamSpec("P")
T = TypeVar("T")

NICENESS: Final = 10
"""So that the event loops, Postgres and Temporal get their turn at once on a machine whose cores the pool fills: a
cancel waits for a dozen of them."""
ENTITIES_NICENESS: Final = 15
"""Of the pool that finds entities: of a core that both want a third of the other pool's share, of an idle one all."""
_ONE_THREAD: Final = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""For the native libraries in a pool process: the pool is the parallelism."""


class CpuPool:
    """A process pool that outlives its processes and does not outlive its owner.

    Functions and arguments are pickled, so a function is one of an importable module, not of the script that runs;
    processes are started by `spawn`, one with each of the first calls. A call should take at most 200 ms, so that a
    cancelled job does not hold a process for long.
    """

    def __init__(self, processes: int, *, niceness: int = NICENESS) -> None:
        """Takes the number of processes, and by how much they are nicer than their owner; none is started yet."""
        self._processes = processes
        self._niceness = niceness
        self._executor: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()
        self._closed = False

    @property
    def processes(self) -> int:
        """How many functions run at once."""
        return self._processes

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The function's result, or its exception.

        A caller that is cancelled lets go of the call: it is dropped when it still waits, and its result is when it
        runs.

        Raises:
            WorkLost: A pool process died while this call waited or ran. All calls in the pool are lost with it, as
                nobody knows which one it had; the pool has new processes at once.
            RuntimeError: The pool is closed.
            ValueError: The function is of the script that runs, which pool processes do not import.
        """
        if getattr(function, "__module__", None) == "__main__":
            raise ValueError(f"{function} is of the main module, which pool processes do not have")
        executor = self._open()
        try:
            with _inherited():  # a submit starts a process when none is idle and there may be more
                call = executor.submit(function, *args, **kwargs)
            return await asyncio.wrap_future(call)
        except BrokenProcessPool as error:
            self._replace(executor)
            raise WorkLost("a pool process died") from error

    async def close(self, timeout_s: float = 5.0) -> None:
        """Ends all processes: those still at work after `timeout_s` seconds are killed."""
        self._closed = True
        executor, self._executor = self._executor, None
        if executor is not None:
            await asyncio.to_thread(_end, executor, timeout_s)

    def _open(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is closed")
            if self._executor is None:
                self._executor = ProcessPoolExecutor(
                    self._processes,
                    mp_context=multiprocessing.get_context("spawn"),
                    initializer=_enter,
                    initargs=(self._niceness,),
                )
            return self._executor

    def _replace(self, broken: ProcessPoolExecutor) -> None:
        """Lets go of a broken pool; the first of its callers does it for all, and the next call makes a new one."""
        with self._lock:
            if self._executor is broken:
                self._executor = None
        broken.shutdown(wait=False)


@contextlib.contextmanager
def _inherited() -> Iterator[None]:
    """Sets what a process that is started inside inherits, and puts it back.

    SIGINT blocked until it ignores it, and no main module: `spawn` would import the owner's script in each process,
    95 MB and seconds for what no pool function uses. The environment is left alone: it must not change in a process
    with native threads, such as those of Temporal's client, which read it at any time and would crash.
    """
    resource_tracker.ensure_running()  # would unblock SIGINT if it had to start in between
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _enter(niceness: int) -> None:
    """The first thing in a pool process."""
    os.environ.update(_ONE_THREAD)  # before a library that reads it is loaded, and before there is a second thread
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the owner, which drains
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    give_way(niceness)
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()


def _end_with_parent() -> None:
    """A pool process whose owner was killed would wait for work for ever: it holds both ends of its queue."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
    os._exit(1)


def _end(executor: ProcessPoolExecutor, timeout_s: float) -> None:
    # The executor has no public way to its processes before Python 3.14.
    processes: list[BaseProcess] = list((executor._processes or {}).values())  # noqa: SLF001

    def kill() -> None:
        for process in processes:
            with contextlib.suppress(ValueError):  # it has ended and was closed
                process.kill()

    late = threading.Timer(timeout_s, kill)
    late.start()
    executor.shutdown(wait=True, cancel_futures=True)
    late.cancel()
