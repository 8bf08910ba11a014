"""How a job ends: counts what there is, and writes the terminal state with its result.

A job may have millions of rows, and a statement has a minute: `end_job` skips what is left in batches, each in a
transaction of its own, and counts go piece by piece.
"""

import uuid
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.activities import CloseJob
from ke.contracts.jobs import (
    Artifacts,
    CancellationReceipt,
    Counters,
    JobError,
    JobOutcome,
    JobStatus,
)
from ke.storage.counting import JobCount, count_job
from ke.storage.database import Database
from ke.storage.extract_queue import skip_open_tasks
from ke.storage.frontier import SKIP_BATCH, skip_open_pages
from ke.storage.jobs import JobRow, get_job, move_job
from ke.storage.limits import limits_reached
from ke.storage.record_queue import OPEN, skip_open_records
from ke.storage.tables import entity_tasks, extraction_tasks, pages

LIMITS_REACHED: Final = "limits_reached"
"""The member of a result that names the limits which left something undone."""
MAX_LISTED_SKIPPED: Final = 100
"""Skipped sources that a result names; the rest are in the list of the job's sources."""


async def end_job(
    database: Database,
    close: CloseJob,
    progress: Callable[[], None] = lambda: None,
    *,
    limit: int = SKIP_BATCH,
    run_id: str | None = None,
    lock_timeout_s: float | None = None,
) -> JobOutcome:
    """Ends a job, once: a job that has ended already keeps its end, which is returned.

    What was not fetched or extracted by then is marked as skipped, and counted. Broken off on the way, the next call
    goes on after the last batch.

    Args:
        database: The database.
        close: How the job ends.
        progress: Called after each step.
        limit: Rows that one transaction skips.
        run_id: The Temporal run that ended it, which a reset may have put in the place of the one that is recorded.
        lock_timeout_s: Seconds to wait for the job's row, where that is less than usual.

    Raises:
        RowLocked: Another transaction holds the row.
        NotFound: There is no such job.
    """
    while True:
        async with database.transaction(lock_timeout_s=lock_timeout_s) as connection:
            outcome = await _close_or_skip(connection, close, progress, limit, run_id)
        if outcome is not None:
            return outcome
        progress()


async def _close_or_skip(
    connection: AsyncConnection, close: CloseJob, progress: Callable[[], None], limit: int, run_id: str | None
) -> JobOutcome | None:
    """Closes a job of which less than a full batch is left to skip, in one transaction; else skips a batch.

    Under the lock of the job's row, so that two who end a job take turns and no lane adds anything meanwhile.

    Returns:
        The outcome, or None when a full batch was skipped: there may be more.
    """
    row = await get_job(connection, uuid.UUID(close.job_id), lock=True)
    if row.status.is_terminal:
        return outcome_of(row)
    if await _skip_open(connection, row.id, close, limit) >= limit:
        return None
    return await _close_job(connection, row, close, progress, run_id)


async def _skip_open(connection: AsyncConnection, job_id: uuid.UUID, close: CloseJob, limit: int) -> int:
    if not (await connection.execute(_IS_OPEN, {"job": job_id})).scalar_one():
        return 0
    why = "cancelled" if close.cancelled else "failed" if close.error else "ended"
    skipped = await skip_open_pages(connection, job_id, why, limit=limit)
    if skipped < limit:
        skipped += await skip_open_tasks(connection, job_id, limit=limit - skipped)
    if skipped < limit:
        skipped += await skip_open_records(connection, job_id, why, limit=limit - skipped)
    return skipped


def _is_open() -> sa.Select[tuple[bool]]:
    """Whether anything of a job is open: of most there is nothing, which one look tells."""
    job: sa.BindParameter[uuid.UUID] = sa.bindparam("job")
    # Written out, as it must be seen to be what the index of open pages is limited to.
    in_frontier = sa.exists().where(pages.c.job_id == job, sa.text("pages.state IN ('pending', 'fetching')"))
    states = (extraction_tasks.c.state, entity_tasks.c.state, extraction_tasks.c.record_state)
    queued = (sa.exists().where(state.table.c.job_id == job, state.in_(OPEN)) for state in states)
    return sa.select(sa.or_(in_frontier, *queued))


_IS_OPEN: Final = _is_open()


