"""Cleaning up after jobs, and deleting their records."""

import asyncio
import time
import uuid
from typing import Final

from temporalio.exceptions import WorkflowAlreadyStartedError

from api.errors import ArtifactsPresent
from api.resources import Gateway
from api.schemas import CleanupBody
from api.service import states
from api.views import ReceiptView
from ke.contracts.cleanup import CleanupInput, CleanupReceipt, CleanupStatus, StoreCounts
from ke.contracts.errors import NotFound
from ke.contracts.jobs import Artifacts
from ke.contracts.naming import cleanup_id
from ke.runtime.settling import count_all, settle, settle_cleanup
from ke.storage.cleanup_runs import ask_record_deletion
from ke.storage.cleanup_targets import CleanupTarget
from ke.storage.cleanups import active_dependents, find_receipt, get_receipt, tombstone
from ke.storage.jobs import JobRow, find_job, get_job

BEGUN_WITHIN_S: Final = 2.0
"""Seconds for which an answer waits for the receipt of a cleanup that it started."""
POLL_FIRST_S: Final = 0.05
POLL_MAX_S: Final = 0.5
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
        found = await count_all(gateway, CleanupTarget(job_id))
        return ReceiptView.plan(job_id, found, delete_record=body.delete_record), True
    if row.artifacts is not Artifacts.CLEANED or before is None:
        await _start(gateway, row, body)
    if body.delete_record:
        await _delete_record_too(gateway, row)
    receipt = await _receipt_of_run(gateway, job_id, before, wait_s=wait_s)
    if receipt is None:
        found = await count_all(gateway, CleanupTarget(job_id))
        return ReceiptView.plan(job_id, found, delete_record=body.delete_record, running=True), False
    return ReceiptView.of(receipt), receipt.status is not CleanupStatus.RUNNING


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
        dependents = await _dependents(gateway, job_id)
        if dependents:
            raise states.blocked(row, dependents)
    return row


async def _with_settled_cleanup(gateway: Gateway, row: JobRow) -> JobRow:
    """The row, without a cleanup that was ended from Temporal's own tools."""
    if not await settle_cleanup(gateway, CleanupTarget(row.id)):
        return row
    async with gateway.database.transaction() as connection:
        return await find_job(connection, row.id) or row


async def _dependents(gateway: Gateway, job_id: uuid.UUID) -> list[uuid.UUID]:
    """The active jobs that extract from this one's sources, without those that have ended in Temporal only."""
    async with gateway.database.transaction() as connection:
        active = await active_dependents(connection, job_id)
        found = [await find_job(connection, dependent) for dependent in active[:SETTLED_AT_ONCE]]
    if not active:
        return []
    await asyncio.gather(*(_settle_dependent(gateway, row) for row in found if row is not None))
    async with gateway.database.transaction() as connection:
        return await active_dependents(connection, job_id)


async def _settle_dependent(gateway: Gateway, row: JobRow) -> None:
    try:
        await settle(gateway, row)
    except NotFound:
        return  # it ended and was deleted meanwhile


async def _start(gateway: Gateway, row: JobRow, body: CleanupBody) -> None:
    try:
        await gateway.engine.start_cleanup(CleanupInput(str(row.id), delete_record=body.delete_record))
    except WorkflowAlreadyStartedError:
        return  # it was done well since the row was read: the receipt says so


async def _delete_record_too(gateway: Gateway, row: JobRow) -> None:
    """Makes a cleanup that was there before, started, running or done, delete the record as well."""
    async with gateway.database.transaction() as connection:
        if await ask_record_deletion(connection, row.id):
            return
    await gateway.engine.erase_job(str(row.id))
    async with gateway.database.transaction() as connection:
        await tombstone(connection, row.id)


async def _receipt_of_run(
    gateway: Gateway, job_id: uuid.UUID, before: CleanupReceipt | None, *, wait_s: float
) -> CleanupReceipt | None:
    """The receipt once the run has begun, or ended where the caller waits; None when it did not begin in time.

    A receipt that had failed before this call says nothing of the run that was started now, and one in which
    nothing is planned yet says nothing at all.
    """
    begun_by, ended_by = time.monotonic() + BEGUN_WITHIN_S, time.monotonic() + wait_s
    pause = POLL_FIRST_S
    while True:
        async with gateway.database.transaction() as connection:
            receipt = await find_receipt(connection, cleanup_id(str(job_id)))
        now = time.monotonic()
        if receipt is not None and _tells(receipt, before):
            if receipt.status is not CleanupStatus.RUNNING or now >= ended_by:
                return receipt
        elif now >= max(begun_by, ended_by):
            return None
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, POLL_MAX_S)


def _tells(receipt: CleanupReceipt, before: CleanupReceipt | None) -> bool:
    match receipt.status:
        case CleanupStatus.RUNNING:
            return receipt.planned.total > 0
        case CleanupStatus.FAILED:
            return before is None or receipt.completed_at != before.completed_at
        case CleanupStatus.CLEANED:
            return True


async def read_receipt(gateway: Gateway, receipt_id: str) -> ReceiptView:
    """The receipt of a cleanup, while it runs and after the job is gone.

    Raises:
        NotFound: There is none.
    """
    try:
        job_id = uuid.UUID(receipt_id.removeprefix("cleanup-"))
    except ValueError as error:
        raise NotFound(f"There is no cleanup {receipt_id}.") from error
    await settle_cleanup(gateway, CleanupTarget(job_id))
    async with gateway.database.transaction() as connection:
        return ReceiptView.of(await get_receipt(connection, receipt_id))


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
    await gateway.engine.erase_job(str(job_id))
    async with gateway.database.transaction() as connection:
        row = await get_job(connection, job_id, lock=True)
        if row.artifacts is Artifacts.CLEANING:
            raise states.being_cleaned(row)
        await tombstone(connection, job_id)
    return None


def _artifacts_present(row: JobRow, found: StoreCounts) -> ArtifactsPresent:
    left = [f"{getattr(found, name)} {name.replace('_', ' ')}" for name in found.__slots__ if getattr(found, name)]
    return ArtifactsPresent(
        f"The job has left {', '.join(left)}. DELETE with ?cleanup=true to delete these first, "
        f"or with ?cleanup=false to keep them and delete the record alone.",
        **states.about(row),
        choices=["cleanup=true", "cleanup=false"],
    )
