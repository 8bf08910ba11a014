"""How a job ends: counts what there is, and writes the terminal state with its result."""

import uuid
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
from ke.storage.extracting import skip_open_tasks
from ke.storage.frontier import skip_open_pages
from ke.storage.jobs import JobRow, get_job, move_job
from ke.storage.tables import dead_letters, entities, extraction_tasks, extractions, pages, sources

MAX_LISTED_SKIPPED: Final = 100
"""Skipped sources that a result names; the rest are in the list of the job's sources."""


async def close_job(connection: AsyncConnection, close: CloseJob) -> JobOutcome:
    """Ends a job, once: a job that has ended already keeps its end, which is returned.

    What was not fetched or extracted by then is marked as skipped, and counted.

    Raises:
        NotFound: There is no such job.
    """
    row = await get_job(connection, uuid.UUID(close.job_id), lock=True)
    if row.status.is_terminal:
        return outcome_of(row)
    why = "cancelled" if close.cancelled else "failed" if close.error else "ended"
    await skip_open_pages(connection, row.id, why)
    await skip_open_tasks(connection, row.id)
    counters = await count_job(connection, row.id)
    status = _final_status(close, counters)
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


def _final_status(close: CloseJob, counters: Counters) -> JobStatus:
    if close.error is not None:
        return JobStatus.FAILED
    if close.cancelled:
        return JobStatus.CANCELLED
    return JobStatus.COMPLETED_WITH_ERRORS if counters.dead_letters else JobStatus.COMPLETED


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


async def count_job(connection: AsyncConnection, job_id: uuid.UUID) -> Counters:
    """Counts the job's rows, exactly."""

    async def by_state(table: sa.Table) -> dict[str, int]:
        statement = (
            sa.select(table.c.state, sa.func.count().label("number"))
            .where(table.c.job_id == job_id)
            .group_by(table.c.state)
        )
        return {record.state: record.number for record in await connection.execute(statement)}

    async def total(table: sa.Table) -> int:
        statement = sa.select(sa.func.count()).select_from(table).where(table.c.job_id == job_id)
        return int((await connection.execute(statement)).scalar_one())

    size = sa.select(sa.func.coalesce(sa.func.sum(pages.c.bytes), 0)).where(pages.c.job_id == job_id)
    page, task, chunk = await by_state(pages), await by_state(extraction_tasks), await by_state(extractions)
    return Counters(
        pages_fetched=page.get("fetched", 0),
        pages_failed=page.get("failed", 0),
        pages_skipped=page.get("skipped", 0),
        pages_duplicate=page.get("duplicate", 0),
        sources=await total(sources),
        sources_extracted=task.get("done", 0),
        sources_skipped=task.get("skipped", 0),
        extractions=sum(chunk.values()),
        entities=await total(entities),
        vectors=chunk.get("ready", 0),
        dead_letters=await total(dead_letters),
        bytes=int((await connection.execute(size)).scalar_one()),
    )


async def _result(
    connection: AsyncConnection,
    row: JobRow,
    counters: Counters,
    receipt: CancellationReceipt | None,
    now: datetime,
) -> dict[str, Any]:
    result: dict[str, Any] = asdict(counters)
    result["elapsed_s"] = round((now - (row.started_at or now)).total_seconds(), 3)
    if counters.sources_skipped:
        skipped = await connection.execute(
            sa.select(extraction_tasks.c.source_id)
            .where(extraction_tasks.c.job_id == row.id, extraction_tasks.c.state == "skipped")
            .order_by(extraction_tasks.c.source_id)
            .limit(MAX_LISTED_SKIPPED)
        )
        result["skipped_source_ids"] = [str(source) for source in skipped.scalars()]
    if receipt is not None:
        result["cancellation"] = asdict(receipt)
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
        cancellation=CancellationReceipt(**receipt) if receipt else None,
        error=JobError(**row.error) if row.error else None,
    )