async def _close_job(
    connection: AsyncConnection, row: JobRow, close: CloseJob, progress: Callable[[], None], run_id: str | None
) -> JobOutcome:
    count = await count_job(connection, row.id, progress)
    status = _final_status(close, has_failures=count.has_failures)
    now: datetime = (await connection.execute(sa.select(sa.func.clock_timestamp()))).scalar_one()
    receipt = _receipt(row, close, now)
    result = await _result(connection, row, count, receipt, now)
    for step in _path(row.status, status):
        await move_job(connection, row.id, step, **_cancel_values(step, close, now))
    closed = await move_job(
        connection,
        row.id,
        status,
        completed_at=now,
        result=result,
        error=asdict(close.error) if close.error and status is JobStatus.FAILED else sa.null(),
        **({"artifacts": Artifacts.CLEANING.value} if close.cleanup else {}),
        **({"run_id": run_id} if run_id is not None else {}),
    )
    return outcome_of(closed or row)


def _final_status(close: CloseJob, *, has_failures: bool) -> JobStatus:
    if close.error is not None:
        return JobStatus.FAILED
    if close.cancelled:
        return JobStatus.CANCELLED
    return JobStatus.COMPLETED_WITH_ERRORS if has_failures else JobStatus.COMPLETED


def _path(current: JobStatus, target: JobStatus) -> list[JobStatus]:
    """The states on the way, where `target` cannot be reached in one step."""
    if target is JobStatus.CANCELLED and current is not JobStatus.CANCELLING:
        return [JobStatus.CANCELLING]
    if target in {JobStatus.COMPLETED, JobStatus.COMPLETED_WITH_ERRORS} and current in {
        JobStatus.QUEUED,
        JobStatus.PAUSED,
    }:
        return [JobStatus.RUNNING]
    return []


def _cancel_values(step: JobStatus, close: CloseJob, now: datetime) -> dict[str, Any]:
    if step is not JobStatus.CANCELLING:
        return {}
    receipt = close.cancellation
    return {
        "cancel_requested_at": datetime.fromisoformat(receipt.requested_at) if receipt else now,
        "cancel_reason": receipt.reason if receipt else "",
    }


def _receipt(row: JobRow, close: CloseJob, now: datetime) -> CancellationReceipt | None:
    """The workflow's receipt, counted from the request that was accepted first: the gateway's, if there was one."""
    if not close.cancelled:
        return None
    receipt = close.cancellation
    if receipt is None:
        at = (row.cancel_requested_at or now).isoformat()
        receipt = CancellationReceipt(at, now.isoformat(), 0.0, 0, 0, row.cancel_reason or "")
    requested = datetime.fromisoformat(receipt.requested_at)
    if row.cancel_requested_at is not None:
        requested = min(requested, row.cancel_requested_at)
    quiescent = datetime.fromisoformat(receipt.quiescent_at)
    return replace(
        receipt,
        requested_at=requested.isoformat(),
        latency_s=round(max(0.0, (quiescent - requested).total_seconds()), 3),
        reason=row.cancel_reason or receipt.reason,
    )


async def _result(
    connection: AsyncConnection,
    row: JobRow,
    count: JobCount,
    receipt: CancellationReceipt | None,
    now: datetime,
) -> dict[str, Any]:
    result = await counted_result(connection, row, count)
    result["elapsed_s"] = round((now - (row.started_at or now)).total_seconds(), 3)
    if receipt is not None:
        result["cancellation"] = asdict(receipt)
    return result


async def counted_result(connection: AsyncConnection, row: JobRow, count: JobCount) -> dict[str, Any]:
    """The part of a result that is counted: the counters, the first of the skipped sources, and what cut it short."""
    counters = count.counters
    result: dict[str, Any] = asdict(counters)
    if row.params.get("recrawl_of"):
        result |= {"pages_new": count.pages_new, "pages_changed": count.pages_changed}
    if counters.sources_skipped:
        skipped = await connection.execute(
            sa.select(extraction_tasks.c.source_id)
            .where(extraction_tasks.c.job_id == row.id, extraction_tasks.c.state == "skipped")
            .order_by(extraction_tasks.c.source_id)
            .limit(MAX_LISTED_SKIPPED)
        )
        result["skipped_source_ids"] = [str(source) for source in skipped.scalars()]
    if limits := await limits_reached(connection, row, counters):
        result[LIMITS_REACHED] = limits
    return result


def outcome_of(row: JobRow) -> JobOutcome:
    """The outcome that a closed row tells."""
    result = row.result or {}
    names = set(Counters.__dataclass_fields__)
    receipt = result.get("cancellation")
    return JobOutcome(
        job_id=str(row.id),
        status=row.status,
        counters=Counters(**{name: value for name, value in result.items() if name in names}),
        cancellation=CancellationReceipt(**receipt | {"timed_out": tuple(receipt.get("timed_out", ()))})
        if receipt
        else None,
        error=JobError(**row.error) if row.error else None,
    )
