"""The short activities that keep a job's row true."""

import uuid
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from temporalio import activity

from activities.heartbeat import Beat, run_with_heartbeat
from ke.contracts import activities as contract
from ke.contracts.activities import CloseJob, OpenedJob, StatusChange
from ke.contracts.jobs import JobInput, JobOutcome, JobStatus
from ke.storage import closing, jobs
from ke.storage.database import Database


class RecordActivities(contract.RecordActivities):
    """Writes the job's row."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @activity.defn(name="open_job")
    async def open_job(self, job: JobInput) -> OpenedJob:
        """Writes the row when it is missing and sets it running."""
        async with self._database.transaction() as connection:
            row = await jobs.open_job(connection, job, activity.info().workflow_run_id or "")
        started_at = (row.started_at or datetime.now(UTC)).isoformat()
        finder = job.extract.entities if job.extract is not None else None
        return OpenedJob(row.write_epoch, row.status, started_at, finder)

    @activity.defn(name="set_job_status")
    async def set_job_status(self, change: StatusChange) -> JobStatus:
        """Changes the state if that is allowed from where it is; returns the state it is in then."""
        job_id = uuid.UUID(change.job_id)
        values: dict[str, Any] = {}
        if change.status is JobStatus.CANCELLING:
            values = {"cancel_requested_at": sa.func.clock_timestamp(), "cancel_reason": change.reason}
        async with self._database.transaction() as connection:
            if change.unopened is not None:
                await jobs.insert_job(connection, change.unopened)
            row = await jobs.move_job(connection, job_id, change.status, **values)
            if row is None:
                row = await jobs.get_job(connection, job_id)
        return row.status

    @activity.defn(name="close_job")
    async def close_job(self, close: CloseJob) -> JobOutcome:
        """Skips what is left, counts, and writes the terminal state with its result."""
        run_id = activity.info().workflow_run_id
        if activity.info().is_local:
            # Broken off in an instant when its time is up, as another try follows at once; so without a heartbeat.
            return await closing.end_job(self._database, close, run_id=run_id)

        async def body(beat: Beat) -> JobOutcome:
            return await closing.end_job(self._database, close, beat.progress, run_id=run_id)

        return await run_with_heartbeat(body)
