"""The steps of a cleanup. Each may be cut short or repeated at any point; the receipt stays exact."""

import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity

from activities.heartbeat import Beat, run_with_heartbeat
from ke.contracts import activities as contract
from ke.contracts.cleanup import (
    CleanupFailure,
    CleanupInput,
    CleanupReceipt,
    CleanupScope,
    CleanupStatus,
    StoreCounts,
)
from ke.contracts.counted import counted
from ke.contracts.errors import Conflict
from ke.contracts.naming import job_workflow_id, retry_id
from ke.runtime.temporal_client import erase_workflow
from ke.storage import cleanup_rows as rows
from ke.storage.cleanup_artifacts import ArtifactSweep
from ke.storage.cleanup_points import PointSweep
from ke.storage.cleanup_runs import blocked_message, close_cleanup, fail_run, open_cleanup, record_plan
from ke.storage.cleanup_sources import open_source_cleanup
from ke.storage.cleanup_targets import CleanupTarget
from ke.storage.cleanups import row_counts, vector_counts
from ke.storage.database import Database
from ke.storage.jobs import find_job
from ke.storage.vectors.base import VectorStore

DeleteBatch = Callable[[AsyncConnection, int], Awaitable[int | None]]
"""Deletes what comes after a `seq`; returns the last `seq` it took, or None at the end."""


