"""The runs of a cleanup: opening the receipt, planning, closing it as cleaned or failed."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.cleanup import CleanupInput, CleanupReceipt, CleanupScope, CleanupStatus, StoreCounts
from ke.contracts.errors import Conflict, NotFound
from ke.contracts.jobs import ACTIVE, Artifacts
from ke.contracts.naming import cleanup_id
from ke.storage.cleanup_targets import CleanupTarget
from ke.storage.cleanups import active_dependents, deleted_counts, get_receipt, row_counts, tombstone
from ke.storage.jobs import JobRow, find_job
from ke.storage.relying import RELYING, most_relying, relying_on
from ke.storage.tables import cleanup_batches, cleanups, jobs

_NOW: Final = sa.func.clock_timestamp()


@dataclass(frozen=True, slots=True)
class OpenedCleanup:
    """How a run of a cleanup begins."""

    receipt: CleanupReceipt
    epochs: Mapping[uuid.UUID, int] = field(default_factory=dict)
    """The write epochs from now on, of each job that is to be fenced."""
    blocked_by: Sequence[uuid.UUID] = ()
    """Active jobs that work on what is to be deleted: nothing was begun, and the receipt says so."""


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
    target = CleanupTarget.of(cleanup)
    before = await last_run(connection, target)
    if before is not None and before.status is CleanupStatus.CLEANED and row.artifacts is Artifacts.CLEANED:
        return await _already_cleaned(connection, row, cleanup)
    blocked_by = await active_dependents(connection, row.id)
    if blocked_by:
        return await _refuse(connection, row, blocked_by, cleanup)
    epoch = row.write_epoch
    if before is None or not before.is_open(run_id):
        epoch = await _start_run(connection, row.id, cleanup, run_id)
    return OpenedCleanup(await get_receipt(connection, target.receipt_id), {row.id: epoch})


@dataclass(frozen=True, slots=True)
class LastRun:
    """The newest run of a cleanup that was begun."""

    status: CleanupStatus
    run_id: str | None

    def is_open(self, run_id: str) -> bool:
        """Whether it is this run, and at work: a retried activity finds its own beginning."""
        return self.status is CleanupStatus.RUNNING and self.run_id == run_id


async def last_run(connection: AsyncConnection, target: CleanupTarget) -> LastRun | None:
    """The newest run; None when none was begun."""
    statement = sa.select(cleanups.c.status, cleanups.c.run_id).where(cleanups.c.id == target.receipt_id)
    found = (await connection.execute(statement)).first()
    return LastRun(CleanupStatus(found.status), found.run_id) if found is not None else None


async def _already_cleaned(connection: AsyncConnection, row: JobRow, cleanup: CleanupInput) -> OpenedCleanup:
    receipt_id = cleanup_id(cleanup.job_id)
    if cleanup.delete_record and row.deleted_at is None:
        await tombstone(connection, row.id)
        await connection.execute(sa.update(cleanups).where(cleanups.c.id == receipt_id).values(delete_record=True))
    return OpenedCleanup(await get_receipt(connection, receipt_id))


async def _start_run(connection: AsyncConnection, job_id: uuid.UUID, cleanup: CleanupInput, run_id: str) -> int:
    await start_receipt(connection, cleanup, run_id)
    raised = (
        sa.update(jobs)
        .where(jobs.c.id == job_id)
        # A retry of dead letters that is at work loses to the cleanup: it may not write any more.
        .values(write_epoch=jobs.c.write_epoch + 1, artifacts=Artifacts.CLEANING.value, retry_id=None)
        .returning(jobs.c.write_epoch)
    )
    return int((await connection.execute(raised)).scalar_one())


async def start_receipt(connection: AsyncConnection, cleanup: CleanupInput, run_id: str) -> None:
    """Opens the receipt for a run, or again for a further one."""
    values = {
        "status": CleanupStatus.RUNNING.value,
        "run_id": run_id,
        "error": None,
        "completed_at": None,
    }
    await _upsert(connection, CleanupTarget.of(cleanup), values, cleanup.part_of, delete_record=cleanup.delete_record)


async def _refuse(
    connection: AsyncConnection, row: JobRow, blocked_by: Sequence[uuid.UUID], cleanup: CleanupInput
) -> OpenedCleanup:
    """Records that nothing could be begun: the job must not read as `cleaning` when nobody cleans it.

    When no earlier run has deleted anything, all is there as before, and is found and extracted from again.
    """
    refused = await refuse_run(connection, cleanup, blocked_by)
    is_whole = not await _has_batches(connection, refused.receipt.id)
    await _set_artifacts(connection, row.id, Artifacts.PRESENT if is_whole else Artifacts.CLEANUP_FAILED)
    return refused


async def refuse_run(
    connection: AsyncConnection, cleanup: CleanupInput, blocked_by: Sequence[uuid.UUID]
) -> OpenedCleanup:
    """Writes into the receipt that nothing could be begun, and which active jobs were in the way."""
    target = CleanupTarget.of(cleanup)
    values = {
        "status": CleanupStatus.FAILED.value,
        "error": blocked_message(target, blocked_by),
        "remaining": asdict(await row_counts(connection, target)),
        "deleted": asdict(await deleted_counts(connection, target.receipt_id)),
        "completed_at": _NOW,
        # Of no run: the workflow's report of this same refusal must not take it for a failed deletion.
        "run_id": None,
    }
    await _upsert(connection, target, values, cleanup.part_of, delete_record=cleanup.delete_record)
    return OpenedCleanup(await get_receipt(connection, target.receipt_id), {}, blocked_by)


def blocked_message(target: CleanupTarget, blocked_by: Sequence[uuid.UUID]) -> str:
    """Says which active jobs keep something from being cleaned up."""
    names = ", ".join(str(job) for job in blocked_by)
    return f"Active jobs work on the sources of job {target.job_id}: {names}. Cancel them, or wait until they end."


async def _has_batches(connection: AsyncConnection, receipt_id: str) -> bool:
    """Whether some run has deleted, or was about to delete, something."""
    batch = sa.select(cleanup_batches.c.number).where(cleanup_batches.c.cleanup_id == receipt_id).limit(1)
    return (await connection.execute(batch)).first() is not None


async def _upsert(
    connection: AsyncConnection,
    target: CleanupTarget,
    values: Mapping[str, Any],
    part_of: str | None = None,
    *,
    delete_record: bool,
) -> None:
    """Writes the receipt.

    A wish for the record's deletion is added and never taken back. A receipt stays a part of its project's until
    another one takes it up: a run that somebody else started must not drop what it deletes from that sum.
    """
    about = {"id": target.receipt_id, "scope": target.scope, "job_id": target.job_id, "source_id": target.source_id}
    first = {"status": CleanupStatus.RUNNING.value, "planned": {}, "started_at": _NOW, **values}
    statement = insert(cleanups).values(delete_record=delete_record, part_of=part_of, **about, **first)
    kept = {
        "delete_record": sa.or_(cleanups.c.delete_record, statement.excluded.delete_record),
        "part_of": sa.func.coalesce(statement.excluded.part_of, cleanups.c.part_of),
    }
    await connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_={**values, **kept}))


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
    await _upsert(connection, CleanupTarget(job_id), {}, delete_record=True)
    return True


async def _set_artifacts(connection: AsyncConnection, job_id: uuid.UUID, artifacts: Artifacts) -> None:
    await connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(artifacts=artifacts.value))


async def record_plan(
    connection: AsyncConnection, target: CleanupTarget, found: StoreCounts, *, fenced: bool
) -> CleanupReceipt:
    """Writes what there is to delete, with what earlier runs have deleted, so that both totals span all runs.

    And what other jobs have of it, as of the first run.
    """
    receipt = await get_receipt(connection, target.receipt_id)
    planned = await deleted_counts(connection, receipt.id) + found
    relying = most_relying(receipt.relying, await relying_on(connection, target))
    plan = {**asdict(planned), RELYING: asdict(relying)}
    await connection.execute(sa.update(cleanups).where(cleanups.c.id == receipt.id).values(planned=plan, fenced=fenced))
    return await get_receipt(connection, receipt.id)


async def close_cleanup(
    connection: AsyncConnection, target: CleanupTarget, remaining: StoreCounts, error: str | None
) -> CleanupReceipt:
    """Closes the receipt, and a job's artifacts with it: cleaned when nothing is left, failed otherwise.

    A receipt that says cleaned already stays as it is.
    """
    await find_job(connection, target.job_id, lock=True)
    receipt = await get_receipt(connection, target.receipt_id)
    if receipt.status is CleanupStatus.CLEANED:
        return receipt
    failed = error is not None or remaining.total > 0
    values = {
        "status": CleanupStatus.FAILED.value if failed else CleanupStatus.CLEANED.value,
        "deleted": asdict(await deleted_counts(connection, receipt.id)),
        "remaining": asdict(remaining),
        "error": error,
        "completed_at": _NOW,
    }
    await connection.execute(sa.update(cleanups).where(cleanups.c.id == receipt.id).values(**values))
    if target.scope is CleanupScope.JOB:
        await _set_artifacts(connection, target.job_id, Artifacts.CLEANUP_FAILED if failed else Artifacts.CLEANED)
        if receipt.delete_record and not failed:
            await tombstone(connection, target.job_id)
    return await get_receipt(connection, receipt.id)


async def fail_run(connection: AsyncConnection, target: CleanupTarget, run_id: str, error: str) -> bool:
    """Closes the receipt of a run that was stopped; returns False when that run has no open receipt.

    `remaining` is what was planned and not deleted, until `close_cleanup` puts exact counts in its place.
    """
    await find_job(connection, target.job_id, lock=True)
    run = await last_run(connection, target)
    if run is None or run.run_id != run_id or run.status is CleanupStatus.CLEANED:
        return False
    receipt = await get_receipt(connection, target.receipt_id)
    await close_cleanup(connection, target, receipt.remaining, error)
    return True


# Runs that ended without a word


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run that is at work, as far as the stores know."""

    run_id: str | None
    """None when it has not begun."""


