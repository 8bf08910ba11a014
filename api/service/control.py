"""Steering jobs: cancel, pause, resume."""

import asyncio
import time
import uuid
from typing import Final

from api.resources import Gateway
from api.schemas import CancelBody, CleanupBody
from api.service import states
from api.service.cleaning import clean_up
from api.service.reading import load
from api.service.retrying import cancel_retry
from api.views import JobView
from ke.contracts.errors import RowLocked, TemporalUnavailable
from ke.contracts.jobs import CancelRequest, JobStatus
from ke.runtime.settling import repair, settle
from ke.storage.jobs import JobRow, get_job, request_cancel

SEEN_WITHIN_S: Final = 2.0
"""Seconds for which a signal's answer waits for the workflow to act on it."""
SEEN_POLL_S: Final = 0.05
CANCEL_LOCK_S: Final = 1.0
"""Seconds for which a cancel waits for the job's row before it goes to Temporal without it."""


class _WorkflowClosed(Exception):
    """The row is open, but there is no open workflow to ask."""


async def cancel_job(gateway: Gateway, job_id: uuid.UUID, body: CancelBody) -> JobView:
    """Asks for a cancellation; the job is `cancelling` when this returns, and its workflow knows.

    Of a job that has ended it cancels the retry of its dead letters that is at work.

    The change of state and the call to Temporal are one transaction, committed after the call: a row that says
    `cancelling` has a workflow that was told. A row that somebody holds, as a worker that froze in a transaction
    does, is no reason to wait: Temporal is told all the same, and the workflow writes `cancelling` itself.

    Raises:
        NotFound: There is no such job.
        NotCancellable: It is in no state in which it can be cancelled, and why.
        Unavailable: The cancel was not accepted, or it is unknown whether it was: ask again.
    """
    async with gateway.turns.take(job_id):
        return await _cancel(gateway, job_id, body)


async def _cancel(gateway: Gateway, job_id: uuid.UUID, body: CancelBody) -> JobView:
    try:
        async with gateway.database.transaction(lock_timeout_s=CANCEL_LOCK_S) as connection:
            row = await request_cancel(connection, job_id, body.reason or "")
            if row is None:
                refused = await get_job(connection, job_id)
            else:
                await _tell(gateway, row, body)
    except RowLocked:
        return await _cancel_unwritten(gateway, job_id, body)
    except _WorkflowClosed:
        refused = await _repair(gateway, job_id)
    else:
        if row is not None:
            return await _accepted(gateway, job_id)
    if refused.retry_id is not None and await cancel_retry(gateway, refused, body.reason or ""):
        # A cleanup beats the retry by itself; the cancel only makes it end sooner.
        if body.cleanup:
            await clean_up(gateway, job_id, CleanupBody(), wait_s=0)
        return await _accepted(gateway, job_id)
    _, execution = await settle(gateway, refused)
    raise states.not_cancellable(refused, execution)


async def _cancel_unwritten(gateway: Gateway, job_id: uuid.UUID, body: CancelBody) -> JobView:
    """Cancels a job whose row cannot be written now.

    Raises:
        NotCancellable: It was cancelled before, or has ended.
        RowLocked: It has ended in Temporal, and its row cannot say so now.
    """
    row, _ = await load(gateway, job_id)
    row, execution = await settle(gateway, row)
    if row.status.is_terminal or row.status is JobStatus.CANCELLING:
        raise states.not_cancellable(row, execution)
    try:
        await _tell(gateway, row, body)
    except _WorkflowClosed:
        ended = await _repair(gateway, job_id)
        raise states.not_cancellable(ended, None) from None
    return await _accepted(gateway, job_id)


async def _tell(gateway: Gateway, row: JobRow, body: CancelBody) -> None:
    reason = body.reason or ""
    if not body.cleanup:
        if not await gateway.engine.cancel_job(str(row.id), reason):
            raise _WorkflowClosed
        return
    # The signal says what the cancellation alone cannot: that a cleanup follows. Once it is delivered the job stops,
    # so the cancellation after it only makes Temporal show the workflow as cancelled.
    if not await gateway.engine.signal_job(str(row.id), "cancel_and_clean", CancelRequest(reason=reason)):
        raise _WorkflowClosed
    try:
        await gateway.engine.cancel_job(str(row.id), reason)
    except TemporalUnavailable:
        return


async def _repair(gateway: Gateway, job_id: uuid.UUID) -> JobRow:
    """The row as it is when its workflow turned out to be closed."""
    row, _ = await load(gateway, job_id)
    if row.status.is_terminal:
        return row
    execution = await gateway.engine.describe_job(str(job_id))
    if execution is not None and execution.is_open:
        return row
    return await repair(gateway, row, execution)


async def pause_job(gateway: Gateway, job_id: uuid.UUID) -> JobView:
    """Signals a running job to pause; waits a little for it to do so.

    Raises:
        NotFound: There is no such job.
        NotPausable: It is not running, or was cancelled or ended before it paused.
        Unavailable: Postgres or Temporal does not answer.
    """
    row, _ = await load(gateway, job_id)
    if row.status is not JobStatus.RUNNING:
        raise states.not_pausable(row)
    return await _signal(gateway, job_id, "pause", until=JobStatus.PAUSED)


async def resume_job(gateway: Gateway, job_id: uuid.UUID) -> JobView:
    """Signals a paused job to go on; waits a little for it to do so. A pause not yet carried out is taken back.

    Raises:
        NotFound: There is no such job.
        NotResumable: It is not paused, and was not told to.
        Unavailable: Postgres or Temporal does not answer.
    """
    row, _ = await load(gateway, job_id)
    # Signals are heard in their order, so where it cannot be told whether a pause is on its way, this comes after it.
    is_told = row.status is JobStatus.RUNNING and await gateway.engine.pauses(str(job_id)) is not False
    if row.status is not JobStatus.PAUSED and not is_told:
        raise states.not_resumable(row)
    return await _signal(gateway, job_id, "resume", until=JobStatus.RUNNING)


async def _signal(gateway: Gateway, job_id: uuid.UUID, name: str, *, until: JobStatus) -> JobView:
    if not await gateway.engine.signal_job(str(job_id), name):
        row = await _repair(gateway, job_id)
        raise states.not_pausable(row) if until is JobStatus.PAUSED else states.not_resumable(row)
    deadline = time.monotonic() + SEEN_WITHIN_S
    while True:
        row, lanes = await load(gateway, job_id)
        is_lost = row.status not in {JobStatus.RUNNING, JobStatus.PAUSED}
        if is_lost and until is JobStatus.PAUSED:
            raise states.not_pausable(row)
        if is_lost or row.status is until or time.monotonic() >= deadline:
            return JobView.of(row, lanes)
        await asyncio.sleep(SEEN_POLL_S)


async def _accepted(gateway: Gateway, job_id: uuid.UUID) -> JobView:
    """The job after its cancel was sent.

    Temporal takes a cancel of a closed workflow without a word, so only a look tells that nobody heard it. A job
    that was cancelled, or completed first, by now is a good answer; one that had failed before is not.
    """
    row, lanes = await load(gateway, job_id)
    if row.status.is_terminal:
        return JobView.of(row, lanes)
    settled, execution = await settle(gateway, row)
    if settled.status is JobStatus.FAILED:
        raise states.not_cancellable(settled, execution)
    waits = None if settled.status.is_terminal else states.awaited(execution)
    return JobView.of(settled, lanes, waiting_for=waits)
