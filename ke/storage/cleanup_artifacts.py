"""Deleting what a target made: of each batch the points first and then the rows, a few batches side by side.

The rows are the only index of their points' ids, so a batch's rows go when its points are gone: a crash leaves rows
that can be found, never points that cannot. The vector store deletes the points of one batch while Postgres deletes
the rows of another.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Final

from ke import tasks
from ke.storage import cleanup_rows as rows
from ke.storage.cleanup_points import PointSweep, pieces_of, points_of
from ke.storage.cleanup_targets import CleanupTarget
from ke.storage.database import Database
from ke.storage.vectors.base import VectorStore

_AT_ONCE: Final = 3
"""Batches under way: one whose points are counted, one whose points and one whose rows are deleted."""

_Deletion = Coroutine[None, None, None]


class ArtifactSweep:
    """The sources and extractions of one cleanup, with their points. It may be repeated, by any number at once."""

    def __init__(
        self, database: Database, vectors: VectorStore, target: CleanupTarget, stopping: Callable[[], bool]
    ) -> None:
        """Takes the stores, what the cleanup is about, and what tells that no further batch is to be begun."""
        self._database = database
        self._vectors = vectors
        self._target = target
        self._stopping = stopping
        self._points = PointSweep(database, vectors, target)
        self._rows = asyncio.Lock()
        """They wait for each other at the receipt: here, and not each with a connection of its own."""
        self._progress: Callable[[str], None] = lambda _: None
        self._collections: frozenset[str] = frozenset()

    async def run(self, progress: Callable[[str], None]) -> None:
        """Deletes all there is, or what was begun when it is to stop.

        Args:
            progress: Told what was done, after each batch.

        Raises:
            VectorStoreUnavailable: The store did not answer, or has points that it was told to delete.
            DatabaseUnavailable: Postgres did not answer.
        """
        self._progress = progress
        await self._points.finish_open()
        self._collections = frozenset(await self._vectors.collections())
        running: set[asyncio.Task[None]] = set()
        done = 0
        try:
            async for deletion in self._deletions():
                running.add(asyncio.create_task(deletion))
                if len(running) == _AT_ONCE:
                    running = await tasks.fewer(running, _AT_ONCE)
                    done += _AT_ONCE - len(running)
                    progress(f"sources and extractions, batch {done}")
            await tasks.fewer(running, 1)
        finally:
            await tasks.end(running)
        async for piece in self._points.left():
            if self._stopping():
                return
            await self._points.delete([piece])
            progress(f"points without a row, in {piece[0]}")

    async def _deletions(self) -> AsyncIterator[_Deletion]:
        after = 0
        while batch := await self._read_sources(after):
            if self._stopping():
                return
            yield self._delete_sources(batch)
            after = batch.last_seq
        after = 0
        while made := await self._read_made(after):
            if self._stopping():
                return
            yield self._delete_made(made)
            after = made.last_seq

    async def _read_sources(self, after: int) -> rows.SourceBatch | None:
        async with self._database.transaction() as connection:
            return await rows.next_sources(connection, self._target, after)

    async def _read_made(self, after: int) -> rows.PointPage | None:
        async with self._database.transaction() as connection:
            return await rows.points_made(connection, self._target, after)

    async def _delete_sources(self, batch: rows.SourceBatch) -> None:
        async for points in points_of(self._database, batch):
            await self._points.delete(pieces_of(points, self._collections))
            self._progress("points of sources")
            if self._stopping():
                return
        async with self._rows, self._database.transaction() as connection:
            await rows.delete_source_batch(connection, self._target, batch)

    async def _delete_made(self, page: rows.PointPage) -> None:
        await self._points.delete(pieces_of(page.ids, self._collections))
        if self._stopping():
            return
        async with self._rows, self._database.transaction() as connection:
            await rows.delete_made_batch(connection, self._target, page)
