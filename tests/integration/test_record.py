"""The activities that keep a job's row true, on a real Postgres."""

import asyncio
import uuid
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from temporalio.testing import ActivityEnvironment

from activities.record import RecordActivities
from ke.contracts.activities import CloseJob, StatusChange
from ke.contracts.errors import NotFound
from ke.contracts.jobs import CollectSpec, JobError, JobInput, JobKind, JobStatus
from ke.storage.database import Database
from ke.storage.jobs import find_job


def a_job() -> JobInput:
    """A job that was accepted, and whose row is not there."""
    spec = CollectSpec(("https://site.example/",), follow=False)
    return JobInput(str(uuid.uuid4()), JobKind.SCRAPE, datetime.now(UTC).isoformat(), collect=spec)


async def test_lost_row_is_written_when_the_job_opens(database: Database) -> None:
    """The workflow's first activity writes the row that a lost commit took; a second time changes nothing."""
    job, record = a_job(), RecordActivities(database)
    opened = await ActivityEnvironment().run(record.open_job, job)
    assert opened.status is JobStatus.RUNNING
    assert await ActivityEnvironment().run(record.open_job, job) == opened


async def test_lost_row_is_written_when_the_job_is_cancelled_first(database: Database) -> None:
    """A job cancelled before it was opened ends cancelled with a result, though its row was lost."""
    job, record = a_job(), RecordActivities(database)
    change = StatusChange(job.job_id, JobStatus.CANCELLING, "too late", unopened=job)
    assert await ActivityEnvironment().run(record.set_job_status, change) is JobStatus.CANCELLING
    outcome = await ActivityEnvironment().run(record.close_job, CloseJob(job.job_id, cancelled=True))
    assert outcome.status is JobStatus.CANCELLED
    async with database.transaction() as connection:
        row = await find_job(connection, uuid.UUID(job.job_id))
    assert row is not None
    assert row.result is not None
    assert (row.params["urls"], row.cancel_reason) == (["https://site.example/"], "too late")


async def test_end_is_written_once(database: Database) -> None:
    """A job that has ended keeps its end, whoever closes it again."""
    job, record = a_job(), RecordActivities(database)
    await ActivityEnvironment().run(record.open_job, job)
    first = await ActivityEnvironment().run(record.close_job, CloseJob(job.job_id))
    late = CloseJob(job.job_id, error=JobError("terminated", "too late"))
    assert first.status is JobStatus.COMPLETED
    assert await ActivityEnvironment().run(record.close_job, late) == first


async def test_local_close_is_broken_off_in_an_instant(database: Database) -> None:
    """A close within a workflow task ends at once when its time is up, and the next try writes the end."""
    job, record = a_job(), RecordActivities(database)
    await ActivityEnvironment().run(record.open_job, job)
    local = ActivityEnvironment()
    local.info = replace(local.info, is_local=True)
    async with database.transaction() as connection:
        await find_job(connection, uuid.UUID(job.job_id), lock=True)
        closing = asyncio.create_task(local.run(record.close_job, CloseJob(job.job_id)))
        await asyncio.sleep(0.2)
        closing.cancel()
        async with asyncio.timeout(1):
            with pytest.raises(asyncio.CancelledError):
                await closing
    outcome = await ActivityEnvironment().run(record.close_job, CloseJob(job.job_id))
    assert outcome.status is JobStatus.COMPLETED


async def test_unknown_job_is_not_made_up(database: Database) -> None:
    """A change of state of a job that is not there is an error."""
    change = StatusChange(str(uuid.uuid4()), JobStatus.CANCELLING)
    with pytest.raises(NotFound):
        await ActivityEnvironment().run(RecordActivities(database).set_job_status, change)