async def find_open_run(connection: AsyncConnection, target: CleanupTarget) -> OpenRun | None:
    """The run of a receipt that is running, or the one that a cancelled job has started; None when there is none."""
    run = await last_run(connection, target)
    if run is not None:
        return OpenRun(run.run_id) if run.status is CleanupStatus.RUNNING else None
    if target.scope is not CleanupScope.JOB:
        return None
    statement = sa.select(jobs.c.artifacts).where(jobs.c.id == target.job_id)
    is_started = (await connection.execute(statement)).scalar_one_or_none() == Artifacts.CLEANING
    return OpenRun(None) if is_started else None


async def fail_ended_run(
    connection: AsyncConnection, target: CleanupTarget, run: OpenRun, error: str, remaining: StoreCounts | None
) -> bool:
    """Closes the receipt as failed for a run whose workflow is closed; returns False when it is not open any more.

    Args:
        connection: The transaction.
        target: What the cleanup is about.
        run: What `find_open_run` gave before the workflow was found closed.
        error: Why it ended.
        remaining: What is left, exactly; None takes what was planned and not deleted.
    """
    await find_job(connection, target.job_id, lock=True)
    if await find_open_run(connection, target) != run:
        return False
    await _upsert(connection, target, {}, delete_record=False)
    receipt = await get_receipt(connection, target.receipt_id)
    await close_cleanup(connection, target, receipt.remaining if remaining is None else remaining, error)
    is_whole = run.run_id is None and not await _has_batches(connection, receipt.id)
    if is_whole and target.scope is CleanupScope.JOB:
        await _set_artifacts(connection, target.job_id, Artifacts.PRESENT)
    return True
