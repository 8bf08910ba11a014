"""Deleting the points of a job or a source: by the ids of its rows, and then whatever is left under its name."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.errors import VectorStoreUnavailable
from ke.storage.cleanup_batches import (
    Piece,
    PointBatch,
    claim_points,
    finish_points,
    open_batches,
    record_counts,
)
from ke.storage.cleanup_rows import SourceBatch, more_points_of, next_sources, points_made
from ke.storage.cleanup_targets import CleanupTarget
from ke.storage.database import Database
from ke.storage.vectors.base import MAX_BATCH, VectorStore

S = TypeVar("S")
T = TypeVar("T")


Points = Mapping[str, Sequence[uuid.UUID]]
"""Ids of points, by their collection."""


def pieces_of(points: Points, collections: Collection[str]) -> list[Piece]:
    """These points, at most `MAX_BATCH` in a piece.

    Those of a collection that is not there are left out: it never had any.
    """
    return [
        (collection, ids[first : first + MAX_BATCH])
        for collection, ids in points.items()
        if collection in collections
        for first in range(0, len(ids), MAX_BATCH)
    ]


async def points_of(database: Database, batch: SourceBatch) -> AsyncIterator[Points]:
    """The points of some sources: at once, unless one source has very many."""
    if batch.points is not None:
        yield batch.points
        return
    after = 0
    while True:
        async with database.transaction() as connection:
            page = await more_points_of(connection, batch, after)
        if page is None:
            return
        yield page.ids
        after = page.last_seq


class PointSweep:
    """The points of one cleanup. Any part may be repeated, by any number of sweeps at once."""

    def __init__(self, database: Database, vectors: VectorStore, target: CleanupTarget) -> None:
        """Takes the stores, and what the cleanup is about."""
        self._database = database
        self._vectors = vectors
        self._target = target
        self._under_way: set[int] = set()
        """Numbers of the batches it works on, no two of which have a point in common."""

    async def pieces(self) -> AsyncIterator[Piece]:
        """All points there may be, at most `MAX_BATCH` of one collection at a time; few are in memory at once.

        First those of the target's rows, then what has no row.
        """
        present = set(await self._vectors.collections())
        async for points in self._of_rows():
            for piece in pieces_of(points, present):
                yield piece
        async for piece in self.left():
            yield piece

    async def left(self) -> AsyncIterator[Piece]:
        """Points that belong to the target by its name: where those of its rows are deleted, those that have none."""
        for collection in await self._vectors.collections():
            after: uuid.UUID | None = None
            while ids := await self._target.scroll_points(self._vectors, collection, limit=MAX_BATCH, after=after):
                yield collection, ids
                after = ids[-1]

    async def _of_rows(self) -> AsyncIterator[Points]:
        after = 0
        while batch := await self._read(next_sources, self._target, after):
            async for points in points_of(self._database, batch):
                yield points
            after = batch.last_seq
        after = 0
        while page := await self._read(points_made, self._target, after):
            yield page.ids
            after = page.last_seq

    async def _read(self, read: Callable[[AsyncConnection, S, int], Awaitable[T]], of: S, after: int) -> T:
        async with self._database.transaction() as connection:
            return await read(connection, of, after)

    async def finish_open(self) -> None:
        """Finishes what an attempt that is gone has left half done."""
        async with self._database.transaction() as connection:
            left = await open_batches(connection, self._target.receipt_id)
        await self._finish(left)

    async def delete(self, pieces: Sequence[Piece]) -> None:
        """Deletes these points and records how many there were, at most `MAX_BATCH` in a batch of its own.

        Raises:
            VectorStoreUnavailable: The store did not answer, or has points that it was told to delete.
            DatabaseUnavailable: Postgres did not answer.
        """
        while pieces:
            async with self._database.transaction() as connection:
                batches, others = await claim_points(
                    connection, self._target.receipt_id, pieces, under_way=self._under_way
                )
            if not batches:
                await self._finish(others)
                continue
            numbers = {batch.number for batch in batches}
            self._under_way |= numbers
            try:
                await self._finish(batches)
            finally:
                self._under_way -= numbers
            return

    async def _finish(self, batches: Sequence[PointBatch]) -> None:
        uncounted = [batch for batch in batches if not batch.counted]
        if uncounted:
            found = await asyncio.gather(*(self._vectors.count_ids(batch.collection, batch.ids) for batch in uncounted))
            async with self._database.transaction() as connection:
                await record_counts(connection, list(zip(uncounted, found, strict=True)))
        # Side by side, so that the store makes them durable together.
        left = await asyncio.gather(*(self._vectors.delete(batch.collection, batch.ids) for batch in batches))
        if any(left):
            raise VectorStoreUnavailable(f"{sum(left)} points are still there after they were deleted.")
        if batches:
            async with self._database.transaction() as connection:
                await finish_points(connection, batches)
