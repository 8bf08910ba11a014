"""Deleting the points of a job or a source: by the ids of its rows, and then whatever is left under its name."""

import uuid
from collections.abc import AsyncIterator, Sequence

from ke.contracts.errors import VectorStoreUnavailable
from ke.storage.cleanup_batches import (
    PointBatch,
    claim_points,
    finish_points,
    is_counted,
    open_batches,
    record_count,
)
from ke.storage.cleanup_rows import made_ids, owned_ids
from ke.storage.cleanup_targets import CleanupTarget
from ke.storage.database import Database
from ke.storage.vectors.base import MAX_BATCH, VectorStore


class PointSweep:
    """The points of one cleanup. Any part may be repeated, by any number of sweeps at once."""

    def __init__(self, database: Database, vectors: VectorStore, target: CleanupTarget) -> None:
        """Takes the stores, and what the cleanup is about."""
        self._database = database
        self._vectors = vectors
        self._target = target

    async def pieces(self) -> AsyncIterator[tuple[str, list[uuid.UUID]]]:
        """All points there may be, at most `MAX_BATCH` of one collection at a time; few are in memory at once.

        First those of the target's rows. What comes after them are points that belong to it and have no row; as they
        are looked up by its name they are exactly those that were not deleted by then.
        """
        present = await self._vectors.collections()
        async for piece in self._of_rows():
            for collection in {collection for _, collection in piece} & set(present):
                yield collection, [point for point, name in piece if name == collection]
        for collection in present:
            after: uuid.UUID | None = None
            while ids := await self._target.scroll_points(self._vectors, collection, limit=MAX_BATCH, after=after):
                yield collection, list(ids)
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
                made = await made_ids(connection, self._target, seq, MAX_BATCH)
            if not made:
                return
            yield [(point, collection) for _, point, collection in made]
            seq = made[-1][0]

    async def finish_open(self) -> None:
        """Finishes what an attempt that is gone has left half done."""
        async with self._database.transaction() as connection:
            left = await open_batches(connection, self._target.receipt_id)
        for batch in left:
            await self._finish(batch)

    async def delete(self, collection: str, ids: Sequence[uuid.UUID]) -> None:
        """Deletes these points and records how many there were; ids without a point cost one count.

        Raises:
            VectorStoreUnavailable: The store did not answer, or has points that it was told to delete.
            DatabaseUnavailable: Postgres did not answer.
        """
        while await self._vectors.count_ids(collection, ids):
            async with self._database.transaction() as connection:
                batch, others = await claim_points(connection, self._target.receipt_id, collection, ids)
            for other in others:
                await self._finish(other)
            if batch is not None:
                await self._finish(batch)
                return

    async def _finish(self, batch: PointBatch) -> None:
        async with self._database.transaction() as connection:
            counted = await is_counted(connection, batch)
        if not counted:
            count = await self._vectors.count_ids(batch.collection, batch.ids)
            async with self._database.transaction() as connection:
                await record_count(connection, batch, count)
        await self._vectors.delete(batch.collection, batch.ids)
        left = await self._vectors.count_ids(batch.collection, batch.ids)
        if left:
            raise VectorStoreUnavailable(f"{left} points are still in {batch.collection} after they were deleted.")
        async with self._database.transaction() as connection:
            await finish_points(connection, batch)
