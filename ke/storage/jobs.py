"""The `jobs` table: accepting, reading, and changing the state by compare-and-set."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.errors import Fenced, Gone, NotFound, Stopping, WorkLost
from ke.contracts.jobs import (
    ACTIVE,
    COUNTER_NAMES,
    WRITABLE,
    Artifacts,
    Counters,
    JobInput,
    JobKind,
    JobStatus,
    Lane,
    sources_of,
)
from ke.contracts.naming import job_workflow_id
from ke.contracts.params import params_of
from ke.storage.arrays import among
from ke.storage.tables import job_progress, jobs

_NOW: Final = sa.func.clock_timestamp()


@dataclass(frozen=True, slots=True)
class JobRow:
    """A row of `jobs`."""

    id: uuid.UUID
    seq: int
    tenant: str
    idempotency_key: str | None
    request_hash: str
    kind: JobKind
    status: JobStatus
    artifacts: Artifacts
    project: str
    labels: dict[str, str]
    params: dict[str, Any]
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    workflow_id: str
    run_id: str | None
    namespace_id: str | None
    retry_id: str | None
    retries: int
    write_epoch: int
    cancel_reason: str | None
    created_at: datetime
    started_at: datetime | None
    cancel_requested_at: datetime | None
    completed_at: datetime | None
    deleted_at: datetime | None


def _row(record: sa.Row[Any]) -> JobRow:
    values = dict(record._mapping)  # noqa: SLF001  (SQLAlchemy's documented name for a row as a mapping)
    values["kind"] = JobKind(values["kind"])
    values["status"] = JobStatus(values["status"])
    values["artifacts"] = Artifacts(values["artifacts"])
    return JobRow(**values)


async def insert_job(connection: AsyncConnection, job: JobInput, *, status: JobStatus = JobStatus.QUEUED) -> bool:
    """Writes the row of a new job; returns False when there is one already, or a tombstone.

    Two inserts of one id at once wait for each other, so that the second sees what the first decided.
    """
    statement = (
        insert(jobs)
        .values(
            id=uuid.UUID(job.job_id),
            tenant=job.tenant,
            idempotency_key=job.idempotency_key,
            request_hash=job.request_hash,
            kind=job.kind.value,
            status=status.value,
            project=job.project,
            labels=job.labels,
            params=params_of(job),
            workflow_id=job_workflow_id(job.job_id),
            namespace_id=job.namespace_id,
            created_at=datetime.fromisoformat(job.created_at),
        )
        .on_conflict_do_nothing()
        .returning(jobs.c.id)
    )
    return (await connection.execute(statement)).first() is not None


async def find_job(connection: AsyncConnection, job_id: uuid.UUID, *, lock: bool = False) -> JobRow | None:
    """The row, tombstones included; with `lock` no one else changes it until the transaction ends."""
    statement = sa.select(jobs).where(jobs.c.id == job_id)
    if lock:
        statement = statement.with_for_update()
    record = (await connection.execute(statement)).first()
    return _row(record) if record else None


async def get_job(connection: AsyncConnection, job_id: uuid.UUID, *, lock: bool = False) -> JobRow:
    """The row of a job that exists.

    Raises:
        NotFound: There is no such job, or it was deleted.
    """
    row = await find_job(connection, job_id, lock=lock)
    if row is None or row.deleted_at is not None:
        raise NotFound(f"There is no job {job_id}.")
    return row


async def list_jobs(
    connection: AsyncConnection,
    *,
    limit: int,
    before_seq: int | None = None,
    kind: JobKind | None = None,
    statuses: Sequence[JobStatus] = (),
    project: str | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
) -> list[JobRow]:
    """Jobs, newest first, at most `limit`; the next page starts before the last row's `seq`."""
    statement = sa.select(jobs).where(jobs.c.deleted_at.is_(None)).order_by(jobs.c.seq.desc()).limit(limit)
    if before_seq is not None:
        statement = statement.where(jobs.c.seq < before_seq)
    if kind is not None:
        statement = statement.where(jobs.c.kind == kind.value)
    if statuses:
        statement = statement.where(jobs.c.status.in_([status.value for status in statuses]))
    if project is not None:
        statement = statement.where(jobs.c.project == project)
    if created_after is not None:
        statement = statement.where(jobs.c.created_at > created_after)
    if created_before is not None:
        statement = statement.where(jobs.c.created_at < created_before)
    return [_row(record) for record in await connection.execute(statement)]


@dataclass(frozen=True, slots=True)
class ProjectRow:
    """A project, as its jobs tell it."""

    seq: int
    """Of its first job."""
    name: str
    jobs: int
    """Those whose record is not deleted."""


async def list_projects(connection: AsyncConnection, *, limit: int, after_seq: int | None = None) -> list[ProjectRow]:
    """The projects of which something is left, a job or what one made, in the order of their first jobs.

    Deleted jobs count for the order too: a project keeps its place in a list that is read while its jobs are deleted.
    """
    first = sa.func.min(jobs.c.seq)
    is_left = sa.or_(jobs.c.deleted_at.is_(None), jobs.c.artifacts != Artifacts.CLEANED.value)
    statement = (
        sa.select(first, jobs.c.project, sa.func.count().filter(jobs.c.deleted_at.is_(None)))
        .group_by(jobs.c.project)
        .having(sa.func.bool_or(is_left))
        .order_by(first)
        .limit(limit)
    )
    if after_seq is not None:
        statement = statement.having(first > after_seq)
    return [ProjectRow(*record) for record in await connection.execute(statement)]


