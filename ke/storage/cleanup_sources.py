"""Opening the cleanup of one source: which jobs it waits for, and which it fences."""

import uuid
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.cleanup import CleanupInput, CleanupStatus
from ke.contracts.errors import Conflict, NotFound
from ke.contracts.jobs import ACTIVE
from ke.storage.cleanup_runs import OpenedCleanup, blocked_message, last_run, refuse_run, start_receipt
from ke.storage.cleanup_targets import CleanupTarget
from ke.storage.cleanups import active_dependents, get_receipt
from ke.storage.recrawls import note_missing, whole_frontiers
from ke.storage.replaced import is_replaced
from ke.storage.tables import extractions, jobs, records, sources


async def owner_of(connection: AsyncConnection, source_id: uuid.UUID) -> uuid.UUID | None:
    """The job that owns a source; None when there is no such source."""
    statement = sa.select(sources.c.job_id).where(sources.c.id == source_id)
    owner: uuid.UUID | None = (await connection.execute(statement)).scalar_one_or_none()
    return owner


async def open_source_cleanup(connection: AsyncConnection, cleanup: CleanupInput, run_id: str) -> OpenedCleanup:
    """Opens the receipt, and raises, once for each run, the write epoch of every job that could put something back.

    These are the source's owner and each job that extracted it; all have ended. A source that is cleaned keeps its
    receipt, unless a retry of its owner has stored it anew: then that goes too, under the same receipt. One that a
    cleanup of its job took meanwhile is cleaned with what this one deleted.

    Returns:
        The receipt, and the epochs; or the jobs that are in the way, in which case the receipt says so.

    Raises:
        NotFound: There never was such an owner.
        Conflict: It was to go because a re-crawl has replaced it, and that is not so any more, or jobs are in the way.
    """
    target = CleanupTarget.of(cleanup)
    blocked_by = await _hold_jobs(connection, target)
    before = await last_run(connection, target)
    is_there = await owner_of(connection, _source_of(target)) is not None
    if before is not None and before.status is CleanupStatus.CLEANED and not is_there:
        return OpenedCleanup(await get_receipt(connection, target.receipt_id))
    blocked_by += [job for job in await active_dependents(connection, target.job_id) if job not in blocked_by]
    if cleanup.replaced_by is not None and is_there and (before is None or not before.is_open(run_id)):
        await _check_replaced(connection, target, cleanup, blocked_by)
    if blocked_by:
        return await refuse_run(connection, cleanup, blocked_by)
    raised = 0
    if before is None or not before.is_open(run_id):
        await start_receipt(connection, cleanup, run_id)
        await note_missing(connection, await target.pages(connection))
        raised = 1
    epochs = (
        sa.update(jobs)
        .where(jobs.c.id.in_(await _workers(connection, target)))
        .values(write_epoch=jobs.c.write_epoch + raised)
        .returning(jobs.c.id, jobs.c.write_epoch)
    )
    found = {record.id: record.write_epoch for record in await connection.execute(epochs)}
    return OpenedCleanup(await get_receipt(connection, target.receipt_id), found)


async def _check_replaced(
    connection: AsyncConnection, target: CleanupTarget, cleanup: CleanupInput, blocked_by: Sequence[uuid.UUID]
) -> None:
    """Refuses without a receipt: nobody asked for this document by name, so nothing is to be taken up later."""
    if blocked_by:
        raise Conflict(blocked_message(target, blocked_by), blocked_by=[str(job) for job in blocked_by])
    if not await is_replaced(connection, cleanup):
        raise Conflict(f"Not every page that had source {target.source_id} has something else by now.")


def _source_of(target: CleanupTarget) -> uuid.UUID:
    assert target.source_id is not None  # noqa: S101  (for the type: this module is about sources)
    return target.source_id


async def _workers(connection: AsyncConnection, target: CleanupTarget) -> Sequence[uuid.UUID]:
    """The owner, and the makers of what was made of the source."""
    chunks = sa.select(extractions.c.job_id).where(target.owned)
    makers = await connection.execute(chunks.union(sa.select(records.c.job_id).where(target.owned_records)))
    return sorted({target.job_id, *makers.scalars()})


async def _hold_jobs(connection: AsyncConnection, target: CleanupTarget) -> list[uuid.UUID]:
    """Locks the jobs that worked on the source, until the transaction ends; returns those that still do.

    Under the owner's lock no job can be submitted that names its sources, and no retry of it can start. Those that
    lose a page are locked with them: two cleanups that lock jobs one after the other, each in an order of its own,
    would wait for each other.
    """
    workers = await _workers(connection, target)
    losing = await whole_frontiers(connection, await target.pages(connection))
    statement = (
        sa.select(jobs.c.id, jobs.c.status, jobs.c.retry_id)
        .where(jobs.c.id.in_([*workers, *losing]))
        .order_by(jobs.c.id)
        .with_for_update()
    )
    held = [record for record in await connection.execute(statement) if record.id in workers]
    if all(record.id != target.job_id for record in held):
        raise NotFound(f"There is no job {target.job_id}.")
    return [record.id for record in held if record.status in ACTIVE or record.retry_id is not None]
