"""What an attempt at a slice of an undivided lane holds while it writes: the job's fence and the lane's lease."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.jobs import Lane
from ke.storage.database import Database
from ke.storage.jobs import hold_fence, hold_lease, take_lease


class LaneLease:
    """One attempt's lease of a lane; `claim` is the mark of the attempt."""

    def __init__(self, database: Database, job_id: uuid.UUID, epoch: int, lane: Lane) -> None:
        self.claim = uuid.uuid4()
        self._database = database
        self._job_id = job_id
        self._epoch = epoch
        self._lane = lane

    @asynccontextmanager
    async def taking(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that takes the lane over from whoever had it.

        Raises:
            Fenced: The job may not be written any more.
        """
        async with self._database.transaction() as connection:
            await hold_fence(connection, self._job_id, self._epoch)
            await take_lease(connection, self._job_id, self._lane, self.claim)
            yield connection

    @asynccontextmanager
    async def holding(self) -> AsyncIterator[AsyncConnection]:
        """A transaction under the lease.

        Raises:
            Fenced: The job may not be written any more.
            WorkLost: Another attempt has taken the lane over.
        """
        async with self._database.transaction() as connection:
            await hold_fence(connection, self._job_id, self._epoch)
            await hold_lease(connection, self._job_id, self._lane, self.claim)
            yield connection
