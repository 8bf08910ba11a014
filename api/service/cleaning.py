"""Cleaning up after jobs, and deleting their records."""

import asyncio
import uuid
from typing import Final

from temporalio.exceptions import WorkflowAlreadyStartedError

from api.errors import ArtifactsPresent
from api.resources import Gateway
from api.schemas import CleanupBody
from api.service import states
from api.service.receipts import receipt_of_run
from api.service.retrying import stop_retry_for
from api.views import ReceiptView
from ke.contracts.cleanup import CleanupInput, CleanupStatus, StoreCounts
from ke.contracts.errors import NotFound
from ke.contracts.jobs import Artifacts
from ke.contracts.naming import cleanup_id
from ke.contracts.retries import CloseRetry, RetryStatus
from ke.runtime.settling import count_all, settle, settle_cleanup
from ke.storage.cleanup_runs import ask_record_deletion
from ke.storage.cleanup_targets import CleanupTarget
from ke.storage.cleanups import active_dependents, find_receipt, tombstone
from ke.storage.jobs import JobRow, find_job, get_job
from ke.storage.relying import relying_on
from ke.storage.retries import end_retry

SETTLED_AT_ONCE: Final = 10
"""Jobs in the way of a cleanup that one call looks up in Temporal."""


async def clean_up(
    gateway: Gateway, job_id: uuid.UUID, body: CleanupBody, *, wait_s: float
) -> tuple[ReceiptView, bool]:
    """Starts the cleanup of an ended job, or joins the one that runs, or gives the receipt of the one that is done.

    Works on deleted jobs too: a record may go before what the job made.

    Args:
        gateway: The clients.
        job_id: The job.
        body: What is asked for.
        wait_s: Seconds to wait for the end.

    Returns:
        The receipt, and whether this is all there will be: a dry run, or a cleanup that has ended.

    Raises:
        NotFound: There never was such a job.
        JobActive: It has not ended, or others work on its sources.
        Unavailable: A store or Temporal does not answer.
    """
    row = await _ended_job(gateway, job_id)
    async with gateway.database.transaction() as connection:
        before = await find_receipt(connection, cleanup_id(str(job_id)))
    if body.dry_run:
        return await plan_of(gateway, CleanupTarget(job_id), delete_record=body.delete_record), True
    if row.artifacts is not Artifacts.CLEANED or before is None:
        await _start(gateway, row, body)
    if body.delete_record:
        await _delete_record_too(gateway, row)
    stale = before if before is not None and before.status is CleanupStatus.FAILED else None
    receipt = await receipt_of_run(gateway, cleanup_id(str(job_id)), stale=stale, wait_s=wait_s)
    if receipt is None:
        return await plan_of(gateway, CleanupTarget(job_id), delete_record=body.delete_record, running=True), False
    return ReceiptView.of(receipt), receipt.status is not CleanupStatus.RUNNING


async def plan_of(
    gateway: Gateway, target: CleanupTarget, *, delete_record: bool = False, running: bool = False
) -> ReceiptView:
    """What a cleanup would delete, or, when it is `running`, of one whose own receipt is not there yet.

    Raises:
        Unavailable: A store does not answer.
    """
    found = await count_all(gateway, target)
    async with gateway.database.transaction() as connection:
        relying = await relying_on(connection, target)
    return ReceiptView.plan(target, found, relying, delete_record=delete_record, running=running)


async def _ended_job(gateway: Gateway, job_id: uuid.UUID) -> JobRow:
    async with gateway.database.transaction() as connection:
        row = await find_job(connection, job_id)
    if row is None:
        raise NotFound(f"There is no job {job_id}.")
    # It may have been ended from Temporal's own tools, which do not write its row.
    row, _ = await settle(gateway, row)
    if not row.status.is_terminal:
        raise states.still_active(row, "cleaned up")
    row = await _with_settled_cleanup(gateway, row)
    if row.artifacts is not Artifacts.CLEANED:
        dependents = await settled_dependents(gateway, job_id)
        if dependents:
            raise states.blocked(row, dependents)
    return row


async def _with_settled_cleanup(gateway: Gateway, row: JobRow) -> JobRow:
    """The row, without a cleanup that was ended from Temporal's own tools."""
    if not await settle_cleanup(gateway, CleanupTarget(row.id)):
        return row
    async with gateway.database.transaction() as connection:
        return await find_job(connection, row.id) or row