async def missing_jobs(connection: AsyncConnection, job_ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
    """Those of the ids of which there never was a job; a deleted one has left its row."""
    found = await connection.execute(sa.select(jobs.c.id).where(jobs.c.id.in_(job_ids)))
    return set(job_ids) - set(found.scalars())


async def set_run_id(
    connection: AsyncConnection, job_id: uuid.UUID, run_id: str, *, namespace_id: str | None = None
) -> JobRow | None:
    """Records the Temporal run that works for the job, and the id of its namespace where that is told.

    An ended job keeps the run that ended it, whatever is done to its workflow later.

    Returns:
        The new row, or None when the job has ended.
    """
    values = {"run_id": run_id} | ({"namespace_id": namespace_id} if namespace_id else {})
    active = [status.value for status in ACTIVE]
    statement = sa.update(jobs).where(jobs.c.id == job_id, jobs.c.status.in_(active)).values(values)
    record = (await connection.execute(statement.returning(*jobs.c))).first()
    return _row(record) if record else None


_OPEN: Final = (
    sa.update(jobs)
    .where(jobs.c.id == sa.bindparam("job"), jobs.c.status == JobStatus.QUEUED.value, jobs.c.deleted_at.is_(None))
    .values(status=JobStatus.RUNNING.value, run_id=sa.bindparam("run"), started_at=_NOW)
    .returning(*jobs.c)
)


async def open_job(connection: AsyncConnection, job: JobInput, run_id: str) -> JobRow:
    """Sets a queued job running, first writing its row when a lost commit lost that.

    A job that is already cancelling, or ended, stays what it is. A tombstone is never made a job again.

    Raises:
        Gone: The job was deleted.
    """
    opened = (await connection.execute(_OPEN, {"job": uuid.UUID(job.job_id), "run": run_id})).first()
    if opened is not None:
        return _row(opened)
    # Its submit is not committed yet, which the insert waits for, or lost; or the job is in another state.
    await insert_job(connection, job)
    row = await find_job(connection, uuid.UUID(job.job_id), lock=True)
    if row is None or row.deleted_at is not None:
        raise Gone(f"The job {job.job_id} was deleted.")
    if row.status is JobStatus.QUEUED:
        return _row((await connection.execute(_OPEN, {"job": row.id, "run": run_id})).one())
    await set_run_id(connection, row.id, run_id)
    return row


async def move_job(connection: AsyncConnection, job_id: uuid.UUID, target: JobStatus, **values: Any) -> JobRow | None:
    """Compare-and-set: moves the job to `target` when `TRANSITIONS` allows that from where it is.

    Args:
        connection: The transaction.
        job_id: The job.
        target: The state to reach.
        values: Further columns to set with it.

    Returns:
        The new row, or None when the job is in no state from which `target` may be reached.
    """
    allowed = [status.value for status in sources_of(target)]
    statement = (
        sa.update(jobs)
        .where(jobs.c.id == job_id, jobs.c.status.in_(allowed), jobs.c.deleted_at.is_(None))
        .values(status=target.value, **values)
        .returning(*jobs.c)
    )
    record = (await connection.execute(statement)).first()
    return _row(record) if record else None


async def request_cancel(connection: AsyncConnection, job_id: uuid.UUID, reason: str) -> JobRow | None:
    """Moves the job to `cancelling`; returns None when it is in no state in which that can be asked for."""
    return await move_job(connection, job_id, JobStatus.CANCELLING, cancel_reason=reason, cancel_requested_at=_NOW)


# Built once: each transaction of a lane begins with it.
_FENCE: Final = (
    sa.select(jobs.c.id)
    .where(
        jobs.c.id == sa.bindparam("job"),
        jobs.c.write_epoch == sa.bindparam("epoch"),
        sa.or_(jobs.c.status.in_([status.value for status in WRITABLE]), jobs.c.retry_id.is_not(None)),
    )
    .with_for_update(read=True)
)
_LEASE: Final = (
    sa.select(job_progress.c.lease)
    .where(job_progress.c.job_id == sa.bindparam("job"), job_progress.c.lane == sa.bindparam("lane"))
    .with_for_update()
)


def _take_lease() -> sa.Executable:
    """Writes the lease, unless the job is being cancelled."""
    values = (sa.bindparam(name, type_=job_progress.c[column].type) for name, column in _OF_LEASE.items())
    fresh = sa.select(*values).where(jobs.c.id == sa.bindparam("job"), jobs.c.status != JobStatus.CANCELLING.value)
    statement = insert(job_progress).from_select(list(_OF_LEASE.values()), fresh)
    return statement.on_conflict_do_update(
        index_elements=["job_id", "lane"], set_={"lease": statement.excluded.lease}
    ).returning(*job_progress.c)


_OF_LEASE: Final = {"job": "job_id", "lane": "lane", "lease": "lease"}
_TAKE_LEASE: Final = _take_lease()


async def hold_fence(connection: AsyncConnection, job_id: uuid.UUID, epoch: int) -> None:
    """Makes sure, until the transaction ends, that the job may still be written under this epoch.

    Takes a share lock on the job's row: whoever raises the epoch or ends the job waits for writes under way, and
    later writes are refused. Never update the row after this in the same transaction: two lanes that both hold the
    share lock would wait for each other.

    An ended job may be written by the one retry of its dead letters that is at work: `retry_id` names it, and its
    start raised the epoch.

    Raises:
        Fenced: The epoch is old, or the job is not running, paused or cancelling, and not being retried.
    """
    if (await connection.execute(_FENCE, {"job": job_id, "epoch": epoch})).first() is None:
        raise Fenced(f"Job {job_id} may not be written under epoch {epoch} any more.")


async def take_lease(connection: AsyncConnection, job_id: uuid.UUID, lane: Lane, lease: uuid.UUID) -> "LaneProgress":
    """Makes a slice the one that works on its lane; from now on every other one is refused by `hold_lease`.

    Call it after `hold_fence`, so that nobody changes the job's state meanwhile.

    Returns:
        How far the lane is.

    Raises:
        Stopping: The job is being cancelled. Its workflow knows that, unless it was reset to a moment before.
    """
    values = {"job": job_id, "lane": lane.value, "lease": lease}
    record = (await connection.execute(_TAKE_LEASE, values)).first()
    if record is None:
        raise Stopping
    return _progress(record)


async def hold_lease(connection: AsyncConnection, job_id: uuid.UUID, lane: Lane, lease: uuid.UUID) -> None:
    """Makes sure, until the transaction ends, that this slice is the one that works on its lane.

    A worker that was cut off for longer than the heartbeat timeout comes back to find its slice given to another.
    Call it after `hold_fence`, so that locks are always taken in one order.

    Raises:
        WorkLost: Another attempt has taken the lane over; what this one had not written, that one does again.
    """
    found = await connection.execute(_LEASE, {"job": job_id, "lane": lane.value})
    if found.scalar_one_or_none() != lease:
        raise WorkLost("Another attempt has taken this slice over.")


async def add_progress(
    connection: AsyncConnection,
    job_id: uuid.UUID,
    lane: Lane,
    delta: Counters,
    *,
    seeded: bool | None = None,
    done: bool | None = None,
    note: str | None = None,
    earlier_pages: int | None = None,
) -> Counters:
    """Adds to a lane's counters, in the transaction of the batch they count; returns the lane's totals."""
    told = {"seeded": seeded, "done": done, "note": note, "earlier_pages": earlier_pages}
    flags = {name: value for name, value in told.items() if value is not None}
    values = {"job_id": job_id, "lane": lane.value, **{name: getattr(delta, name) for name in COUNTER_NAMES}, **flags}
    record = (await connection.execute(_adding(frozenset(flags)), values)).one()
    return Counters(**record._mapping)  # noqa: SLF001


@cache
def _adding(flags: frozenset[str]) -> sa.Executable:
    """The statement of `add_progress` that sets these flags; built once, as it has some 30 columns."""
    statement = insert(job_progress)
    sums = {name: job_progress.c[name] + statement.excluded[name] for name in COUNTER_NAMES}
    set_flags = {name: statement.excluded[name] for name in sorted(flags)}
    return statement.on_conflict_do_update(
        index_elements=["job_id", "lane"], set_={**sums, **set_flags, "updated_at": _NOW}
    ).returning(*(job_progress.c[name] for name in COUNTER_NAMES))


@dataclass(frozen=True, slots=True)
class LaneProgress:
    """A row of `job_progress`."""

    counters: Counters
    seeded: bool = False
    done: bool = False
    note: str = ""
    updated_at: datetime | None = None
    """When it last committed anything."""
    earlier_pages: int | None = None
    """Of the collect lane of a re-crawl, once it is seeded: URLs of the earlier job that are in its frontier."""


async def lane_progress(connection: AsyncConnection, job_id: uuid.UUID, lane: Lane) -> LaneProgress:
    """How far a lane is; zeros when it has not begun."""
    found = await progress_of(connection, [job_id])
    return found.get((job_id, lane), LaneProgress(Counters()))


async def progress_of(
    connection: AsyncConnection, job_ids: Sequence[uuid.UUID]
) -> dict[tuple[uuid.UUID, Lane], LaneProgress]:
    """How far the lanes of these jobs are."""
    statement = sa.select(job_progress).where(among(job_progress.c.job_id, job_ids))
    found = await connection.execute(statement)
    return {(record.job_id, Lane(record.lane)): _progress(record) for record in found}


def _progress(record: sa.Row[Any]) -> LaneProgress:
    return LaneProgress(
        Counters(**{name: record._mapping[name] for name in COUNTER_NAMES}),  # noqa: SLF001
        record.seeded,
        record.done,
        record.note,
        record.updated_at,
        record.earlier_pages,
    )
