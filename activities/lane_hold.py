"""A slice's hold on its shard of a collect lane: its transactions, and its part of the job's limits."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.activities import CollectSlice
from ke.contracts.jobs import Counters, Lane
from ke.storage import collect_shards
from ke.storage.collect_shards import Held, Shard
from ke.storage.database import Database
from ke.storage.jobs import LaneProgress, hold_fence, lane_progress


class LaneHold:
    """One slice's lease, and what it knows of the lane as of its last transaction.

    Attributes:
        claim: The lease, under which the slice also claims pages.
        shard: The hosts that it works on.
        totals: The counters of the whole lane.
        others: What the lane's other shards have under way; nothing where there is none.
        ended: Why another shard has found the lane to be at its end; None when it is not.
    """

    def __init__(self, database: Database, piece: CollectSlice) -> None:
        self._database = database
        self._job_id = uuid.UUID(piece.job_id)
        self._epoch = piece.epoch
        self.claim = uuid.uuid4()
        self.shard = Shard(piece.shard, piece.shards)
        self.totals = Counters()
        self.others = Held()
        self.ended: str | None = None

    async def take(self, connection: AsyncConnection) -> LaneProgress:
        """Takes the shard over from whoever had it; returns how far the lane is, with the shard's own note."""
        await collect_shards.queue_up(connection, self._job_id, self.shard)
        await hold_fence(connection, self._job_id, self._epoch)
        progress = await collect_shards.take_shard(connection, self._job_id, self.shard, self.claim)
        self.totals = progress.counters
        return progress

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that is refused once the job may not be written, or another attempt has the shard."""
        async with self._database.transaction() as connection:
            await collect_shards.queue_up(connection, self._job_id, self.shard)
            await hold_fence(connection, self._job_id, self._epoch)
            await collect_shards.hold_shard(connection, self._job_id, self.shard, self.claim)
            yield connection

    async def look(self, connection: AsyncConnection) -> None:
        """Learns what the other shards have done and have under way; it stays so until this transaction ends."""
        if self.shard.is_whole:
            return
        progress = await lane_progress(connection, self._job_id, Lane.COLLECT)
        self.totals = progress.counters
        self.ended = progress.note if progress.done else None
        self.others = await collect_shards.held_by_others(connection, self._job_id, self.shard)

    async def reserve(self, connection: AsyncConnection, held: Held) -> None:
        """Makes this what the shard has under way, in the eyes of all other shards."""
        if not self.shard.is_whole:
            await collect_shards.hold_pages(connection, self._job_id, self.shard, held)

    async def write_note(self, note: str) -> None:
        """Says what the slice waits for, "" when it does not."""
        async with self.writing() as connection:
            await collect_shards.write_note(connection, self._job_id, self.shard, note)
