"""Deleting the points of a job or a source: by the ids of its rows, and then whatever is left under its name."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Collection, Iterable, Sequence

from ke.contracts.errors import VectorStoreUnavailable
from ke.storage.cleanup_batches import (
    Piece,
    PointBatch,
    claim_points,
    finish_points,
    open_batches,
    record_counts,
)
from ke.storage.cleanup_rows import next_made, owned_ids
from ke.storage.cleanup_targets import CleanupTarget
from ke.storage.database import Database
from ke.storage.vectors.base import MAX_BATCH, VectorStore


def pieces_of(rows: Iterable[tuple[uuid.UUID, str]], collections: Collection[str]) -> list[Piece]:
    """The points of rows, of which these are ids and collections, at most `MAX_BATCH` in a piece.

    Those of a collection that is not there are left out: it never had any.
    """
    ids: dict[str, list[uuid.UUID]] = {}
    for point, collection in rows:
        if collection in collections:
            ids.setdefault(collection, []).append(point)
    return [
        (collection, found[first : first + MAX_BATCH])
        for collection, found in ids.items()
        for first in range(0, len(found), MAX_BATCH)
    ]


class PointSweep:
    """The points of one cleanup. Any part may be repeated, by any number of sweeps at once."""

    def __init__(self, database: Database, vectors: VectorStore, target: CleanupTarget) -> None:
        """Takes the stores, and what the cleanup is about."""
        self._database = database
        self._vectors = vectors
        self._target = target

    async def pieces(self) -> AsyncIterator[Piece]:
        """All points there may be, at most `MAX_BATCH` of one collection at a time; few are in memory at once.

        First those of the target's rows, then what has no row.
        """
        present = set(await self._vectors.collections())
        async for page in self._of_rows():
            for piece in pieces_of(page, present):
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

    async def _of_rows(self) -> AsyncIterator[Sequence[tuple[uuid.UUID, str]]]:
        after: uuid.UUID | None = None
        while True:
            async with self._database.transaction() as connection:
                owned = await owned_ids(connection, self._target, after, MAX_BATCH)
            if not owned:
                break
            yield owned
            after = owned[-1][0]
        seq = 0
        while True:
            async with self._database.transaction() as connection:
                made = await next_made(connection, self._target, seq, MAX_BATCH)
            if not made:
                return
            yield [(point, collection) for _, point, collection in made]
            seq = made[-1][0]

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
                batches, others = await claim_points(connection, self._target.receipt_id, pieces)
            await self._finish(batches or others)
            if batches:
                return

    async def _finish(self, batches: Sequence[PointBatch]) -> None:
        uncounted = [batch for batch in batches if not batch.counted]
        if uncounted:
            found = await asyncio.gather(*(self._vectors.count_ids(batch.collection, batch.ids) for batch in uncounted))
            async with self._database.transaction() as connection:
                await record_counts(connection, zip(uncounted, found, strict=True))
        # Side by side, so that the store makes them durable together.
        left = await asyncio.gather(*(self._vectors.delete(batch.collection, batch.ids) for batch in batches))
        if any(left):
            raise VectorStoreUnavailable(f"{sum(left)} points are still there after they were deleted.")
        if batches:
            async with self._database.transaction() as connection:
                await finish_points(connection, batches)
