"""How a retry of dead letters begins and ends; between the two the job's own lanes are at work."""

import uuid
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity

from activities.heartbeat import Beat, run_with_heartbeat
from ke.contracts import activities as contract
from ke.contracts.jobs import Lane
from ke.contracts.params import specs_of
from ke.contracts.retries import CloseRetry, OpenedRetry, RetryInput, RetryOutcome
from ke.storage import requeueing, retries
from ke.storage.database import Database
from ke.storage.jobs import JobRow, get_job, hold_fence, hold_lease, take_lease
from ke.storage.vectors.base import VectorStore


class RetryActivities(contract.RetryActivities):
    """Opens and closes retries."""

    def __init__(self, database: Database, vectors: VectorStore) -> None:
        self._database = database
        self._vectors = vectors

    @activity.defn(name="open_retry")
    async def open_retry(self, retry: RetryInput) -> OpenedRetry:
        """Writes the retry's row when it is missing, fences the job, and queues what the letters are of.

        Raises:
            NotFound: The job was deleted.
            Conflict: The start was lost, and the job cannot be retried any more.
            Fenced: A cleanup has taken the job over.
            WorkLost: Another attempt does this.
        """

        async def body(beat: Beat) -> OpenedRetry:
            async with self._database.transaction() as connection:
                row = await retries.open_retry(connection, retry)
            collect, extract = specs_of(row.kind, row.params)
            if extract is not None:
                # What a slice of before still has under way must not be taken for this retry's.
                await self._vectors.fence(row.id, row.write_epoch)
            finder = extract.entities if extract is not None else None
            schema = extract.schema if extract is not None else None
            specs = (
                (Lane.COLLECT, collect),
                (Lane.EXTRACT, extract),
                (Lane.ENTITIES, finder),
                (Lane.RECORDS, schema),
            )
            lanes = [lane for lane, spec in specs if spec is not None]
            await self._requeue(row, retry, lanes, beat)
            async with self._database.transaction() as connection:
                await hold_fence(connection, row.id, row.write_epoch)
                return await retries.plan_retry(connection, await get_job(connection, row.id), retry.id)

        return await run_with_heartbeat(body)

    async def _requeue(self, row: JobRow, retry: RetryInput, lanes: Sequence[Lane], beat: Beat) -> None:
        """Queues all that the letters are of, lane by lane, under leases of its own: there is one attempt at a time."""
        lease = uuid.uuid4()
        async with self._database.transaction() as connection:
            await hold_fence(connection, row.id, row.write_epoch)
            for lane in lanes:
                await take_lease(connection, row.id, lane, lease)
        for lane in lanes:
            after: int | None = 0
            while after is not None and not beat.stopping:
                async with self._database.transaction() as connection:
                    await hold_fence(connection, row.id, row.write_epoch)
                    await hold_lease(connection, row.id, lane, lease)
                    after = await _requeue_some(connection, row, retry, lane, after)
                beat.progress()

    @activity.defn(name="close_retry")
    async def close_retry(self, close: CloseRetry) -> RetryOutcome:
        """Buries again what was not tried, counts the job anew, and closes the retry's row."""

        async def body(beat: Beat) -> RetryOutcome:
            return await retries.end_retry(self._database, close, beat.progress)

        return await run_with_heartbeat(body)


async def _requeue_some(
    connection: AsyncConnection, row: JobRow, retry: RetryInput, lane: Lane, after: int
) -> int | None:
    """Queues what the next letters are of; returns the last letter's `seq`, or None at the end."""
    if lane is Lane.COLLECT:
        return await requeueing.requeue_pages(connection, row.id, retry.id, retry.letters, after=after)
    return await requeueing.requeue_tasks(connection, row.id, retry.id, retry.letters, lane, after=after)
