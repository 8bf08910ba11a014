"""The `retries` table: starting a retry of dead letters, reading it, and bringing it to its end."""

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Final, TypeAlias

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.errors import Conflict, Fenced, NotFound
from ke.contracts.jobs import TERMINAL, Artifacts, CollectSpec, Counters, CrawlLimits, JobError, Lane
from ke.contracts.params import specs_of
from ke.contracts.retries import CloseRetry, LetterFilter, OpenedRetry, RetryInput, RetryOutcome, RetryStatus
from ke.storage.closing import LIMITS_REACHED, counted_result, outcome_of
from ke.storage.counting import count_job
from ke.storage.database import Database
from ke.storage.dead_letters import fits
from ke.storage.extract_queue import skip_open_tasks
from ke.storage.extracting import open_tasks
from ke.storage.frontier import frontier_state, skip_open_pages
from ke.storage.jobs import JobRow, add_progress, find_job, get_job, lane_progress
from ke.storage.listing import Owner, hold_owners
from ke.storage.record_queue import skip_open_records
from ke.storage.record_rows import open_records
from ke.storage.requeueing import REQUEUE_BATCH, bury_entities, bury_pages, bury_records, bury_sources
from ke.storage.tables import dead_letters, entity_tasks, extraction_tasks, jobs, pages, retries, sources

_NOW: Final = sa.func.clock_timestamp()


@dataclass(frozen=True, slots=True)
class RetryRow:
    """A row of `retries`."""

    id: str
    job_id: uuid.UUID
    number: int
    status: RetryStatus
    letters: int
    succeeded: int
    failed: int
    error: dict[str, Any] | None
    created_at: datetime
    completed_at: datetime | None


async def find_retry(connection: AsyncConnection, retry_id: str) -> RetryRow | None:
    """The row, if there is one."""
    statement = sa.select(*(retries.c[name] for name in RetryRow.__dataclass_fields__)).where(retries.c.id == retry_id)
    record = (await connection.execute(statement)).first()
    return replace(RetryRow(*record), status=RetryStatus(record.status)) if record else None


async def get_retry(connection: AsyncConnection, retry_id: str) -> RetryRow:
    """The row of a retry that exists.

    Raises:
        NotFound: There is no such retry, or its job was deleted.
    """
    row = await find_retry(connection, retry_id)
    if row is None:
        raise NotFound(f"There is no retry {retry_id}.")
    return row


# What there is to retry


async def unknown_letters(connection: AsyncConnection, job_id: uuid.UUID, ids: tuple[str, ...]) -> list[int]:
    """The places, from 0, of those of these ids that are no dead letters of this job."""
    keys = [uuid.UUID(key) for key in ids]
    found = await connection.execute(
        sa.select(dead_letters.c.id).where(dead_letters.c.job_id == job_id, dead_letters.c.id.in_(keys))
    )
    known = set(found.scalars())
    return [number for number, key in enumerate(keys) if key not in known]


async def has_retriable(connection: AsyncConnection, job_id: uuid.UUID, letters: LetterFilter) -> bool:
    """Whether a letter fits whose page or source is still there, to be tried again."""
    page = sa.exists().where(pages.c.id == dead_letters.c.subject_id, pages.c.state == "failed")
    failed = [
        sa.exists()
        .where(
            dead_letters.c.subject == subject,
            state.table.c.job_id == job_id,
            state.table.c.source_id == dead_letters.c.subject_id,
            state == "failed",
        )
        .correlate(dead_letters)
        for subject, state in (
            ("source", extraction_tasks.c.state),
            ("source", entity_tasks.c.state),
            ("record", extraction_tasks.c.record_state),
        )
    ]
    statement = (
        sa.select(sa.literal(1)).where(dead_letters.c.job_id == job_id, fits(letters), sa.or_(page, *failed)).limit(1)
    )
    return (await connection.execute(statement)).first() is not None


async def hold_jobs_of_letters(connection: AsyncConnection, job_id: uuid.UUID) -> dict[uuid.UUID, Owner]:
    """Locks a job and the other jobs that own sources among its letters, in the order in which cleanups lock them.

    Returns:
        The owners. No cleanup of them begins until the transaction ends.
    """
    statement = (
        sa.select(sources.c.job_id)
        .join_from(dead_letters, sources, sources.c.id == dead_letters.c.subject_id)
        .where(
            dead_letters.c.job_id == job_id,
            dead_letters.c.subject.in_(("source", "record")),
            sources.c.job_id != job_id,
        )
        .distinct()
    )
    owners = list((await connection.execute(statement)).scalars())
    held = sa.select(jobs.c.id).where(jobs.c.id.in_([job_id, *owners])).order_by(jobs.c.id).with_for_update()
    await connection.execute(held)
    return await hold_owners(connection, owners)