async def settled_dependents(gateway: Gateway, job_id: uuid.UUID) -> list[uuid.UUID]:
    """The active jobs that extract from this one's sources, without those that have ended in Temporal only."""
    async with gateway.database.transaction() as connection:
        active = await active_dependents(connection, job_id)
        found = [await find_job(connection, dependent) for dependent in active[:SETTLED_AT_ONCE]]
    if not active:
        return []
    await asyncio.gather(*(settle_other(gateway, row) for row in found if row is not None))
    async with gateway.database.transaction() as connection:
        return await active_dependents(connection, job_id)


async def settle_other(gateway: Gateway, row: JobRow) -> None:
    """Ends the row of a job that is in the way when its workflow is closed."""
    try:
        await settle(gateway, row)
    except NotFound:
        return  # it ended and was deleted meanwhile


async def _start(gateway: Gateway, row: JobRow, body: CleanupBody) -> None:
    await stop_retry_for(gateway, row, "The job is being cleaned up.")
    try:
        await gateway.engine.start_cleanup(CleanupInput(str(row.id), delete_record=body.delete_record))
    except WorkflowAlreadyStartedError:
        return  # it was done well since the row was read: the receipt says so


async def _delete_record_too(gateway: Gateway, row: JobRow) -> None:
    """Makes a cleanup that was there before, started, running or done, delete the record as well."""
    async with gateway.database.transaction() as connection:
        if await ask_record_deletion(connection, row.id):
            return
    await _erase_histories(gateway, row)
    async with gateway.database.transaction() as connection:
        await tombstone(connection, row.id)


async def _erase_histories(gateway: Gateway, row: JobRow) -> None:
    """Deletes the job's workflow and those of its retries; one that is at work is ended: what it writes is fenced."""
    if row.retry_id is not None:
        await gateway.engine.retries.terminate(row.retry_id, "The job's record is deleted.")
        await end_retry(gateway.database, CloseRetry(row.retry_id, str(row.id), RetryStatus.CANCELLED))
    await gateway.engine.retries.erase(str(row.id), row.retries)
    await gateway.engine.erase_job(str(row.id))


async def delete_job(gateway: Gateway, job_id: uuid.UUID, *, cleanup: bool | None) -> ReceiptView | None:
    """Deletes the record of an ended job, leaving its tombstone.

    Args:
        gateway: The clients.
        job_id: The job.
        cleanup: True: clean up first; False: leave what the job made; None: only when nothing is left.

    Returns:
        The receipt of the cleanup at whose end the record goes; None when it is gone.

    Raises:
        NotFound: There is no such job, or it was deleted.
        JobActive: It has not ended.
        CleanupRunning: Its cleanup has not ended.
        RetryRunning: A retry of its dead letters began at this very moment.
        ArtifactsPresent: Something is left, and the caller has not said what becomes of it.
    """
    async with gateway.database.transaction() as connection:
        row = await get_job(connection, job_id)
    row, _ = await settle(gateway, row)
    if not row.status.is_terminal:
        raise states.still_active(row, "deleted")
    row = await _with_settled_cleanup(gateway, row)
    if row.artifacts is Artifacts.CLEANING and not cleanup:
        raise states.being_cleaned(row)
    if row.artifacts is not Artifacts.CLEANED and cleanup is not False:
        found = await count_all(gateway, CleanupTarget(job_id))
        if found.total and cleanup is None:
            raise _artifacts_present(row, found)
        if found.total or row.artifacts is Artifacts.CLEANING:
            receipt, _ = await clean_up(gateway, job_id, CleanupBody(delete_record=True), wait_s=0)
            return receipt
    # First, and with nothing locked: without Temporal the record stays, and the call can be made again.
    await _erase_histories(gateway, row)
    async with gateway.database.transaction() as connection:
        row = await get_job(connection, job_id, lock=True)
        if row.artifacts is Artifacts.CLEANING:
            raise states.being_cleaned(row)
        if row.retry_id is not None:  # begun since: its history would stay
            raise states.being_retried(row)
        await tombstone(connection, job_id)
    return None


def _artifacts_present(row: JobRow, found: StoreCounts) -> ArtifactsPresent:
    return ArtifactsPresent(
        f"The job has left {', '.join(found.told())}. DELETE with ?cleanup=true to delete these first, "
        f"or with ?cleanup=false to keep them and delete the record alone.",
        **states.about(row),
        choices=["cleanup=true", "cleanup=false"],
    )