class CleanupActivities(contract.CleanupActivities):
    """Deletes what a job made, or what there is of a source, and accounts for it."""

    def __init__(self, database: Database, vectors: VectorStore) -> None:
        self._database = database
        self._vectors = vectors

    @activity.defn(name="begin_cleanup")
    async def begin_cleanup(self, cleanup: CleanupInput) -> CleanupReceipt:
        """Opens the receipt, fences whoever could write again in both stores, and counts what there is to delete.

        Raises:
            NotFound: There never was such a job.
            Conflict: The job is active, or active jobs extract from its sources.
        """
        run_id = activity.info().workflow_run_id or ""

        async def body(beat: Beat) -> CleanupReceipt:
            target = CleanupTarget.of(cleanup)
            open_run = open_cleanup if target.scope is CleanupScope.JOB else open_source_cleanup
            async with self._database.transaction() as connection:
                opened = await open_run(connection, cleanup, run_id)
            if opened.blocked_by:
                raise Conflict(
                    blocked_message(target, opened.blocked_by), blocked_by=[str(job) for job in opened.blocked_by]
                )
            if opened.receipt.status is CleanupStatus.CLEANED:
                return opened.receipt
            fenced = all([await self._vectors.fence(job, epoch) for job, epoch in opened.epochs.items()])
            # First, so that what an earlier run left half deleted is counted by its batch and not again here.
            await PointSweep(self._database, self._vectors, target).finish_open()
            found, _ = await self._count(target, beat)
            async with self._database.transaction() as connection:
                return await record_plan(connection, target, found, fenced=fenced)

        return await run_with_heartbeat(body)

    @activity.defn(name="delete_vectors")
    async def delete_vectors(self, cleanup: CleanupInput) -> None:
        """Deletes the points, at most 1,000 ids a batch, and then those that have no row."""

        async def body(beat: Beat) -> None:
            sweep = PointSweep(self._database, self._vectors, CleanupTarget.of(cleanup))
            await sweep.finish_open()
            seen = 0
            async for collection, ids in sweep.pieces():
                if beat.stopping:
                    return
                await sweep.delete([(collection, ids)])
                seen += len(ids)
                beat.progress(f"{seen} points, now in {collection}")

        await run_with_heartbeat(body)

    @activity.defn(name="delete_sources")
    async def delete_sources(self, cleanup: CleanupInput) -> None:
        """Deletes the sources and the points of what was made of them; extractions and entities go by cascade."""
        target = CleanupTarget.of(cleanup)

        async def body(beat: Beat) -> None:
            sweep = ArtifactSweep(self._database, self._vectors, target, lambda: beat.stopping)
            await sweep.run(beat.progress)
            await self._empty(beat, "records", lambda c, after: rows.delete_records_batch(c, target, after))
            await self._empty(beat, "tasks", lambda c, _: rows.delete_tasks_batch(c, target))

        await run_with_heartbeat(body)

    @activity.defn(name="purge_dead_letters")
    async def purge_dead_letters(self, cleanup: CleanupInput) -> None:
        """Deletes dead letters and entries of the frontier. The lanes' counters stay: they are the job's record."""
        target = CleanupTarget.of(cleanup)

        async def body(beat: Beat) -> None:
            await self._empty(beat, "dead letters", lambda c, after: rows.delete_dead_letters_batch(c, target, after))
            await self._empty(beat, "pages", lambda c, after: rows.delete_pages_batch(c, target, after))

        await run_with_heartbeat(body)

    @activity.defn(name="verify_cleanup")
    async def verify_cleanup(self, cleanup: CleanupInput) -> CleanupReceipt:
        """Counts every store exactly and closes the receipt: cleaned, or failed with what is left and where."""
        target = CleanupTarget.of(cleanup)

        async def body(beat: Beat) -> CleanupReceipt:
            remaining, by_collection = await self._count(target, beat)
            error = _what_is_left(target, remaining, by_collection) if remaining.total else None
            async with self._database.transaction() as connection:
                return await close_cleanup(connection, target, remaining, error)

        return await run_with_heartbeat(body)

    @activity.defn(name="erase_history")
    async def erase_history(self, cleanup: CleanupInput) -> None:
        """Deletes the workflows of the job and its retries from Temporal: their histories hold URLs."""
        async with self._database.transaction() as connection:
            row = await find_job(connection, uuid.UUID(cleanup.job_id))
        for number in range(1, row.retries + 1 if row else 1):
            await erase_workflow(activity.client(), retry_id(cleanup.job_id, number))
            activity.heartbeat()
        await erase_workflow(activity.client(), job_workflow_id(cleanup.job_id))

    @activity.defn(name="fail_cleanup")
    async def fail_cleanup(self, failure: CleanupFailure) -> None:
        """Closes the receipt of a run that was stopped: first that it failed, then exactly what is left."""
        run_id = activity.info().workflow_run_id or ""

        async def body(beat: Beat) -> None:
            target = CleanupTarget.of(failure)
            async with self._database.transaction() as connection:
                if not await fail_run(connection, target, run_id, failure.error):
                    return
            remaining, _ = await self._count(target, beat)
            async with self._database.transaction() as connection:
                await close_cleanup(connection, target, remaining, failure.error)

        await run_with_heartbeat(body)

    async def _count(self, target: CleanupTarget, beat: Beat) -> tuple[StoreCounts, dict[str, int]]:
        """What the target has in all stores, and its points by collection."""
        by_collection = await vector_counts(self._vectors, target)
        beat.progress()
        async with self._database.transaction() as connection:
            counted = await row_counts(connection, target)
        beat.progress()
        return replace(counted, vectors=sum(by_collection.values())), by_collection

    async def _empty(self, beat: Beat, what: str, delete: DeleteBatch) -> None:
        """Runs batches, each in a transaction of its own, until none is left or the activity is asked to stop."""
        after: int | None = 0
        batches = 0
        while after is not None and not beat.stopping:
            async with self._database.transaction() as connection:
                after = await delete(connection, after)
            batches += 1
            beat.progress(f"{what}, batch {batches}")


def _what_is_left(target: CleanupTarget, remaining: StoreCounts, by_collection: Mapping[str, int]) -> str:
    """Names what is left and where."""
    parts = [f"{counted(number, 'point')} in collection {name}" for name, number in sorted(by_collection.items())]
    # The vectors are these points.
    parts += [f"{told} in Postgres" for told in replace(remaining, vectors=0).told()]
    return f"The {target.scope} still has {', '.join(parts)}. Start the cleanup again to go on."
