"""How a job ends: counts what there is, and writes the terminal state with its result.

A job may have millions of rows, and a statement has a minute: `end_job` skips what is left in batches, each in a
transaction of its own, and counts go piece by piece.
"""

import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
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
from ke.storage.database import Database
from ke.storage.extract_queue import skip_open_tasks
from ke.storage.frontier import SKIP_BATCH, skip_open_pages
from ke.storage.jobs import JobRow, get_job, move_job, set_run_id
from ke.storage.record_queue import skip_open_records
from ke.storage.tables import (
    dead_letters,
    entities,
    entity_tasks,
    extraction_tasks,
    extractions,
    job_progress,
    pages,
    records,
    sources,
)

MAX_LISTED_SKIPPED: Final = 100
"""Skipped sources that a result names; the rest are in the list of the job's sources."""
COUNT_PIECE: Final = 100_000
"""Rows that one statement counts."""


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
    if run_id is not None:
        await set_run_id(connection, row.id, run_id)
    return await _close_job(connection, row, close, progress)


async def _skip_open(connection: AsyncConnection, job_id: uuid.UUID, close: CloseJob, limit: int) -> int:
    why = "cancelled" if close.cancelled else "failed" if close.error else "ended"
    skipped = await skip_open_pages(connection, job_id, why, limit=limit)
    if skipped < limit:
        skipped += await skip_open_tasks(connection, job_id, limit=limit - skipped)
    if skipped < limit:
        skipped += await skip_open_records(connection, job_id, why, limit=limit - skipped)
    return skipped


async def _close_job(
    connection: AsyncConnection, row: JobRow, close: CloseJob, progress: Callable[[], None]
) -> JobOutcome:
    counters, has_failures = await count_job(connection, row.id, progress)
    status = _final_status(close, has_failures=has_failures)
    now: datetime = (await connection.execute(sa.select(sa.func.clock_timestamp()))).scalar_one()
    receipt = _receipt(row, close, now)
    result = await _result(connection, row, counters, receipt, now)
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


async def count_job(
    connection: AsyncConnection, job_id: uuid.UUID, progress: Callable[[], None] = lambda: None
) -> tuple[Counters, bool]:
    """Counts the job's rows, exactly.

    Returns:
        The counters, and whether a page or a source failed for good. Its dead letter may have been purged since.
    """

    async def tally(table: sa.Table) -> dict[str, _Tally]:
        return await _tally(connection, table, job_id, progress)

    async def total(table: sa.Table) -> int:
        return sum(part.number for part in (await tally(table)).values())

    page, chunk = await tally(pages), await tally(extractions)
    task = await _count_tasks(connection, job_id, extraction_tasks.c.state)
    searched = await _count_tasks(connection, job_id, entity_tasks.c.state)
    record = await _count_tasks(connection, job_id, extraction_tasks.c.record_state)
    none = _Tally()
    counters = Counters(
        pages_fetched=page.get("fetched", none).number,
        pages_failed=page.get("failed", none).number,
        pages_skipped=page.get("skipped", none).number,
        pages_duplicate=page.get("duplicate", none).number,
        pages_unchanged=page.get("unchanged", none).number,
        pages_gone=page.get("gone", none).number,
        sources=await total(sources),
        sources_extracted=task.get("done", 0),
        sources_skipped=task.get("skipped", 0),
        extractions=sum(part.number for part in chunk.values()),
        entities=await total(entities),
        entity_sources=searched.get("done", 0),
        entity_sources_skipped=searched.get("skipped", 0),
        vectors=chunk.get("ready", none).number,
        dead_letters=await total(dead_letters),
        bytes=sum(part.bytes for part in page.values()),
        records=await total(records),
        records_skipped=record.get("skipped", 0),
        **await _spent(connection, job_id),
    )
    failed = (task.get("failed"), searched.get("failed"), record.get("failed"))
    return counters, bool(counters.pages_failed or any(failed))


@dataclass(frozen=True, slots=True)
class _Tally:
    """Rows of one state."""

    number: int = 0
    bytes: int = 0


async def _tally(
    connection: AsyncConnection, table: sa.Table, job_id: uuid.UUID, progress: Callable[[], None]
) -> dict[str, _Tally]:
    """Counts rows by their state, "" where the table has none, in pieces along the index on job and `seq`."""
    state = table.c.state if "state" in table.c else sa.literal("")
    size = table.c.bytes if table is pages else sa.literal(0)
    found: dict[str, _Tally] = {}
    after = 0
    while True:
        piece = (
            sa.select(table.c.seq, state.label("state"), size.label("bytes"))
            .where(table.c.job_id == job_id, table.c.seq > after)
            .order_by(table.c.seq)
            .limit(COUNT_PIECE)
            .subquery()
        )
        statement = sa.select(
            piece.c.state, sa.func.count(), sa.func.coalesce(sa.func.sum(piece.c.bytes), 0), sa.func.max(piece.c.seq)
        ).group_by(piece.c.state)
        records = (await connection.execute(statement)).all()
        if not records:
            return found
        for name, number, size_sum, last in records:
            before = found.get(name, _Tally())
            found[name] = _Tally(before.number + number, before.bytes + int(size_sum))
            after = max(after, last)
        progress()
        if sum(number for _, number, _, _ in records) < COUNT_PIECE:
            return found


async def _spent(connection: AsyncConnection, job_id: uuid.UUID) -> dict[str, int]:
    """What calls have cost: no row tells it, as failed ones cost too, so the lanes' own sums are taken."""
    names = ("tokens_in", "tokens_out", "cost_micros")
    sums = [sa.func.coalesce(sa.func.sum(job_progress.c[name]), 0).label(name) for name in names]
    found = (await connection.execute(sa.select(*sums).where(job_progress.c.job_id == job_id))).one()
    return {name: int(number) for name, number in zip(names, found, strict=True)}


async def _count_tasks(connection: AsyncConnection, job_id: uuid.UUID, state: sa.Column[str | None]) -> dict[str, int]:
    """Counts a lane's sources by their state, which an index has."""
    statement = sa.select(state, sa.func.count()).where(state.table.c.job_id == job_id).group_by(state)
    return {record[0] or "": record[1] for record in await connection.execute(statement)}


async def _result(
    connection: AsyncConnection,
    row: JobRow,
    counters: Counters,
    receipt: CancellationReceipt | None,
    now: datetime,
) -> dict[str, Any]:
    result = await counted_result(connection, row.id, counters)
    result["elapsed_s"] = round((now - (row.started_at or now)).total_seconds(), 3)
    if receipt is not None:
        result["cancellation"] = asdict(receipt)
    return result


async def counted_result(connection: AsyncConnection, job_id: uuid.UUID, counters: Counters) -> dict[str, Any]:
    """The part of a result that is counted: the counters, and the first of the skipped sources."""
    result: dict[str, Any] = asdict(counters)
    if counters.sources_skipped:
        skipped = await connection.execute(
            sa.select(extraction_tasks.c.source_id)
            .where(extraction_tasks.c.job_id == job_id, extraction_tasks.c.state == "skipped")
            .order_by(extraction_tasks.c.source_id)
            .limit(MAX_LISTED_SKIPPED)
        )
        result["skipped_source_ids"] = [str(source) for source in skipped.scalars()]
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