# The start


async def start_retry(connection: AsyncConnection, retry: RetryInput) -> bool:
    """Makes a retry the one that may write for its ended job, and writes its row.

    Raises the job's write epoch, so that nothing of before can write beside it.

    Returns:
        False when the job is in no state for that: active, deleted, cleaned, or being retried.
    """
    job_id = uuid.UUID(retry.job_id)
    taken = await connection.execute(
        sa.update(jobs)
        .where(
            jobs.c.id == job_id,
            jobs.c.status.in_([status.value for status in TERMINAL]),
            jobs.c.artifacts == Artifacts.PRESENT.value,
            jobs.c.deleted_at.is_(None),
            jobs.c.retry_id.is_(None),
            jobs.c.retries == retry.number - 1,
        )
        .values(retry_id=retry.id, retries=retry.number, write_epoch=jobs.c.write_epoch + 1)
    )
    if not taken.rowcount:
        return False
    await connection.execute(
        insert(retries).values(
            id=retry.id,
            job_id=job_id,
            number=retry.number,
            status=RetryStatus.RUNNING.value,
            selection={name: value for name, value in asdict(retry.letters).items() if value is not None},
            created_at=datetime.fromisoformat(retry.created_at),
        )
    )
    return True


async def open_retry(connection: AsyncConnection, retry: RetryInput) -> JobRow:
    """The row of a retry's job, after writing what a lost commit lost of its start.

    Raises:
        NotFound: The job was deleted.
        Conflict: The start was lost, and the job cannot be retried any more.
        Fenced: A cleanup has taken the job over.
    """
    row = await get_job(connection, uuid.UUID(retry.job_id), lock=True)
    if await find_retry(connection, retry.id) is None:
        if not await start_retry(connection, retry):
            raise Conflict(f"Job {row.id} cannot be retried any more.")
        row = await get_job(connection, row.id)
    if row.retry_id != retry.id:
        raise Fenced(f"The retry {retry.id} may not write for job {row.id} any more.")
    return row


async def plan_retry(connection: AsyncConnection, row: JobRow, retry_id: str) -> OpenedRetry:
    """What the lanes are to do, once all letters are taken up.

    Every page that was taken up may be fetched, whatever the job's limits; what is newly found only within them.
    """
    retry = await get_retry(connection, retry_id)
    collect, extract = specs_of(row.kind, row.params)
    finder = extract.entities if extract is not None else None
    n_pages = (await frontier_state(connection, row.id)).due
    if collect is not None:
        collect = await _with_room(connection, row.id, collect, n_pages) if n_pages else None
    has_work = await open_tasks(connection, row.id) or await open_records(connection, row.id)
    if collect is None and extract is not None and not has_work:
        extract = None
    if extract is not None:
        # The entities lane ends after it, and not by what the job's own lane wrote at its end.
        await add_progress(connection, row.id, Lane.EXTRACT, Counters(), done=False)
    elif not await open_tasks(connection, row.id, entity_tasks):
        finder = None
    return OpenedRetry(
        epoch=row.write_epoch,
        started_at=retry.created_at.isoformat(),
        letters=retry.letters,
        collect=collect,
        extract=extract,
        entities=finder,
    )


async def _with_room(connection: AsyncConnection, job_id: uuid.UUID, spec: CollectSpec, n_pages: int) -> CollectSpec:
    used = (await lane_progress(connection, job_id, Lane.COLLECT)).counters
    limits = spec.limits
    return replace(
        spec,
        limits=CrawlLimits(
            max_pages=max(limits.max_pages, used.pages_fetched + used.pages_duplicate + used.pages_unchanged + n_pages),
            max_depth=limits.max_depth,
            max_bytes=None if limits.max_bytes is None else used.bytes + limits.max_bytes,
            max_seconds=limits.max_seconds,
        ),
    )


# The end


