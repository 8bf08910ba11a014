"""Optimises collections beside the calls: a copy is built by another process, and takes the collection's place.

Everything that touches the engine is a short call in its thread, in order with all the others, so no write falls
between two of them. Until the last step the collection is what it was; a crash before it leaves a folder that the
next start removes, and one after it leaves the old folder, which is removed too.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from ke.storage.vectors import edge_builder, edge_frames, edge_optimise
from ke.storage.vectors.edge_engine import EdgeEngine
from ke.storage.vectors.edge_files import Collection
from ke.storage.vectors.edge_frames import Kind
from ke.storage.vectors.edge_optimise import Copy, NoCopy, Tuning
from ke.storage.vectors.edge_worker import EngineThread

T = TypeVar("T")

log = logging.getLogger("ke.vectors")

_PAGE: Final = 64
"""Points in one step: some 2 ms in which the engine's thread does nothing else."""
_LEFT: Final = 256
"""So many changes are not worth another round with the builder, or another step before the last one."""
_ROUNDS: Final = 1_000_000 // _PAGE
"""Changes are written faster than they are put right only when something is wrong."""
_RETRY_S: Final = 60.0
_RETRY_CAP_S: Final = 3600.0
_BUILD_S: Final = 3600.0
"""For one answer of the builder."""


class Optimiser:
    """Looks for collections that should be optimised, and optimises them one at a time."""

    def __init__(self, engine: EngineThread, folder: Path, tuning: Tuning) -> None:
        """Takes the engine's thread and the folder it has open."""
        self._engine = engine
        self._lock = edge_builder.lock_of(folder)
        self._tuning = tuning

    async def run(self) -> None:
        """Goes on until it is cancelled; a failure is logged, and tried again a minute later, then ever more rarely."""
        pause_s = _RETRY_S
        while True:
            await asyncio.sleep(self._tuning.check_s)
            try:
                if name := await self._engine.read(lambda engine: edge_optimise.due(engine, self._tuning)):
                    await self._optimise(name)
                    pause_s = _RETRY_S
            except Exception:  # the engine raises nothing narrower; the collection is as it was
                log.exception("a collection could not be optimised; tried again in %.0f s", pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _RETRY_CAP_S)

    async def _optimise(self, name: str) -> None:
        started_s = time.monotonic()
        collection = await self._engine.read(lambda engine: engine.collection(name))
        copy = await self._engine.read(lambda _: edge_optimise.begin(collection))
        build = _Build(self._engine, collection, copy)
        try:
            await build.run(self._lock, self._tuning)
        finally:
            try:
                await build.call(lambda: edge_optimise.end(collection, copy))
            finally:
                await asyncio.to_thread(shutil.rmtree, copy.folder, ignore_errors=True)
        took_s = time.monotonic() - started_s
        log.info("collection %s is optimised, after %.1f s; others waited up to %.3f s", name, took_s, build.longest_s)


class _Build:
    """One copy of one collection."""

    def __init__(self, engine: EngineThread, collection: Collection, copy: Copy) -> None:
        self._engine = engine
        self._collection = collection
        self._copy = copy
        self.longest_s = 0.0
        """How long the longest step has kept the engine's thread from others."""

    async def run(self, lock: Path, tuning: Tuning) -> None:
        """Makes the copy and puts it in the collection's place."""
        builder = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "ke.storage.vectors.edge_builder"),
            *("--folder", str(self._copy.folder), "--lock", str(lock), "--parent", str(os.getpid())),
            *("--dimensions", str(self._collection.dimensions), "--full-scan-kb", str(tuning.full_scan_kb)),
            stdin=PIPE,
            stdout=PIPE,
        )
        try:
            await self._feed(builder)
        finally:
            with contextlib.suppress(ProcessLookupError):
                builder.kill()
            await builder.wait()
        await self._replace()

    async def _feed(self, builder: Process) -> None:
        collection, copy = self._collection, self._copy
        while page := await self._step(lambda: edge_optimise.next_page(collection, copy, _PAGE)):
            await _send(builder, page)
        await _send(builder, edge_frames.order(Kind.BUILD))
        await _expect(builder, edge_builder.BUILT)
        for _ in range(_ROUNDS):
            if len(copy.lacks.noted) <= _LEFT:
                break
            await _send(builder, await self._step(lambda: edge_optimise.next_changes(collection, copy, _PAGE)))
        await _send(builder, edge_frames.order(Kind.CLOSE))
        await _expect(builder, edge_builder.CLOSED)

    async def _replace(self) -> None:
        collection, copy = self._collection, self._copy
        await self._step(lambda: edge_optimise.open_copy(copy))
        for _ in range(_ROUNDS):
            if await self._step(lambda: edge_optimise.catch_up(collection, copy, _PAGE)) <= _PAGE:
                break
        await self.call(lambda: edge_optimise.swap(collection, copy))

    async def _step(self, run: Callable[[], T]) -> T:
        """One call in the engine's thread, and as long a pause: others have half of its time at least."""
        started_s = time.monotonic()
        result = await self.call(run)
        await asyncio.sleep(time.monotonic() - started_s)
        return result

    async def call(self, run: Callable[[], T]) -> T:
        """The result of a step in the engine's thread."""

        def timed(_: EdgeEngine) -> T:
            started_s = time.monotonic()
            try:
                return run()
            finally:
                self.longest_s = max(self.longest_s, time.monotonic() - started_s)

        return await self._engine.read(timed)


async def _send(builder: Process, frames: bytes) -> None:
    if builder.stdin is None:
        raise NoCopy("the builder has no standard input")
    try:
        builder.stdin.write(frames)
        async with asyncio.timeout(_BUILD_S):
            await builder.stdin.drain()
    except (OSError, TimeoutError) as error:
        raise NoCopy(f"the builder takes nothing more: {error or type(error).__name__}") from error


async def _expect(builder: Process, answer: bytes) -> None:
    if builder.stdout is None:
        raise NoCopy("the builder has no standard output")
    try:
        async with asyncio.timeout(_BUILD_S):
            line = await builder.stdout.readline()
    except TimeoutError as error:
        raise NoCopy(f"the builder did not answer within {_BUILD_S:.0f} s") from error
    if line != answer:
        raise NoCopy(f"the builder ended before it said {answer.decode().strip()}")
