"""The cleanup of a project: which of its jobs it takes up, what they have, and the receipt that sums theirs."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.cleanup import (
    CleanupReceipt,
    CleanupScope,
    CleanupStatus,
    ProjectCleanup,
    ProjectEnd,
    ProjectJobs,
    ProjectPage,
    StoreCounts,
)
from ke.contracts.jobs import ACTIVE, Artifacts
from ke.storage.cleanups import deleted_counts, get_receipt, sum_of_batches
from ke.storage.database import Database
from ke.storage.relying import RELYING, relying_on_project
from ke.storage.tables import cleanups, dead_letters, entities, extractions, jobs, pages, records, sources
from ke.storage.vectors.base import MAX_BATCH, VectorStore

MAX_NAMED: Final = 20
"""Active jobs that a refusal names."""
_COUNTED_AT_ONCE: Final = 8
"""Jobs of which a statement counts the rows, and about which the vector store is asked at the same time."""
_JOBS_A_PAGE: Final = 500
_NOW: Final = sa.func.clock_timestamp()


@dataclass(frozen=True, slots=True)
class ProjectCounts:
    """What there is of the ended jobs of a project that are not cleaned."""

    jobs: int
    counts: StoreCounts


# The project's jobs


async def project_exists(connection: AsyncConnection, project: str) -> bool:
    """Whether a job was ever submitted to it; deleted ones count, since what they made may still be there."""
    statement = sa.select(jobs.c.id).where(jobs.c.project == project).limit(1)
    return (await connection.execute(statement)).first() is not None


async def active_jobs(connection: AsyncConnection, project: str) -> list[uuid.UUID]:
    """The project's first jobs that have not ended, or whose dead letters are being retried, at most `MAX_NAMED`."""
    statement = sa.select(jobs.c.id).where(jobs.c.project == project, _is_active()).order_by(jobs.c.seq)
    return list((await connection.execute(statement.limit(MAX_NAMED))).scalars())


async def list_ended_jobs(connection: AsyncConnection, page: ProjectPage) -> ProjectJobs:
    """The next ended jobs with something to delete: what they made or, when that is wanted, their record.

    Those that were submitted after the cleanup began are no part of it: what they made nobody asked to delete. It
    begins only when all jobs have ended, so they are those that ended later.
    """
    wanted = jobs.c.artifacts != Artifacts.CLEANED.value
    if page.delete_record:
        wanted |= jobs.c.deleted_at.is_(None)
    began = sa.select(cleanups.c.started_at).where(cleanups.c.id == page.receipt_id).scalar_subquery()
    statement = (
        sa.select(jobs.c.id, jobs.c.seq)
        .where(jobs.c.project == page.project, ~_is_active(), wanted, jobs.c.seq > page.after)
        .where(jobs.c.completed_at <= sa.func.coalesce(began, _NOW))
        .order_by(jobs.c.seq)
        .limit(page.limit)
    )
    found = list(await connection.execute(statement))
    return ProjectJobs(tuple(str(record.id) for record in found), found[-1].seq if found else page.after)


def _is_active() -> sa.ColumnElement[bool]:
    return jobs.c.status.in_([status.value for status in ACTIVE]) | jobs.c.retry_id.is_not(None)


# What there is


async def count_project(
    database: Database,
    vectors: VectorStore,
    project: str,
    *,
    up_to: int | None = None,
    progress: Callable[[], None] = lambda: None,
) -> ProjectCounts:
    """What the cleanup of a project would delete from every store, exactly, each thing once.

    Args:
        database: The rows.
        vectors: The points.
        project: Its name.
        up_to: The `seq` of the last job that counts; None: all that have ended.
        progress: Called now and then.

    Raises:
        VectorStoreUnavailable: The vector store does not answer.
        DatabaseUnavailable: Postgres does not answer.
    """
    ended = (jobs.c.project == project) & ~_is_active() & (jobs.c.artifacts != Artifacts.CLEANED.value)
    if up_to is not None:
        ended &= jobs.c.seq <= up_to
    async with database.transaction() as connection:
        number = await _number(connection, jobs, ended)
    total = StoreCounts()
    collections = await vectors.collections()
    async for page in _pages_of_jobs(database, ended):
        for first in range(0, len(page), _COUNTED_AT_ONCE):
            some = page[first : first + _COUNTED_AT_ONCE]
            async with database.transaction() as connection:
                total += await _row_counts(connection, some, ended, progress)
                lenders = await _lenders(connection, some, ended)
            each = [(name, job) for job in some for name in collections]
            points = sum(await asyncio.gather(*(vectors.count_job(name, job) for name, job in each)))
            progress()
            for owner in lenders:
                points -= await _counted_twice(database, vectors, owner, ended, progress)
            total += StoreCounts(vectors=points)
    return ProjectCounts(number, total)