async def end_retry(
    database: Database,
    close: CloseRetry,
    progress: Callable[[], None] = lambda: None,
    *,
    limit: int = REQUEUE_BATCH,
    lock_timeout_s: float | None = None,
) -> RetryOutcome:
    """Ends a retry, once: one that has ended already keeps its end, which is returned.

    What was taken up and not tried is a dead letter again, what was newly found and not done is skipped, and the
    job's result is counted anew; its state does not change. When a cleanup has taken the job over meanwhile, only
    the retry's own row is closed. Broken off on the way, the next call goes on after the last batch.

    Args:
        database: The database.
        close: How the retry ended.
        progress: Called after each step.
        limit: Rows that one transaction buries or skips.
        lock_timeout_s: Seconds to wait for the job's row, where that is less than usual.

    Raises:
        RowLocked: Another transaction holds the row.
    """
    for bury in _steps(close):
        while await _bury_batch(database, close, bury, limit, lock_timeout_s):
            progress()
    async with database.transaction(lock_timeout_s=lock_timeout_s) as connection:
        return await _close(connection, close, progress, limit)


_Bury: TypeAlias = Callable[[AsyncConnection, uuid.UUID, int], Awaitable[int]]
"""Takes a job's next open rows, at most so many, out of its lanes; returns how many it took."""


def _steps(close: CloseRetry) -> tuple[_Bury, ...]:
    """In this order, each until it finds nothing: what has a letter is buried, all else is skipped.

    One after the other, since to look for letters is to look at every open row.
    """

    async def skip_pages(connection: AsyncConnection, job_id: uuid.UUID, limit: int) -> int:
        return await skip_open_pages(connection, job_id, close.status.value, limit=limit)

    async def skip_records(connection: AsyncConnection, job_id: uuid.UUID, limit: int) -> int:
        return await skip_open_records(connection, job_id, close.status.value, limit=limit)

    return bury_pages, bury_sources, bury_entities, bury_records, skip_pages, skip_open_tasks, skip_records


async def _bury_batch(
    database: Database, close: CloseRetry, bury: _Bury, limit: int, lock_timeout_s: float | None
) -> int:
    """Buries or skips a batch, under the lock of the job's row; returns how many."""
    async with database.transaction(lock_timeout_s=lock_timeout_s) as connection:
        row = await _held_job(connection, close)
        return 0 if row is None else await bury(connection, row.id, limit)


async def _held_job(connection: AsyncConnection, close: CloseRetry) -> JobRow | None:
    """The job's row, locked, if the retry still is the one that may write for it."""
    row = await find_job(connection, uuid.UUID(close.job_id), lock=True)
    return row if row is not None and row.retry_id == close.id else None


async def _close(
    connection: AsyncConnection, close: CloseRetry, progress: Callable[[], None], limit: int
) -> RetryOutcome:
    row = await _held_job(connection, close)
    if row is not None:
        # A slice whose workflow was terminated may have committed since; from here on it is fenced.
        for bury in _steps(close):
            while await bury(connection, row.id, limit):
                progress()
        counted = await counted_result(connection, row, await count_job(connection, row.id, progress))
        lists = {"skipped_source_ids", LIMITS_REACHED}
        kept = {name: value for name, value in (row.result or {}).items() if name not in lists}
        await connection.execute(
            sa.update(jobs).where(jobs.c.id == row.id).values(result=kept | counted, retry_id=None)
        )
    await connection.execute(
        sa.update(retries)
        .where(retries.c.id == close.id, retries.c.status == RetryStatus.RUNNING.value)
        .values(
            status=close.status.value,
            error=asdict(close.error) if close.error is not None else sa.null(),
            completed_at=_NOW,
        )
    )
    return await _outcome(connection, close)


async def _outcome(connection: AsyncConnection, close: CloseRetry) -> RetryOutcome:
    """What the rows tell; of a retry whose start was lost, or whose job was deleted, how it was to be closed."""
    retry = await find_retry(connection, close.id)
    if retry is None:
        return RetryOutcome(close.id, close.job_id, close.status, error=close.error)
    job = await get_job(connection, retry.job_id)
    return RetryOutcome(
        id=retry.id,
        job_id=close.job_id,
        status=retry.status,
        letters=retry.letters,
        succeeded=retry.succeeded,
        failed=retry.failed,
        counters=outcome_of(job).counters,
        error=JobError(**retry.error) if retry.error else None,
    )


async def give_up_retries(connection: AsyncConnection, job_id: uuid.UUID) -> None:
    """Deletes the rows of a job's retries, and fences the one that is at work, if one is: its job's record goes.

    Call it with the job's row locked.
    """
    await connection.execute(sa.delete(retries).where(retries.c.job_id == job_id))
    await connection.execute(
        sa.update(jobs)
        .where(jobs.c.id == job_id, jobs.c.retry_id.is_not(None))
        .values(retry_id=None, write_epoch=jobs.c.write_epoch + 1)
    )
