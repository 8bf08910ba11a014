"""The one thread that calls the engine, so that the server's event loop stays free."""

import asyncio
import logging
import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from ke.storage.vectors.edge_engine import EdgeEngine

T = TypeVar("T")

log = logging.getLogger("ke.vectors")

FAILED_STATUS: Final = 3
"""The process's exit status when the engine itself failed, and not a call."""

_GROUP: Final = 16
"""Calls taken together, at most; their writes share one sync."""


@dataclass(slots=True)
class _Call:
    run: Callable[[EdgeEngine], Any]
    writes_to: str | None
    done: asyncio.Future[Any]
    """Of the event loop that waits."""
    result: Any = None

    def settle(self, error: BaseException | None = None) -> None:
        """From the engine's thread: has the event loop hear of it, unless it has ended."""
        with suppress(RuntimeError):
            self.done.get_loop().call_soon_threadsafe(self._hear, error)

    def _hear(self, error: BaseException | None) -> None:
        # A caller that hung up does not take back a write that is under way.
        if self.done.done():
            return
        if error is None:
            self.done.set_result(self.result)
        else:
            self.done.set_exception(error)


class EngineThread:
    """Runs calls in order of arrival; a write's caller hears of it when it is durable.

    Writes that wait together are made durable together, by one sync of the journal. Everything is done in one thread,
    so a fence that was set is seen by every write after it.
    """

    def __init__(self, engine: EdgeEngine) -> None:
        """Starts the thread; the engine is its own from here on."""
        self._engine = engine
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    async def read(self, run: Callable[[EdgeEngine], T]) -> T:
        """The result of a call that writes nothing, or is durable by itself."""
        result: T = await self._submit(run, None)
        return result

    async def write(self, collection: str, run: Callable[[EdgeEngine], T]) -> T:
        """The result of a call that writes to `collection`, after it was made durable."""
        result: T = await self._submit(run, collection)
        return result

    @property
    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def close(self, timeout_s: float) -> bool:
        """Finishes all calls, flushes and closes the engine; returns whether that was done in time."""
        self._calls.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    async def _submit(self, run: Callable[[EdgeEngine], T], writes_to: str | None) -> T:
        # Without `concurrent.futures`, which is a third of the way there and back.
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._calls.put(_Call(run, writes_to, done))
        return await done

    def _work(self) -> None:
        try:
            last = False
            while not last:
                group, last = self._next_group()
                self._run(group)
            self._engine.close()
        except BaseException:  # a panic inside the engine is no `Exception`, and leaves it in an unknown state
            log.exception("the engine failed")
            os._exit(FAILED_STATUS)

    def _next_group(self) -> tuple[list[_Call], bool]:
        group: list[_Call] = []
        call = self._calls.get()
        while call is not None:
            group.append(call)
            if len(group) == _GROUP:
                return group, False
            try:
                call = self._calls.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _run(self, group: list[_Call]) -> None:
        waiting: dict[str, list[_Call]] = {}
        for call in group:
            try:
                call.result = call.run(self._engine)
            except Exception as error:  # noqa: BLE001  the caller gets it; the thread must go on
                call.settle(error)
                continue
            if call.writes_to is None:
                call.settle()
            else:
                waiting.setdefault(call.writes_to, []).append(call)
        for collection, calls in waiting.items():
            self._sync(collection, calls)

    def _sync(self, collection: str, calls: list[_Call]) -> None:
        try:
            self._engine.sync(collection)
        except Exception as error:  # noqa: BLE001  none of these writes is durable, and their callers must know
            for call in calls:
                call.settle(error)
            return
        for call in calls:
            call.settle()