async def _row_counts(
    connection: AsyncConnection, some: Sequence[uuid.UUID], ended: sa.ColumnElement[bool], progress: Callable[[], None]
) -> StoreCounts:
    """What there is of some of the jobs: a few at a time, by index, so that no statement outlasts its deadline.

    An extraction counts with the job that owns its source; with the one that made it, when that owner is not counted.
    """

    async def count(table: sa.FromClause, these: sa.ColumnElement[bool]) -> int:
        number = await _number(connection, table, these)
        progress()
        return number

    owned = extractions.c.owner_job_id.in_(some)
    made = extractions.c.job_id.in_(some) & ~_is_one(extractions.c.owner_job_id, ended)
    mentions = entities.join(extractions)
    return StoreCounts(
        sources=await count(sources, sources.c.job_id.in_(some)),
        extractions=await count(extractions, owned) + await count(extractions, made),
        entities=await count(mentions, owned) + await count(mentions, made),
        dead_letters=await count(dead_letters, dead_letters.c.job_id.in_(some)),
        pages=await count(pages, pages.c.job_id.in_(some)),
        records=await count(records, records.c.owner_job_id.in_(some))
        + await count(records, records.c.job_id.in_(some) & ~_is_one(records.c.owner_job_id, ended)),
    )


def _is_one(job_id: sa.ColumnElement[uuid.UUID], ended: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Whether this is the id of one of the jobs that are counted."""
    return sa.exists(sa.select(sa.literal(1)).select_from(jobs).where(jobs.c.id == job_id, ended))


async def _number(connection: AsyncConnection, table: sa.FromClause, these: sa.ColumnElement[bool]) -> int:
    statement = sa.select(sa.func.count()).select_from(table).where(these)
    return int((await connection.execute(statement)).scalar_one())


async def _pages_of_jobs(database: Database, ended: sa.ColumnElement[bool]) -> AsyncIterator[Sequence[uuid.UUID]]:
    after = 0
    while True:
        statement = sa.select(jobs.c.id, jobs.c.seq).where(ended, jobs.c.seq > after).order_by(jobs.c.seq)
        async with database.transaction() as connection:
            found = list(await connection.execute(statement.limit(_JOBS_A_PAGE)))
        if not found:
            return
        yield [record.id for record in found]
        after = found[-1].seq


async def _lenders(
    connection: AsyncConnection, some: Sequence[uuid.UUID], ended: sa.ColumnElement[bool]
) -> list[uuid.UUID]:
    """Those of some of the jobs from whose sources another one that is counted has extracted."""
    statement = sa.select(extractions.c.owner_job_id).where(extractions.c.owner_job_id.in_(some), _is_shared(ended))
    return list((await connection.execute(statement.distinct())).scalars())


def _is_shared(ended: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    return (extractions.c.job_id != extractions.c.owner_job_id) & _is_one(extractions.c.job_id, ended)


async def _counted_twice(
    database: Database,
    vectors: VectorStore,
    owner: uuid.UUID,
    ended: sa.ColumnElement[bool],
    progress: Callable[[], None],
) -> int:
    """Points that others of the jobs made of this one's sources: they were counted for both."""
    collections = set(await vectors.collections())
    points = 0
    after = uuid.UUID(int=0)
    while True:
        statement = (
            sa.select(extractions.c.id, extractions.c.collection)
            .where(extractions.c.owner_job_id == owner, _is_shared(ended), extractions.c.id > after)
            .order_by(extractions.c.id)
            .limit(MAX_BATCH)
        )
        async with database.transaction() as connection:
            found = list(await connection.execute(statement))
        if not found:
            return points
        for name in {record.collection for record in found} & collections:
            points += await vectors.count_ids(name, [record.id for record in found if record.collection == name])
        progress()
        after = found[-1].id


# The receipt


async def open_project_receipt(
    connection: AsyncConnection, cleanup: ProjectCleanup, found: ProjectCounts, blocked_by: Sequence[uuid.UUID]
) -> CleanupReceipt:
    """Opens the receipt; or, when jobs are in the way, writes one that says so. What is there already stays.

    What earlier cleanups of these jobs deleted, failed ones or those still at work, is planned too, as their receipts,
    which span all runs, tell it as deleted. These receipts are its parts from now on, whoever ends them.
    """
    half_done = sa.select(jobs.c.id).where(jobs.c.project == cleanup.project, jobs.c.artifacts != Artifacts.CLEANED)
    before = await sum_of_batches(connection, (cleanups.c.scope == "job") & cleanups.c.job_id.in_(half_done))
    values: dict[str, Any] = {
        "id": cleanup.receipt_id,
        "scope": CleanupScope.PROJECT.value,
        "project": cleanup.project,
        "status": CleanupStatus.RUNNING.value,
        "planned": {
            **asdict(found.counts + before),
            RELYING: asdict(await relying_on_project(connection, cleanup.project)),
        },
        "delete_record": cleanup.delete_record,
        "started_at": _NOW,
    }
    if blocked_by:
        values |= {
            "status": CleanupStatus.FAILED.value,
            "error": blocked_message(blocked_by),
            "remaining": asdict(found.counts),
            "completed_at": _NOW,
            "jobs": 0,
        }
    await connection.execute(insert(cleanups).values(**values).on_conflict_do_nothing())
    if not blocked_by:
        await _take_in(connection, cleanup.receipt_id, cleanups.c.job_id.in_(half_done))
    return await get_receipt(connection, cleanup.receipt_id)


async def _take_in(connection: AsyncConnection, receipt_id: str, which: sa.ColumnElement[bool]) -> None:
    """Makes the receipts of jobs parts of a project's."""
    these = sa.update(cleanups).where(cleanups.c.scope == CleanupScope.JOB.value, which)
    await connection.execute(these.values(part_of=receipt_id))


def _ended_meanwhile(project: str, receipt_id: str) -> sa.ColumnElement[bool]:
    """The jobs' cleanups that began on their own, as a cancelled job's does, and ended since the project's began."""
    began = sa.select(cleanups.c.started_at).where(cleanups.c.id == receipt_id).correlate(None).scalar_subquery()
    planned = sa.select(jobs.c.id).where(jobs.c.project == project, jobs.c.completed_at <= began)
    return cleanups.c.part_of.is_(None) & (cleanups.c.completed_at >= began) & cleanups.c.job_id.in_(planned)


def blocked_message(blocked_by: Sequence[uuid.UUID]) -> str:
    """Says which active jobs keep a project from being cleaned up."""
    names = ", ".join(str(job) for job in blocked_by)
    more = " (and perhaps more)" if len(blocked_by) >= MAX_NAMED else ""
    return f"The project has active jobs: {names}{more}. Cancel them, or wait until they end."


async def close_project_receipt(
    connection: AsyncConnection, end: ProjectEnd, remaining: StoreCounts | None
) -> CleanupReceipt:
    """Closes the receipt with the sums over its parts; one that is closed already stays as it is.

    Args:
        connection: The transaction.
        end: How the cleanup ended.
        remaining: What is left, exactly; None takes what was planned and not deleted.
    """
    held = sa.select(cleanups.c.id).where(cleanups.c.id == end.receipt_id).with_for_update()
    await connection.execute(held)
    receipt = await get_receipt(connection, end.receipt_id)
    if receipt.status is not CleanupStatus.RUNNING:
        return receipt
    left = receipt.remaining if remaining is None else remaining
    error = end.error
    if error is None and left.total:
        error = f"Jobs of the project still have {left.total} things in the stores. Start the cleanup again to go on."
    await _take_in(connection, end.receipt_id, _ended_meanwhile(end.project, end.receipt_id))
    parts = cleanups.c.part_of == end.receipt_id
    fenced = sa.select(sa.func.coalesce(sa.func.bool_and(cleanups.c.fenced), sa.true())).where(parts)
    values = {
        "status": CleanupStatus.FAILED.value if error else CleanupStatus.CLEANED.value,
        "deleted": asdict(await deleted_counts(connection, end.receipt_id)),
        "remaining": asdict(left),
        "error": error,
        # Not all parts were taken up by its workflow, and a job of which only the record goes is no part.
        "jobs": max(end.jobs, await _number(connection, cleanups, parts)),
        "fenced": (await connection.execute(fenced)).scalar_one(),
        "completed_at": _NOW,
    }
    await connection.execute(sa.update(cleanups).where(cleanups.c.id == end.receipt_id).values(**values))
    return await get_receipt(connection, end.receipt_id)
