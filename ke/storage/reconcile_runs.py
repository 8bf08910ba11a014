"""Rows against workflows: the cleanups and retries that say they are not done."""

import uuid
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.cleanup import CleanupInput, CleanupScope, CleanupStatus
from ke.contracts.jobs import ACTIVE, Artifacts, JobStatus
from ke.contracts.naming import cleanup_id
from ke.contracts.retries import RetryStatus
from ke.storage.cleanup_projects import active_jobs
from ke.storage.cleanups import active_dependents
from ke.storage.jobs import JobRow, list_jobs
from ke.storage.tables import cleanups, extractions, jobs, retries

PAGE: Final = 200
"""Rows that are read at once; each costs a call to Temporal."""
_UNCLEANED: Final = [Artifacts.CLEANING.value, Artifacts.CLEANUP_FAILED.value]


@dataclass(frozen=True, slots=True)
class UnfinishedCleanup:
    """A cleanup that was begun, or is to begin, and is not done."""

    id: str
    """The receipt's; of a job whose cleanup has not begun the one it will have."""
    scope: CleanupScope
    job_id: uuid.UUID | None
    source_id: uuid.UUID | None
    project: str | None
    delete_record: bool
    has_begun: bool

    @property
    def request(self) -> CleanupInput | None:
        """What to start it again with; None for a project."""
        if self.job_id is None:
            return None
        source = None if self.source_id is None else str(self.source_id)
        return CleanupInput(str(self.job_id), delete_record=self.delete_record, source_id=source)


async def open_jobs(connection: AsyncConnection, before_seq: int | None) -> list[JobRow]:
    """The next jobs that have not ended, newest first."""
    return await list_jobs(connection, limit=PAGE, before_seq=before_seq, statuses=sorted(ACTIVE))


async def is_open(connection: AsyncConnection, job_id: uuid.UUID) -> bool:
    """Whether a job has not ended, as of now."""
    status = (await connection.execute(sa.select(jobs.c.status).where(jobs.c.id == job_id))).scalar_one_or_none()
    return status is not None and JobStatus(status) in ACTIVE


@dataclass(frozen=True, slots=True)
class RunningRetry:
    """A retry of dead letters that reads as being at work."""

    id: str
    job_id: uuid.UUID


async def running_retries(connection: AsyncConnection, after: str | None) -> list[RunningRetry]:
    """The next retries that read as running, in order of id: those that write for their job, and those that lost it."""
    running = _running_retries()
    key = sa.collate(running.c.id, "C")
    statement = sa.select(running.c.id, running.c.job_id).order_by(key).limit(PAGE)
    if after is not None:
        statement = statement.where(key > after)
    return [RunningRetry(*record) for record in await connection.execute(statement)]


async def still_running(connection: AsyncConnection, retry: RunningRetry) -> bool:
    """Whether a retry still reads as running, as of now."""
    running = _running_retries()
    statement = sa.select(running.c.id).where(running.c.id == retry.id).limit(1)
    return (await connection.execute(statement)).first() is not None


def _running_retries() -> sa.Subquery:
    writing = sa.select(jobs.c.retry_id.label("id"), jobs.c.id.label("job_id")).where(jobs.c.retry_id.is_not(None))
    told = sa.select(retries.c.id, retries.c.job_id).where(retries.c.status == RetryStatus.RUNNING.value)
    return sa.union(writing, told).subquery()


async def unfinished_cleanups(connection: AsyncConnection, after: str | None) -> list[UnfinishedCleanup]:
    """The next cleanups that are not done, in order of id: by their receipts, and by the state of their jobs."""
    unfinished = _unfinished()
    # By bytes, whatever the database's collation is.
    key = sa.collate(unfinished.c.id, "C")
    statement = sa.select(unfinished).order_by(key).limit(PAGE)
    if after is not None:
        statement = statement.where(key > after)
    return [
        UnfinishedCleanup(record.id, CleanupScope(record.scope), *record[2:])
        for record in await connection.execute(statement)
    ]


async def is_unfinished(connection: AsyncConnection, cleanup: UnfinishedCleanup) -> bool:
    """Whether a cleanup is still not done, as of now."""
    unfinished = _unfinished()
    statement = sa.select(unfinished.c.id).where(unfinished.c.id == cleanup.id).limit(1)
    return (await connection.execute(statement)).first() is not None


def _unfinished() -> sa.Subquery:
    """A project has a receipt for each of its cleanups; only the newest counts."""
    begun = cleanups.c.status != CleanupStatus.CLEANED.value
    newer = cleanups.alias("newer")
    is_past = sa.exists().where(newer.c.project == cleanups.c.project, newer.c.started_at > cleanups.c.started_at)
    of_receipts = sa.select(
        cleanups.c.id,
        cleanups.c.scope,
        cleanups.c.job_id,
        cleanups.c.source_id,
        cleanups.c.project,
        cleanups.c.delete_record,
        sa.true().label("has_begun"),
    ).where(begun, sa.or_(cleanups.c.scope != CleanupScope.PROJECT.value, ~is_past))
    receipt = sa.literal(cleanup_id("")).op("||")(sa.cast(jobs.c.id, sa.Text))
    none = sa.null()
    of_jobs = sa.select(
        receipt.label("id"),
        sa.literal(CleanupScope.JOB.value),
        jobs.c.id,
        sa.cast(none, sa.Uuid),
        sa.cast(none, sa.Text),
        sa.false(),
        sa.false(),
    ).where(
        jobs.c.artifacts.in_(_UNCLEANED),
        ~sa.exists().where(cleanups.c.scope == CleanupScope.JOB.value, cleanups.c.job_id == jobs.c.id, begun),
    )
    return sa.union_all(of_receipts, of_jobs).subquery()


async def has_newer_jobs(connection: AsyncConnection, cleanup: UnfinishedCleanup) -> bool:
    """Whether jobs of a project ended after its cleanup began, or was refused: nobody asked for the deletion of theirs.

    A cleanup begins when all jobs have ended, so these were submitted later, or in the way.
    """
    began = sa.select(cleanups.c.started_at).where(cleanups.c.id == cleanup.id).scalar_subquery()
    newer = sa.select(jobs.c.id).where(jobs.c.project == cleanup.project, jobs.c.completed_at > began).limit(1)
    return (await connection.execute(newer)).first() is not None


async def in_the_way(connection: AsyncConnection, cleanup: UnfinishedCleanup) -> list[uuid.UUID]:
    """The active jobs for which this cleanup would be refused, or whose retry at work it would end unasked."""
    if cleanup.job_id is None:
        return await active_jobs(connection, cleanup.project or "")
    found = await active_dependents(connection, cleanup.job_id)
    concerned = jobs.c.id == cleanup.job_id
    if cleanup.source_id is not None:
        workers = sa.select(extractions.c.job_id).where(extractions.c.source_id == cleanup.source_id)
        concerned |= jobs.c.id.in_(workers)
    active = jobs.c.status.in_([status.value for status in ACTIVE]) | jobs.c.retry_id.is_not(None)
    statement = sa.select(jobs.c.id).where(active, concerned)
    return found + [job for job in (await connection.execute(statement)).scalars() if job not in found]
