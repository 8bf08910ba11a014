"""Retrying dead letters: accepted as durably as a job is, read, and cancelled."""

import uuid
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio.exceptions import WorkflowAlreadyStartedError

from api.errors import ArtifactsGone, NothingToRetry, RetryRunning, UnknownReference
from api.problems import MAX_ERRORS, pointer_of
from api.resources import Gateway
from api.schemas import RetryBody
from api.service import states
from api.views import RetryView
from ke.contracts.errors import NotFound, RowLocked, TemporalUnavailable
from ke.contracts.jobs import Artifacts, JobError
from ke.contracts.naming import retry_id
from ke.contracts.retries import CloseRetry, LetterFilter, RetryInput, RetryStatus
from ke.runtime.settling import PATIENCE_S, settle, settle_retry
from ke.storage.jobs import JobRow, find_job, get_job
from ke.storage.listing import Owner
from ke.storage.retries import (
    RetryRow,
    end_retry,
    get_retry,
    has_retriable,
    hold_jobs_of_letters,
    start_retry,
    unknown_letters,
)


async def retry_letters(gateway: Gateway, job_id: uuid.UUID, body: RetryBody) -> RetryView:
    """Accepts a retry: its row is committed and its workflow started when this returns.

    As with a job, the row is written first and committed last; a start whose commit is lost heals in the workflow's
    first activity.

    Args:
        gateway: The clients.
        job_id: The job.
        body: Which letters; all by default.

    Raises:
        NotFound: There is no such job.
        JobActive: It has not ended.
        CleanupRunning: It is being cleaned up.
        ArtifactsGone: It was.
        RetryRunning: It is being retried already.
        NothingToRetry: No letter fits whose page or source is still there.
        UnknownReference: Some of the ids are no dead letters of this job.
        Unavailable: The retry was not accepted, or it is not known whether it was: the job tells.
    """
    async with gateway.database.transaction() as connection:
        row = await get_job(connection, job_id)
    # What was stopped from elsewhere must not be in the way, be it the job or an earlier retry.
    row, _ = await settle(gateway, row)
    letters = body.to_filter()
    async with gateway.database.transaction() as connection:
        owners = await hold_jobs_of_letters(connection, job_id)
        row = await get_job(connection, job_id)
        await _check(connection, row, letters, owners)
        retry = _input(row, letters)
        if not await start_retry(connection, retry):
            raise states.being_retried(row)
        await _start(gateway, row, retry)
        return RetryView.of(await get_retry(connection, retry.id))


def _input(row: JobRow, letters: LetterFilter) -> RetryInput:
    number = row.retries + 1
    key = retry_id(str(row.id), number)
    return RetryInput(key, str(row.id), number, datetime.now(UTC).isoformat(), letters)


async def _check(
    connection: AsyncConnection, row: JobRow, letters: LetterFilter, owners: Mapping[uuid.UUID, Owner]
) -> None:
    """Says why a job's letters cannot be retried, if they cannot."""
    if not row.status.is_terminal:
        raise states.still_active(row, "retried")
    if row.retry_id is not None:
        raise states.being_retried(row)
    if row.artifacts is Artifacts.CLEANING:
        raise states.being_cleaned(row)
    if row.artifacts is not Artifacts.PRESENT:
        raise ArtifactsGone(f"What the job made is {row.artifacts.replace('_', ' ')}.", **states.about(row))
    if letters.ids is not None:
        unknown = await unknown_letters(connection, row.id, letters.ids)
        if unknown:
            listed = [
                {"pointer": pointer_of(("ids", number)), "detail": "This job has no such dead letter."}
                for number in unknown[:MAX_ERRORS]
            ]
            raise UnknownReference(f"{len(unknown)} of {len(letters.ids)} are no dead letters of it.", errors=listed)
    if not await has_retriable(connection, row.id, letters):
        raise NothingToRetry("No dead letter fits whose page or source is still there.", **states.about(row))
    for owner_id, owner in owners.items():
        if owner.artifacts is not Artifacts.PRESENT:
            raise ArtifactsGone(
                f"Job {owner_id}, whose sources these are, is {owner.artifacts.replace('_', ' ')}.", **states.about(row)
            )


async def _start(gateway: Gateway, row: JobRow, retry: RetryInput) -> None:
    """Starts the workflow.

    Raises:
        RetryRunning: There is one of this id, whose row is about to be written.
        TemporalUnavailable: It was not started.
    """
    request = str(uuid.uuid4())
    try:
        await gateway.engine.retries.start(retry, kind=row.kind, project=row.project, request=request)
    except WorkflowAlreadyStartedError as error:
        found = await gateway.engine.retries.find(retry.id)
        if found is None or found.request != request:
            raise RetryRunning(f"A retry of the job is starting: {retry.id}.", **states.about(row)) from error
    except TemporalUnavailable as error:
        # Whether it was started is unknown: the answer must not be a guess.
        found = await gateway.engine.retries.find(retry.id)
        if found is None or found.request != request:
            raise TemporalUnavailable(f"The retry was not accepted. {error.message}") from error


async def read_retry(gateway: Gateway, key: str) -> RetryView:
    """A retry, while it is at work and after it.

    Raises:
        NotFound: There is none, or its job was deleted.
    """
    async with gateway.database.transaction() as connection:
        retry = await get_retry(connection, key)
        row = await find_job(connection, retry.job_id)
    if retry.status is RetryStatus.RUNNING and row is not None:
        await _settle(gateway, row, retry)
        async with gateway.database.transaction() as connection:
            retry = await get_retry(connection, key)
    return RetryView.of(retry)


async def _settle(gateway: Gateway, row: JobRow, retry: RetryRow) -> None:
    """Closes the row of a retry that is not at work any more."""
    try:
        if row.retry_id == retry.id:
            await settle_retry(gateway, row)
            return
        # A cleanup took the job over. The workflow hears of that, unless it was terminated first.
        execution = await gateway.engine.retries.find(retry.id)
    except (TemporalUnavailable, NotFound):
        return
    if execution is None or not execution.is_open:
        taken = JobError("fenced", "A cleanup took the job over.")
        close = CloseRetry(retry.id, str(row.id), RetryStatus.FAILED, taken)
        with suppress(RowLocked):
            await end_retry(gateway.database, close, lock_timeout_s=PATIENCE_S)


async def cancel_retry(gateway: Gateway, row: JobRow, reason: str) -> bool:
    """Asks for the cancellation of the retry that is at work; False when none is.

    As with a job, a cancel ends a retry that this Temporal does not know, wherever it was started: nothing else would.

    Raises:
        TemporalUnavailable: The cancel was not accepted, or it is unknown whether it was: ask again.
        RowLocked: It is to be ended, and another transaction holds the job's row: ask again.
    """
    if row.retry_id is None:
        return False
    if await gateway.engine.retries.cancel(row.retry_id, reason):
        return True
    if (await settle_retry(gateway, row)).retry_id is None:
        return False
    if await gateway.engine.retries.find(row.retry_id) is None:
        close = CloseRetry(row.retry_id, str(row.id), RetryStatus.CANCELLED)
        await end_retry(gateway.database, close, lock_timeout_s=PATIENCE_S)
    return True


async def stop_retry_for(gateway: Gateway, row: JobRow, why: str) -> None:
    """Cancels the retry that is at work, if one is and Temporal can be told; what follows fences it in any case."""
    if row.retry_id is None:
        return
    try:
        await gateway.engine.retries.cancel(row.retry_id, why)
    except TemporalUnavailable:
        return
