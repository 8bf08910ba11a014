"""The runs of a cleanup: opening the receipt, planning, closing it as cleaned or failed."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.cleanup import CleanupInput, CleanupReceipt, CleanupStatus, StoreCounts
from ke.contracts.errors import Conflict, NotFound
from ke.contracts.jobs import ACTIVE, Artifacts
from ke.contracts.naming import cleanup_id
from ke.storage.cleanups import active_dependents, deleted_counts, find_receipt, get_receipt, row_counts, tombstone
from ke.storage.jobs import JobRow, find_job
from ke.storage.tables import cleanup_batches, cleanups, jobs

_NOW: Final = sa.func.clock_timestamp()


@dataclass(frozen=True, slots=True)
class OpenedCleanup:
    """How a run of a cleanup begins."""

    receipt: CleanupReceipt
    epoch: int
    """The job's write epoch from now on."""
    blocked_by: Sequence[uuid.UUID] = ()
    """Active jobs that extract from this job's sources: nothing was begun, and the receipt says so."""


async def open_cleanup(connection: AsyncConnection, cleanup: CleanupInput, run_id: str) -> OpenedCleanup:
    """Opens the receipt, or takes up the one of an earlier run, and raises the job's write epoch once for each run.

    A job that is cleaned already keeps its receipt; when `delete_record` is asked for now, its record goes.

    Raises:
        NotFound: There never was such a job.
        Conflict: The job is active.
    """
    row = await find_job(connection, uuid.UUID(cleanup.job_id), lock=True)
    if row is None:
        raise NotFound(f"There is no job {cleanup.job_id}.")
    if row.status in ACTIVE:
        raise Conflict(
            f"Job {row.id} is {row.status}: only a job that has ended can be cleaned up.", current_status=row.status
        )
    statement = sa.select(cleanups.c.status, cleanups.c.run_id).where(cleanups.c.id == cleanup_id(cleanup.job_id))
    before = (await connection.execute(statement)).first()
    if before is not None and before.status == CleanupStatus.CLEANED and row.artifacts is Artifacts.CLEANED:
        return await _already_cleaned(connection, row, cleanup)
    blocked_by = await active_dependents(connection, row.id)
    if blocked_by:
        return await _refuse(connection, row, blocked_by, delete_record=cleanup.delete_record)
    epoch = row.write_epoch
    if before is None or before.status != CleanupStatus.RUNNING or before.run_id != run_id:
        epoch = await _start_run(connection, row.id, cleanup, run_id)
    return OpenedCleanup(await get_receipt(connection, cleanup_id(cleanup.job_id)), epoch)


async def _already_cleaned(connection: AsyncConnection, row: JobRow, cleanup: CleanupInput) -> OpenedCleanup:
    receipt_id = cleanup_id(cleanup.job_id)
    if cleanup.delete_record and row.deleted_at is None:
        await tombstone(connection, row.id)
        await connection.execute(sa.update(cleanups).where(cleanups.c.id == receipt_id).values(delete_record=True))
    return OpenedCleanup(await get_receipt(connection, receipt_id), row.write_epoch)


async def _start_run(connection: AsyncConnection, job_id: uuid.UUID, cleanup: CleanupInput, run_id: str) -> int:
    values = {"status": CleanupStatus.RUNNING.value, "run_id": run_id, "error": None, "completed_at": None}
    await _upsert(connection, job_id, values, delete_record=cleanup.delete_record)
    raised = (
        sa.update(jobs)
        .where(jobs.c.id == job_id)
        # A retry of dead letters that is at work loses to the cleanup: it may not write any more.
        .values(write_epoch=jobs.c.write_epoch + 1, artifacts=Artifacts.CLEANING.value, retry_id=None)
        .returning(jobs.c.write_epoch)
    )
    return int((await connection.execute(raised)).scalar_one())


async def _refuse(
    connection: AsyncConnection, row: JobRow, blocked_by: Sequence[uuid.UUID], *, delete_record: bool
) -> OpenedCleanup:
    """Records that nothing could be begun: the job must not read as `cleaning` when nobody cleans it.

    When no earlier run has deleted anything, all is there as before, and is found and extracted from again.
    """
    receipt_id = cleanup_id(str(row.id))
    await _upsert(
        connection,
        row.id,
        {
            "status": CleanupStatus.FAILED.value,
            "error": blocked_message(row.id, blocked_by),
            "remaining": asdict(await row_counts(connection, row.id)),
            "deleted": asdict(await deleted_counts(connection, receipt_id)),
            "completed_at": _NOW,
            # Of no run: the workflow's report of this same refusal must not take it for a failed deletion.
            "run_id": None,
        },
        delete_record=delete_record,
    )
    is_whole = not await _has_batches(connection, receipt_id)
    await _set_artifacts(connection, row.id, Artifacts.PRESENT if is_whole else Artifacts.CLEANUP_FAILED)
    return OpenedCleanup(await get_receipt(connection, receipt_id), row.write_epoch, blocked_by)


def blocked_message(job_id: uuid.UUID, blocked_by: Sequence[uuid.UUID]) -> str:
    """Says which active jobs keep a job from being cleaned up."""
    names = ", ".join(str(job) for job in blocked_by)
    return f"Active jobs extract from the sources of job {job_id}: {names}. Cancel them, or wait until they end."


async def _has_batches(connection: AsyncConnection, receipt_id: str) -> bool:
    """Whether some run has deleted, or was about to delete, something."""
    batch = sa.select(cleanup_batches.c.number).where(cleanup_batches.c.cleanup_id == receipt_id).limit(1)
    return (await connection.execute(batch)).first() is not None


async def _upsert(
    connection: AsyncConnection, job_id: uuid.UUID, values: Mapping[str, Any], *, delete_record: bool
) -> None:
    """Writes the receipt; a wish for the record's deletion is added and never taken back."""
    first = {"status": CleanupStatus.RUNNING.value, "planned": {}, "started_at": _NOW, **values}
    statement = insert(cleanups).values(id=cleanup_id(str(job_id)), job_id=job_id, delete_record=delete_record, **first)
    wish = sa.or_(cleanups.c.delete_record, statement.excluded.delete_record)
    await connection.execute(
        statement.on_conflict_do_update(index_elements=["id"], set_={**values, "delete_record": wish})
    )


async def ask_record_deletion(connection: AsyncConnection, job_id: uuid.UUID) -> bool:
    """Makes the cleanup that was started, begun or not, delete the job's record at its end.

    The wish is in the receipt from now on, for this run and for those after it.

    Returns:
        False when the job is cleaned already, so that no run will see the wish: the caller has to delete the record.

    Raises:
        NotFound: There never was such a job.
    """
    # Under this lock a receipt is closed, so the wish comes either before that or after it, never between.
    row = await find_job(connection, job_id, lock=True)
    if row is None:
        raise NotFound(f"There is no job {job_id}.")
    if row.artifacts is Artifacts.CLEANED:
        return False
    await _upsert(connection, job_id, {}, delete_record=True)
    return True


async def _set_artifacts(connection: AsyncConnection, job_id: uuid.UUID, artifacts: Artifacts) -> None:
    await connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(artifacts=artifacts.value))


async def record_plan(
    connection: AsyncConnection, receipt_id: str, found: StoreCounts, *, fenced: bool
) -> CleanupReceipt:
    """Writes what there is to delete, with what earlier runs have deleted, so that both totals span all runs."""
    planned = await deleted_counts(connection, receipt_id) + found
    await connection.execute(
        sa.update(cleanups).where(cleanups.c.id == receipt_id).values(planned=asdict(planned), fenced=fenced)
    )
    return await get_receipt(connection, receipt_id)


async def close_cleanup(
    connection: AsyncConnection, job_id: uuid.UUID, remaining: StoreCounts, error: str | None
) -> CleanupReceipt:
    """Closes the receipt and the job's artifacts with it: cleaned when nothing is left, failed otherwise.

    A receipt that says cleaned already stays as it is.
    """
    receipt_id = cleanup_id(str(job_id))
    await find_job(connection, job_id, lock=True)
    receipt = await get_receipt(connection, receipt_id)
    if receipt.status is CleanupStatus.CLEANED:
        return receipt
    failed = error is not None or remaining.total > 0
    values = {
        "status": CleanupStatus.FAILED.value if failed else CleanupStatus.CLEANED.value,
        "deleted": asdict(await deleted_counts(connection, receipt_id)),
        "remaining": asdict(remaining),
        "error": error,
        "completed_at": _NOW,
    }
    await connection.execute(sa.update(cleanups).where(cleanups.c.id == receipt_id).values(**values))
    await _set_artifacts(connection, job_id, Artifacts.CLEANUP_FAILED if failed else Artifacts.CLEANED)
    if receipt.delete_record and not failed:
        await tombstone(connection, job_id)
    return await get_receipt(connection, receipt_id)


async def fail_run(connection: AsyncConnection, job_id: uuid.UUID, run_id: str, error: str) -> bool:
    """Closes the receipt of a run that was stopped; returns False when that run has no open receipt.

    `remaining` is what was planned and not deleted, until `close_cleanup` puts exact counts in its place.
    """
    await find_job(connection, job_id, lock=True)
    receipt = await find_receipt(connection, cleanup_id(str(job_id)))
    if receipt is None:
        return False
    owner = (await connection.execute(sa.select(cleanups.c.run_id).where(cleanups.c.id == receipt.id))).scalar_one()
    if owner != run_id or receipt.status is CleanupStatus.CLEANED:
        return False
    await close_cleanup(connection, job_id, receipt.remaining, error)
    return True


# Runs that ended without a word


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run that is at work, as far as the stores know."""

    run_id: str | None
    """None when it has not begun."""


async def find_open_run(connection: AsyncConnection, job_id: uuid.UUID) -> OpenRun | None:
    """The run of a receipt that is running, or the one that a cancelled job has started; None when there is none."""
    statement = (
        sa.select(jobs.c.artifacts, cleanups.c.status, cleanups.c.run_id)
        .select_from(jobs.outerjoin(cleanups, cleanups.c.id == cleanup_id(str(job_id))))
        .where(jobs.c.id == job_id)
    )
    found = (await connection.execute(statement)).first()
    if found is None:
        return None
    is_started = found.status is None and found.artifacts == Artifacts.CLEANING
    return OpenRun(found.run_id) if is_started or found.status == CleanupStatus.RUNNING else None


async def fail_ended_run(
    connection: AsyncConnection, job_id: uuid.UUID, run: OpenRun, error: str, remaining: StoreCounts | None
) -> bool:
    """Closes the receipt as failed for a run whose workflow is closed; returns False when it is not open any more.

    Args:
        connection: The transaction.
        job_id: The job.
        run: What `find_open_run` gave before the workflow was found closed.
        error: Why it ended.
        remaining: What is left, exactly; None takes what was planned and not deleted.
    """
    await find_job(connection, job_id, lock=True)
    if await find_open_run(connection, job_id) != run:
        return False
    await _upsert(connection, job_id, {}, delete_record=False)
    receipt = await get_receipt(connection, cleanup_id(str(job_id)))
    await close_cleanup(connection, job_id, receipt.remaining if remaining is None else remaining, error)
    if run.run_id is None and not await _has_batches(connection, receipt.id):
        await _set_artifacts(connection, job_id, Artifacts.PRESENT)
    return True
